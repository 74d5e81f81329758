"""The lab's scenes: pairs as the model's processor sees them, with what the library computes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from notice_lib import NoticeError, answered_correctly, load_pairs
from notice_lib.models.answers import score
from notice_lib.models.base import VLM
from notice_lib.pairs import PairSet, SemanticPair

TASKS = ("states", "svo", "faces")
EACH = 2
"""Scenes of each slot: one question names the correct answer first, one the other answer."""
ASKED = 40
"""So many pairs of a slot are asked until enough are answered correctly."""


def choose(model: VLM) -> list[SemanticPair]:
    """Pairs of every task and slot that the model answers correctly with both pictures.

    Raises:
        NoticeError: it answers too few of a slot's pairs.
    """
    return [
        pair
        for task in TASKS
        for slot in dict.fromkeys(pair.slot for pair in load_pairs(task))
        for pair in _of_slot(model, load_pairs(task), slot)
    ]


def _of_slot(model: VLM, pairs: PairSet, slot: str) -> list[SemanticPair]:
    """Scenes of their own, of words that the training kept apart, with the orders in turn."""
    here = pairs.filter(lambda pair: pair.slot == slot and pair.split == "heldout")
    asked = {pair.pair_id for pair in list(here)[:ASKED]}
    right = answered_correctly(model, here.filter(lambda pair: pair.pair_id in asked), "preferred")
    chosen: list[SemanticPair] = []
    for order in ("correct_first", "incorrect_first"):
        scenes = {pair.scene_id for pair in chosen}
        new = [pair for pair in right if pair.order == order and pair.scene_id not in scenes]
        chosen += new[: EACH // 2]
    if len(chosen) < EACH:
        raise NoticeError(
            f"{model} answers {len(right)} of {len(asked)} pairs of {slot} correctly with both "
            f"pictures; the lab needs {EACH} of different scenes."
        )
    return chosen


def write_scenes(model: VLM, pairs: list[SemanticPair], folder: Path) -> list[dict]:
    """Write each pair's two images as PNG, and return what the manifest says of the pairs.

    An entry has the question's tokens with their ids and roles, the words and ids of the two
    options, and the library's own L and L* in logits.

    Raises:
        NoticeError: the options' tokens begin alike, so that one step of the decoder cannot tell
            them apart; or the processor's images are not whole steps of 1/255.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_entry(model, pair, folder) for pair in pairs]


def _entry(model: VLM, pair: SemanticPair, folder: Path) -> dict:
    answer = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    if answer.prefix:
        raise NoticeError(
            f"Pair {pair.pair_id}: the tokens of {pair.correct!r} and {pair.incorrect!r} begin "
            "alike, and the lab's decoder reads only the start token. Choose another pair."
        )
    images, differences = {}, {}
    for run in ("clean", "corrupt"):
        inputs = model.inputs(pair.image(run), pair.prompt)
        images[run] = f"scenes/{pair.pair_id}-{run}.png"
        pixels = shown(model, inputs.pixel_values)
        Image.fromarray(pixels).save(folder.parent / images[run], optimize=True)
        scores = score(model.logits(inputs), answer)
        differences[run] = float(scores[0] - scores[1])
    return {
        "id": pair.pair_id,
        "task": pair.task,
        "slot": pair.slot,
        "question": pair.prompt,
        "tokens": list(inputs.tokens),
        "roles": list(model.roles(inputs, pair.spans)),
        "ids": inputs.input_ids[0].tolist(),
        "options": [pair.correct, pair.incorrect],
        "option_ids": [answer.correct, answer.incorrect],
        "L": {run: round(value, 6) for run, value in differences.items()},
        "images": images,
    }


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


def files(folder: Path) -> Iterator[Path]:
    """The images that `write_scenes` wrote under a folder."""
    return iter(sorted((folder / "scenes").glob("*.png")))
