"""From scenes, two images that a question tells apart, to a balanced set of pairs."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from pathlib import Path

import numpy as np

from ..errors import NoticeError
from ..models.answers import answered_correctly
from ..models.base import VLM
from ..pairs import ORDERS, PairSet, SemanticPair, symmetric

Steps = list[tuple[str, int]]
"""What was done, and how many rows were left; `card.write_card` shows it."""

DIRECTIONS = ("ab", "ba")
"""The scene's first image is the clean one, or the second."""

PRESETS = ("paper",)
PAPER_CELL = 250
"""Pairs of one group and answer order in the paper: with `_GROUPS` that makes 500 of each slot and
direction of SVO-Probes, 500 of each kind of state, and 250 of each emotion and order (published
code, preprocessing/3_svo, 3_mit, 3_face)."""


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
        left_out: {file: why it is in no pair}.
    """

    pairs: PairSet
    steps: Steps
    source: Source
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """Two images that one question tells apart; it gives four pairs.

    Attributes:
        scene_id: unique; the pairs' ids begin with it.
        task: "svo", "states", "faces", or a name of one's own.
        slot: what the answers are, e.g. "verb".
        images: two image files.
        answers: `answers[i]` is true of `images[i]`. In SVO-Probes the first is the positive one.
        prompts: the question with `answers[0]` offered first, and with `answers[1]` first.
        shown: every word of the slot that is true of either image; the two answers by default.
        masks: a mask file for each image, or None.
    """

    scene_id: str
    task: str
    slot: str
    images: tuple[Path, Path]
    answers: tuple[str, str]
    prompts: tuple[str, str]
    shown: tuple[str, ...] = ()
    masks: tuple[Path | None, Path | None] = (None, None)


def pairs_of(
    scenes: Iterable[Scene],
    slots: Mapping[str, Iterable[str]],
    near_synonyms: Mapping[str, Iterable[str]] | None = None,
) -> PairSet:
    """Four pairs a scene: either image is the clean one, either option is offered first.

    Their ids are "<scene_id>-<direction>-<order>": direction "ab" (the first image is clean) or
    "ba", order "correct" or "incorrect" (which option comes first). The split is "heldout".

    Args:
        slots: {slot: words}, from which token replacement draws.
        near_synonyms: {word: words too close to it}; closed to both directions.

    Raises:
        NoticeError: a scene comes twice, its images are one, its answers are near-synonyms or no
            words of the slot, or its prompts do not offer the answers in that order.
    """
    near = symmetric(dict(near_synonyms or {}))
    scenes = list(scenes)
    _check_distinct(scenes, near)
    pairs = tuple(chain.from_iterable(map(_four_pairs, scenes)))
    return PairSet(pairs, {slot: tuple(words) for slot, words in slots.items()}, near)


def _check_distinct(scenes: list[Scene], near: Mapping[str, frozenset[str]]) -> None:
    """No two scenes ask the same of the same images, and each has two images and two answers."""
    seen: dict[object, str] = {}
    for scene in scenes:
        if scene.images[0] == scene.images[1]:
            raise NoticeError(f"Scene {scene.scene_id}: both images are {scene.images[0]}.")
        if scene.answers[1] in near.get(scene.answers[0], ()):
            raise NoticeError(
                f"Scene {scene.scene_id}: {scene.answers[0]!r} and {scene.answers[1]!r} are "
                "near-synonyms; ask for another pair of words."
            )
        for key in (scene.scene_id, (frozenset(scene.images), frozenset(scene.prompts))):
            if key in seen:
                raise NoticeError(
                    f"Scenes {seen[key]} and {scene.scene_id} have the same id, or the same images "
                    "and question. Drop one of them."
                )
            seen[key] = scene.scene_id


def _four_pairs(scene: Scene) -> Iterator[SemanticPair]:
    for clean, corrupt in ((0, 1), (1, 0)):
        for first in (clean, corrupt):
            order = ORDERS[first != clean]
            yield SemanticPair(
                pair_id=f"{scene.scene_id}-{DIRECTIONS[clean]}-{order.split('_')[0]}",
                scene_id=scene.scene_id,
                task=scene.task,
                slot=scene.slot,
                split="heldout",
                distractor=False,
                clean_image=scene.images[clean],
                corrupt_image=scene.images[corrupt],
                clean_masks=scene.masks[clean],
                corrupt_masks=scene.masks[corrupt],
                prompt=scene.prompts[first],
                correct=scene.answers[clean],
                incorrect=scene.answers[corrupt],
                order=order,
                shown=tuple(sorted(scene.shown or scene.answers)),
            )


def select(
    pairs: PairSet,
    model: VLM | None = None,
    preset: str | None = None,
    n: int | None = None,
    seed: int = 0,
) -> tuple[PairSet, Steps]:
    """A balanced sample without replacement of the pairs that a model answers correctly.

    Pairs are drawn in a random order until each group has its number: slot and direction in the
    task "svo", the correct answer in "faces", else the slot. Within a group both answer orders are
    equally many. A scene gives a second pair only after all have given one. The model is asked only
    about what is drawn, so that a small sample of a large set is quick.

    Args:
        model: only pairs that it answers correctly with both images are kept; None keeps all.
        preset: "paper" for the paper's sample sizes: at most 500 pairs of each slot and direction
            ("svo"), 500 of each slot ("states"), 500 of each emotion ("faces").
        n: at most this many pairs, shared equally between the groups; an odd one is left out.
        seed: of the draw.

    Returns:
        The sample in the pairs' old order, and what was left after each step.

    Raises:
        NoticeError: the preset is unknown or fits no such task, both preset and n are given, n is
            less than 2, or no pair is left.

    Source: paper, section 3; published code, preprocessing/3_svo, 3_mit, 3_face (which draw
    repeatedly, and of one adjective only).
    """
    cells = _cells(pairs, seed)
    quota = _quota(pairs, sorted({group for group, _ in cells}), preset, n)
    steps = [("pairs: all", len(pairs))]
    kept, drawn = _fill(cells, quota, pairs, model)
    if model is not None:
        steps.append((f"pairs: drawn, and asked of {model.name}", drawn))
        steps.append(("pairs: answered correctly with both images", sum(map(len, kept.values()))))
    chosen: set[str] = set()
    for group in quota:
        size = min(len(kept[group, order]) for order in ORDERS)
        for order in ORDERS:
            chosen.update(pair.pair_id for pair in kept[group, order][:size])
    sample = pairs.filter(lambda pair: pair.pair_id in chosen)
    if not len(sample):
        raise NoticeError(
            "No pair is left: each group needs one of either answer order"
            + (f", answered correctly by {model.name} with both images." if model else ".")
        )
    steps.append(("pairs: equally many of either answer order in each group", len(sample)))
    return sample, steps


def _group(pair: SemanticPair) -> tuple[str, ...]:
    """What the paper takes an equal number of."""
    if pair.task == "svo":
        return pair.task, pair.slot, _direction(pair)
    return pair.task, pair.correct if pair.task == "faces" else pair.slot


def _direction(pair: SemanticPair) -> str:
    """Which image is the clean one, "ab" or "ba", as `_four_pairs` writes it in the id."""
    word = pair.pair_id.split("-")[-2:][0]
    return word if word in DIRECTIONS else ""


def _cells(pairs: PairSet, seed: int) -> dict[tuple, list[SemanticPair]]:
    """Each group and order's pairs in the order in which they are drawn."""
    rng = np.random.default_rng(seed)
    turn: dict[str, int] = defaultdict(int)
    ranked = []
    for i in rng.permutation(len(pairs)):
        pair = pairs[int(i)]
        ranked.append((turn[pair.scene_id], pair))
        turn[pair.scene_id] += 1
    cells = defaultdict(list)
    for _, pair in sorted(ranked, key=lambda item: item[0]):
        cells[_group(pair), pair.order].append(pair)
    return cells


def _quota(pairs: PairSet, groups: list, preset: str | None, n: int | None) -> dict:
    """How many pairs of either order each group may have."""
    if preset is not None and preset not in PRESETS:
        raise NoticeError(f"There is no preset {preset!r}; there is {', '.join(PRESETS)}.")
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
        return dict.fromkeys(groups, inf)
    if n < 2:
        raise NoticeError(f"n must be at least 2, one pair of either answer order, not {n}.")
    each, more = divmod(n // 2, max(len(groups), 1))
    return {group: each + (i < more) for i, group in enumerate(groups)}


def _fill(cells, quota, pairs: PairSet, model: VLM | None) -> tuple[dict, int]:
    """Draw until each cell is full or has nothing left; (kept pairs by cell, number drawn).

    Each round draws as many of each cell as it lacks, so a model is asked little in vain.
    """
    kept: dict[tuple, list[SemanticPair]] = defaultdict(list)
    used: dict[tuple, int] = defaultdict(int)
    drawn = 0
    while True:
        batch = []
        for (group, order), queue in cells.items():
            cell = group, order
            lacking = min(quota[group] - len(kept[cell]), len(queue) - used[cell])
            batch += queue[used[cell] : used[cell] + lacking]
            used[cell] += lacking
        if not batch:
            return kept, drawn
        drawn += len(batch)
        asked = PairSet(tuple(batch), pairs.slots, pairs.near_synonyms)
        for pair in answered_correctly(model, asked) if model else asked:
            kept[_group(pair), pair.order].append(pair)


def content_id(task: str, *contents: str) -> str:
    """The id of a scene by what it is made of, so that names of files and folders do not matter."""
    return f"{task}-{hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]}"
