"""Where the data of the library are, in a checkout or in an installed wheel."""

from functools import cache
from pathlib import Path

from .errors import NoticeError
from .released import fetch, read_manifest


@cache
def data_dir() -> Path:
    """Return the folder that holds `embedded/`, `checkpoints/`, `paper/` and `results/`.

    In a checkout this is `data/` beside the package; a wheel has it inside the package.

    Raises:
        NoticeError: neither folder exists.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "embedded").is_dir():
            return folder
    raise NoticeError(
        f"There are no embedded data in {package / 'data'} or {package.parent / 'data'}. Reinstall "
        "the wheel, or work in a complete checkout of the repository."
    )


def checkpoint_dir(name: str) -> Path:
    """Return the folder of one of the book's checkpoints.

    Wheels of a release hold only "blip-mini" and "llava-mini". The other checkpoints are downloaded
    from the release on first use.

    Raises:
        NoticeError: there is no such checkpoint, or it cannot be downloaded.
    """
    checkpoints = data_dir() / "checkpoints"
    if (checkpoints / name / "config.json").is_file():
        return checkpoints / name
    released = read_manifest(checkpoints)
    if name not in released:
        raise NoticeError(f"The book has no checkpoint {name!r}.")
    return fetch(name, released[name])
