"""All of the paper's experiments on one model, and the small tables that they leave.

What takes long is kept as it comes, in `sweeps/` of the run's folder: the model's answers a few
pairs at a time, sweeps by shards. So a run that was killed at any point goes on, and gives the
same tables. Several processes (accelerate launch) share the answers and the sweeps.
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
from ..models.base import VLM
from ..pairs import PairSet
from ..patching import effects, site_grid
from . import claims, tables
from .evidence import HEADS, Experiment, evidence, experiments, tables_of
from .logbook import Logbook, check_plan

TASKS = ("svo", "states", "faces")
MODULE_PAIRS = 120
"""Pairs of each task whose modules are patched at every token, unless told otherwise."""
SCHEMA = 3
"""Version of the tables' columns; tools/migrate_results.py renames those of earlier ones."""
SCENES = 3
"""Intervals need so many of each task."""


def read_tasks(data: Sequence[str | Path] = ("embedded",)) -> dict[str, PairSet]:
    """Pair sets by task.

    Args:
        data: each "embedded" (the held-out pairs; of states those without a distractor, since the
            small models know half of the others), the name of an embedded set, a folder that holds
            sets called svo, states or faces, or one set's own folder.

    Raises:
        NoticeError: a folder holds no set; two sets have pairs of one task.
    """
    sets: dict[str, PairSet] = {}
    for source in data:
        for pairs in _read_sets(source):
            for task in dict.fromkeys(pair.task for pair in pairs):
                if task in sets:
                    raise NoticeError(
                        f"Two of the sets in {', '.join(map(str, data))} have {task}."
                    )
                sets[task] = _of_task(pairs, task)
    return sets


def _of_task(pairs: PairSet, task: str) -> PairSet:
    return pairs.filter(lambda pair: pair.task == task)


def _read_sets(source: str | Path) -> list[PairSet]:
    if source == "embedded":
        return [load_pairs(name).filter(_is_fair) for name in TASKS]
    if source in EMBEDDED or (Path(source) / "pairs.csv").exists():
        return [load_pairs(source)]
    found = [name for name in TASKS if (Path(source) / name).is_dir()]
    if not found:
        raise NoticeError(
            f"{source} holds no pairs: give 'embedded', a folder with {', '.join(TASKS)} (or some "
            "of them), or a set's own folder (with pairs.csv)."
        )
    return [load_pairs(name, data=source) for name in found]


def _is_fair(pair) -> bool:
    return pair.split == "heldout" and not (pair.task == "states" and pair.distractor)


def reproduce(
    model: VLM,
    sets: Mapping[str, PairSet],
    out: str | Path,
    seed: int = 0,
    module_pairs: int = MODULE_PAIRS,
) -> pd.DataFrame:
    """Run the paper's experiments and measure its claims; goes on where it was stopped.

    Args:
        sets: {task: pairs}; those are used that the model answers correctly with both pictures.
        out: a folder; data/results/README.md says what it gets. manifest.json is written last.
        seed: of replaced words, noise, samples and statistics.
        module_pairs: of each task, a balanced sample.

    Returns:
        One row a claim about the model's family, from `claims.measure`.

    Raises:
        NoticeError: a model of another family; a task has no three scenes that the model answers
            correctly; the folder holds another run.
    """
    if model.family not in HEADS:
        raise NoticeError(
            f"{model.name} is no BLIP or LLaVA, of which the paper speaks. `notice sweep` and "
            "`notice heads` work on it."
        )
    out = Path(out)
    if out.is_file():
        raise NoticeError(f"{out} is a file. Name a folder for the results.")
    bad = [task for task in sets if not re.fullmatch(r"[\w -]+", task)]
    if bad:
        raise NoticeError(f"A task is a plain name, of which folders are called; not {bad[0]!r}.")
    log = Logbook(out / "sweeps")
    plan = {
        "model": model.name,
        "model_fingerprint": fingerprint.of_model(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "seed": seed,
    }
    with PartialState(cpu=model.device.type == "cpu").main_process_first():
        check_plan(log.folder, plan)
    asked = {task: log.ask(model, task, pairs) for task, pairs in sets.items()}
    right = {task: _answered(pairs, asked[task]) for task, pairs in sets.items()}
    _refuse_few(model, sets, right)
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
            "minutes": round(float(small["costs.csv"]["minutes"].sum()), 1),
        }
        _write(out, small, _of_run(model, right) | made)
    return found


def module_experiments(
    model: VLM, sets: Mapping[str, PairSet], seed: int = 0, pairs: int = MODULE_PAIRS
) -> list[Experiment]:
    """Every module of the text stack at every text token, under both corruptions."""
    sites = tuple(site_grid(model))
    few = {task: own.sample(pairs, seed) for task, own in sets.items()}
    return [
        Experiment("modules", task, how, own, sites)
        for task, own in few.items()
        for how in ("image", "text")
    ]


def _answered(pairs: PairSet, asked: pd.DataFrame) -> PairSet:
    """Those that are answered correctly with both pictures (paper, section 3)."""
    right = asked.groupby("pair_id")["is_correct"].all()
    return pairs.filter(lambda pair: bool(right[pair.pair_id]))


def _refuse_few(model: VLM, sets: Mapping[str, PairSet], right: Mapping[str, PairSet]) -> None:
    if not sets:
        raise NoticeError("There is no pair to run: give at least one task's pairs.")
    for task, pairs in right.items():
        if _scenes(pairs) < SCENES:
            raise NoticeError(
                f"{model.name} answers {len(pairs)} of the {len(sets[task])} pairs of {task} "
                f"correctly with both pictures, and these show {_scenes(pairs)} scenes; at least "
                f"{SCENES} are needed. Give more pairs, or leave {task} out."
            )


def _scenes(pairs: PairSet) -> int:
    return len({pair.scene_id for pair in pairs})


def _counts(sets: Mapping[str, PairSet], right: Mapping[str, PairSet]) -> dict[str, dict[str, int]]:
    """How many pairs of each task are left after each step."""
    return {
        task: {
            "pairs": len(pairs),
            "answered correctly": len(right[task]),
            "scenes": _scenes(right[task]),
        }
        for task, pairs in sets.items()
    }


def _of_run(model: VLM, sets: Mapping[str, PairSet]) -> dict:
    """What was run, where and by what."""
    quantization = getattr(model.model.config, "quantization_config", None)
    return {
        "schema": SCHEMA,
        "model": model.name,
        "model_fingerprint": fingerprint.of_model(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": getattr(quantization, "bnb_4bit_quant_type", None),
        "pairs": {task: len(pairs) for task, pairs in sets.items()},
        "pairs_fingerprints": {task: fingerprint.of_pairs(p) for task, p in sets.items()},
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "machine": provenance.machine(model.device),
    }


def _write(out: Path, small: Mapping[str, pd.DataFrame], manifest: dict) -> None:
    """The tables, and last the manifest; a table that could not be made has no columns."""
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
