"""Sweeps: patch every site of every pair, and keep one tidy table."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from .. import fingerprint, progress
from ..corruption import replace_tokens
from ..errors import NoticeError
from ..models.answers import SCORES
from ..models.base import VLM, Inputs
from ..pairs import PairSet, SemanticPair
from . import engine
from .jobs import Job, Outcome
from .sites import Site, check_sites, place
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

Corruption = Literal["image", "text"]
Direction = Literal["denoise", "noise"]
Patch = Callable[[VLM, Sequence[Job]], list[Outcome]]


def sweep(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site],
    corruption: Corruption = "image",
    direction: Direction = "denoise",
    seed: int = 0,
    out: str | Path | None = None,
    strict: bool = False,
    patch: Patch = engine.patch,
) -> Sweep:
    """Patch each site of each pair, one at a time.

    Args:
        corruption: "image": the corrupt run sees the pair's corrupt image (SIP). "text": it reads
            the prompt with both options replaced (STR; `replace_tokens`). SIP reverses the answer
            while STR removes both options, so raw effects of the two are not on one scale.
        direction: "denoise" copies clean activations into the corrupt run (is the site
            sufficient?), "noise" corrupt ones into the clean run (is it necessary?).
        seed: of the replacement words.
        out: a folder for the results. A sweep that was killed goes on there where it stopped; a
            finished one is read. Several processes (torchrun, accelerate launch) share the work
            and must share the folder.
        strict: raise for the first pair that cannot be run. Otherwise such pairs are left out,
            listed in `skipped` with the reason, and counted in a warning.
        patch: the engine; `notice_lib.patching.plain.patch` is the slow and obvious one.

    Raises:
        NoticeError: a site that the model does not have; a folder of another sweep; no pair that
            can be run; with `strict`, the first pair that cannot. Names the culprit.

    Source: paper, sections 3 and 4; published code, BLIP/patching_utils.py.
    """
    if corruption not in ("image", "text") or direction not in ("denoise", "noise"):
        raise NoticeError(
            f"corruption is 'image' or 'text', not {corruption!r}; "
            f"direction is 'denoise' or 'noise', not {direction!r}."
        )
    sites = list(sites)
    check_sites(model, sites)
    settings = {
        "model": model.name,
        "model_fingerprint": fingerprint.of_model(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "pairs": len(pairs),
        "pairs_fingerprint": fingerprint.of_pairs(pairs),
        "sites": len(sites),
        "sites_fingerprint": fingerprint.of_sites(sites),
        "corruption": corruption,
        "direction": direction,
        "seed": seed,
        "schema": SCHEMA,
    }

    def run(shard: Sequence[SemanticPair]) -> Sweep:
        return _run(model, pairs, shard, sites, settings, strict, patch)

    shards = [pairs.pairs[start : start + SHARD] for start in range(0, len(pairs), SHARD)]
    if out is None:
        found = _in_memory(shards, run, settings)
    else:
        found = _stored(shards, run, settings, out, cpu=model.device.type == "cpu")
    _tell_skipped(found)
    return found


def run_inputs(
    model: VLM, pairs: PairSet, pair: SemanticPair, corruption: Corruption, seed: int = 0
) -> tuple[Inputs, Inputs, str]:
    """The clean and the corrupt run's inputs, and the corrupt run's prompt.

    Raises:
        NoticeError: the two prompts differ in their token layout; names the pair.
    """
    clean = model.inputs(pair.image("clean"), pair.prompt)
    if corruption == "image":
        return clean, model.inputs(pair.image("corrupt"), pair.prompt), pair.prompt
    prompt = replace_tokens(pair, pairs, model.token_layout, seed)
    corrupt = replace(model.inputs(pair.image("clean"), prompt), pixel_values=clean.pixel_values)
    check_lengths(clean, corrupt, pair.pair_id)
    return clean, corrupt, prompt


def check_lengths(clean: Inputs, corrupt: Inputs, pair_id: str) -> None:
    """Refuse two prompts of different token lengths: their positions do not correspond."""
    if len(clean) != len(corrupt):
        raise NoticeError(
            f"Pair {pair_id}: the clean prompt has {len(clean)} tokens, the corrupt one "
            f"{len(corrupt)} ({clean.tokens} / {corrupt.tokens}). Positions are patched one by "
            "one, so use replacement words of the same number of tokens."
        )


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


def _run(model, pairs, shard, sites, settings, strict, patch) -> Sweep:
    """Prepare, patch and tabulate some pairs."""
    jobs, runs, skipped = [], [], []
    for pair in shard:
        try:
            job, run = _job(model, pairs, pair, sites, settings)
        except NoticeError as error:
            if strict:
                raise
            skipped.append({"pair_id": pair.pair_id, "reason": str(error)})
            continue
        jobs.append(job)
        runs.append(run)
    patched = []
    for job, run, outcome in zip(jobs, runs, patch(model, jobs), strict=True):
        patched += _patched_rows(run["pair_id"], job, outcome)
        run |= _run_scores(outcome, settings["direction"])
    return Sweep(
        frame(patched, PATCHED_DTYPES),
        frame(runs, RUNS_DTYPES),
        frame(skipped, SKIPPED_DTYPES),
        settings,
    )


def _job(model, pairs, pair, sites, settings) -> tuple[Job, dict]:
    """What to run for one pair, and what is known of it before: the start of its `runs` row."""
    clean, corrupt, corrupt_prompt = run_inputs(
        model, pairs, pair, settings["corruption"], settings["seed"]
    )
    answer = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    placed = place(sites, clean, model.roles(clean, pair.spans))
    inputs = {"clean": clean, "corrupt": corrupt}
    base, source = (inputs[run] for run in runs_of(settings["direction"]))
    known = {name: getattr(pair, name) for name in RUNS_DTYPES if hasattr(pair, name)}
    known |= {"clean_prompt": pair.prompt, "corrupt_prompt": corrupt_prompt}
    return Job(base, source, tuple(placed), answer), known


def _patched_rows(pair_id: str, job: Job, outcome: Outcome) -> list[dict]:
    return [
        {
            "pair_id": pair_id,
            "component": site.component,
            "layer": site.layer,
            "head": -1 if site.head is None else site.head,
            "position": site.positions[0],
            "role": site.role,
            "token": job.base.tokens[site.positions[0]],
            **dict(zip(SCORES, scores, strict=True)),
        }
        for site, scores in zip(job.sites, outcome.patched.tolist(), strict=True)
    ]


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
