"""Files by the names that tables have for them, and never a file outside of their folder.

A name is a path relative to the folder, or an absolute one within it. Where no file has that very
name, one is taken whose name differs in nothing but upper and lower case, Unicode form (an accent
as a sign of its own or not), the direction of slashes or a missing ending, if there is only one.
"""

import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath

from ..errors import NoticeError
from .images import ENDINGS


class Folder:
    """A folder in which files are looked up.

    Attributes:
        root: the folder, without links.
        alike: {name: file} of the names that no file has exactly.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.alike: dict[str, Path] = {}
        self._listed: dict[Path, dict[str, list[Path]]] = {}

    def file(self, name: str) -> Path:
        """The file of a name.

        Raises:
            NoticeError: there is none, more than one could be meant, or it lies elsewhere.
        """
        path = self._inside(name, self.root / name)
        if path.is_file():
            return path
        parts = PurePosixPath(name.replace("\\", "/")).parts
        found = self._alike(parts) if name else []
        if len(found) > 1:
            some = ", ".join(str(file.relative_to(self.root)) for file in found[:3])
            raise NoticeError(f"{name!r} could be {some}. Name one of them in full.")
        if not found:
            raise NoticeError(
                f"{path} is missing{self._examples(path.parent)}. Restore the file, correct its "
                "name or drop the row."
            )
        self.alike[name] = path = self._inside(name, found[0])
        return path

    def told(self) -> str | None:
        """A sentence on the files whose names are not exactly as given; None: all are."""
        if not self.alike:
            return None
        name, path = next(iter(self.alike.items()))
        return (
            f"{self.root}: {len(self.alike)} files are read by names that differ from theirs in "
            f"case, Unicode form, slashes or ending, such as {name!r} for {path.name!r}."
        )

    def _inside(self, name: str, path: Path) -> Path:
        try:
            path = path.resolve()
            path.is_file()  # raises, like resolve, for what cannot be a path
        except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, links in a circle
            raise NoticeError(f"{name!r} is not a path ({error}).") from None
        if not path.is_relative_to(self.root):
            raise NoticeError(
                f"{name!r} leads to {path}, outside of the folder {self.root}. Copy the file into "
                "the folder and name it relative to that."
            )
        return path

    def _alike(self, parts: tuple[str, ...]) -> list[Path]:
        """The files to which the parts of a path lead, in any spelling."""
        places = [self.root]
        for part in parts:
            places = [
                entry for place in places for entry in self._entries(place).get(_fold(part), ())
            ]
        return [place for place in places if place.is_file()]

    def _entries(self, folder: Path) -> dict[str, list[Path]]:
        """{name in one spelling: entries of a folder}; images also by names without an ending."""
        if folder not in self._listed:
            entries: dict[str, list[Path]] = defaultdict(list)
            self._listed[folder] = entries
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                entries[_fold(path.name)].append(path)
                if path.suffix.lower() in ENDINGS:
                    entries[_fold(path.stem)].append(path)
        return self._listed[folder]

    def _examples(self, folder: Path) -> str:
        """Some of the files that are there instead."""
        folder = folder if folder.is_dir() else self.root
        some = sorted(path.name for path in folder.iterdir() if path.is_file())[:3]
        return f"; {folder} has {', '.join(some)}" if some else f"; {folder} has no files"


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
