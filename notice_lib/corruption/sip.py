"""Semantic Image Pairs (SIP): scenes, which are two images that one question tells apart, the pairs
that a scene gives, and the scenes that can be made of labelled images."""

import hashlib
import json
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from ..errors import NoticeError
from ..models.wording import same_words
from ..pairs import ORDERS, PairSet, SemanticPair, symmetric

Question = Callable[[str, str, str], str]
"""(rest, first option, second option) -> the prompt."""


@dataclass(frozen=True)
class LabelledImage:
    """An image, the attribute it shows, and what must be the same in its partner.

    Attributes:
        path: the image file.
        attribute: the answer it shows, e.g. "rusty".
        rest: what both images of a pair share, e.g. the noun "bottle"; "" where nothing is named.
        slot: group of the attribute, e.g. "texture"; options of one question share it.
    """

    path: Path
    attribute: str
    rest: str
    slot: str

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path))
        for name in ("attribute", "rest", "slot"):
            if not isinstance(value := getattr(self, name), str):
                raise NoticeError(
                    f"{self.path}: {name} is {value!r}, a {type(value).__name__}. Give a text."
                )


@dataclass(frozen=True)
class Scene:
    """Two images that one question tells apart. It gives four pairs.

    Attributes:
        scene_id: unique; the pairs' ids begin with it.
        task: "svo", "states", "faces", or a name of your own.
        slot: what the answers are, e.g. "verb".
        images: two image files.
        answers: `answers[i]` is true of `images[i]`. In SVO-Probes the first is the positive one.
        prompts: the question with `answers[0]` offered first, and with `answers[1]` first.
        shown: every word of the slot that is true of either image; the two answers by default.
        masks: a mask file for each image, or None.

    Raises:
        NoticeError: the answers are the same words to a model (`models.wording`).
    """

    scene_id: str
    task: str
    slot: str
    images: tuple[Path, Path]
    answers: tuple[str, str]
    prompts: tuple[str, str]
    shown: tuple[str, ...] = ()
    masks: tuple[Path | None, Path | None] = (None, None)

    def __post_init__(self):
        one, other = self.answers
        if same_words(one, other):
            raise NoticeError(
                f"The answers of a scene are {one!r} and {other!r}, which are the same words to a "
                "model. Ask about two others."
            )

    def pair(self, clean: int, first: int) -> SemanticPair:
        """The pair whose clean image is `images[clean]` and that offers `answers[first]` first.

        Its id is "<scene_id>-<direction>-<order>": direction "ab" (the first image is clean) or
        "ba", order "correct" or "incorrect" (which option comes first). Its split is "heldout".
        """
        corrupt = 1 - clean
        order = ORDERS[first != clean]
        return SemanticPair(
            pair_id=f"{self.scene_id}-{('ab', 'ba')[clean]}-{order.removesuffix('_first')}",
            scene_id=self.scene_id,
            task=self.task,
            slot=self.slot,
            split="heldout",
            distractor=False,
            clean_image=self.images[clean],
            corrupt_image=self.images[corrupt],
            clean_masks=self.masks[clean],
            corrupt_masks=self.masks[corrupt],
            prompt=self.prompts[first],
            correct=self.answers[clean],
            incorrect=self.answers[corrupt],
            order=order,
            shown=tuple(sorted(self.shown or self.answers)),
        )

    def pairs(self) -> list[SemanticPair]:
        """All four pairs: either image is the clean one, and either option is offered first."""
        return [self.pair(clean, first) for clean, first in ((0, 0), (0, 1), (1, 1), (1, 0))]


def pairs_of(
    scenes: Iterable[Scene],
    slots: Mapping[str, Iterable[str]],
    near_synonyms: Mapping[str, Iterable[str]] | None = None,
) -> PairSet:
    """The four pairs of each scene.

    Args:
        slots: {slot: words}, from which token replacement draws.
        near_synonyms: {word: words too close to it}; closed to both directions.

    Raises:
        NoticeError: a scene comes twice, its two images are one file, its answers are near-synonyms
            or not words of the slot, or its prompts do not offer the answers in that order.
    """
    near = symmetric(near_synonyms or {})
    scenes = list(scenes)
    _check_distinct(scenes, near)
    pairs = tuple(chain.from_iterable(scene.pairs() for scene in scenes))
    return PairSet(pairs, {slot: tuple(words) for slot, words in slots.items()}, near)


def semantic_image_pairs(
    images: Iterable[LabelledImage],
    question: Question,
    task: str,
    near_synonyms: Mapping[str, Iterable[str]] | None = None,
    seed: int = 0,
) -> PairSet:
    """Pair each image with one of the same `rest` and slot that shows another attribute.

    A partner's attribute is never a near-synonym of the image's own. Partners and answer orders
    are drawn with the seed, whatever the order of `images`; each slot gets both orders equally
    often (to one pair). No two pairs show the same two images, and each image is the clean one at
    most once. Images without a partner are left out. The files are not opened.

    Args:
        question: (rest, first option, second option) -> the prompt.
        near_synonyms: {attribute: attributes too close to it}; closed to both directions.

    Raises:
        NoticeError: an image is listed twice, or no image has a partner.

    Source: paper, section 3; published code, preprocessing/1_mit and 1_face (which draws with
    replacement, unseeded, and with lists that are not symmetric).
    """
    images = list(images)
    near = symmetric(near_synonyms or {})
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(images, _names(images), question, task, near, rng)
    if not scenes:
        raise NoticeError(
            "No image has a partner: two images must share `rest` and `slot` and differ in "
            "attribute, and the attributes must not be near-synonyms."
        )
    first_options: dict[str, int] = defaultdict(lambda: int(rng.integers(2)))
    pairs = []
    for i in rng.permutation(len(scenes)):
        scene = scenes[i]
        first_options[scene.slot] += 1
        pairs.append(scene.pair(0, first_options[scene.slot] % 2))
    pairs.sort(key=lambda pair: pair.pair_id)
    return PairSet(tuple(pairs), vocabulary(images), near)


def _names(images: list[LabelledImage]) -> dict[Path, str]:
    """{path: its part below the folder that all share}, so that ids do not tell where that lies.

    Raises:
        NoticeError: an image is listed twice.
    """
    for one, other in pairwise(sorted(images, key=lambda image: image.path)):
        if one.path == other.path:
            labels = " and ".join(sorted((one.attribute, other.attribute)))
            raise NoticeError(f"{one.path} is listed twice, as {labels}.")
    if not images:
        return {}
    shared = os.path.commonpath([image.path.absolute().parent for image in images])
    return {image.path: image.path.absolute().relative_to(shared).as_posix() for image in images}


def vocabulary(images: Iterable[LabelledImage]) -> dict[str, tuple[str, ...]]:
    """{slot: its attributes}, both in alphabetical order."""
    slots: dict[str, set[str]] = defaultdict(set)
    for image in images:
        slots[image.slot].add(image.attribute)
    return {slot: tuple(sorted(words)) for slot, words in sorted(slots.items())}


def draw_scenes(
    images: Iterable[LabelledImage],
    names: Mapping[Path, str],
    question: Question,
    task: str,
    near_synonyms: Mapping[str, Iterable[str]],
    rng: np.random.Generator,
    masks: Mapping[Path, Path] | None = None,
) -> list[Scene]:
    """A scene for each image that has a partner; the image is the first of the two.

    Args:
        names: {path: what stands for the image}. Draws and ids depend on it, not on the path.
        near_synonyms: {attribute: attributes too close to it}, symmetric.
        masks: {image file: mask file}, where there are any.
    """
    masks = masks or {}
    groups: dict[tuple[str, str], list[LabelledImage]] = defaultdict(list)
    for image in sorted(images, key=lambda image: names[image.path]):
        groups[image.slot, image.rest].append(image)
    drawn = draw_partners((group for _, group in sorted(groups.items())), near_synonyms, rng)
    return [
        Scene(
            scene_id=content_id(
                task, one.slot, one.rest, *sorted((names[one.path], names[other.path]))
            ),
            task=task,
            slot=one.slot,
            images=(one.path, other.path),
            answers=(one.attribute, other.attribute),
            prompts=(
                question(one.rest, one.attribute, other.attribute),
                question(one.rest, other.attribute, one.attribute),
            ),
            masks=(masks.get(one.path), masks.get(other.path)),
        )
        for one, other in drawn
    ]


def draw_partners(
    groups: Iterable[list[LabelledImage]],
    near_synonyms: Mapping[str, Iterable[str]],
    rng: np.random.Generator,
) -> list[tuple[LabelledImage, LabelledImage]]:
    """One partner for each image that has any, in time that grows as the number of images.

    Args:
        groups: images that may be partners of each other where their attributes allow it.
        near_synonyms: {attribute: attributes too close to it}, symmetric.

    Returns:
        (image, partner) in the groups' order; an unordered pair of images comes once.
    """
    drawn = []
    for group in groups:
        partners = {
            attribute: _allowed(group, {attribute, *near_synonyms.get(attribute, ())})
            for attribute in {image.attribute for image in group}
        }
        drawn_by: dict[int, list[int]] = defaultdict(list)
        for i, image in enumerate(group):
            among = partners[image.attribute]
            # Earlier images that drew this one are its partners already.
            taken = [bisect_left(among, other) for other in drawn_by.pop(i, ())]
            if len(taken) == len(among):
                continue
            place = int(rng.integers(len(among) - len(taken)))
            for other in taken:  # in rising order: skip them
                place += other <= place
            drawn.append((image, group[among[place]]))
            drawn_by[among[place]].append(i)
    return drawn


def content_id(task: str, *contents: str) -> str:
    """The id of a scene by what it is made of, so that names of files and folders do not matter."""
    return f"{task}-{hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]}"


def _allowed(group: list[LabelledImage], banned: set[str]) -> list[int]:
    return [i for i, image in enumerate(group) if image.attribute not in banned]


def _check_distinct(scenes: list[Scene], near: Mapping[str, frozenset[str]]) -> None:
    """No two scenes ask the same of the same images, and each has two images and two answers."""
    seen: dict[object, str] = {}
    for scene in scenes:
        if scene.images[0] == scene.images[1]:
            raise NoticeError(f"Scene {scene.scene_id}: both images are {scene.images[0]}.")
        if scene.answers[1] in near.get(scene.answers[0], ()):
            raise NoticeError(
                f"Scene {scene.scene_id}: {scene.answers[0]!r} and {scene.answers[1]!r} are "
                "near-synonyms. Ask about two other words."
            )
        for key in (scene.scene_id, (frozenset(scene.images), frozenset(scene.prompts))):
            if key in seen:
                raise NoticeError(
                    f"Scenes {seen[key]} and {scene.scene_id} have the same id, or the same images "
                    "and question. Drop one of them."
                )
            seen[key] = scene.scene_id
