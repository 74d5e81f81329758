"""Facial expressions: portraits by emotion, "Is this person feeling happy or sad?"

Layout of the Kaggle data sets: `images/{train,validation}/<emotion>/*.jpg`.
"""

from pathlib import Path

from ..corruption.sip import LabelledImage
from ..errors import NoticeError
from .build import Built, Source, Steps
from .labelled import build_pairs

SOURCE = Source(
    "Facial expressions",
    "samaneheslamifar, Facial emotion expressions (Kaggle)",
    "https://www.kaggle.com/datasets/samaneheslamifar/facial-emotion-expressions",
    "See the data set's page; faces of real people that were collected on the web. Use them for "
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


def read_facial_expressions(images: str | Path, part: str = "train", seed: int = 0) -> Built:
    """Pairs of two portraits with different emotions.

    Args:
        images: the folder `images` of the unpacked archive, or the one that holds it.
        part: "train", as in the paper, or "validation".
        seed: of the partners.

    Raises:
        NoticeError: the part or one of the seven folders is missing, or there is an eighth.

    Source: paper, section 3; published code, preprocessing/1_face (which takes a part of the path
    for the emotion).
    """
    labelled, steps = _labelled(_folder(Path(images), part))
    return build_pairs(labelled, question, "faces", SOURCE, seed=seed, steps=steps)


def question(_: str, first: str, second: str) -> str:
    """E.g. "Is this person feeling happy or sad?"."""
    return f"Is this person feeling {first} or {second}?"


def _folder(given: Path, part: str) -> Path:
    for folder in (given / "images" / part, given / part):
        if folder.is_dir():
            return folder
    raise NoticeError(
        f"{given} has no folder {part!r}: name the folder `images` of the unpacked archive, and "
        "'train' or 'validation' as the part."
    )


def _labelled(folder: Path) -> tuple[list[LabelledImage], Steps]:
    """Every image with the emotion that its own folder is named after."""
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    names = {name for name in names if not name.startswith((".", "__"))}
    if names != set(EMOTIONS):
        missing = ", ".join(sorted(set(EMOTIONS) - names)) or "none"
        strange = ", ".join(sorted(names - set(EMOTIONS))) or "none"
        raise NoticeError(
            f"{folder} must hold the folders {', '.join(EMOTIONS)} (missing: {missing}; not "
            f"among them: {strange}). Unpack the archive anew, or move the others away."
        )
    labelled = [
        LabelledImage(path, adjective, "", "emotion")
        for name, adjective in EMOTIONS.items()
        for path in sorted((folder / name).iterdir())
        if not path.name.startswith(".")
    ]
    return labelled, [("images: files", len(labelled))]
