"""Save the slow parts of a reproduction as they are computed, and log the time they take."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState

from .. import fingerprint, progress
from ..errors import NoticeError
from ..files import write_atomically
from ..models.answers import RUNS, answers
from ..models.base import VLM
from ..pairs import PairSet
from ..patching import Sweep
from .evidence import Experiment

ANSWERS = 2
"""Version of the columns of `answers` and of what counts as correct."""
TOGETHER = 8
"""Number of pairs whose answers are saved in one file."""


class Logbook:
    """The folder with the slow parts of a run (answers and sweeps) and a log of their costs.

    Whenever a part has done some work, log.jsonl gets a line with the number of files that the part
    had before, the seconds, and the peak of GPU memory. The time that a killed run spent on its
    last part is missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.counts: dict[str, dict[str, int]] = {}
        self._rest = -time.perf_counter()

    def ask(self, model: VLM, task: str, pairs: PairSet) -> pd.DataFrame:
        """Answer each pair's question about both pictures, as the function `ask` does."""
        name = f"answers-{task}"
        with self._timed(name, model.device):
            found = ask(model, pairs, self.folder / name)
        self.counts[name] = {"pairs": len(pairs)}
        return found

    def sweep(self, model: VLM, one: Experiment, seed: int) -> Sweep:
        """Run an experiment."""
        with self._timed(one.name, model.device):
            found = one.run(model, seed, self.folder)
        self.counts[one.name] = {
            "pairs": found.runs["pair_id"].nunique(),
            "skipped": len(found.skipped),
            "patched_runs": len(found.patched),
        }
        return found

    def costs(self) -> pd.DataFrame:
        """Summarise the costs of each part.

        Returns:
            One row per part, and a last row for everything else: part, pairs, skipped,
            patched_runs, minutes, patched_runs_per_second (only for parts that were completed
            without interruption) and gpu_gib.
        """
        self._note("everything else", 0, self._rest + time.perf_counter(), None)
        lines = (line for line in self._path.read_text().splitlines() if line.endswith("}"))
        spent = pd.DataFrame(map(json.loads, lines)).groupby("part")
        found = pd.DataFrame.from_dict(self.counts, orient="index")
        found = found.reindex([*self.counts, "everything else"])
        seconds = spent["seconds"].sum()
        at_once = seconds[spent["before"].agg(list).map(lambda before: before == [0])]
        found["minutes"] = (seconds / 60).round(2)
        found["patched_runs_per_second"] = (found["patched_runs"] / at_once).round(1)
        found["gpu_gib"] = spent["gpu_gib"].max()
        whole = dict.fromkeys(("pairs", "skipped", "patched_runs"), "Int64")
        return found.astype(whole).rename_axis("part").reset_index()

    @property
    def _path(self) -> Path:
        return self.folder / "log.jsonl"

    @contextmanager
    def _timed(self, name: str, device: torch.device) -> Iterator[None]:
        before = self._files(name)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._rest -= seconds
        if self._files(name) > before:
            peak = None
            if device.type == "cuda":
                peak = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
            self._note(name, before, seconds, peak)

    def _note(self, part: str, before: int, seconds: float, gpu_gib: float | None) -> None:
        if PartialState().is_main_process:
            line = {"part": part, "before": before, "seconds": seconds, "gpu_gib": gpu_gib}
            with self._path.open("a") as file:
                # The first line break ends a line that a killed run left unfinished.
                file.write("\n" + json.dumps(line) + "\n")

    def _files(self, name: str) -> int:
        return len(list((self.folder / name).glob("*.parquet")))


def ask(model: VLM, pairs: PairSet, folder: Path) -> pd.DataFrame:
    """Answer each pair's question about both pictures, and save the answers in a folder.

    Returns:
        Rows from `answers`, with the column run ("clean" or "corrupt").

    Raises:
        NoticeError: the folder contains answers of another model or to other pairs.
    """
    state = PartialState(cpu=model.device.type == "cpu")
    with state.main_process_first():
        plan = {"answers": ANSWERS, "pairs_fingerprint": fingerprint.of_pairs(pairs)}
        check_plan(folder, fingerprint.identity(model) | plan)
    parts = [pairs.pairs[start : start + TOGETHER] for start in range(0, len(pairs), TOGETHER)]
    paths = [folder / f"{i:05d}.parquet" for i in range(len(parts))]
    mine = [
        i
        for i in range(state.process_index, len(parts), state.num_processes)
        if not paths[i].exists()
    ]
    for i in progress.bar(mine, desc=f"asking {model.name}", unit=f"{TOGETHER} pairs"):
        found = pd.concat([answers(model, parts[i], run).assign(run=run) for run in RUNS])
        write_atomically(paths[i], partial(found.to_parquet, index=False))
    state.wait_for_everyone()
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def check_plan(folder: Path, plan: dict) -> None:
    """Record the plan of a run in a new folder, or compare it with the plan recorded there.

    Raises:
        NoticeError: the folder belongs to a run with another plan.
    """
    path = folder / "plan.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda path: path.write_text(json.dumps(plan)))
    known = json.loads(path.read_text())
    other = [name for name in plan if known.get(name) != plan[name]]
    if other:
        raise NoticeError(
            f"{folder} contains another run, with another {', another '.join(other)}. Give another "
            "folder."
        )
