"""The lab's scenes: pairs as the model's processor sees them, with what the library computes."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from notice_lib import NoticeError, answered_correctly, load_pairs
from notice_lib.models.answers import score
from notice_lib.models.base import VLM
from notice_lib.pairs import PairSet, SemanticPair
from notice_lib.patching.donors import MatchedDonors, donor_runs

TASKS = ("states", "svo", "faces")
ORDERS = ("correct_first", "incorrect_first")
WORKED = "states-013-ba-correct"
"""The pair that the pages of the path work through; it comes first."""
UNSEEN = 8
"""Pairs on which the challenge is scored."""
DONORS = 2
"""Donors of each unseen pair."""


@dataclass(frozen=True)
class Group:
    """Pairs of one slot and answer order, so of one layout, each of another scene.

    Attributes:
        name: the group's, as task-slot-order.
        scene: the pair that the reader works on.
        others: further pairs, of which the reader sees nothing before the score.
    """

    name: str
    scene: SemanticPair
    others: tuple[SemanticPair, ...]


def choose(model: VLM, right: Mapping[str, PairSet]) -> tuple[SemanticPair, list[Group]]:
    """The worked pair, and a group of every task, slot and order.

    Args:
        right: for each task, the held-out pairs that the model answers correctly.

    Raises:
        NoticeError: it does not answer the worked pair, or too few of a slot's pairs.
    """
    worked = load_pairs("states").filter(lambda pair: pair.pair_id == WORKED)
    if not len(answered_correctly(model, worked, "preferred")):
        raise NoticeError(
            f"{model} does not answer {WORKED}, which the pages work through, correctly with both "
            "pictures. Choose another pair there and here."
        )
    return worked[0], [
        group
        for task in TASKS
        for slot in dict.fromkeys(pair.slot for pair in right[task])
        for group in _of_slot(model, [pair for pair in right[task] if pair.slot == slot])
    ]


def _of_slot(model: VLM, right: Sequence[SemanticPair]) -> list[Group]:
    """A group of each order; no scene of one is that of the other."""
    scenes = list(dict.fromkeys(pair.scene_id for pair in right))
    groups = []
    for order, scene in zip(ORDERS, scenes, strict=False):
        first = {pair.scene_id: pair for pair in reversed(right) if pair.order == order}
        others = tuple(first[other] for other in scenes[len(ORDERS) :] if other in first)
        if scene not in first or len(others) < UNSEEN:
            raise NoticeError(
                f"{model} answers {len(right)} pairs of {right[0].slot} correctly with both "
                f"pictures; the lab needs {1 + UNSEEN} scenes of each order."
            )
        groups.append(Group(group_of(first[scene]), first[scene], others))
    return groups


def group_of(pair: SemanticPair) -> str:
    """The name of the group whose layout a pair has."""
    return f"{pair.task}-{pair.slot}-{pair.order}"


def donors(model: VLM, group: Group) -> dict[str, list[str]]:
    """For each pair that the challenge is scored on, the ids of its donors.

    A donor is a matched one (`notice_lib.patching.MatchedDonors`), which has none of the pair's
    words. They are drawn from as few pairs as possible, so that the lab has few images.

    Raises:
        NoticeError: a pair has too few of them.
    """
    for size in range(UNSEEN, len(group.others)):
        with suppress(NoticeError):
            return _donors_among(model, group.others[:size])
    return _donors_among(model, group.others)


def _donors_among(model: VLM, others: Sequence[SemanticPair]) -> dict[str, list[str]]:
    matched, pool = MatchedDonors("clean", n=DONORS), PairSet(tuple(others))
    found = {}
    for pair in others[:UNSEEN]:
        own = model.inputs(pair.image("clean"), pair.prompt)
        runs = donor_runs(model, pool, pair, own, matched, 0)
        found[pair.pair_id] = [name for name, _ in runs]
    return found


def write_unseen(model: VLM, group: Group, folder: Path) -> list[dict]:
    """Write what the challenge needs of a group; as `write_scenes`, and each entry has `donors`.

    Those of pairs that are only donors are empty.
    """
    given = donors(model, group)
    used = {*given, *(name for names in given.values() for name in names)}
    entries = write_scenes(model, [p for p in group.others if p.pair_id in used], folder)
    return [entry | {"donors": given.get(entry["id"], [])} for entry in entries]


def write_scenes(model: VLM, pairs: Sequence[SemanticPair], folder: Path) -> list[dict]:
    """Write each pair's two images as PNG, and return what the manifest says of the pairs.

    An entry has the question's tokens with their ids and roles, the image being one token; the
    words and ids of the two options; and the library's own L and L* in logits. An image's file is
    named by its content, so that pairs which share an image share its file.

    Raises:
        NoticeError: the options' tokens begin alike, so that one step of the decoder cannot tell
            them apart; or the processor's images are not whole steps of 1/255.
    """
    return [_entry(model, pair, folder) for pair in pairs]


def _entry(model: VLM, pair: SemanticPair, folder: Path) -> dict:
    answer = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    if answer.prefix:
        raise NoticeError(
            f"Pair {pair.pair_id}: the tokens of {pair.correct!r} and {pair.incorrect!r} begin "
            "alike, and the lab reads only the first token of an answer. Choose another pair."
        )
    images, differences = {}, {}
    for run in ("clean", "corrupt"):
        inputs = model.inputs(pair.image(run), pair.prompt)
        images[run] = _write(shown(model, inputs.pixel_values), folder)
        scores = score(model.logits(inputs), answer)
        differences[run] = float(scores[0] - scores[1])
    rows = [place[0] for place in places(inputs.image_tokens)]
    return {
        "id": pair.pair_id,
        "task": pair.task,
        "slot": pair.slot,
        "group": group_of(pair),
        "question": pair.prompt,
        "tokens": [inputs.tokens[row] for row in rows],
        "roles": [model.roles(inputs, pair.spans)[row] for row in rows],
        "ids": inputs.input_ids[0][rows].tolist(),
        "options": [pair.correct, pair.incorrect],
        "option_ids": [answer.correct, answer.incorrect],
        "L": {run: round(value, 6) for run, value in differences.items()},
        "images": images,
    }


def places(image_tokens: Sequence[bool]) -> list[list[int]]:
    """The tokens of each row of the lab's grids: all that the image became are one row."""
    rows: list[list[int]] = []
    for token, is_image in enumerate(image_tokens):
        if is_image and token and image_tokens[token - 1]:
            rows[-1].append(token)
        else:
            rows.append([token])
    return rows


def _write(pixels: np.ndarray, folder: Path) -> str:
    """Write an image, and return its path from the manifest."""
    path = folder / f"{hashlib.sha256(pixels.tobytes()).hexdigest()[:12]}.png"
    Image.fromarray(pixels).save(path, optimize=True)
    return f"{folder.name}/{path.name}"


def shown(model: VLM, pixel_values: torch.Tensor) -> np.ndarray:
    """(size, size, 3) bytes that a processor scaled to `pixel_values` (1, 3, size, size).

    Raises:
        NoticeError: its values are not those of bytes, so no image file could hold them.
    """
    of = model.processor.image_processor
    mean, std = (np.array(values)[:, None, None] for values in (of.image_mean, of.image_std))
    scaled = pixel_values[0].double().cpu().numpy()
    exact = (scaled * std + mean) / of.rescale_factor
    pixels = np.rint(exact)
    if np.abs(exact - pixels).max() > 1e-3:
        raise NoticeError(
            f"The processor of {model} makes pixels that are no whole steps of "
            f"{of.rescale_factor:.5f}, so an image file cannot hold them."
        )
    return pixels.astype(np.uint8).transpose(1, 2, 0)


def preprocessing(model: VLM) -> dict:
    """How a byte becomes an input: (byte * rescale - mean) / std, for each colour."""
    of = model.processor.image_processor
    return {
        "size": model.image_size,
        "rescale": of.rescale_factor,
        "mean": list(of.image_mean),
        "std": list(of.image_std),
    }
