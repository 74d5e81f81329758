"""Pairs from a data set of the Hugging Face library `datasets`, in memory, local or on the hub."""

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..corruption.sip import LabelledImage
from ..errors import NoticeError
from ..files import write_atomically
from ..pairs.images import FORMATS
from .build import Built, Source
from .labelled import build_pairs
from .own import QUESTION, SLOT, own_source, template

if TYPE_CHECKING:
    from datasets import Dataset


def open_dataset(name: str, split: str = "train") -> "Dataset":
    """A data set by its name on the hub, or a local one.

    Args:
        name: a hub id; a folder that `Dataset.save_to_disk` wrote, with Parquet files, or with
            images in a folder for each class; or one Parquet file.
        split: which part.

    Raises:
        NoticeError: the library is missing, or it finds no such data set or split.
    """
    try:
        import datasets
    except ImportError:
        raise NoticeError(
            "Data sets of Hugging Face need the library datasets: pip install 'notice-lib[hub]'."
        ) from None
    path = Path(name)
    try:
        if any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(name)
            return found[split] if isinstance(found, datasets.DatasetDict) else found
        if path.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=name, split=split)
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # of many kinds: of the hub, of files, of Arrow
        said = str(error).strip().split("\n")[0]
        raise NoticeError(
            f"The data set {name!r}, split {split!r}, cannot be opened: {said} "
            "Name a hub id, a folder or a Parquet file."
        ) from None


def roots_of(name: str) -> list[Path]:
    """Where the files of a data set that was opened by its name may lie."""
    from datasets import config
    from huggingface_hub import constants

    own = [name] if Path(name).is_dir() else []
    places = (*own, config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)
    return [Path(place).resolve() for place in places]


def read_dataset(
    dataset: "Dataset",
    folder: str | Path,
    image: str = "image",
    attribute: str = "label",
    rest: str | None = None,
    slot: str | None = None,
    question: str = QUESTION,
    task: str = "own",
    near_synonyms: Mapping[str, Iterable[str]] | None = None,
    seed: int = 0,
    source: Source | None = None,
    roots: Iterable[Path] | None = None,
) -> Built:
    """Pairs from a data set with an image and a label in each row.

    Pairs name files, so images that are none yet are written into a folder under the hash of their
    bytes: encoded ones as they are, decoded ones as PNG. One row at a time is in memory.

    Args:
        dataset: of the library `datasets`, streamed or not.
        folder: for the images.
        image: column of images: `datasets.Image`, encoded bytes, or PIL images.
        attribute: column of what the image shows; a `ClassLabel` by its name. Rows without one
            (empty, or the label -1) are left out and counted.
        rest: column of what both images of a pair share, e.g. the noun; None: nothing.
        slot: column of the attribute's group; None: there is one.
        question: with {first}, {second} and, if there is a `rest`, {rest}.
        task: a name; as "states", chapters take these pairs for theirs.
        near_synonyms: {attribute: attributes that are never its partner's}.
        seed: of the partners.
        source: of the images, for the card.
        roots: folders in which files that the data set names must lie (`roots_of`); None trusts it.

    Raises:
        NoticeError: a column is missing or holds no images, a file lies elsewhere, or no image has
            a partner.
    """
    asked = template(question)
    wanted = [column for column in (image, attribute, rest, slot) if column]
    dataset, names = _prepared(dataset, wanted, image)
    labelled: dict[tuple[Path, str, str, str], LabelledImage] = {}
    rows = with_label = 0
    for row in dataset:
        rows += 1
        label, thing, group = (
            _text(names, column, row) if column else "" for column in (attribute, rest, slot)
        )
        if not label:
            continue
        with_label += 1
        path = _file(row[image], Path(folder), f"row {rows - 1}, column {image!r}", roots)
        found = LabelledImage(path, label, thing, group or SLOT)
        labelled[path, label, thing, found.slot] = found
    steps = [("rows: of the data set", rows), ("rows: with a label", with_label)]
    return build_pairs(
        labelled.values(), asked, task, source or own_source(), near_synonyms, seed, steps
    )


def _prepared(dataset, wanted: list[str], image: str):
    """The data set with encoded images only, and {column: names of its classes}."""
    from datasets import ClassLabel, Image as Encoded

    columns = dataset.column_names
    missing = [column for column in wanted if column not in (columns or wanted)]
    if missing:
        raise NoticeError(
            f"The data set lacks the columns {', '.join(missing)}; it has {', '.join(columns)}."
        )
    features = dataset.features or {}
    names = {
        column: feature.names
        for column, feature in features.items()
        if isinstance(feature, ClassLabel)
    }
    if isinstance(features.get(image), Encoded):
        # Decoded here, with limits, and kept byte for byte.
        dataset = dataset.cast_column(image, Encoded(decode=False))
    return dataset.select_columns(wanted), names


def _text(names: Mapping[str, list[str]], column: str, row: dict) -> str:
    """A label as text; "" where there is none."""
    value = row[column]
    if column in names and isinstance(value, int):
        return names[column][value] if 0 <= value < len(names[column]) else ""
    return "" if value is None else str(value).strip()


def _file(value, folder: Path, where: str, roots=None) -> Path:
    """A file with the image: its own, or one under the hash of its bytes.

    Whether it is an image that can be used is found out with all the others.
    """
    if isinstance(value, dict):  # as datasets.Image(decode=False) gives it
        path = value.get("path")
        if value.get("bytes") is None and path and Path(path).is_file():
            own = Path(path).resolve()
            if roots is not None and not any(own.is_relative_to(root) for root in roots):
                raise NoticeError(f"{where} names {path}, a file outside of the data set.")
            return own
        value = value.get("bytes")
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, format="PNG")
        value = file.getvalue()
    if not isinstance(value, bytes):
        raise NoticeError(
            f"{where} holds no image but {type(value).__name__}: name the column with the images, "
            "or cast it to datasets.Image."
        )
    path = folder / f"{hashlib.sha256(value).hexdigest()[:32]}{_ending(value)}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda path: path.write_bytes(value))
    return path


def _ending(data: bytes) -> str:
    """The ending of a file of this content; ".bin" for what is not read here."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # Pillow's parsers raise anything at all on malformed files
        return ".bin"
    name = image.format or ""  # never empty: it is what read the data
    return f".{name.lower()}"
