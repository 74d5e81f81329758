"""Run all of the paper's experiments on one model and write their summary tables.

Slow results are saved as they are computed, in `sweeps/` of the run's folder: answers a few pairs
at a time, sweeps in shards. A run that was killed at any point resumes and produces the same
tables. Several processes (accelerate launch) share the answers and the sweeps.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from accelerate import PartialState

from .. import fingerprint, provenance
from ..datasets import load_pairs
from ..datasets.load import EMBEDDED
from ..errors import NoticeError
from ..files import sha256, write_atomically
from ..models.answers import correct_with_both, examples
from ..models.base import VLM
from ..pairs import PairSet
from ..patching import effects, site_grid
from . import claims, tables
from .evidence import DEPTH, Experiment, evidence, experiments, tables_of
from .logbook import Logbook, check_plan

TASKS = ("svo", "states", "faces")
MODULE_PAIRS = 120
"""Default number of pairs per task whose modules are patched at every token."""
SCHEMA = 3
"""Version of the tables' columns."""
SCENES = 3
"""Smallest number of scenes per task. Intervals cannot be computed from fewer."""


def read_tasks(data: Sequence[str | Path] = ("embedded",)) -> dict[str, PairSet]:
    """Load sets of pairs and divide them by task.

    Args:
        data: the sources, each of which is the name of an embedded set, a set's folder, a folder
            that contains sets called svo, states or faces, or "embedded". The latter stands for the
            held-out embedded pairs.

    Raises:
        NoticeError: a folder contains no set, or two sets have pairs of the same task.
    """
    sets: dict[str, PairSet] = {}
    for source in data:
        for pairs in _read_sets(source):
            for task in dict.fromkeys(pair.task for pair in pairs):
                if task in sets:
                    raise NoticeError(
                        f"Two of the sets in {', '.join(map(str, data))} have pairs of the task "
                        f"{task}. Give one of them."
                    )
                sets[task] = _of_task(pairs, task)
    return sets


def _of_task(pairs: PairSet, task: str) -> PairSet:
    return pairs.filter(lambda pair: pair.task == task)


def _read_sets(source: str | Path) -> list[PairSet]:
    if source == "embedded":
        return [load_pairs(name).filter(lambda pair: pair.split == "heldout") for name in TASKS]
    if source in EMBEDDED or (Path(source) / "pairs.csv").exists():
        return [load_pairs(source)]
    found = [name for name in TASKS if (Path(source) / name).is_dir()]
    if not found:
        raise NoticeError(
            f"{source} contains no pairs. Give 'embedded', a folder with {', '.join(TASKS)} (or "
            "some of them), or the folder of one set (with pairs.csv)."
        )
    return [load_pairs(name, data=source) for name in found]


def reproduce(
    model: VLM,
    sets: Mapping[str, PairSet],
    out: str | Path,
    seed: int = 0,
    module_pairs: int = MODULE_PAIRS,
) -> pd.DataFrame:
    """Run the paper's experiments on a model and decide its claims. A stopped run resumes.

    Args:
        model: a BLIP or a LLaVA.
        sets: the pairs of each task. Only pairs that the model answers correctly with both pictures
            are used.
        out: the folder for the results, which data/results/README.md describes. manifest.json is
            written last.
        seed: seed of replaced words, noise, samples and statistics.
        module_pairs: number of pairs per task, a balanced sample, whose modules are patched at
            every token.

    Returns:
        One row per claim about the model's family, from `claims.measure`.

    Raises:
        NoticeError: the model is of another family, a task has fewer than three scenes that the
            model answers correctly, or the folder contains another run.
    """
    if model.family not in DEPTH:
        raise NoticeError(
            f"{model.name} is not a BLIP or LLaVA, and the paper makes no claims about other "
            "families. Use `notice sweep` and `notice heads` instead."
        )
    out = Path(out)
    if out.is_file():
        raise NoticeError(f"{out} is a file. Give a folder for the results.")
    bad = [task for task in sets if not re.fullmatch(r"[\w -]+", task)]
    if bad:
        raise NoticeError(
            f"The task {bad[0]!r} cannot name a folder. Use letters, digits, spaces, '_' and '-'."
        )
    log = Logbook(out / "sweeps")
    with PartialState(cpu=model.device.type == "cpu").main_process_first():
        check_plan(log.folder, fingerprint.identity(model) | {"seed": seed})
    asked = {task: log.ask(model, task, pairs) for task, pairs in sets.items()}
    right = {task: _answered(pairs, asked[task]) for task, pairs in sets.items()}
    _refuse_few(model, sets, asked, right)
    swept = tables_of((one, log.sweep(model, one, seed)) for one in experiments(model, right, seed))
    given = evidence(model, right, swept, seed)
    found = claims.measure(model.family, given, seed)
    modules = []
    for one in module_experiments(model, right, seed, module_pairs):
        table = effects(log.sweep(model, one, seed).table()).assign(corruption=one.how)
        modules.append(tables.role_effects(table, seed))
    if PartialState().is_main_process:
        small = {
            "answers.csv": tables.accuracy(pd.concat(asked.values())),
            "claims.csv": found,
            "content.csv": tables.content(model, right, swept, log.folder / "content", seed),
            "distances.csv": given.distances,
            "modules.parquet": pd.concat(modules, ignore_index=True),
            "noise.csv": tables.noise_effects(swept, seed),
            "replication.csv": tables.replication(model, right, seed),
            "roles.csv": tables.roles(model, right, swept, seed),
            **tables.heads(swept, seed),
        }
        small["costs.csv"] = log.costs()
        made = {
            "seed": seed,
            "module_pairs": module_pairs,
            "counts": _counts(sets, right),
            "given_fingerprints": {task: fingerprint.of_pairs(p) for task, p in sets.items()},
            "minutes": round(float(small["costs.csv"]["minutes"].sum()), 1),
        }
        _write(out, small, _of_run(model, right) | made)
    return found


def module_experiments(
    model: VLM, sets: Mapping[str, PairSet], seed: int = 0, pairs: int = MODULE_PAIRS
) -> list[Experiment]:
    """Sweeps of every module of the text model at every text token, under both corruptions."""
    sites = tuple(site_grid(model))
    few = {task: own.sample(pairs, seed) for task, own in sets.items()}
    return [
        Experiment("modules", task, how, own, sites)
        for task, own in few.items()
        for how in ("image", "text")
    ]


def _answered(pairs: PairSet, asked: pd.DataFrame) -> PairSet:
    """Keep the pairs that are answered correctly with both pictures (paper, section 3)."""
    kept = correct_with_both(asked)
    return pairs.filter(lambda pair: pair.pair_id in kept)


def _refuse_few(
    model: VLM,
    sets: Mapping[str, PairSet],
    asked: Mapping[str, pd.DataFrame],
    right: Mapping[str, PairSet],
) -> None:
    if not sets:
        raise NoticeError("There are no pairs to run. Give the pairs of at least one task.")
    for task, pairs in right.items():
        if _scenes(pairs) < SCENES:
            raise NoticeError(
                f"{model.name} answers {len(pairs)} of the {len(sets[task])} pairs of {task} "
                f"correctly with both pictures. They show {_scenes(pairs)} scenes, but at least "
                f"{SCENES} are needed. It said {examples(asked[task]) or 'the right words'}. Give "
                f"more pairs, or leave {task} out."
            )


def _scenes(pairs: PairSet) -> int:
    return len({pair.scene_id for pair in pairs})


def _counts(sets: Mapping[str, PairSet], right: Mapping[str, PairSet]) -> dict[str, dict[str, int]]:
    """The numbers of pairs and scenes of each task that are left after each step."""
    return {
        task: {
            "pairs": len(pairs),
            "answered correctly": len(right[task]),
            "scenes": _scenes(right[task]),
        }
        for task, pairs in sets.items()
    }


def _of_run(model: VLM, sets: Mapping[str, PairSet]) -> dict:
    """The manifest's entries on the model, the pairs, the software and the machine."""
    quantization = getattr(model.model.config, "quantization_config", None)
    return {
        "schema": SCHEMA,
        **fingerprint.identity(model),
        "quantization": getattr(quantization, "bnb_4bit_quant_type", None),
        "pairs": {task: len(pairs) for task, pairs in sets.items()},
        "pairs_fingerprints": {task: fingerprint.of_pairs(p) for task, p in sets.items()},
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "machine": provenance.machine(model.device),
    }


def _write(out: Path, small: Mapping[str, pd.DataFrame], manifest: dict) -> None:
    """Write the tables, then the manifest. A table without columns could not be computed."""
    finished, hashes = out / "manifest.json", {}
    finished.unlink(missing_ok=True)
    for name, table in sorted(small.items()):
        path = out / name
        if table.empty and not len(table.columns):
            path.unlink(missing_ok=True)
            continue
        if path.suffix == ".parquet":
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False, float_format="%.6g")
        hashes[name] = sha256(path)
    manifest = manifest | {"tables": hashes}
    text = json.dumps(manifest, indent=1) + "\n"
    write_atomically(finished, lambda path: path.write_text(text))
