"""Where the data that travel with the library are: in a checkout or in the installed wheel."""

from functools import cache
from pathlib import Path

from .errors import NoticeError


@cache
def data_dir() -> Path:
    """Folder that holds `embedded/`, `checkpoints/` and `paper/`.

    In a checkout it is `data/` beside the package; a wheel carries it inside the package.

    Raises:
        NoticeError: neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "embedded").is_dir():
            return folder
    raise NoticeError(
        f"The embedded data are neither in {package / 'data'} nor in {package.parent / 'data'}. "
        "Install the wheel again, or work in a full checkout of the repository."
    )
