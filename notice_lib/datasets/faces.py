"""Facial expressions: portraits by emotion, "Is this person feeling happy or sad?"

Layout of the Kaggle data sets: `images/{train,validation,test}/<emotion>/*.jpg`.
"""

import re
import warnings
from pathlib import Path

from ..corruption.sip import LabelledImage
from ..errors import NoticeError
from .build import Built, Source, Steps
from .image_files import files_in, folders_in
from .labelled import build_pairs

SOURCE = Source(
    "Facial expressions",
    "samaneheslamifar, Facial emotion expressions (Kaggle)",
    "https://www.kaggle.com/datasets/samaneheslamifar/facial-emotion-expressions",
    "See the data set's page. These are faces of real people, collected on the web. Use them for "
    "your own research; do not publish this folder.",
)

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgusted",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprise": "surprised",
}
"""{name of the folder: adjective in the question}."""
_SYNONYMS = {
    "angry": "anger",
    "disgusted": "disgust disgusting",
    "fearful": "fear afraid scared frightened",
    "happy": "happiness joy joyful",
    "neutral": "neutrality natural",
    "sad": "sadness",
    "surprised": "surprise suprise",  # the second is how some archives write it
}
_ADJECTIVES = {adjective: adjective for adjective in EMOTIONS.values()} | {
    name: adjective for adjective, names in _SYNONYMS.items() for name in names.split()
}

PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
"""{part: names of its folder}."""


def read_facial_expressions(images: str | Path, part: str = "train", seed: int = 0) -> Built:
    """Pairs of two portraits with different emotions.

    Folders may have other usual names, such as "Anger", "happiness" or "3_happy", and some emotions
    may be missing. Folders of anything else, such as "contempt", are left out and counted.

    Args:
        images: the folder `images` of the unpacked archive, or the one that holds it, or the part.
        part: "train", as in the paper, "validation" or "test".
        seed: random seed for drawing the partners.

    Warns:
        UserWarning: there are folders of no emotion that is asked about.

    Raises:
        NoticeError: the part is missing, or has no folders of two emotions.

    Source: paper, section 3; published code, preprocessing/1_face (which takes a part of the path
    for the emotion).
    """
    labelled, steps = _labelled(_folder(Path(images), part))
    return build_pairs(labelled, question, "faces", SOURCE, seed=seed, steps=steps)


def question(_: str, first: str, second: str) -> str:
    """E.g. "Is this person feeling happy or sad?"."""
    return f"Is this person feeling {first} or {second}?"


def _folder(given: Path, part: str) -> Path:
    if part not in PARTS:
        raise NoticeError(f"There is no part {part!r}; name one of {', '.join(PARTS)}.")
    inner, there = given, folders_in(given)
    while images := [folder for folder in there if folder.name.lower() == "images"]:
        inner, there = images[0], folders_in(images[0])
    for folder in (*there, inner):
        if folder.name.lower() in PARTS[part]:
            return folder
    raise NoticeError(
        f"{inner} has no folder {part!r}; it has {_list(there)}. Name the folder `images` of the "
        f"unpacked archive, and one of {', '.join(PARTS)} as the part. Folders of emotions must "
        f"lie in a folder {part!r}."
    )


def _word(name: str) -> str:
    """A folder's name in lower case, without a number: "angry" for "0_Angry" or "angry (1)"."""
    return re.sub(r"^[\W\d_]+|[\W\d_]+$", "", name).lower()


def _list(folders: list[Path]) -> str:
    return ", ".join(folder.name for folder in folders) or "no folders"


def _labelled(folder: Path) -> tuple[list[LabelledImage], Steps]:
    """Every image with the emotion that its own folder is named after."""
    files, labelled, strange = 0, [], []
    for place in folders_in(folder):
        found = files_in(place)
        files += len(found)
        if adjective := _ADJECTIVES.get(_word(place.name)):
            labelled += [LabelledImage(path, adjective, "", "emotion") for path in found]
        else:
            strange.append(place)
    if len({image.attribute for image in labelled}) < 2:
        raise NoticeError(
            f"{folder} must have images in folders of two emotions or more, named "
            f"{', '.join(EMOTIONS)} or by other usual names of these. It has "
            f"{_list(folders_in(folder))}. Rename the folders."
        )
    if strange:
        warnings.warn(
            f"{folder}: left out are the folders {_list(strange)}, which are named after none of "
            f"the emotions asked about ({', '.join(EMOTIONS)}).",
            stacklevel=3,
        )
    return labelled, [
        ("images: files", files),
        ("images: of an emotion that is asked about", len(labelled)),
    ]
