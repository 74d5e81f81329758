"""From labelled images to pairs: what the loaders of folders, tables and data sets share."""

import os
from collections import defaultdict
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

    Left out, and counted, are files that do not decode, copies of another file with the same label,
    and files whose bytes come under several labels of one slot. What is drawn depends on the seed,
    the labels and the bytes of the images, not on names of files or on their order.

    Args:
        near_synonyms: {attribute: attributes that are never its partner's}; closed to both sides.
        steps: what was done before.
        masks: {image file: mask file}, where there are any.

    Raises:
        NoticeError: no two images can be partners.

    Source: paper, section 3; published code, preprocessing/1_mit and 1_face.
    """
    images = sorted(images, key=lambda image: (str(image.path), image.slot))
    near = symmetric(near_synonyms or {})
    left_out: dict[str, str] = {}
    digests = check_files({image.path for image in images}, left_out)
    decoding = [image for image in images if image.path in digests]
    distinct = _distinct(decoding, digests, left_out)
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(distinct, digests, question, task, near, rng, masks)
    if not scenes:
        raise NoticeError(
            f"No image has a partner among {len(distinct)} usable ones of {len(images)}: two must "
            "share the slot and what the question names, and differ in attribute, and their "
            "attributes must not be near-synonyms."
        )
    paired = {path for scene in scenes for path in scene.images}
    alone = [image for image in distinct if image.path not in paired]
    left_out.update({short(image.path): "has no partner" for image in alone})
    done = [
        *steps,
        ("images: that decode", len(decoding)),
        ("images: without copies and contradictions", len(distinct)),
        ("images: with a partner", len(distinct) - len(alone)),
        ("scenes: two images, one question", len(scenes)),
    ]
    return Built(pairs_of(scenes, vocabulary(distinct), near), done, source, left_out)


def short(path: Path) -> str:
    """A file as the card names it: without the folders of this machine."""
    return "/".join(path.parts[-3:])


def check_files(paths: set[Path], left_out: dict[str, str]) -> dict[Path, str]:
    """SHA-256 of each file that decodes as an image; why the others do not goes to `left_out`."""

    def look(path):
        reason = check_image(path)
        return reason, None if reason else sha256(path)

    ordered = sorted(paths)
    digests = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(look, ordered)
        looked = progress.bar(
            zip(ordered, found, strict=True), total=len(ordered), desc="checking", unit="image"
        )
        for path, (reason, content) in looked:
            if reason:
                left_out[short(path)] = reason
            else:
                digests[path] = content
    return digests


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
