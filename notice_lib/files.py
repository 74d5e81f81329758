"""Atomic writes and hashes of files."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from threading import get_ident


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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
