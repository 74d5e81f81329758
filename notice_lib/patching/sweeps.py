"""Sweeps: patch every site of every pair, and collect the scores in one tidy table."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from .. import fingerprint
from ..choices import Ablation, Direction, Donor, check_choice
from ..corruption import GaussianNoise
from ..errors import NoticeError
from ..models.base import VLM
from ..models.inputs import AnswerTokens, Inputs
from ..pairs import PairSet, SemanticPair
from .ablation import means, written, zeros
from .donors import MatchedDonors, donor_runs
from .engine import patch as fast_engine
from .jobs import Engine, Job
from .runs import Corruption, all_runs, answer_of, name_of, regions, unrelated
from .shards import Prepare, run_shards
from .sites import (
    Circuit,
    Intervention,
    Roles,
    Site,
    check_sites,
    flatten_sites,
    place,
    stack_roles,
)
from .table import (
    RUNS_DTYPES,
    SCHEMA,
    Sweep,
)


def sweep(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site | Circuit],
    corruption: Corruption = "image",
    direction: Direction = "denoise",
    donor: Donor | MatchedDonors = "own",
    seed: int = 0,
    out: str | Path | None = None,
    strict: bool = False,
    engine: Engine = fast_engine,
) -> Sweep:
    """Patch each site of each pair, one site at a time; a circuit's sites are patched together.

    Args:
        corruption: "image": the corrupt run sees the pair's corrupt image (SIP). "text": it reads
            the prompt with both options replaced (STR; `replace_tokens`). A `GaussianNoise`: it
            sees the clean image with noise added, in several draws. SIP reverses the answer, STR
            removes both options, and noise takes the image away, so raw effects are not on one
            scale.
        direction: "denoise" copies clean activations into the corrupt run (is the site
            sufficient?), "noise" copies corrupt ones into the clean run (is it necessary?).
        donor: "own": activations come from the pair's other run. "unrelated": they come from that
            run of another scene of the set with as many tokens, if possible of the same roles. This
            makes a null: what does a natural activation do that carries nothing of this pair?
            `MatchedDonors`: they come from several other scenes, a draw for each, which have none
            of the pair's words. These need the corruption "image".
        seed: random seed of replacement words, noise and donors.
        out: folder for the results. A killed sweep goes on there where it stopped, and a finished
            one is read. Several processes (torchrun, accelerate launch) share the work, and must
            share the folder.
        strict: whether to raise an error for the first pair that cannot be run. Otherwise such
            pairs are left out, listed in `skipped` with the reason, and counted in a warning.
        engine: the function that runs the patched runs. `notice_lib.patching.reference.patch` is
            the slow and simple one. An engine that computes something else is marked by
            `jobs.measures`.

    Raises:
        NoticeError: there is no site, or one that the model does not have; the folder holds another
            sweep; no pair can be run; with `strict`, a pair cannot be run. Names the culprit.

    Source: paper, sections 3 and 4; published code, BLIP/patching_utils.py.
    """
    sites = _listed(sites)
    prepare = _preparing(model, pairs, sites, corruption, direction, donor, seed)
    settings = _settings(model, pairs, sites, engine) | {
        "corruption": name_of(corruption),
        "noise": asdict(corruption) if isinstance(corruption, GaussianNoise) else None,
        "direction": direction,
        **_donor_settings(donor),
        "seed": seed,
    }
    return run_shards(model, pairs, prepare, settings, out, strict, engine)


def make_jobs(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site | Circuit],
    corruption: Corruption = "image",
    direction: Direction = "denoise",
    donor: Donor | MatchedDonors = "own",
    seed: int = 0,
) -> list[Job]:
    """The jobs that a sweep of these pairs gives to its engine, in the pairs' order.

    Args:
        corruption, direction, donor, seed: as in `sweep`.

    Raises:
        NoticeError: as `sweep`, for the first pair that cannot be run.
    """
    sites = _listed(sites)
    _check_pairs(pairs)
    check_sites(model, sites)
    prepare = _preparing(model, pairs, sites, corruption, direction, donor, seed)
    return [job for pair in pairs for job, _ in prepare(pair)]


def _preparing(model, pairs, sites, corruption, direction, donor, seed) -> Prepare:
    """The function that makes a sweep's jobs; refuses unknown settings."""
    name_of(corruption)
    check_choice("direction", direction, Direction)
    if not isinstance(donor, MatchedDonors):
        check_choice("donor", donor, Donor, "MatchedDonors")
    elif corruption != "image":
        raise NoticeError(
            "Matched donors are runs with other pictures. Use them with corruption='image', not "
            f"{corruption!r}."
        )

    def routes(pair, clean, corrupt) -> list[tuple[Inputs, Inputs, str]]:
        """The base run, the source run and the donor's id of each draw."""
        if isinstance(donor, MatchedDonors):
            base = corrupt[0] if direction == "denoise" else clean
            pool = pairs if donor.pool is None else donor.pool
            found = donor_runs(model, pool, pair, base, donor, seed)
            return [(base, source, giver) for giver, source in found]
        giver, sources = pair, (clean, corrupt)
        if donor == "unrelated":
            giver = unrelated(model, pairs, pair, seed)
            sources = all_runs(model, pairs, giver, corruption, seed)[:2]
        if direction == "denoise":
            return [(base, sources[0], giver.pair_id) for base in corrupt]
        return [(clean, source, giver.pair_id) for source in sources[1]]

    def prepare(pair: SemanticPair) -> list[tuple[Job, dict]]:
        clean, corrupt, corrupt_prompt = all_runs(model, pairs, pair, corruption, seed)
        answer, _, interventions = _placed(model, pair, clean, sites)
        jobs = []
        for draw, (base, source, giver) in enumerate(routes(pair, clean, corrupt)):
            known = _known(pair, draw) | {"corrupt_prompt": corrupt_prompt, "donor": giver}
            jobs.append((Job(base, source, interventions, answer), known))
        return jobs

    return prepare


def _placed(
    model: VLM, pair: SemanticPair, clean: Inputs, sites: Sequence[Site | Circuit]
) -> tuple[AnswerTokens, Roles, tuple[Intervention, ...]]:
    """A pair's answer tokens, its tokens' roles, and the sites placed on them."""
    answer = answer_of(model, pair)
    roles = stack_roles(model, clean, pair.spans, answer)
    return answer, roles, tuple(place(model, sites, roles, regions(model, pair, sites)))


def ablate(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site | Circuit],
    to: Ablation = "mean",
    reference: PairSet | None = None,
    out: str | Path | None = None,
    strict: bool = False,
    engine: Engine = fast_engine,
) -> Sweep:
    """Remove sites from the clean run: write their mean, or zeros, in place of their activations.

    The table is that of a sweep in the direction "noise" whose source has no scores (NaN). For
    resample ablation, which keeps activations natural, sweep in that direction.

    Args:
        to: "mean": the mean over the reference's clean runs. Tokens of one role are averaged,
            options by their place in the question, and each image patch by itself
            (`ablation.token_keys`), so the mean does not know which option is correct. "zero":
            zeros.
        reference: the pairs that the mean is taken over; by default those that are ablated.
        out, strict, engine: as in `sweep`.

    Raises:
        NoticeError: as `sweep`.
    """
    check_choice("to", to, Ablation)
    sites, reference = _listed(sites), pairs if reference is None else reference
    _check_pairs(reference)
    settings = _settings(model, pairs, sites, engine) | {
        "corruption": f"{to} ablation",
        "direction": "noise",
        "reference": fingerprint.of_pairs(reference),
    }
    points = {(site.component, site.layer) for site in flatten_sites(sites)}
    values = (means if to == "mean" else zeros)(model, tuple(reference), points)

    def prepare(pair: SemanticPair) -> list[tuple[Job, dict]]:
        clean = model.inputs(pair.image("clean"), pair.prompt)
        answer, roles, interventions = _placed(model, pair, clean, sites)
        known = _known(pair, 0) | {"corrupt_prompt": pair.prompt, "donor": ""}
        activations = written(model, values, clean, roles, interventions)
        return [(Job(clean, activations, interventions, answer), known)]

    return run_shards(model, pairs, prepare, settings, out, strict, engine)


def _listed(sites: Iterable[Site | Circuit]) -> list[Site | Circuit]:
    """The sites as a list; refuses none and a single one."""
    if isinstance(sites, (Site, Circuit)):
        raise NoticeError(f"{sites} is one site. Give a list: [site].")
    listed = list(sites)
    if not listed:
        raise NoticeError("There is no site to patch. Give at least one Site or Circuit.")
    return listed


def _check_pairs(pairs: PairSet) -> None:
    if not isinstance(pairs, PairSet):
        raise NoticeError(
            f"Pairs come as a PairSet (`load_pairs`, `PairSet.load`), not as a "
            f"{type(pairs).__name__}: it has the words that replace others."
        )
    if not len(pairs):
        raise NoticeError("The set has no pair. Choose pairs less strictly, or load more.")


def _settings(model: VLM, pairs: PairSet, sites: Sequence[Site | Circuit], engine: Engine) -> dict:
    """The settings by which every sweep's folder is recognised."""
    _check_pairs(pairs)
    check_sites(model, sites)
    by_masks = any(site.region for site in flatten_sites(sites))
    return {
        **fingerprint.identity(model),
        "pairs": len(pairs),
        "pairs_fingerprint": fingerprint.of_pairs(pairs),
        "sites": len(sites),
        "sites_fingerprint": fingerprint.of_sites(sites),
        "measures": getattr(engine, "measures", "patched runs"),
        "self_check": _self_check(model),
        "schema": SCHEMA,
    } | ({"masks_fingerprint": fingerprint.of_masks(pairs)} if by_masks else {})


def _donor_settings(donor: Donor | MatchedDonors) -> dict:
    """The settings by which a folder's donors are recognised."""
    if not isinstance(donor, MatchedDonors):
        return {"donor": donor, "donors": None}
    pool = None if donor.pool is None else fingerprint.of_pairs(donor.pool)
    details = {"n": donor.n, "words": donor.words, "pool_fingerprint": pool}
    return {"donor": f"matched {donor.run}", "donors": details}


def _self_check(model: VLM) -> str:
    """Whether the engine was compared with the reference when the model was loaded."""
    if model.engine == "reference":
        return "reference"
    return "passed" if model.checked else "skipped"


def _known(pair: SemanticPair, draw: int) -> dict:
    """The columns of `runs` that the pair itself gives."""
    known = {name: getattr(pair, name) for name in RUNS_DTYPES if hasattr(pair, name)}
    return known | {"draw": draw, "clean_prompt": pair.prompt}
