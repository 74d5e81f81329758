"""Pairs from a data set of the Hugging Face library `datasets`, in memory, local or on the hub."""

import hashlib
import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..corruption.sip import LabelledImage
from ..errors import NoticeError
from ..files import write_atomically
from ..pairs.images import ending_of
from .build import Built, Source
from .labelled import build_pairs
from .labels import present
from .own import QUESTION, SLOT, own_source, template

if TYPE_CHECKING:
    from datasets import Dataset


def open_dataset(name: str, split: str = "train") -> "Dataset":
    """A data set by its name on the hub, or a local one.

    Args:
        name: a hub id; a folder that `Dataset.save_to_disk` wrote, with Parquet files, or with
            images in a folder for each class; or one Parquet file.
        split: which part. A saved data set that knows no name of its split counts as "train".

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
            return _split_of(datasets.load_from_disk(name), name, split)
        if path.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=name, split=split)
        return datasets.load_dataset(name, split=split)
    except NoticeError:
        raise
    except Exception as error:  # of many kinds: of the hub, of files, of Arrow
        said = str(error).strip().split("\n")[0].removesuffix(".")
        raise NoticeError(
            f"The data set {name!r}, split {split!r}, cannot be opened: {said}. Name a folder, a "
            "Parquet file or a hub id (which needs a network), and a split that it has."
        ) from None


def _split_of(saved, name: str, split: str) -> "Dataset":
    """A split of what `save_to_disk` wrote: of several, or the one that it is."""
    # A single data set knows the name of its split only if it was taken from several.
    several = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
    if split not in several:
        raise NoticeError(
            f"The data set {name!r} has no split {split!r}. Its splits are: {', '.join(several)}."
        )
    return several[split]


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

    Pairs name files, so images that are not files yet are written into a folder under the hash of
    their bytes: encoded ones as they are, decoded ones as PNG or TIFF. One row at a time is in
    memory.

    Args:
        dataset: of the library `datasets`, streamed or not.
        folder: for the images.
        image: column of images: `datasets.Image`, encoded bytes, PIL images, or paths of files.
        attribute: column of what the image shows; a `ClassLabel` by its name. Rows without one
            (empty, NaN, or the label -1) or without an image are left out and counted.
        rest: column of what both images of a pair share, e.g. the noun; None: nothing.
        slot: column of the attribute's group; None: there is one.
        question: with {first}, {second} and, if there is a `rest`, {rest}.
        task: a name; pairs named "states" stand in for those of the chapters.
        near_synonyms: {attribute: attributes that are never its partner's}.
        seed: random seed for drawing the partners.
        source: of the images, for the card.
        roots: folders in which files that the data set names must lie (`roots_of`); None trusts it.

    Raises:
        NoticeError: a column is missing, holds no images, or several labels in one row, a file lies
            elsewhere, or no image has a partner.
    """
    asked = template(question)
    wanted = [column for column in (image, attribute, rest, slot) if column]
    dataset, names = _prepared(dataset, wanted, image)
    trusted = None if roots is None else tuple(Path(root).resolve() for root in roots)
    labelled: dict[LabelledImage, None] = {}  # in order, and each once
    rows = usable = 0
    for number, row in enumerate(dataset):
        rows += 1
        label, thing, group = (
            _text(names, column, row[column], f"Row {number}, column {column!r},") if column else ""
            for column in (attribute, rest, slot)
        )
        if not label or row[image] is None:
            continue
        usable += 1
        path = _file(row[image], Path(folder), f"Row {number}, column {image!r},", trusted)
        labelled[LabelledImage(path, label, thing, group or SLOT)] = None
    steps = [("rows: of the data set", rows), ("rows: with an image and a label", usable)]
    return build_pairs(labelled, asked, task, source or own_source(), near_synonyms, seed, steps)


def _prepared(dataset, wanted: list[str], image: str):
    """The data set with encoded images only, and {column: names of its classes}."""
    from datasets import ClassLabel, Image as Encoded

    if isinstance(dataset, dict):
        first = next(iter(dataset), "train")
        raise NoticeError(
            f"The data set has the splits {', '.join(dataset)}. Give one of them, such as "
            f"dataset[{first!r}]."
        )
    columns = dataset.column_names
    missing = [column for column in wanted if column not in (columns or wanted)]
    if missing:
        raise NoticeError(
            f"The data set lacks the columns {', '.join(missing)}; it has {', '.join(columns)}."
        )
    features = dataset.features or {}
    inner = {name: getattr(feature, "feature", feature) for name, feature in features.items()}
    names = {name: kind.names for name, kind in inner.items() if isinstance(kind, ClassLabel)}
    if isinstance(features.get(image), Encoded):
        # Decoded here, with limits, and kept byte for byte.
        dataset = dataset.cast_column(image, Encoded(decode=False))
    # Without a format for tensors, or a transform, which rows would come in.
    return dataset.select_columns(wanted).with_format(None), names


def _text(names: Mapping[str, list[str]], column: str, value, where: str) -> str:
    """A label as text; "" if there is none.

    Raises:
        NoticeError: it is a list of several labels, a record, or something else that is not text.
    """
    if isinstance(value, list | tuple) and len(value) < 2:
        value = value[0] if value else None
    if value is None or value != value:  # pandas writes NaN where a label is missing
        return ""
    if isinstance(value, float) and value.is_integer():  # and floats for integers beside a NaN
        value = int(value)
    if isinstance(value, int) and value == -1:  # where data sets have integers for classes
        return ""
    if column in names and isinstance(value, int):
        return names[column][value] if 0 <= value < len(names[column]) else ""
    if not isinstance(value, str | int | float):
        raise NoticeError(
            f"{where} holds {value!r}, a {type(value).__name__}, where one label is needed. Name a "
            "column with one label in each row, or make one with the data set's `map`."
        )
    return present(str(value))


def _file(value, folder: Path, where: str, roots: tuple[Path, ...] | None) -> Path:
    """A file with the image: its own, or one under the hash of its bytes.

    Whether it is a usable image is found out with all the others.
    """
    if isinstance(value, str):
        value = {"path": value}
    if isinstance(value, dict):  # as datasets.Image(decode=False) gives it
        path = value.get("path")
        if value.get("bytes") is None and path:
            return _within(Path(path), roots, where)
        value = value.get("bytes")
    if isinstance(value, Image.Image):
        value = _encoded(value, where)
    if not isinstance(value, bytes):
        raise NoticeError(
            f"{where} holds no image but {type(value).__name__}. Name the column with the images, "
            "or cast it to datasets.Image."
        )
    ending = ending_of(io.BytesIO(value)) or ".bin"
    path = folder / f"{hashlib.sha256(value).hexdigest()[:32]}{ending}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda path: path.write_bytes(value))
    return path


def _encoded(image: Image.Image, where: str) -> bytes:
    """A decoded image as a file that keeps its pixels: PNG, or TIFF for what PNG cannot hold."""
    for form in ("PNG", "TIFF"):
        file = io.BytesIO()
        with suppress(OSError, KeyError, ValueError):
            image.save(file, format=form)
            return file.getvalue()
    raise NoticeError(
        f"{where} holds an image of the mode {image.mode}, which no file keeps. Convert it to RGB."
    )


def _within(path: Path, roots: tuple[Path, ...] | None, where: str) -> Path:
    """A file without links, if it lies in one of the roots.

    Raises:
        NoticeError: it is missing, or lies elsewhere; the message says where.
    """
    try:
        file = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise NoticeError(
            f"{where} names the file {str(path)!r}, which cannot be found ({error}). Restore "
            "it, or name another column of images."
        ) from None
    if roots is None or any(file.is_relative_to(root) for root in roots):
        return file
    leads = f", a link to {file}" if file != path.absolute() else ""
    raise NoticeError(
        f"{where} names {path}{leads}: a file outside of the data set. Copy the file to where the "
        f"data set lies ({', '.join(map(str, roots))}), or use `read_dataset` without `roots` if "
        "you trust the data set."
    )
