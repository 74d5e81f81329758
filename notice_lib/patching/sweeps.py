"""Sweeps: patch every site of every pair, and keep one tidy table."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from .. import fingerprint, progress
from ..corruption import GaussianNoise
from ..errors import NoticeError
from ..models.answers import SCORES
from ..models.base import VLM
from ..pairs import PairSet, SemanticPair
from .engine import patch as fast_engine
from .jobs import Engine, Job, Outcome
from .runs import Corruption, all_runs, answer_of, given, means, regions, unrelated, zeros
from .sites import Circuit, Intervention, Site, check_sites, flatten_sites, place, stack_roles
from .store import Store
from .table import (
    PATCHED_DTYPES,
    RUNS_DTYPES,
    SCHEMA,
    SKIPPED_DTYPES,
    Sweep,
    frame,
    join,
    runs_of,
)

SHARD = 32
"""Pairs that are prepared, run and stored together."""

Direction = Literal["denoise", "noise"]
Prepare = Callable[[SemanticPair], list[tuple[Job, dict]]]
"""A pair's jobs, each with what is known of it before it is run: the start of its `runs` row."""


def sweep(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site | Circuit],
    corruption: Corruption = "image",
    direction: Direction = "denoise",
    donor: Literal["own", "unrelated"] = "own",
    seed: int = 0,
    out: str | Path | None = None,
    strict: bool = False,
    engine: Engine = fast_engine,
) -> Sweep:
    """Patch each site of each pair, one at a time; the sites of a circuit together.

    Args:
        corruption: "image": the corrupt run sees the pair's corrupt image (SIP). "text": it reads
            the prompt with both options replaced (STR; `replace_tokens`). A `GaussianNoise`: it
            sees the clean image with noise added, in several draws. SIP reverses the answer, STR
            removes both options, and noise takes the image away, so raw effects are not on one
            scale.
        direction: "denoise" copies clean activations into the corrupt run (is the site
            sufficient?), "noise" corrupt ones into the clean run (is it necessary?).
        donor: "own": activations come from the pair's other run. "unrelated": from that run of
            another scene of the set with as many tokens (of the same roles, where there is one),
            which makes a null: what does an activation do that is natural but says nothing of this
            pair?
        seed: of replacement words, noise and donors.
        out: a folder for the results. A sweep that was killed goes on there where it stopped; a
            finished one is read. Several processes (torchrun, accelerate launch) share the work
            and must share the folder.
        strict: raise for the first pair that cannot be run. Otherwise such pairs are left out,
            listed in `skipped` with the reason, and counted in a warning.
        engine: runs the patched runs. `notice_lib.patching.reference.patch` is the slow and obvious
            one. One whose numbers are something else says so by `jobs.measures`.

    Raises:
        NoticeError: a site that the model does not have; a folder of another sweep; no pair that
            can be run; with `strict`, the first pair that cannot. Names the culprit.

    Source: paper, sections 3 and 4; published code, BLIP/patching_utils.py.
    """
    sites = list(sites)
    prepare = _preparing(model, pairs, sites, corruption, direction, donor, seed)
    noisy = isinstance(corruption, GaussianNoise)
    settings = _settings(model, pairs, sites, engine) | {
        "corruption": "noise" if noisy else corruption,
        "noise": asdict(corruption) if isinstance(corruption, GaussianNoise) else None,
        "direction": direction,
        "donor": donor,
        "seed": seed,
    }
    return _sweep(model, pairs, prepare, settings, out, strict, engine)


def make_jobs(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site | Circuit],
    corruption: Corruption = "image",
    direction: Direction = "denoise",
    donor: Literal["own", "unrelated"] = "own",
    seed: int = 0,
) -> list[Job]:
    """The jobs that a sweep of these pairs hands to its engine, in their order.

    Args:
        corruption, direction, donor, seed: as in `sweep`.

    Raises:
        NoticeError: as `sweep`, for the first pair that cannot be run.
    """
    sites = list(sites)
    check_sites(model, sites)
    prepare = _preparing(model, pairs, sites, corruption, direction, donor, seed)
    return [job for pair in pairs for job, _ in prepare(pair)]


def _preparing(model, pairs, sites, corruption, direction, donor, seed) -> Prepare:
    """What makes the jobs of a sweep; refuses settings that are none."""
    noisy = isinstance(corruption, GaussianNoise)
    if not (noisy or corruption in ("image", "text")) or direction not in ("denoise", "noise"):
        raise NoticeError(
            f"corruption is 'image', 'text' or a GaussianNoise, not {corruption!r}; "
            f"direction is 'denoise' or 'noise', not {direction!r}."
        )
    if donor not in ("own", "unrelated"):
        raise NoticeError(f"donor is 'own' or 'unrelated', not {donor!r}.")

    def prepare(pair: SemanticPair) -> list[tuple[Job, dict]]:
        clean, corrupt, corrupt_prompt = all_runs(model, pairs, pair, corruption, seed)
        answer = answer_of(model, pair)
        roles = stack_roles(model, clean, pair.spans, answer)
        placed = tuple(place(model, sites, roles, regions(model, pair, sites)))
        giver, donors = pair, (clean, corrupt)
        if donor == "unrelated":
            giver = unrelated(model, pairs, pair, seed)
            donors = all_runs(model, pairs, giver, corruption, seed)[:2]
        found = []
        for draw, run in enumerate(corrupt):
            base, source = run, donors[0]
            if direction == "noise":
                base, source = clean, donors[1][draw]
            known = _known(pair, draw) | {"corrupt_prompt": corrupt_prompt, "donor": giver.pair_id}
            found.append((Job(base, source, placed, answer), known))
        return found

    return prepare


def ablate(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site | Circuit],
    to: Literal["mean", "zero"] = "mean",
    reference: PairSet | None = None,
    out: str | Path | None = None,
    strict: bool = False,
    engine: Engine = fast_engine,
) -> Sweep:
    """Take sites out of the clean run: write their mean, or zeros, in place of their activations.

    The table is that of a sweep in the direction "noise" whose source has no scores (NaN). For
    resample ablation, which keeps activations natural, sweep in that direction.

    Args:
        to: "mean": over the reference's clean runs, of the tokens of the same role, of the options
            by their place in the question, and of each image patch by itself (`runs.token_keys`);
            so it does not know which option is correct. "zero".
        reference: pairs that the mean is over; by default those that are ablated.
        out, strict, engine: as in `sweep`.

    Raises:
        NoticeError: as `sweep`.
    """
    if to not in ("mean", "zero"):
        raise NoticeError(f"Ablation writes the 'mean' or 'zero', not {to!r}.")
    sites, reference = list(sites), reference or pairs
    settings = _settings(model, pairs, sites, engine) | {
        "corruption": f"{to} ablation",
        "direction": "noise",
        "reference": fingerprint.of_pairs(reference),
    }
    points = {(site.component, site.layer) for site in flatten_sites(sites)}
    values = (means if to == "mean" else zeros)(model, tuple(reference), points)

    def prepare(pair: SemanticPair) -> list[tuple[Job, dict]]:
        clean = model.inputs(pair.image("clean"), pair.prompt)
        answer = answer_of(model, pair)
        roles = stack_roles(model, clean, pair.spans, answer)
        placed = tuple(place(model, sites, roles, regions(model, pair, sites)))
        known = _known(pair, 0) | {"corrupt_prompt": pair.prompt, "donor": ""}
        return [(Job(clean, given(model, values, points, roles), placed, answer), known)]

    return _sweep(model, pairs, prepare, settings, out, strict, engine)


def _settings(model: VLM, pairs: PairSet, sites: Sequence[Site | Circuit], engine: Engine) -> dict:
    """What every sweep's folder is recognised by."""
    check_sites(model, sites)
    by_masks = any(site.region for site in flatten_sites(sites))
    return {
        "model": model.name,
        "model_fingerprint": fingerprint.of_model(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "pairs": len(pairs),
        "pairs_fingerprint": fingerprint.of_pairs(pairs),
        "sites": len(sites),
        "sites_fingerprint": fingerprint.of_sites(sites),
        "measures": getattr(engine, "measures", "patched runs"),
        "self_check": _self_check(model),
        "schema": SCHEMA,
    } | ({"masks_fingerprint": fingerprint.of_masks(pairs)} if by_masks else {})


def _self_check(model: VLM) -> str:
    """Whether the engine was compared with the reference, or is the reference itself."""
    if model.engine == "reference":
        return "reference"
    return "passed" if model.checked else "skipped"


def _known(pair: SemanticPair, draw: int) -> dict:
    known = {name: getattr(pair, name) for name in RUNS_DTYPES if hasattr(pair, name)}
    return known | {"draw": draw, "clean_prompt": pair.prompt}


def _sweep(model, pairs: PairSet, prepare: Prepare, settings, out, strict, engine) -> Sweep:
    """Run all pairs in shards, in memory or in a folder."""

    def run(shard: Sequence[SemanticPair]) -> Sweep:
        return _run(model, shard, prepare, settings, strict, engine)

    shards = [pairs.pairs[start : start + SHARD] for start in range(0, len(pairs), SHARD)]
    if out is None:
        found = _in_memory(shards, run, settings)
    else:
        found = _stored(shards, run, settings, out, cpu=model.device.type == "cpu")
    _tell_skipped(found)
    return found


def _in_memory(shards, run, settings) -> Sweep:
    parts = [run(shard) for shard in _progress(shards, settings)]
    return Sweep(
        join((part.patched for part in parts), PATCHED_DTYPES),
        join((part.runs for part in parts), RUNS_DTYPES),
        join((part.skipped for part in parts), SKIPPED_DTYPES),
        settings,
    )


def _stored(shards, run, settings, out, cpu) -> Sweep:
    """Each process takes every n-th shard that is not there yet."""
    state = PartialState(cpu=cpu)
    with state.main_process_first():
        store = Store(out, settings, len(shards))
    mine = [
        i for i in range(state.process_index, len(shards), state.num_processes) if not store.has(i)
    ]
    todo = _progress([shards[i] for i in mine], settings)
    for i, shard in zip(mine, todo, strict=True):
        store.write(i, run(shard))
    state.wait_for_everyone()
    return store.read()


def _progress(shards, settings):
    """The shards, with a bar that counts pairs."""
    name = f"patching {settings['model']}, {settings['corruption']}"
    with progress.bar(total=sum(map(len, shards)), desc=name, unit="pair") as bar:
        for shard in shards:
            yield shard
            bar.update(len(shard))


def _run(model, shard, prepare: Prepare, settings, strict, engine: Engine) -> Sweep:
    """Prepare, patch and tabulate some pairs."""
    prepared, skipped = [], []
    for pair in shard:
        try:
            prepared += prepare(pair)
        except NoticeError as error:
            if strict:
                raise
            skipped.append({"pair_id": pair.pair_id, "reason": str(error)})
    with model.computing():
        outcomes = engine(model, [job for job, _ in prepared])
    patched, runs = [], []
    for (job, known), outcome in zip(prepared, outcomes, strict=True):
        patched += _patched_rows(model, known, job, outcome)
        runs.append(known | _run_scores(outcome, settings["direction"]))
    return Sweep(
        frame(patched, PATCHED_DTYPES),
        frame(runs, RUNS_DTYPES),
        frame(skipped, SKIPPED_DTYPES),
        settings,
    )


def _patched_rows(model: VLM, known: dict, job: Job, outcome: Outcome) -> list[dict]:
    return [
        {
            "pair_id": known["pair_id"],
            "draw": known["draw"],
            **_named(model, intervention, job),
            **dict(zip(SCORES, scores, strict=True)),
        }
        for intervention, scores in zip(job.interventions, outcome.patched.tolist(), strict=True)
    ]


def _named(model: VLM, intervention: Intervention, job: Job) -> dict:
    """What a row of the table says of what was patched."""
    if intervention.circuit:
        nowhere = {"layer": -1, "head": -1, "position": -1, "role": "", "token": ""}
        return {"circuit": intervention.circuit, "component": "circuit", **nowhere}
    (site,) = intervention.sites
    in_text = site.component in model.components
    return {
        "circuit": "",
        "component": site.component,
        "layer": site.layer,
        "head": -1 if site.head is None else site.head,
        "position": site.positions[0],
        "role": site.role,
        "token": job.base.tokens[site.positions[0]] if in_text else "",
    }


def _run_scores(outcome: Outcome, direction: str) -> dict[str, float]:
    return {
        f"{run}_{name}": value
        for run, scores in zip(runs_of(direction), (outcome.base, outcome.source), strict=True)
        for name, value in zip(SCORES, scores.tolist(), strict=True)
    }


def _tell_skipped(found: Sweep) -> None:
    if len(found.skipped) == 0:
        return
    first = found.skipped.iloc[0]
    told = f"{len(found.skipped)} pairs could not be run; the first: {first.reason}"
    if len(found.runs) == 0:
        raise NoticeError(f"No pair could be run. {told}")
    warnings.warn(f"{told} All are in the sweep's `skipped`.", stacklevel=3)
