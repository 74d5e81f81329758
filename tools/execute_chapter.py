"""Execute one chapter in its own kernel; tools/build_book.py starts one such process per core.

    python tools/execute_chapter.py ROOT SOURCE FOLDER TIMEOUT

FOLDER gets notebook.ipynb, or error.txt with the failed cell and its message, and also opened.txt,
which lists the files below ROOT that the chapter opened. The kernel's messages go to this process's
output.
"""

import json
import os
import re
import sys
from pathlib import Path

from myst_nb.core.read import myst_nb_reader_plugin
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError

WATCHED = Path(__file__).resolve().with_name("watched")
# A finished progress bar would leave an empty box on the page.
NO_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
CELL_LINES = 12
COLOURS = re.compile(r"\x1b\[[\d;]*m")


def environment(root: Path, folder: Path) -> dict[str, str]:
    """Return the kernel's environment: one thread by default, no bars, a log of opened files."""
    paths = [str(WATCHED), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "OMP_NUM_THREADS": "1",
        **os.environ,
        **NO_BARS,
        "PYTHONPATH": os.pathsep.join(paths),
        "BOOK_ROOT": str(root),
        "BOOK_OPENED": str(folder / "opened.txt"),
    }


def described(error: Exception, place: str, cell: str) -> str:
    """Describe an error by its place, the code before it, and its message."""
    lines = cell.splitlines()
    number, message = len(lines), str(error).splitlines()[0]
    if isinstance(error, CellExecutionError):
        message = f"{error.ename}: {error.evalue}"
        found = re.search(r"Cell In\[\d+\], line (\d+)", COLOURS.sub("", error.traceback))
        number = int(found[1]) if found else number
    code = "\n".join(f"    {text}" for text in lines[max(0, number - CELL_LINES) : number])
    return f"The cell at {place}, its code until line {number}:\n{code}\n{message}\n"


def execute(root: Path, source: Path, folder: Path, timeout: int) -> None:
    """Write the executed notebook, or a description of the error, into a folder.

    Raises:
        CellExecutionError, CellControlSignal, DeadKernelError: a cell failed, took longer than
            `timeout` seconds, or ended the kernel.
    """
    notebook = myst_nb_reader_plugin(str(source))
    begun = []
    client = NotebookClient(
        notebook,
        timeout=timeout,
        record_timing=False,  # Times in the cells' metadata would change jupyter-cache's key.
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_execute=lambda cell, cell_index: begun.append(cell_index),
    )
    try:
        client.execute(env=environment(root, folder))
    except (CellExecutionError, CellControlSignal, DeadKernelError) as error:
        line, cell = notebook.metadata.source_map[begun[-1]], notebook.cells[begun[-1]].source
        text = described(error, f"{source.relative_to(root)}:{line}", cell)
        (folder / "error.txt").write_text(text, encoding="utf-8")
        raise
    # nbformat would sort the metadata, but jupyter-cache's key depends on their order.
    (folder / "notebook.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


if __name__ == "__main__":
    execute(*(Path(argument) for argument in sys.argv[1:4]), int(sys.argv[4]))
