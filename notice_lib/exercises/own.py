"""Exercises of the chapter on one's own data."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ..datasets import EMBEDDED, load_pairs
from ..models import VLM
from .pairs import difference_of
from .verdict import NotYet, check, entry, filled, number

ROW = ("clean_image", "corrupt_image", "prompt", "correct", "incorrect")
UNUSABLE = "999"  # in the names of the two files that are no photos


@check
def check_row(row: Mapping[str, str], labels: pd.DataFrame) -> None:
    """11.1: a row of a table of ready pairs, with pictures of `labels`."""
    filled(row)
    values = {name: entry(row, name) for name in ROW}
    if not all(isinstance(value, str) and value for value in values.values()):
        raise NotYet("each entry is a string.")
    known = _usable(labels).set_index("image")
    two = [values["clean_image"], values["corrupt_image"]]
    if not set(two) <= set(known.index):
        raise NotYet("take two usable pictures of labels.")
    clean, corrupt = known.loc[two[0]], known.loc[two[1]]
    if (clean.rest, clean.slot) != (corrupt.rest, corrupt.slot):
        raise NotYet("the two pictures do not share noun and slot.")
    if clean.attribute == corrupt.attribute:
        raise NotYet("both pictures give the same answer.")
    answers = values["correct"], values["incorrect"]
    if answers == (corrupt.attribute, clean.attribute):
        raise NotYet("`correct` is what the *clean* picture shows.")
    if answers != (clean.attribute, corrupt.attribute):
        raise NotYet("the answers are not the pictures' labels.")
    _check_prompt(values["prompt"], *answers)
    if clean.rest not in values["prompt"].lower().rstrip("?").split():
        raise NotYet(f"the prompt does not name the {clean.rest}.")


def _check_prompt(prompt: str, correct: str, incorrect: str) -> None:
    asked = prompt.lower()
    if not any(f"{a} or {b}" in asked for a, b in ((correct, incorrect), (incorrect, correct))):
        raise NotYet('the prompt must offer both answers with "or".')


def _usable(labels: pd.DataFrame) -> pd.DataFrame:
    return labels[~labels.image.str.contains(UNUSABLE)]


def _secret(labels: pd.DataFrame, seed: int) -> tuple[str, float, np.random.Generator]:
    """The word whose pictures are spoiled, the factor, and the rest of the randomness."""
    rng = np.random.default_rng(seed + 1)
    often = _usable(labels).attribute.value_counts()
    word = str(rng.choice(sorted(often.index[often >= 8])))
    return word, float(rng.uniform(0.6, 0.8)), rng


def spoil(labels: pd.DataFrame, photos: Path, folder: Path, seed: int) -> None:
    """Write the photos of `labels` into a folder, those of one word with another brightness."""
    word, factor, rng = _secret(labels, seed)
    folder.mkdir(exist_ok=True)
    for row in _usable(labels).itertuples():
        pixels = np.asarray(Image.open(photos / row.image).convert("RGB"), float)
        noisy = pixels * (factor if row.attribute == word else 1)
        noisy = noisy + rng.uniform(-6, 6)  # every picture: a little, at random
        Image.fromarray(np.uint8(noisy.clip(0, 255))).save(folder / row.image, lossless=True)


@check
def check_spoiled(found: tuple[str, float], labels: pd.DataFrame, seed: int) -> None:
    """11.2: the word whose pictures `spoil` made darker, and the factor."""
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise NotYet('give a word and a factor, such as ("red", 0.9).')
    word, factor, _ = _secret(labels, seed)
    said = number(found[1])
    if found[0] not in set(_usable(labels).attribute):
        raise NotYet(f"{found[0]!r} is none of the words.")
    if found[0] != word:
        raise NotYet(f"the pictures of {found[0]!r} are as bright as before.")
    if abs(said - factor) > 0.03:
        raise NotYet("the word is found, the factor is another one.")


MOST_CHANGED = 0.35
"""The largest share of pixels in which the pictures of an exact pair may differ."""
FEWEST_WORDS = 10


@check
def check_drawn(drawn: Mapping[str, Any], vlm: VLM) -> str:
    """11.3: an exact pair of one's own.

    Args:
        drawn: "clean" and "corrupt" (pictures), "prompt", "correct", "incorrect", and "why".
    """
    filled(drawn)
    names = ("clean", "corrupt", "prompt", "correct", "incorrect", "why")
    given = {name: entry(drawn, name) for name in names}
    clean, corrupt = given["clean"], given["corrupt"]
    if not (isinstance(clean, Image.Image) and isinstance(corrupt, Image.Image)):
        raise NotYet("clean and corrupt are pictures (PIL.Image).")
    if not all(isinstance(given[name], str) for name in names[2:]):
        raise NotYet("prompt, correct, incorrect and why are strings.")
    _check_difference(clean, corrupt)
    if {hash(_pixels(picture)) for picture in (clean, corrupt)} <= _stored_pictures():
        raise NotYet("both are embedded pictures as they are; draw or edit one of them.")
    question = given["prompt"], given["correct"], given["incorrect"]
    _check_prompt(*question)
    if len(set(given["why"].lower().split())) < FEWEST_WORDS:
        raise NotYet("say in a sentence why nothing but the asked property differs.")
    grey = Image.new("RGB", clean.size, "grey")
    with_clean, with_corrupt, with_none = (
        difference_of(vlm, picture, question[0], vlm.answer_tokens(*question))
        for picture in (clean, corrupt, grey)
    )
    if with_clean <= 0 or with_corrupt >= 0:
        raise NotYet(
            f"{vlm.name} does not answer both pictures as intended: L {with_clean:+.2f}, "
            f"L* {with_corrupt:+.2f}."
        )
    return f"L is {with_clean:+.2f}, L* {with_corrupt:+.2f}, and a grey square {with_none:+.2f}."


def _pixels(picture: Image.Image) -> bytes:
    return picture.convert("RGB").tobytes()


@cache
def _stored_pictures() -> set[int]:
    """Hashes of the pixels of all embedded pictures."""
    pairs = (pair for name in EMBEDDED for pair in load_pairs(name))
    files = {file for pair in pairs for file in (pair.clean_image, pair.corrupt_image)}
    return {hash(_pixels(Image.open(file))) for file in files}


def _check_difference(clean: Image.Image, corrupt: Image.Image) -> None:
    """Raise `NotYet` unless two pictures differ, and in a small part only."""
    if clean.size != corrupt.size:
        raise NotYet("the pictures have different sizes.")
    one, two = (np.asarray(picture.convert("RGB")) for picture in (clean, corrupt))
    share = (one != two).any(axis=-1).mean()
    if share == 0:
        raise NotYet("the two pictures are the same.")
    if share > MOST_CHANGED:
        raise NotYet(f"{share:.0%} of the pixels differ; that is more than one property.")
