"""What a loader makes of a data set, and a balanced sample of its pairs."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from ..choices import Criterion, check_choice
from ..errors import NoticeError
from ..models.answers import ask_with_both, correct_with_both, examples, warn_of
from ..models.base import VLM
from ..pairs import ORDERS, PairSet, SemanticPair

Steps = list[tuple[str, int]]
"""What was done, and how many rows, images, scenes or pairs were left after it."""

PRESETS = ("paper",)
PAPER_CELL = 250
"""Pairs of one group and answer order in the paper. With the groups of `select` that makes 500 of
each slot and direction of SVO-Probes, 500 of each kind of state, and 250 of each emotion and order
(published code, preprocessing/3_svo, 3_mit, 3_face)."""


@dataclass(frozen=True)
class Source:
    """Where images come from, for the card of a set.

    Attributes:
        title: of the data set.
        citation: whom to cite.
        url: where it is published.
        licence: what is known of it, in a sentence or two.
    """

    title: str
    citation: str
    url: str
    licence: str


@dataclass(frozen=True)
class Built:
    """What a loader made of a data set, with the record of how.

    Attributes:
        pairs: all of them; `select` draws the ones to work with.
        steps: what was done, and how many files, images and scenes were left.
        source: of the images.
        left_out: {file, or address of what is not at hand: why it is in no pair}.
    """

    pairs: PairSet
    steps: Steps
    source: Source
    left_out: Mapping[Path | str, str] = field(default_factory=dict)


def select(
    pairs: PairSet,
    model: VLM | None = None,
    preset: str | None = None,
    n: int | None = None,
    seed: int = 0,
    by: Criterion = "generated",
) -> tuple[PairSet, Steps]:
    """A balanced sample without replacement of the pairs that a model answers correctly.

    Pairs are drawn in a random order until each group has its number. A group is, in the task
    "svo", a slot and a direction (which of a scene's two images is the clean one); in "faces" a
    correct answer; else a slot. Within a group both answer orders are equally many. A scene gives a
    second pair only after all have given one. The model is asked only about what is drawn, so a
    small sample of a large set is quick. It warns as `answered_correctly` does, once for all that
    was drawn.

    Args:
        model: only pairs that it answers correctly with both images are kept; None keeps all.
        preset: "paper" for the paper's sample sizes: at most 500 pairs of each slot and direction
            ("svo"), 500 of each slot ("states"), 500 of each emotion ("faces").
        n: at most this many pairs, shared equally between the groups; an odd one is left out.
        seed: random seed of the draw.
        by: what counts as answered correctly, as in `answered_correctly`.

    Returns:
        The sample in the pairs' old order, and what was left after each step.

    Raises:
        NoticeError: the preset is unknown or fits no such task, both preset and n are given, n is
            less than 2, `by` is no criterion, or no pair is left; then it says what the model
            answered.

    Source: paper, section 3; published code, preprocessing/3_svo, 3_mit, 3_face (which draw
    repeatedly, and of one adjective only).
    """
    check_choice("by", by, Criterion)
    cells = _cells(pairs, seed)
    quota = _quota(pairs, sorted({group for group, _ in cells}), preset, n)
    steps = [("pairs: all", len(pairs))]
    kept, asked = _fill(cells, quota, model, by)
    if model is not None:
        steps.append((f"pairs: drawn, and asked of {model.name}", asked["pair_id"].nunique()))
        correctly = "answered correctly" if by == "generated" else "correct option preferred"
        steps.append((f"pairs: {correctly} with both images", sum(map(len, kept.values()))))
    chosen: set[str] = set()
    for group in quota:
        size = min(len(kept[group, order]) for order in ORDERS)
        for order in ORDERS:
            chosen.update(pair.pair_id for pair in kept[group, order][:size])
    sample = pairs.filter(lambda pair: pair.pair_id in chosen)
    if not len(sample):
        raise _none_left(model, asked)
    if model is not None:
        warn_of(model, asked, by)
    steps.append(("pairs: equally many of either answer order in each group", len(sample)))
    return sample, steps


def _cells(pairs: PairSet, seed: int) -> dict[tuple, list[SemanticPair]]:
    """Each group and order's pairs in the order in which they are drawn."""
    first = {pair.scene_id: pair.clean_image for pair in reversed(pairs.pairs)}

    def group(pair: SemanticPair) -> tuple:
        if pair.task == "svo":
            return pair.task, pair.slot, pair.clean_image != first[pair.scene_id]
        return pair.task, pair.correct if pair.task == "faces" else pair.slot

    rng = np.random.default_rng(seed)
    turn: dict[str, int] = defaultdict(int)
    ranked = []
    for i in rng.permutation(len(pairs)):
        pair = pairs[int(i)]
        ranked.append((turn[pair.scene_id], pair))
        turn[pair.scene_id] += 1
    cells = defaultdict(list)
    for _, pair in sorted(ranked, key=lambda item: item[0]):
        cells[group(pair), pair.order].append(pair)
    return cells


def _quota(pairs: PairSet, groups: list, preset: str | None, n: int | None) -> dict:
    """How many pairs of either order each group may have; None: any number."""
    if preset is not None and preset not in PRESETS:
        raise NoticeError(f"There is no preset {preset!r}; there is only {', '.join(PRESETS)}.")
    if preset is not None and n is not None:
        raise NoticeError("Give a preset or n, not both: each says how many pairs there are.")
    if preset == "paper":
        others = {pair.task for pair in pairs} - {"svo", "states", "faces"}
        if others:
            raise NoticeError(
                f"The paper has no sample size for {', '.join(sorted(others))}: give n instead."
            )
        return dict.fromkeys(groups, PAPER_CELL)
    if n is None:
        return dict.fromkeys(groups, None)
    if n < 2:
        raise NoticeError(f"n must be at least 2, one pair of either answer order, not {n}.")
    each, more = divmod(n // 2, max(len(groups), 1))
    return {group: each + (i < more) for i, group in enumerate(groups)}


def _fill(cells, quota, model: VLM | None, by: Criterion) -> tuple[dict, pd.DataFrame]:
    """Draw until each cell is full or has nothing left; (kept pairs by cell, the model's answers).

    Each round draws as many of each cell as it lacks, so that the model is asked no more than is
    needed.
    """
    kept: dict[tuple, list[SemanticPair]] = defaultdict(list)
    waiting = {cell: iter(queue) for cell, queue in cells.items()}
    asked: list[pd.DataFrame] = []
    while True:
        batch = [
            (cell, pair)
            for cell, queue in waiting.items()
            for pair in islice(queue, _lacking(quota[cell[0]], kept[cell]))
        ]
        if not batch:
            return kept, pd.concat(asked) if asked else pd.DataFrame(columns=["pair_id"])
        if model is not None:
            asked.append(ask_with_both(model, (pair for _, pair in batch)))
            right = correct_with_both(asked[-1], by)
            batch = [(cell, pair) for cell, pair in batch if pair.pair_id in right]
        for cell, pair in batch:
            kept[cell].append(pair)


def _lacking(quota: int | None, kept: list) -> int | None:
    """How many pairs a cell may still get; None: any number."""
    return None if quota is None else quota - len(kept)


def _none_left(model: VLM | None, asked: pd.DataFrame) -> NoticeError:
    """The error for an empty sample, with what the model said instead."""
    told = "No pair is left: each group needs one of either answer order"
    if model is None:
        return NoticeError(f"{told}.")
    said = examples(asked) if len(asked) else ""
    told += f", answered correctly by {model.name} with both images."
    return NoticeError(f"{told} It said {said}." if said else told)
