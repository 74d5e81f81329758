"""Pair sets on disk: `pairs.csv` (one row a pair), `images/`, `masks/` and `vocabulary.json`.

Text is UTF-8. Paths in the table are relative to the folder, with / between their parts, and cannot
leave it, not by a link either. `shown` is a JSON list of words; in the embedded sets it is words
with spaces between them, which is read too. Whatever is in these files, reading them gives values
or a NoticeError; nothing in them is ever executed.
"""

import csv
import filecmp
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import NoticeError
from ..files import sha256, write_atomically

PATHS = ("clean_image", "corrupt_image", "clean_masks", "corrupt_masks")
"""Columns that name files."""

Row = dict[str, Any]
"""The fields of a pair by name: paths are Path or None, `shown` is a tuple."""


def write(folder: Path, columns: list[str], rows: list[Row], words: dict) -> None:
    """Copy the files of the rows, then write vocabulary and table; see `PairSet.save`."""
    if (folder / "pairs.csv").exists():
        raise NoticeError(f"{folder} holds a pair set already. Name an empty folder.")
    names = _copy_files(rows, folder)
    (folder / "vocabulary.json").write_text(json.dumps(words, indent=1), encoding="utf-8")
    for row in rows:
        row |= {name: names.get((_kind(name), row[name]), "") for name in PATHS}
    write_atomically(folder / "pairs.csv", lambda path: _write_rows(path, columns, rows))


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
    folder = folder.resolve()
    manifest = folder / "pairs.csv"
    if not manifest.is_file():
        raise NoticeError(f"{folder} is no pair set: it has no pairs.csv.")
    locate = cache(lambda name: inside(folder, name) if name else None)
    for where, row in read_lines(manifest, columns):
        try:
            values = _values(row, columns, locate)
        except NoticeError as error:
            raise NoticeError(f"{where}: {error}") from None
        yield where, values


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


def read_lines(manifest: Path, wanted: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The lines of a CSV file by column, each with what names file and line in an error."""
    try:
        # utf-8-sig: spreadsheets begin a file with a byte order mark. strict: a file that ends
        # inside quotes was cut off.
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if missing := set(wanted) - set(columns):
                raise NoticeError(f"{manifest} lacks the columns {', '.join(sorted(missing))}.")
            if twice := {name for name in columns if columns.count(name) > 1}:
                raise NoticeError(f"{manifest} has two columns {', '.join(sorted(twice))}.")
            for row in reader:
                yield f"{manifest}, line {reader.line_num}", row
    except UnicodeDecodeError as error:
        raise NoticeError(f"{manifest} is not UTF-8 ({error}). Save it as UTF-8.") from None
    except (csv.Error, OSError) as error:
        raise NoticeError(f"{manifest} cannot be read as CSV ({error}). Write it anew.") from None


def _values(row: dict[str, str], columns: list[str], locate: Callable[[str], Path | None]) -> Row:
    """One row of pairs.csv as the fields of a pair."""
    if None in row or None in row.values():
        raise NoticeError("the fields are not as many as the columns. Quote those with commas.")
    if row["distractor"] not in ("true", "false"):
        raise NoticeError(f"distractor is {row['distractor']!r}; it must be true or false.")
    values: Row = {name: row[name] for name in columns}
    values |= {name: locate(row[name]) for name in PATHS}
    if values["clean_image"] is None or values["corrupt_image"] is None:
        raise NoticeError("clean_image and corrupt_image must both be given.")
    return values | {"distractor": row["distractor"] == "true", "shown": _words(row["shown"])}


def _words(text: str) -> tuple[str, ...]:
    """A JSON list of words; or, as in the embedded sets, words with spaces between them."""
    if not text.startswith("["):
        return tuple(text.split())
    try:
        words = _parse(text)
    except (ValueError, RecursionError):
        words = None
    if not _lists_of_words({"shown": words}):
        raise NoticeError(f"shown is {text!r}, no JSON list of words.")
    return tuple(words)


def inside(folder: Path, name: str) -> Path:
    """A path of the table; it must exist and lie in the folder."""
    if "\\" in name or PurePosixPath(name).is_absolute():
        raise NoticeError(f"the path {name!r} must be relative, with / between its parts.")
    try:
        path = (folder / name).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, links in a circle
        raise NoticeError(f"{name!r} is no path ({error}).") from None
    if not path.is_relative_to(folder):
        raise NoticeError(f"the path {name!r} leaves the folder of the set.")
    if not found:
        raise NoticeError(f"{path} is missing. Restore the file or drop the row.")
    return path


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
