"""Tables (CSV) as people have them: rows by column, whatever program wrote the file.

Read is text in UTF-8, or in UTF-16 where it begins with a byte order mark. Fields are separated by
commas, semicolons, tabs or bars, whichever makes the most columns of the first line. Columns come
in any order, in upper or lower case, with spaces around their names, and with others between them.
Rows and columns without text, which spreadsheets leave, are left out. One warning for each table
says what was not as expected. What is not clear is refused, with file, row and columns.
"""

import csv
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..errors import NoticeError

Row = dict[str, str]
Synonyms = Mapping[str, Iterable[str]]
"""{column: other names that are read as it where no column has its own name}."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_TRUE = ("true", "t", "yes", "y", "1", "1.0")
_FALSE = ("false", "f", "no", "n", "0", "0.0")


def read_table(
    path: Path,
    required: Iterable[str],
    optional: Iterable[str] = (),
    synonyms: Synonyms | None = None,
) -> Iterator[tuple[str, Row]]:
    """The rows of a table, each with what names file and line in an error.

    A row has the columns of `required` and `optional` only, and "" for what the table lacks.

    Warns:
        UserWarning: something was not as expected; after the last row.

    Raises:
        NoticeError: the file cannot be read, a column of `required` is missing, two columns could
            be one of those that are read, or a row has more or fewer fields than there are columns.
    """
    required, optional = tuple(required), tuple(optional)
    with _opened(path) as file:
        delimiter, names, spaced, above = _header(file)
        places = _places(path, names, (*required, *optional), synonyms or {})
        if missing := [name for name in required if name not in places]:
            raise _lacking(path, missing, synonyms or {}, names, delimiter)
        notes = _unexpected(delimiter, names, places)
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=spaced, strict=True)
        blank = 0
        for cells in reader:
            if not any(map(str.strip, cells)):
                blank += bool(cells)
                continue
            where = f"{path}, line {above + reader.line_num}"
            if len(cells) < len(names) or any(map(str.strip, cells[len(names) :])):
                raise NoticeError(
                    f"{where}: it has {len(cells)} fields, but the table has {len(names)} columns. "
                    f"Add what is missing. A field with {delimiter!r} in it needs quotation marks, "
                    "with no space before them."
                )
            row = {name: cells[place] for name, place in places.items()}
            yield where, dict.fromkeys(optional, "") | row
    if blank:
        notes.append(f"{blank} rows without text are left out")
    if notes:
        warnings.warn(f"{path}: {'; '.join(notes)}.", stacklevel=2)


def column_names(path: Path) -> list[str]:
    """The names in a table's first line, in lower case.

    Raises:
        NoticeError: the file cannot be read.
    """
    with _opened(path) as file:
        return [_plain(name) for name in _header(file)[1]]


def truth(text: str) -> bool | None:
    """What a field says that is "true", "False", "1", "1.0", "t" or the like; None: neither."""
    word = text.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A table's text; what goes wrong while it is read becomes a NoticeError."""
    try:
        with open(path, "rb") as raw:
            start = raw.read(4)
        if start == b"PK\x03\x04":
            raise NoticeError(f"{path} is a spreadsheet's own file. Save it there as CSV (UTF-8).")
        if start[:1] in (b"{", b"["):
            raise NoticeError(f"{path} is JSON, not a table. Save it as CSV (UTF-8).")
        marked = start[:2] in (b"\xff\xfe", b"\xfe\xff")
        # utf-8-sig: spreadsheets begin a file with a byte order mark, which is not part of a name.
        with open(path, newline="", encoding="utf-16" if marked else "utf-8-sig") as file:
            yield file
    except UnicodeError as error:
        raise NoticeError(
            f"{path} is not text in UTF-8 ({error}). Save it as CSV (UTF-8)."
        ) from None
    except csv.Error as error:
        raise NoticeError(
            f"{path} cannot be read as CSV ({error}). Look for a quotation mark that is not closed."
        ) from None
    except OSError as error:
        raise NoticeError(f"{path} cannot be read ({error.strerror}). Name a CSV file.") from None


def _header(file: TextIO) -> tuple[str, list[str], bool, int]:
    """Delimiter, names of the columns, whether a space follows delimiters, number of lines read."""
    lines, line = 1, file.readline()
    # Blank lines, and the one by which a spreadsheet names the delimiter, may come before.
    while line and (not line.strip(" ,;|\t\r\n") or line.lower().startswith("sep=")):
        lines, line = lines + 1, file.readline()
    names: list[str] = []
    delimiter = ","
    refused: dict[str, csv.Error] = {}
    for tried in _DELIMITERS:
        try:
            cells = next(
                csv.reader([line], delimiter=tried, skipinitialspace=True, strict=True), []
            )
        except csv.Error as error:
            # Names in quotation marks are well-formed for one delimiter only.
            refused[tried] = error
            continue
        if len(cells) > len(names):
            delimiter, names = tried, [name.strip() for name in cells]
    if refused and len(names) < 2:
        raise refused[max(refused, key=line.count)]
    return delimiter, names, f"{delimiter} " in line, lines


def _places(
    path: Path, names: list[str], wanted: Iterable[str], synonyms: Synonyms
) -> dict[str, int]:
    """{column: its place} of the wanted columns that a table has."""
    plain = [_plain(name) for name in names]
    places = {}
    for column in wanted:
        own = [i for i, name in enumerate(plain) if name == _plain(column)]
        others = {*synonyms.get(column, ())}
        found = own or [i for i, name in enumerate(plain) if name in others]
        if len(found) > 1:
            both = ", ".join(names[i] for i in found)
            raise NoticeError(
                f"{path} has two columns for {column}: {both}. Keep one, and name it {column}."
            )
        if found:
            places[column] = found[0]
    return places


def _lacking(
    path: Path, missing: list[str], synonyms: Synonyms, names: list[str], delimiter: str
) -> NoticeError:
    others = [f"{name} may also be {', '.join(synonyms[name])}" for name in missing
              if name in synonyms]  # fmt: skip
    there = f"It has {', '.join(filter(None, names))}, separated by {_DELIMITERS[delimiter]}."
    return NoticeError(
        f"{path} lacks the columns {', '.join(missing)}. {there if names else 'It is empty.'} "
        f"Correct the names in its first line{''.join(f'; {other}' for other in others)}."
    )


def _unexpected(delimiter: str, names: list[str], places: dict[str, int]) -> list[str]:
    """What a header has that is read, but not as documented."""
    notes = []
    if delimiter != ",":
        notes.append(f"fields are separated by {_DELIMITERS[delimiter]}")
    renamed = {names[i]: column for column, i in places.items() if names[i] != column}
    other = {name: column for name, column in renamed.items() if _plain(name) != _plain(column)}
    notes += [f"column {name!r} is read as {column}" for name, column in other.items()]
    for name in [name for name in renamed if name not in other][:1]:
        notes.append(f"names of columns are read in any case, such as {name!r}")
    return notes


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).lower().replace(" ", "_")
