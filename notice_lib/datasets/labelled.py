"""From labelled images to pairs: what the loaders of folders, tables and data sets share."""

import os
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .. import progress
from ..corruption.sip import LabelledImage, Question, draw_scenes, pairs_of, vocabulary
from ..errors import NoticeError
from ..files import sha256
from ..pairs import symmetric
from ..pairs.images import check_image
from .build import Built, Source


def build_pairs(
    images: Iterable[LabelledImage],
    question: Question,
    task: str,
    source: Source,
    near_synonyms: Mapping[str, Iterable[str]] | None = None,
    seed: int = 0,
    steps: Iterable[tuple[str, int]] = (),
    masks: Mapping[Path, Path] | None = None,
) -> Built:
    """Four pairs of each image and a partner of the same `rest` and slot in another state.

    Left out, and counted, are files that are not usable images (`notice_lib.pairs.images`), copies
    of another file with the same label, and files whose bytes come under several labels of one
    slot. What is drawn depends on the seed, the labels and the bytes of the images, not on names of
    files or on their order. Labels that differ in case, spaces or Unicode form only are one label.

    Args:
        near_synonyms: {attribute: attributes that are never its partner's}; closed to both sides.
        steps: what was done before.
        masks: {image file: mask file}, where there are any.

    Warns:
        UserWarning: labels were read as one.

    Raises:
        NoticeError: a label is a list, or no two images can be partners.

    Source: paper, section 3; published code, preprocessing/1_mit and 1_face.
    """
    images = sorted(images, key=lambda image: (str(image.path), image.slot))
    spellings = _spellings(images)

    def spelled(label: str) -> str:
        return spellings.get(fold(label), label)

    images = [
        LabelledImage(image.path, *map(spelled, (image.attribute, image.rest, image.slot)))
        for image in images
    ]
    near: dict[str, set[str]] = defaultdict(set)
    for word, others in symmetric(near_synonyms or {}).items():
        near[spelled(word)].update(map(spelled, others))
    left_out: dict[str, str] = {}
    digests = check_files({image.path for image in images}, left_out)
    usable = [image for image in images if image.path in digests]
    distinct = _distinct(usable, digests, left_out)
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(distinct, digests, question, task, near, rng, masks)
    if not scenes:
        raise NoticeError(
            f"No image has a partner among {len(distinct)} usable ones of {len(images)}: two must "
            "share the slot and what the question names, and differ in attribute, and their "
            f"attributes must not be near-synonyms.{an_example(left_out)}"
        )
    paired = {path for scene in scenes for path in scene.images}
    alone = [image for image in distinct if image.path not in paired]
    left_out.update({short(image.path): "has no partner" for image in alone})
    done = [
        *steps,
        ("images: that decode and show something", len(usable)),
        ("images: without copies and contradictions", len(distinct)),
        ("images: with a partner", len(distinct) - len(alone)),
        ("scenes: two images, one question", len(scenes)),
    ]
    return Built(pairs_of(scenes, vocabulary(distinct), near), done, source, left_out)


def folders_in(place: Path) -> list[Path]:
    """The folders of a place, by name, without those that systems and archives hide there."""
    if not place.is_dir():
        raise NoticeError(f"There is no folder {place}. Name the one that holds the images.")
    return [path for path in _visible(place) if path.is_dir()]


def files_in(place: Path) -> list[Path]:
    """The files of a folder, by name, without those that systems and archives hide there."""
    return [path for path in _visible(place) if not path.is_dir()]


def _visible(place: Path) -> list[Path]:
    return [path for path in sorted(place.iterdir()) if not path.name.startswith((".", "__"))]


def short(path: Path) -> str:
    """A file as the card names it: without the folders of this machine."""
    return "/".join(path.parts[-3:])


def an_example(left_out: Mapping[str, str]) -> str:
    """A sentence on one of the files that were left out, to end a message with."""
    return next((f" For example, {name} {why}." for name, why in left_out.items()), "")


def check_files(paths: set[Path], left_out: dict[str, str]) -> dict[Path, str]:
    """SHA-256 of each usable image; why the others are not usable goes to `left_out`."""

    def look(path):
        reason = check_image(path)
        return reason, None if reason else sha256(path)

    ordered = sorted(paths)
    digests = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = zip(ordered, pool.map(look, ordered), strict=True)
        for path, (reason, content) in progress.bar(
            results, total=len(ordered), desc="checking", unit="image"
        ):
            if reason:
                left_out[short(path)] = reason
            else:
                digests[path] = content
    return digests


def fold(label: str) -> str:
    """What labels have in common that differ in case, spaces or Unicode form only."""
    return _tidy(label).casefold()


def _tidy(label: str) -> str:
    """A label with single spaces, in Unicode's composed form."""
    return unicodedata.normalize("NFC", " ".join(label.split()))


def _spellings(images: list[LabelledImage]) -> dict[str, str]:
    """{folded label: its spelling}: the most frequent one, if possible in lower case.

    Raises:
        NoticeError: a label is a list or a record.
    """
    labels = [label for image in images for label in (image.attribute, image.rest, image.slot)]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for label in labels:
        if re.fullmatch(r"\[.*\]|\{.*:.*\}", label, re.DOTALL):
            raise NoticeError(
                f"The label {label!r} is a list or a record, not a word. Give each image one word "
                "in each column."
            )
        counts[fold(label)][_tidy(label)] += 1
    chosen = {key: max(found, key=lambda label: (found[label], label)) for key, found in
              counts.items()}  # fmt: skip
    several = [
        f"{', '.join(map(repr, sorted(found)))} as {chosen[key]!r}"
        for key, found in counts.items()
        if len(found) > 1
    ]
    if several:
        warnings.warn(
            f"Labels that differ in case only are read as one: {'; '.join(several)}.", stacklevel=3
        )
    return chosen


def _distinct(images, digests, left_out) -> list[LabelledImage]:
    """One image for each content and slot; none where its labels contradict each other."""
    alike: dict[tuple[str, str], list[LabelledImage]] = defaultdict(list)
    for image in images:
        alike[digests[image.path], image.slot].append(image)
    kept = []
    for same in alike.values():
        first, *others = same
        if len({(image.attribute, image.rest) for image in same}) > 1:
            labels = " and ".join(sorted({f"{i.attribute} {i.rest}".strip() for i in same}))
            left_out.update({short(image.path): f"is labelled {labels}" for image in same})
            continue
        kept.append(first)
        left_out.update({short(i.path): f"is a copy of {short(first.path)}" for i in others})
    return kept
