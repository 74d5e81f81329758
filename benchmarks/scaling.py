"""Measure time and memory as the work grows, doubling one quantity at a time."""

import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from notice_lib import site_grid, sweep

from . import random_models
from .report import Report, timed

ROUNDS = 3
START = {"sites": 96, "pairs": 2, "layers": 3, "prompt tokens": 24, "image tokens": 144}
DOUBLINGS = 3
# Even the smallest number of sites fills the engine's chunks.
MEMORY = {"sites": 432, "pairs": 1, "layers": 3, "prompt tokens": 96, "image tokens": 144}


def run(tiny: bool = False) -> Report:
    """Measure a BLIP of width 256 with 8 heads per layer.

    Peak memory is measured in a fresh process for each point.
    """
    torch.set_num_threads(1)
    doublings, rounds = (1, 1) if tiny else (DOUBLINGS, ROUNDS)
    smallest = dict.fromkeys(START, 1) | {"prompt tokens": 12, "image tokens": 16}
    start, memory_start = (smallest, smallest) if tiny else (START, MEMORY)
    points = [
        start | {grown: start[grown] * 2**step}
        for grown in START
        for step in range(doublings + 1)
    ]  # fmt: skip
    times = [[] for _ in points]
    works = [_Work(point) for point in points]
    for _ in range(rounds):
        for work, own in zip(works, times, strict=True):
            own.append(timed(work.run)[0])
    table = pd.DataFrame(points)
    table.insert(0, "grown", [grown for grown in START for _ in range(doublings + 1)])
    table["seconds"] = [median(own) for own in times]
    table["times the one before"] = table.groupby("grown", sort=False).seconds.pct_change() + 1
    last = table.groupby("grown", sort=False).last()["times the one before"]
    closing = {f"{grown}_doubled".replace(" ", "_"): value for grown, value in last.items()}
    memory = pd.DataFrame(
        memory_start | {"sites": memory_start["sites"] * 2**step} for step in (0, doublings)
    )
    memory["peak MiB"] = [_peak_of(point) for point in memory.to_dict("records")]
    closing["memory_growth"] = memory["peak MiB"].iloc[1] / memory["peak MiB"].iloc[0]
    table = pd.concat([table, memory.assign(grown="sites (memory)")], ignore_index=True)
    notes = [
        "Image corruption, single cross-attention heads and whole modules, one thread. Medians of "
        f"{rounds} rounds over all points. One quantity is doubled while the other four keep the "
        "values of the first row. `..._doubled` is the time after the last doubling divided by the "
        "time before it (2 means linear; the fixed work of two unpatched runs makes it less). "
        "`sites` is the number of patched runs per pair.",
        "`peak MiB` is the resident memory of a fresh process that runs the point. "
        f"`memory_growth` is its growth when there are {2**doublings} times as many sites.",
    ]
    return Report("scaling", table, closing, notes)


class _Work:
    """The work of one point: a model, its pairs and its sites."""

    def __init__(self, point: dict[str, int]):
        side = 16 * round(point["image tokens"] ** 0.5)
        width = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 8}
        words = {"vocab_size": 1000, "bos_token_id": 999, "sep_token_id": 3, "eos_token_id": 3}
        text = width | words | {"encoder_hidden_size": 256, "num_hidden_layers": point["layers"]}
        vision = width | {"image_size": side, "num_hidden_layers": 3, "initializer_range": 0.02}
        self.model = random_models.blip({"text_config": text, "vision_config": vision})
        self.folder = TemporaryDirectory()
        words = " there" * (point["prompt tokens"] - 9)
        self.pairs = random_models.random_pairs(
            self.folder.name, random_models.BLIP_PROMPT + words, point["pairs"]
        )
        sites = [
            site
            for position in range(point["prompt tokens"])
            for site in [
                *site_grid(self.model, ["cross_attention"], per_head=True, position=position),
                *site_grid(self.model, position=position),
            ]
        ]
        # The sites spread over all layers, so that their number does not change their depth.
        self.sites = sites[:: len(sites) // point["sites"]][: point["sites"]]

    def run(self) -> None:
        sweep(self.model, self.pairs, self.sites)


def _peak_of(point: dict[str, int]) -> float:
    """Peak resident memory, in MiB, of a process that runs one point."""
    code = f"from benchmarks.scaling import print_peak; print_peak({point!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def print_peak(point: dict[str, int]) -> None:
    """Run one point and print the process's peak resident memory in MiB."""
    torch.set_num_threads(1)
    _Work(point).run()
    print(_own_peak())


def _own_peak() -> float:
    """Peak resident memory of this process, in MiB.

    It is not read from getrusage's ru_maxrss, which a process inherits from its parent.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
