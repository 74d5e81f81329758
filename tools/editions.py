"""Notebooks for a class: the students' without solutions, the teacher's with notes.

    python tools/editions.py OUT    # or ./run teach OUT

OUT/student and OUT/teacher get a notebook for each chapter and the worksheet, made from the book's.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.exercises import ROOT, grouped, is_solution, notes, objectives

FOLDED = {"hide-input", "hide-cell", "remove-input"}


def folded(notebook: NotebookNode) -> NotebookNode:
    """Fold in JupyterLab and Colab the code that the page folds; of solutions also the output."""
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        for name in ("jupyter", "cellView", "collapsed"):
            cell.metadata.pop(name, None)
        if tags & FOLDED:
            cell.metadata["jupyter"] = {"source_hidden": True}
            cell.metadata["cellView"] = "form"
        if is_solution(cell):
            cell.metadata["jupyter"]["outputs_hidden"] = True
            cell.metadata["collapsed"] = True
    return notebook


def student(notebook: NotebookNode) -> NotebookNode:
    """Leave out the solutions."""
    notebook.cells = [cell for cell in notebook.cells if not is_solution(cell)]
    return folded(notebook)


def teacher(notebook: NotebookNode) -> NotebookNode:
    """Add a note behind each exercise, and leave the solutions open."""
    said, keys = notes(), objectives()
    cells = []
    for number, group in grouped(notebook.cells):
        cells += group
        if number is not None:
            practised, note = said[number]
            goals = " ".join(keys[key] for key in practised)
            name = f"note-{number.replace('.', '-')}"
            text = f"> **For the teacher.** {note}\n>\n> *Practises:* {goals}"
            cells.append(new_markdown_cell(text, id=name))
    notebook.cells = cells
    folded(notebook)
    for cell in filter(is_solution, notebook.cells):
        for name in ("jupyter", "cellView", "collapsed"):
            cell.metadata.pop(name)
    return notebook


EDITIONS: dict[str, Callable[[NotebookNode], NotebookNode]] = {
    "student": student,
    "teacher": teacher,
}


def notebooks() -> list[Path]:
    """The notebooks of the chapters, and the worksheet."""
    book = ROOT / "book"
    return [*sorted(book.glob("[0-9][0-9]_*.ipynb")), book / "course" / "worksheet.ipynb"]


def write_editions(out: Path) -> list[Path]:
    """Write both editions of every notebook, and return the files."""
    written = []
    for name, edition in EDITIONS.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        for path in notebooks():
            target = out / name / path.name
            nbformat.write(edition(nbformat.read(path, as_version=4)), target)
            written.append(target)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a new or empty folder")
    out = parser.parse_args().out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SystemExit(f"{out} exists and is not an empty folder. Name a new one.")
    written = write_editions(out)
    print(f"{len(written)} notebooks in {out}/student and {out}/teacher")


if __name__ == "__main__":
    main()
