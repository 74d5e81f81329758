"""How a sweep is run: pairs are prepared, patched and tabulated shard by shard."""

import warnings
from collections.abc import Callable, Sequence

from accelerate import PartialState

from .. import progress
from ..errors import NoticeError
from ..models.answers import SCORES
from ..models.base import VLM
from ..pairs import PairSet, SemanticPair
from .jobs import Engine, Job, Outcome
from .sites import Intervention
from .store import Store
from .table import (
    PATCHED_DTYPES,
    RUNS_DTYPES,
    SKIPPED_DTYPES,
    Sweep,
    frame,
    join,
    runs_of,
)

SHARD = 32
"""Pairs that are prepared, run and stored together."""

Prepare = Callable[[SemanticPair], list[tuple[Job, dict]]]
"""Makes a pair's jobs, each with those columns of its row in `runs` that need no run."""


def run_shards(
    model: VLM, pairs: PairSet, prepare: Prepare, settings: dict, out, strict: bool, engine: Engine
) -> Sweep:
    """Run all pairs in shards, in memory or in a folder."""

    def run(shard: Sequence[SemanticPair]) -> Sweep:
        return _run(model, shard, prepare, settings, strict, engine)

    shards = [pairs.pairs[start : start + SHARD] for start in range(0, len(pairs), SHARD)]
    if out is None:
        result = _in_memory(shards, run, settings)
    else:
        result = _stored(shards, run, settings, out, cpu=model.device.type == "cpu")
    _warn_of_skipped(result)
    return result


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
    """The columns of `patched` that say what was patched."""
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


def _warn_of_skipped(result: Sweep) -> None:
    if len(result.skipped) == 0:
        return
    first, reason = result.skipped.iloc[0]
    culprit = reason if first in reason else f"Pair {first}: {reason}"
    message = f"{len(result.skipped)} pairs could not be run; the first: {culprit}"
    if len(result.runs) == 0:
        raise NoticeError(f"No pair could be run. {message}")
    warnings.warn(f"{message} All are in the sweep's `skipped`.", stacklevel=3)
