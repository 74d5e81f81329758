"""Pair sets on disk: `pairs.csv` (one row a pair), `images/`, `masks/` and `vocabulary.json`.

Text is UTF-8. Paths in the table are relative to the folder and cannot leave it, not by a link
either. `shown` is a JSON list of words; words with spaces between them, as in the embedded sets,
are read too. So are tables that another program has saved again (`tables`). Whatever is in these
files, reading them gives values or a NoticeError; nothing in them is ever executed.
"""

import csv
import filecmp
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import NoticeError
from ..files import sha256, write_atomically
from .folders import Folder
from .tables import column_names, read_table, truth

PATHS = ("clean_image", "corrupt_image", "clean_masks", "corrupt_masks")
"""Columns that name files."""

Row = dict[str, Any]
"""The fields of a pair by name: paths are Path or None, `shown` is a tuple."""


def write(folder: Path, columns: list[str], rows: list[Row], words: dict) -> None:
    """Copy the files of the rows, then write vocabulary and table; see `PairSet.save`."""
    refuse_used(folder)
    names = _copy_files(rows, folder)
    (folder / "vocabulary.json").write_text(json.dumps(words, indent=1), encoding="utf-8")
    for row in rows:
        row |= {name: names.get((_kind(name), row[name]), "") for name in PATHS}
    write_atomically(folder / "pairs.csv", lambda path: _write_rows(path, columns, rows))


def refuse_used(folder: Path) -> None:
    """Raise a NoticeError if a folder holds a pair set already."""
    if (folder / "pairs.csv").exists():
        raise NoticeError(f"{folder} holds a pair set already. Name an empty folder.")


def _write_rows(path: Path, columns: list[str], rows: list[Row]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            shown = json.dumps(row["shown"], ensure_ascii=False)
            distractor = str(row["distractor"]).lower()
            writer.writerow(row | {"shown": shown, "distractor": distractor})


def read_rows(folder: Path, columns: list[str]) -> Iterator[tuple[str, Row]]:
    """The rows of a folder's pairs.csv, each with what names file and line in an error."""
    manifest = folder.resolve() / "pairs.csv"
    if not manifest.is_file():
        raise NoticeError(
            f"{folder} is not a pair set: it has no pairs.csv. Name a folder that PairSet.save or "
            "`notice pairs` wrote."
        )
    there = column_names(manifest)
    if lacking := [name for name in columns if name not in there]:
        raise NoticeError(
            f"{manifest} lacks the columns {', '.join(lacking)}: it is no table of a pair set. "
            "`notice pairs table` builds a set from a table of your own."
        )
    files = Folder(folder)
    locate = cache(lambda name: files.file(name) if name else None)
    for where, row in read_table(manifest, columns):
        try:
            values = _values(row, locate)
        except NoticeError as error:
            raise NoticeError(f"{where}: {error}") from None
        yield where, values
    if told := files.told():
        warnings.warn(told, stacklevel=2)


def read_vocabulary(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Slots and near-synonyms of vocabulary.json; none of either where there is no such file."""
    path = folder / "vocabulary.json"
    if not path.exists():
        return {}, {}
    try:
        words = _parse(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise NoticeError(f"{path} is not JSON in UTF-8 ({error}). Write it anew.") from None
    names = ("slots", "near_synonyms")
    parts = [words.get(name, {}) for name in names] if isinstance(words, dict) else [words]
    if not all(map(_lists_of_words, parts)):
        raise NoticeError(
            f'{path}: "slots" and "near_synonyms" must be objects of lists of words, such as '
            '{"colour": ["red", "blue"]}.'
        )
    return parts[0], parts[1]


def _copy_files(rows: Iterable[Row], folder: Path) -> dict[tuple[str, Path], str]:
    """Copy images and masks; returns {(kind, source): path relative to the folder}."""
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[tuple[str, Path], str] = {}
    taken = set()  # without case, since some file systems have none
    for row in rows:
        for column in PATHS:
            key = kind, source = _kind(column), row[column]
            if source is None or key in names:
                continue
            if not source.is_file():
                raise NoticeError(f"{source} is missing, the {column} of pair {row['pair_id']}.")
            target = f"{kind}/{source.name}"
            unusable = not source.name.isprintable() or "\\" in source.name
            if unusable or target.casefold() in taken or _other_file(folder / target, source):
                target = f"{kind}/{_name_by_content(source)}"
            taken.add(target.casefold())
            names[key] = target
            _copy(source, folder / target)
    return names


def _kind(column: str) -> str:
    """The subfolder of the files that a column names: images or masks."""
    return "images" if column.endswith("image") else "masks"


def _other_file(target: Path, source: Path) -> bool:
    """Whether there is a file already that is not the same, e.g. of a save that was stopped."""
    return target.exists() and not filecmp.cmp(source, target, shallow=False)


def _name_by_content(source: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{source.stem[:80]}-{sha256(source)[:16]}{source.suffix}")


def _copy(source: Path, target: Path) -> None:
    """Copy a file that is not there yet; a part of it never has its name."""
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        write_atomically(target, lambda path: shutil.copyfile(source, path))


def _values(row: dict[str, str], locate: Callable[[str], Path | None]) -> Row:
    """One row of pairs.csv as the fields of a pair."""
    values: Row = row | {name: locate(row[name]) for name in PATHS}
    if values["clean_image"] is None or values["corrupt_image"] is None:
        raise NoticeError("clean_image and corrupt_image must both be given.")
    distractor = truth(row["distractor"])
    if distractor is None:
        raise NoticeError(f"distractor is {row['distractor']!r}; it must be true or false.")
    answers = {name: whole(row[name], row["prompt"]) for name in ("correct", "incorrect")}
    return values | answers | {"distractor": distractor, "shown": _words(row["shown"])}


def whole(option: str, prompt: str = "") -> str:
    """An option as the prompt has it: a spreadsheet with a gap writes the number 1 as "1.0"."""
    number = option.removesuffix(".0")
    return number if number.isdecimal() and option not in prompt else option


def _words(text: str) -> tuple[str, ...]:
    """A JSON list of words; or, as in the embedded sets, words with spaces between them."""
    if not text.startswith("["):
        return tuple(text.split())
    try:
        words = _parse(text)
    except (ValueError, RecursionError):
        words = None
    if not _lists_of_words({"shown": words}):
        raise NoticeError(f"shown is {text!r}, which is not a JSON list of words.")
    return tuple(words)


def _parse(text: str):
    """JSON whose strings can be written again: half a surrogate pair is JSON, but no text."""
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _lists_of_words(value) -> bool:
    return isinstance(value, dict) and all(
        isinstance(listed, list) and all(isinstance(w, str) and w.strip() for w in listed)
        for listed in value.values()
    )
