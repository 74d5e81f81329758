"""From labelled images to pairs: what the loaders of folders, tables and data sets share."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..corruption.sip import LabelledImage, Question, draw_scenes, pairs_of, vocabulary
from ..errors import NoticeError
from ..pairs import symmetric
from .build import Built, Source
from .image_files import LeftOut, an_example, check_files, short
from .labels import one_spelling, refuse_several


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
    files or on their order. Labels that are the same words to a model are one label.

    Args:
        near_synonyms: {attribute: attributes that are never its partner's}; closed to both sides.
        steps: what was done before.
        masks: {image file: mask file}, where there are any.

    Warns:
        UserWarning: labels were read as one.

    Raises:
        NoticeError: a label is a list or lists several words, or no two images can be partners.

    Source: paper, section 3; published code, preprocessing/1_mit and 1_face.
    """
    steps = list(steps)
    images = sorted(images, key=lambda image: (str(image.path), image.slot))
    attribute, rest, slot = (
        one_spelling(getattr(image, name) for image in images)
        for name in ("attribute", "rest", "slot")
    )
    for image in images:
        refuse_several(image.attribute)
    images = [
        LabelledImage(image.path, attribute(image.attribute), rest(image.rest), slot(image.slot))
        for image in images
    ]
    near: dict[str, set[str]] = defaultdict(set)
    for word, others in symmetric(near_synonyms or {}).items():
        near[attribute(word)].update(map(attribute, others))
    left_out: LeftOut = {}
    digests = check_files({image.path for image in images}, left_out)
    usable = [image for image in images if image.path in digests]
    distinct = _distinct(usable, digests, left_out)
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(distinct, digests, question, task, near, rng, masks)
    if not scenes:
        before = "; ".join(f"{what}, {number}" for what, number in steps)
        raise NoticeError(
            f"No image has a partner among {len(distinct)} usable ones of {len(images)}: two must "
            "share the slot and what the question names, and differ in attribute, and their "
            "attributes must not be near-synonyms."
            + (f" What was read: {before}." if before else "")
            + an_example(left_out)
        )
    paired = {path for scene in scenes for path in scene.images}
    alone = [image for image in distinct if image.path not in paired]
    left_out.update({image.path: "has no partner" for image in alone})
    done = [
        *steps,
        ("images: that decode and show something", len(usable)),
        ("images: without copies and contradictions", len(distinct)),
        ("images: with a partner", len(distinct) - len(alone)),
        ("scenes: two images, one question", len(scenes)),
    ]
    return Built(pairs_of(scenes, vocabulary(distinct), near), done, source, left_out)


def _distinct(images, digests, left_out: LeftOut) -> list[LabelledImage]:
    """One image for each content and slot; none where its labels contradict each other."""
    alike: dict[tuple[str, str], list[LabelledImage]] = defaultdict(list)
    for image in images:
        alike[digests[image.path], image.slot].append(image)
    kept = []
    for same in alike.values():
        first, *others = same
        if len({(image.attribute, image.rest) for image in same}) > 1:
            labels = " and ".join(sorted({f"{i.attribute} {i.rest}".strip() for i in same}))
            left_out.update({image.path: f"is labelled {labels}" for image in same})
            continue
        kept.append(first)
        left_out.update({i.path: f"is a copy of {short(first.path)}" for i in others})
    return kept
