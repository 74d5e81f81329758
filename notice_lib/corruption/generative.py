"""Generative SIP: an inpainting model turns the clean picture into its corrupt partner.

Where no second picture exists, the part of the clean one that shows the answer is masked by a box
and painted anew with the other option. The box is made from the clean picture alone, and is a
square with a margin, so it says nothing of the outline of what is painted into it.
"""

import json
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from .. import progress
from ..errors import NoticeError
from ..models.answers import answers
from ..models.base import VLM
from ..pairs import PairSet, SemanticPair
from ..pairs.files import refuse_used
from ..pairs.masks import write_masks
from ..pairs.prompts import option_spans
from .inpainters import Inpainter, bounding_box, square

REPAINTED = {
    "subject": ("subject", 1.3),
    "object": ("object", 1.3),
    "colour": ("object", 1.3),
    "shape": ("object", 1.3),
    "texture": ("object", 1.3),
    "emotion": ("subject", 0.85),
}
"""{slot: (mask that is painted over, side of the box in longer sides of that mask)}. A face's box
lies inside the head, so that hair and chin stay. Verbs are absent: they change the whole scene."""


def caption(prompt: str, shown: str, other: str) -> str:
    """A question as a statement with the option `shown`: "the goat pulling the car"."""
    first, second = sorted(option_spans(prompt, shown, other)[:2])
    text = prompt[: first[0]] + shown + prompt[second[1] :]
    return re.sub(r"^(is|are)\s+", "", text, flags=re.IGNORECASE).rstrip(" ?")


def box_mask(mask: np.ndarray, scale: float) -> np.ndarray:
    """A square around a mask, with its middle, `scale` times its longer side, in the picture.

    Args:
        mask: (height, width) boolean, with at least one pixel.

    Returns:
        (height, width) boolean.
    """
    box = bounding_box(mask)
    side = round(scale * max(box[2] - box[0], box[3] - box[1]))
    left, top, right, bottom = square(box, side, mask.shape)
    boxed = np.zeros_like(mask)
    boxed[top:bottom, left:right] = True
    return boxed


def painted_box(pair: SemanticPair) -> np.ndarray:
    """The box (height, width) that is painted over in the clean picture of a pair (`REPAINTED`).

    Raises:
        NoticeError: the slot has no box, or the clean picture no mask of what would be painted.
    """
    if pair.slot not in REPAINTED:
        raise NoticeError(
            f"Pair {pair.pair_id}: no box is known for the slot {pair.slot!r}, only for "
            f"{', '.join(REPAINTED)}. Leave the pair out, or give a `region`."
        )
    role, scale = REPAINTED[pair.slot]
    masks = pair.masks("clean")
    if role not in masks:
        raise NoticeError(
            f"Pair {pair.pair_id}: the clean picture has no mask {role!r}, around which the box "
            "would be. Leave the pair out, or give a `region`."
        )
    return box_mask(masks[role], scale)


def target_caption(pair: SemanticPair) -> str:
    """What the corrupt picture should show, in the words of the question."""
    return caption(pair.prompt, pair.incorrect, pair.correct)


def source_caption(pair: SemanticPair) -> str:
    """What the clean picture shows and the corrupt one should not, in the words of the question."""
    return caption(pair.prompt, pair.correct, pair.incorrect)


def generative_pairs(
    pairs: PairSet,
    inpainter: Inpainter,
    folder: str | Path,
    seed: int = 0,
    region: Callable[[SemanticPair], np.ndarray] = painted_box,
    describe: Callable[[SemanticPair], str] = target_caption,
    avoid: Callable[[SemanticPair], str] = source_caption,
) -> PairSet:
    """The same pairs, each with a corrupt picture painted into the clean one.

    Ids, questions and clean pictures stay; the corrupt pictures of `pairs` are never looked at.
    Pairs that need the same painting (answer orders) share one. In both masks, `differs` is the
    painted region; of the corrupt picture nothing else is known.

    Args:
        folder: a new set is written there, with `generated.json`: inpainter, seed, and for each
            picture its source, texts and box.
        seed: with source and texts it fixes each painting, whatever other pairs there are.
        region: pair -> boolean (height, width), what is painted over.
        describe, avoid: pair -> the inpainter's prompt and negative prompt.

    Raises:
        NoticeError: the folder holds a set, or a pair has no region.

    Source: the paper compares natural pairs with such ones, painted by Stable Diffusion; the boxes
    are ours.
    """
    folder = Path(folder)
    refuse_used(folder)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    painted, record = [], {}
    for pair in progress.bar(list(pairs), desc=f"painting with {inpainter.name}", unit="pair"):
        text, negative = describe(pair), avoid(pair)
        name = re.sub(r"\W+", "-", f"{pair.scene_id} {pair.clean_image.stem} {pair.incorrect}")
        paths = {
            "corrupt_image": folder / "images" / f"{name}.webp",
            "corrupt_masks": folder / "masks" / f"{name}.png",
            "clean_masks": folder / "masks" / f"{name}-clean.png",
        }
        if name not in record:
            mask = region(pair)
            drawn = zlib.crc32(f"{seed} {name} {text} {negative}".encode())
            image = inpainter.paint(pair.image("clean"), mask, text, negative, drawn)
            image.save(paths["corrupt_image"], lossless=True)
            write_masks(paths["corrupt_masks"], {"differs": mask})
            write_masks(paths["clean_masks"], pair.masks("clean") | {"differs": mask})
            record[name] = {
                "source": pair.clean_image.name,
                "caption": text,
                "avoid": negative,
                "box": bounding_box(mask),
            }
        painted.append(replace(pair, **paths))
    provenance = {"inpainter": inpainter.name, "seed": seed, "pictures": record}
    (folder / "generated.json").write_text(json.dumps(provenance, indent=1), encoding="utf-8")
    replace(pairs, pairs=tuple(painted)).save(folder)
    return PairSet.load(folder)


def check_pairs(model: VLM, pairs: PairSet) -> pd.DataFrame:
    """Whether each pair works as one for this model, and if not, why not.

    Returns:
        One row a pair: pair_id, scene_id, task, slot, split, order, the model's own answers
        `clean_answer` and `corrupt_answer`, `intended` (the corrupt picture is answered with the
        other option), `outside` (pixels that differ though `differs` does not cover them; -1 where
        there is no such mask), `inside` (share of the pixels of `differs` that do differ) and
        `reasons`, a tuple that is empty if the pair works.
    """
    said = {run: answers(model, pairs, run).set_index("pair_id") for run in ("clean", "corrupt")}
    rows = []
    for pair in pairs:
        clean, corrupt = (said[run].loc[pair.pair_id] for run in ("clean", "corrupt"))
        outside, inside = _changed(pair)
        reasons = []
        if outside:
            found = f"{outside} pixels differ outside the" if outside > 0 else "there is no"
            reasons.append(f"{found} mask `differs`")
        for run, answer in (("clean", clean), ("corrupt", corrupt)):
            if not answer.is_correct:
                reasons.append(
                    f"the {run} picture is answered {answer.answer!r}, not {answer.expected!r}"
                )
        fields = ("pair_id", "scene_id", "task", "slot", "split", "order")
        rows.append(
            {name: getattr(pair, name) for name in fields}
            | {
                "clean_answer": clean.answer,
                "corrupt_answer": corrupt.answer,
                "intended": bool(corrupt.is_correct),
                "outside": outside,
                "inside": inside,
                "reasons": tuple(reasons),
            }
        )
    return pd.DataFrame(rows)


def _changed(pair: SemanticPair) -> tuple[int, float]:
    """Changed pixels outside `differs` (-1: no such mask), and the share of those inside."""
    differs = pair.masks("corrupt").get("differs")
    if differs is None:
        return -1, float("nan")
    clean, corrupt = (np.asarray(pair.image(run)) for run in ("clean", "corrupt"))
    if not clean.shape == corrupt.shape == (*differs.shape, 3):
        raise NoticeError(
            f"Pair {pair.pair_id}: the pictures have the shapes {clean.shape} and {corrupt.shape}, "
            f"and the mask `differs` has {differs.shape}. Give all three the same height and width."
        )
    changed = (clean != corrupt).any(-1)
    return int((changed & ~differs).sum()), float(changed[differs].mean())
