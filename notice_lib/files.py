"""Atomic writes and hashes of files."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from threading import get_ident

from .errors import NoticeError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside its final one, then rename it.

    An interruption or a full disk thus never leaves a part of the file under its final name.

    Args:
        path: the final path.
        write: a function that writes the whole file to the path that it is given.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def refuse_unwritable(path: Path) -> None:
    """Check that a file can be written, before a long computation whose result it will hold.

    Raises:
        NoticeError: its folder is missing or not writable, or it is itself a folder.
    """
    if path.is_dir():
        raise NoticeError(f"{path} is a folder. Name a file.")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise NoticeError(
            f"{path.resolve()} cannot be written ({error.strerror}). Name a file in another folder."
        ) from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
