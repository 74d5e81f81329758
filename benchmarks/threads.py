"""A class on one machine: chapters beside each other, with the number of threads that torch takes
where nobody sets it."""

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
CHAPTER = Path(__file__).resolve().parents[1] / "book" / "04_first_patch.ipynb"


def run(tiny: bool = False) -> Report:
    """Seconds of one chapter alone and of several of them side by side, in turns."""
    rounds = 1 if tiny else ROUNDS
    together = 2 if tiny else SIDE_BY_SIDE
    with _on_cores(CORES) as cores:
        _chapters(1, tiny)  # So that files are in memory and bytecode is compiled.
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
        f"{CHAPTER.stem} at its full size, OMP_NUM_THREADS not set, {cores} cores: alone, and "
        f"{together} side by side. `ratio` is the time of all {together} over the time of one; "
        f"{together / cores:g} is what the cores allow.",
    ]
    return Report("threads", table, closing, notes)


@contextmanager
def _on_cores(count: int) -> Iterator[int]:
    """Within this block, processes that are started share this many cores, or what there are."""
    before = os.sched_getaffinity(0)
    mine = set(sorted(before)[:count])
    os.sched_setaffinity(0, mine)
    try:
        yield len(mine)
    finally:
        os.sched_setaffinity(0, before)


def _chapters(count: int, tiny: bool) -> None:
    """Execute the chapter in so many processes at once, each in an empty folder."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", CHAPTER, os.devnull]
    if tiny:
        command += ["-p", "n_pairs", "8"]
    with ExitStack() as stack:
        homes = [stack.enter_context(TemporaryDirectory()) for _ in range(count)]
        running = [subprocess.Popen(command, cwd=home, env=environment) for home in homes]
        codes = [process.wait() for process in running]
    if any(codes):
        raise RuntimeError(f"{CHAPTER.name} failed: exit codes {codes}.")
