"""What the lab's section "Compose a pair" lets the reader choose: boards of rendered scenes.

A board is a scene and some of its fields with the values that each may have. Every combination is
rendered ahead, since a browser's canvas resizes a picture otherwise than the processor does.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from notice_lib.models.base import VLM
from tools import scenes
from tools.scenes.faces import Faces
from tools.scenes.states import States
from tools.scenes.svo import Svo

from .scenes import places, shown

SLOTS = {
    "state": "state", "subject": "subject", "verb": "verb", "object": "object",
    "expression": "emotion",
}  # fmt: skip
"""The fields that a question may ask for, and the slots of their questions."""
LABELS = {
    "noun": "thing", "other": "other thing", "other_state": "its state", "identity": "person",
    "flip": "direction",
}  # fmt: skip
"""What the page calls a field, where that is not its name."""
DIRECTIONS = {False: "to the left", True: "to the right"}
BLANK = 128
"""The level of a blank picture: grey."""
AN_IMAGE = (8, 8)
"""The size of a stand-in picture where only the words matter."""


@dataclass(frozen=True)
class Board:
    """A scene, and the values of its fields among which the reader chooses."""

    name: str
    scene: States | Svo | Faces
    fields: dict[str, tuple]

    def combinations(self) -> Iterator[tuple[tuple[int, ...], States | Svo | Faces]]:
        """Each combination's numbers of its values, and its scene."""
        for numbers in product(*(range(len(values)) for values in self.fields.values())):
            chosen = {
                name: values[number]
                for number, (name, values) in zip(numbers, self.fields.items(), strict=True)
            }
            yield numbers, replace(self.scene, **chosen)

    def questions(self) -> dict[str, str]:
        """For each field that a question may ask for, the question with places for words."""
        blanks = replace(self.scene, **{name: f"{{{name}}}" for name in self.fields})
        return {
            name: scenes.question(blanks, SLOTS[name], "{first}", "{second}")
            for name in self.fields
            if name in SLOTS
        }

    def described(self) -> dict:
        """What the page needs to know."""
        fields = [
            {
                "name": name,
                "label": LABELS.get(name, name),
                "values": [_said(name, value, i) for i, value in enumerate(values, 1)],
            }
            for name, values in self.fields.items()
        ]
        return {"name": self.name, "fields": fields, "questions": self.questions()}


_THING = {"flip": False, "x": 96, "ground": 166, "size": 114, "seed": 3}
BOARDS = (
    Board(
        "one thing",
        States("bell", "red", background=5, **_THING),
        {
            "noun": ("bell", "vase", "kettle"),
            "state": ("red", "blue", "yellow"),
            "background": (5, 11),
        },
    ),
    Board(
        "two things",
        States(
            "chair",
            "rusty",
            background=5,
            other="vase",
            other_state="checked",
            other_x=50,
            **_THING | {"x": 142, "size": 78},
        ),
        {
            "noun": ("chair", "bottle"),
            "state": ("rusty", "checked", "squashed"),
            "other": ("vase", "barrel"),
            "other_state": ("rusty", "checked", "squashed"),
        },
    ),
    Board(
        "animals that do something",
        Svo("dog", "pulling", "car", "subject", False, 61, 96, 172, 5),
        {
            "subject": ("dog", "turtle", "rooster"),
            "verb": ("pulling", "riding", "carrying"),
            "object": ("car", "drum", "pumpkin"),
            "flip": (False, True),
        },
    ),
    Board(
        "faces",
        Faces("happy", 11, 0.0, 96, 98, 80, 1.0, 5),
        {
            "expression": ("happy", "sad", "angry", "surprised"),
            "identity": (11, 25, 4),
            "background": (5, 11),
        },
    ),
)


def write_boards(model: VLM, out: Path) -> None:
    """Write compose.json, and under compose/ the pictures as the processor sees them."""
    folder = out / "compose"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, board in enumerate(BOARDS):
        for numbers, scene in board.combinations():
            path = folder / file_name(number, numbers)
            Image.fromarray(pixels(model, scene)).save(path, optimize=True)
    index = {
        "blank": BLANK,
        "frame": frame(model),
        "spelling": spelling(model),
        "boards": [board.described() for board in BOARDS],
    }
    (out / "compose.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def file_name(board: int, numbers: tuple[int, ...]) -> str:
    """A picture's name: the number of its board, and those of its values, as in 0-2-1-0.png."""
    return "-".join(map(str, (board, *numbers))) + ".png"


def pixels(model: VLM, scene: States | Svo | Faces) -> np.ndarray:
    """(size, size, 3) bytes of a scene as the model sees it."""
    picture = Image.fromarray(scenes.render(scene)[0])
    return shown(model, model.inputs(picture, "?").pixel_values)


def frame(model: VLM) -> list[list[int]]:
    """The ids of the tokens before and after every question; all that the image became are one."""
    inputs = model.inputs(Image.new("RGB", AN_IMAGE), "?")
    ids = [inputs.input_ids[0][place[0]].item() for place in places(inputs.image_tokens)]
    at = ids.index(model.processor.tokenizer.convert_tokens_to_ids("?"))
    return [ids[:at], ids[at + 1 :]]


def spelling(model: VLM) -> dict:
    """How words become tokens: what marks one behind a space, and the first letter's capital."""
    tokens = model.inputs(Image.new("RGB", AN_IMAGE), "Is this?").tokens
    first, second = tokens[-len(frame(model)[1]) - 3 :][:2]
    return {"mark": second.removesuffix("this"), "capital": first[0].isupper()}


def _said(name: str, value, number: int) -> str:
    """A value in words; those that have none are numbered."""
    if name == "flip":
        return DIRECTIONS[value]
    return value if isinstance(value, str) else f"{number}"
