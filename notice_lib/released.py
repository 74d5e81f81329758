"""Checkpoints that wheels of a release lack: their files come from that release on first use.

`data/checkpoints/released.json` lists these files with their SHA-256;
`tools/release_files.py` writes the list. Files are kept in the asset cache of huggingface_hub.
"""

import json
import shutil
from http.client import HTTPException
from importlib.metadata import metadata
from pathlib import Path
from urllib.request import urlopen

from .errors import NoticeError
from .files import sha256, write_atomically

MANIFEST = "released.json"
TIMEOUT = 60
"""Seconds for a connection, and for each silence of a download."""


def asset(name: str, file: str) -> str:
    """Name a checkpoint's file among the files of a release, which have no folders."""
    return f"{name}.{file}"


def release_url() -> str:
    """Return the URL of the files of this version's release."""
    about = metadata("notice-lib")
    links = dict(line.split(", ", 1) for line in about.get_all("Project-URL", []))
    return f"{links['Repository']}/releases/download/v{about['Version']}"


def fetch(name: str, digests: dict[str, str]) -> Path:
    """Download the files of a checkpoint, except those that are already in the cache.

    Args:
        name: name of the checkpoint.
        digests: {file: SHA-256}.

    Returns:
        The folder of the files, whose hashes are those of `digests`.

    Raises:
        NoticeError: a file cannot be downloaded or has another hash, and is not kept.
    """
    from huggingface_hub import cached_assets_path

    folder = cached_assets_path("notice-lib", namespace="checkpoints", subfolder=name)
    for file, digest in digests.items():
        path = folder / file
        if path.is_file() and sha256(path) == digest:
            continue
        url = f"{release_url()}/{asset(name, file)}"
        try:
            _download(url, path, digest)
        except (OSError, HTTPException, ValueError) as error:
            raise NoticeError(
                f"{name} is not part of this package, and {url} could not be downloaded to "
                f"{folder}: {error}. Try again with a network and free disk space, or install from "
                "git before a release, which brings all checkpoints."
            ) from None
    return folder


def _download(url: str, path: Path, digest: str) -> None:
    """Download a file under its final name, if it is the expected one.

    Raises:
        ValueError: it has another SHA-256.
    """

    def write(unfinished: Path) -> None:
        with urlopen(url, timeout=TIMEOUT) as answer, open(unfinished, "wb") as file:
            shutil.copyfileobj(answer, file)
        found = sha256(unfinished)
        if found != digest:
            raise ValueError(f"its SHA-256 is {found}, not {digest}")

    write_atomically(path, write)


def read_manifest(checkpoints: Path) -> dict[str, dict[str, str]]:
    """Read {checkpoint: {file: SHA-256}} from a folder of checkpoints.

    Raises:
        NoticeError: its released.json is missing or damaged.
    """
    path = checkpoints / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoticeError(
            f"{path}, the list of checkpoints that a release has, cannot be read ({error}). "
            "Reinstall the package, or in a checkout: git restore data/checkpoints."
        ) from None
