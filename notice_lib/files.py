"""Files: written whole or not at all, and told apart by their bytes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from threading import get_ident


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name beside its own, then rename it, so that nobody ever sees a
    part of it under its own name.

    Args:
        write: writes the whole file to the path that it is given.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
