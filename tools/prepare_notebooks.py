"""Copy the paired notebooks, set to 8 pairs, into _notebooks, for the tests to execute."""

import shutil
from pathlib import Path

from papermill import execute_notebook

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "_notebooks"  # nbmake passes over everything below a folder _build, silently


def prepare() -> None:
    """Copy each notebook of book/ with its parameters overridden by papermill."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for path in sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb")):
        execute_notebook(path, FOLDER / path.name, {"n_pairs": 8}, prepare_only=True)


if __name__ == "__main__":
    prepare()
