"""Compare the engine on decoder-only families with one full forward per site and with nnsight."""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from notice_lib import PairSet, Site, sweep
from notice_lib.models.base import VLM
from notice_lib.patching import logit_difference, reference

from . import peers
from .random_families import FAMILIES, REAL, TINY
from .random_models import LLAVA_PROMPT, heads_behind_the_image, random_pairs
from .report import Report, timed

ROUNDS = 3
SITES_A_ROUND = 2
"""Number of sites that the reference runs in each round."""
LOGITS = ["logit_correct", "logit_incorrect"]


def run(tiny: bool = False, nnsight: bool | None = None) -> Report:
    """Measure sites per second of each family on one thread.

    Args:
        tiny: use tiny models and one round.
        nnsight: whether to install and time nnsight, by default unless `tiny`.
    """
    torch.set_num_threads(1)
    if nnsight is None:
        nnsight = not tiny
    python = peers.environment(peers.NNSIGHT.package) if nnsight else None
    rounds = 1 if tiny else ROUNDS
    measured = pd.DataFrame(
        row for family in FAMILIES for row in _family(family, tiny, rounds, python)
    )
    medians = measured.groupby("family", sort=False).median()
    largest = measured.groupby("family")[["max_abs_diff", "nnsight_diff"]].max()
    medians["max_abs_diff"] = largest.max_abs_diff
    closing = {
        "ratio": medians.ratio.min(),
        **medians.ratio.to_dict(),
        "max_abs_diff": largest.max_abs_diff.max(),
    }
    if nnsight:
        closing["nnsight_ratio"] = medians.nnsight_ratio.min()
        closing["nnsight_max_abs_diff"] = largest.nnsight_diff.max()
    table = medians.drop(columns="nnsight_diff").reset_index()
    table = table.astype({"image_tokens": int, "sites": int})
    return Report("families", table, closing, _notes(rounds))


def _notes(rounds: int) -> list[str]:
    return [
        "Every family has 8 layers of 8 heads, width 512, 32,064 words and random weights. Vision "
        "towers are small: 4 layers of width 256, or 2 layers of width 128 where four patches form "
        "one token. One pair, image corruption, every head at every token behind the image (some "
        "chat templates have more of these tokens). One thread; medians of "
        f"{rounds} rounds in which the methods alternate.",
        f"The reference runs {SITES_A_ROUND} of the sites per round, with one full forward each. "
        "nnsight runs the sites of one middle layer as one batch, without the vision tower. Both "
        "are **extrapolated** by seconds per site, since they run the whole language model for any "
        "site. The engine sweeps all sites, which includes processing the pictures. `ratio` and "
        "`nnsight_ratio` say how many times more sites per second the engine does.",
        "`max_abs_diff` is the largest difference in the two answers' logits between engine and "
        "reference on the reference's sites, in float32. `nnsight_max_abs_diff` is the largest "
        "difference in logit difference between engine and nnsight on nnsight's sites.",
    ]


def _family(family: str, tiny: bool, rounds: int, python: Path | None) -> Iterator[dict]:
    """Yield one row per round. Without nnsight's `python`, its columns are NaN."""
    model = FAMILIES[family](TINY if tiny else REAL)
    random = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        pairs = random_pairs(folder, LLAVA_PROMPT)
        image = pairs[0].image("clean")
        tokens = model.inputs(image, LLAVA_PROMPT).image_tokens
        sites = heads_behind_the_image(model, LLAVA_PROMPT, image)
        if python:
            model.model.save_pretrained(Path(folder) / "model")
        sweep(model, pairs, sites[:1])
        for _ in range(rounds):
            seconds, found = timed(lambda: sweep(model, pairs, sites))
            fast = seconds / len(sites)
            chosen = random.choice(len(sites), SITES_A_ROUND, replace=False)
            slow, by_reference = _reference(model, pairs, [sites[i] for i in chosen])
            difference = np.abs(found.patched.iloc[chosen][LOGITS].to_numpy() - by_reference).max()
            peer, peer_difference = np.nan, np.nan
            if python:
                peer, peer_difference = _nnsight(python, Path(folder), model, pairs, found.patched)
            print(
                f"{family}, ms per site: engine {fast * 1e3:.2f}, reference {slow * 1e3:.1f}, "
                f"nnsight {peer * 1e3:.1f}",
                file=sys.stderr,
            )
            yield {
                "family": family,
                "image_tokens": sum(tokens),
                "sites": len(sites),
                "engine_sites_per_s": 1 / fast,
                "reference_sites_per_s": 1 / slow,
                "ratio": slow / fast,
                "nnsight_sites_per_s": 1 / peer,
                "nnsight_ratio": peer / fast,
                "max_abs_diff": difference,
                "nnsight_diff": peer_difference,
            }


def _reference(model: VLM, pairs: PairSet, sites: list[Site]) -> tuple[float, np.ndarray]:
    """Seconds per full forward, and the answers' logits in the sites' patched runs, (sites, 2)."""
    seconds = []

    def patch(model, jobs):
        taken, outcomes = timed(lambda: reference.patch(model, jobs))
        seconds.append(taken)
        return outcomes

    found = sweep(model, pairs, sites, engine=patch).patched
    return sum(seconds) / (len(sites) + 2), found[LOGITS].to_numpy()  # 2: the unpatched runs.


def _nnsight(
    python: Path, folder: Path, model: VLM, pairs: PairSet, found: pd.DataFrame
) -> tuple[float, float]:
    """nnsight's seconds per site of a middle layer, and its largest difference from the engine."""
    middle = found[found.layer == model.n_layers // 2]
    said = peers.ask(peers.NNSIGHT, python, folder, model, pairs, middle)
    difference = np.abs(logit_difference(middle) - said["gaps"]).max()
    peers.check_same("nnsight", difference)
    return said["seconds"] / len(middle), difference
