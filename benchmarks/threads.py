"""Measure a class on one machine: several chapters run at the same time, with torch's default
number of threads."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from .report import Report, timed

CORES = 2
SIDE_BY_SIDE = 4
ROUNDS = 3
CHAPTER = Path(__file__).resolve().parents[1] / "book" / "03_first_patch.ipynb"


def run(tiny: bool = False) -> Report:
    """Measure the seconds of one chapter alone and of several at the same time, in alternation."""
    rounds = 1 if tiny else ROUNDS
    together = 2 if tiny else SIDE_BY_SIDE
    with _on_cores(CORES) as cores:
        _chapters(1, tiny)  # Warm up: read files into memory and compile bytecode.
        rows = [
            {
                "chapters": count,
                "cores": cores,
                "seconds": timed(partial(_chapters, count, tiny))[0],
            }
            for _ in range(rounds)
            for count in (1, together)
        ]
    table = pd.DataFrame(rows)
    alone, beside = (table[table.chapters == n].seconds.median() for n in (1, together))
    closing = {"ratio": beside / alone, "alone_s": alone, "beside_s": beside}
    notes = [
        f"{CHAPTER.stem} at full size on {cores} cores, with OMP_NUM_THREADS unset: one process, "
        f"and {together} at the same time. `ratio` is the time of {together} divided by the time "
        f"of one. With {cores} cores it is at least {together / cores:g}.",
    ]
    return Report("threads", table, closing, notes)


@contextmanager
def _on_cores(count: int) -> Iterator[int]:
    """Restrict this process and its children to `count` cores, or to all if there are fewer."""
    before = os.sched_getaffinity(0)
    mine = set(sorted(before)[:count])
    os.sched_setaffinity(0, mine)
    try:
        yield len(mine)
    finally:
        os.sched_setaffinity(0, before)


def _chapters(count: int, tiny: bool) -> None:
    """Execute the chapter in `count` processes at the same time, each in an empty folder."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", CHAPTER, os.devnull]
    if tiny:
        command += ["-p", "n_pairs", "8"]
    with ExitStack() as stack:
        homes = [stack.enter_context(TemporaryDirectory()) for _ in range(count)]
        running = [subprocess.Popen(command, cwd=home, env=environment) for home in homes]
        codes = [process.wait() for process in running]
    if any(codes):
        raise RuntimeError(f"{CHAPTER.name} failed with the exit codes {codes}.")
