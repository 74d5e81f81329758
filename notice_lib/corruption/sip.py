"""Semantic Image Pairs (SIP): from labelled images to pairs that differ in one attribute."""

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..errors import NoticeError
from ..pairs import PairSet, SemanticPair, symmetric


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


def semantic_image_pairs(
    images: Iterable[LabelledImage],
    question: Callable[[str, str, str], str],
    task: str,
    near_synonyms: dict[str, Iterable[str]] | None = None,
    seed: int = 0,
) -> PairSet:
    """Pair each image with one of the same `rest` and slot that shows another attribute.

    A partner's attribute is never a near-synonym of the image's own. Partners and answer orders
    are drawn with the seed, whatever the order of `images`; each slot gets both orders equally
    often (to one pair). No two pairs show the same two images, and each image is the clean one at
    most once. Images without a partner are left out.

    Args:
        question: (rest, first option, second option) -> the prompt.
        near_synonyms: {attribute: attributes too close to it}; closed to both directions.

    Raises:
        NoticeError: an image is listed twice, or no image has a partner.

    Source: paper, section 3; published code, preprocessing/1_mit and 1_face (which draws with
    replacement, unseeded, and with lists that are not symmetric).
    """
    images = sorted(images, key=lambda image: str(image.path))
    for one, other in pairwise(images):
        if one.path == other.path:
            raise NoticeError(
                f"{one.path} is listed twice, as {one.attribute} and {other.attribute}."
            )
    near = symmetric(near_synonyms or {})
    slots: dict[str, set[str]] = defaultdict(set)
    alike: dict[tuple[str, str], list[LabelledImage]] = defaultdict(list)
    for image in images:
        slots[image.slot].add(image.attribute)
        alike[image.slot, image.rest].append(image)
    rng = np.random.default_rng(seed)
    drawn = draw_partners((group for _, group in sorted(alike.items())), near, rng)
    if not drawn:
        raise NoticeError(
            "No image has a partner: two images must share `rest` and `slot` and differ in "
            "attribute, and the attributes must not be near-synonyms."
        )
    by_slot: dict[str, int] = defaultdict(lambda: int(rng.integers(2)))
    pairs = []
    for i in rng.permutation(len(drawn)):
        clean, corrupt = drawn[i]
        by_slot[clean.slot] += 1
        pairs.append(_pair(clean, corrupt, by_slot[clean.slot] % 2 == 0, question, task))
    pairs.sort(key=lambda pair: pair.pair_id)
    vocabulary = {slot: tuple(sorted(words)) for slot, words in sorted(slots.items())}
    return PairSet(tuple(pairs), vocabulary, near)


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


def _allowed(group: list[LabelledImage], banned: set[str]) -> list[int]:
    return [i for i, image in enumerate(group) if image.attribute not in banned]


def _pair(clean, corrupt, correct_first, question, task) -> SemanticPair:
    options = [clean.attribute, corrupt.attribute]
    if not correct_first:
        options.reverse()
    both = "\n".join(sorted((str(clean.path), str(corrupt.path))))
    scene = f"{task}-{hashlib.sha256(both.encode()).hexdigest()[:12]}"
    return SemanticPair(
        pair_id=scene,
        scene_id=scene,
        task=task,
        slot=clean.slot,
        split="heldout",
        distractor=False,
        clean_image=clean.path,
        corrupt_image=corrupt.path,
        clean_masks=None,
        corrupt_masks=None,
        prompt=question(clean.rest, *options),
        correct=clean.attribute,
        incorrect=corrupt.attribute,
        order="correct_first" if correct_first else "incorrect_first",
        shown=tuple(sorted(options)),
    )
