"""Folders of image files: what lies there, which of it is usable, and how a card names it."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import progress
from ..errors import NoticeError
from ..files import sha256
from ..pairs.images import check_image

LeftOut = dict[Path | str, str]
"""{file, or the address or id of one that is not at hand: why it is in no pair}."""


def folders_in(place: Path) -> list[Path]:
    """The folders of a place, by name, without those that systems and archives hide there."""
    if not place.is_dir():
        raise NoticeError(f"There is no folder {place}. Name the one that holds the images.")
    return [path for path in _visible(place) if path.is_dir()]


def files_in(place: Path) -> list[Path]:
    """The files of a folder, by name, without those that systems and archives hide there."""
    return [path for path in _visible(place) if not path.is_dir()]


def _visible(place: Path) -> list[Path]:
    return [path for path in sorted(place.iterdir()) if not path.name.startswith((".", "__"))]


def short(file: Path | str) -> str:
    """A file as the card names it: without the folders of this machine; an address as it is."""
    return "/".join(file.parts[-3:]) if isinstance(file, Path) else file


def an_example(left_out: Mapping[Path | str, str]) -> str:
    """A sentence on one of the files that were left out, to end a message with."""
    return next((f" For example, {short(file)} {why}." for file, why in left_out.items()), "")


def check_files(paths: set[Path], left_out: LeftOut) -> dict[Path, str]:
    """SHA-256 of each usable image; why the others are not usable goes to `left_out`."""

    def look(path):
        reason = check_image(path)
        return reason, None if reason else sha256(path)

    ordered = sorted(paths)
    digests = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = zip(ordered, pool.map(look, ordered), strict=True)
        for path, (reason, content) in progress.bar(
            results, total=len(ordered), desc="checking", unit="image"
        ):
            if reason:
                left_out[path] = reason
            else:
                digests[path] = content
    return digests
