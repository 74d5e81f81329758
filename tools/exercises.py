"""The exercises of the chapters, and the page that lists them with the objectives.

Usage: python tools/exercises.py    (writes book/exercises.md)
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jupytext
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
HEADING = re.compile(r"^### Exercise (\d+\.\d+): (.+)$", re.MULTILINE)
MARKS = re.compile(
    r"^\*Difficulty (\d) of 5, importance (\d) of 5, "
    r"(\d+) minutes, (recall|apply|analyse|create)\.\*",
    re.MULTILINE,
)
LETTERS = "ABCDEFGHI"
"""Names of the objectives in the table of exercises."""
PAGE = """# Exercises

Every exercise has a question, hints, a cell for your answer, a check that says what is wrong with
it and never what is right, and a solution that says why. "Create" means open; most
ask you to predict first.

**Table 1.** *What you will be able to do, and where you practise it.*

{objectives}

**Table 2.** *All exercises.* Difficulty and importance are from 1 to 5, and A to I the objectives.

{exercises}
"""


@dataclass(frozen=True)
class Exercise:
    """One exercise: its marks, and its cells from the heading to the solution."""

    number: str
    title: str
    chapter: str
    difficulty: int
    importance: int
    minutes: int
    kind: str
    cells: tuple[NotebookNode, ...]


def is_solution(cell: NotebookNode) -> bool:
    """Whether a page calls this cell's fold "Solution and why"."""
    named = "code_prompt_show" in cell.metadata.get("mystnb", {})
    return "hide-cell" in cell.metadata.get("tags", []) and not named


def grouped(cells: Iterable[NotebookNode]) -> list[tuple[str | None, list[NotebookNode]]]:
    """Divide the cells of a notebook into (number of the exercise or None, its cells).

    An exercise starts with its heading, and ends with its solution.
    """
    groups: list[tuple[str | None, list[NotebookNode]]] = [(None, [])]
    for cell in cells:
        found = HEADING.search(cell.source) if cell.cell_type == "markdown" else None
        if found:
            groups.append((found[1], []))
        groups[-1][1].append(cell)
        if is_solution(cell):
            groups.append((None, []))
    return groups


def exercises_of(path: Path) -> list[Exercise]:
    """Read the exercises of a chapter.

    Raises:
        ValueError: the first lines of an exercise are not of the form that all have.
    """
    found = []
    for number, cells in grouped(jupytext.read(path).cells):
        if number is None:
            continue
        heading, marks = (form.search(cells[0].source) for form in (HEADING, MARKS))
        if heading is None or marks is None:
            raise ValueError(
                f"{path.name}: Exercise {number} has no line *Difficulty ... of 5, ...*"
            )
        *grades, kind = marks.groups()
        found.append(Exercise(number, heading[2], path.stem, *map(int, grades), kind, tuple(cells)))
    return found


def all_exercises() -> list[Exercise]:
    """Read the exercises of all chapters, in their order."""
    chapters = sorted((ROOT / "book").glob("[0-9][0-9]_*.md"))
    return [exercise for path in chapters for exercise in exercises_of(path)]


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def objectives() -> dict[str, str]:
    """Return the objectives by their key."""
    return {row["key"]: row["objective"] for row in read_table(ROOT / "book" / "objectives.csv")}


def notes() -> dict[str, tuple[list[str], str]]:
    """Return (keys of the objectives, the note for teachers) of each exercise."""
    rows = read_table(ROOT / "book" / "exercises.csv")
    return {row["exercise"]: (row["objectives"].split(","), row["note"]) for row in rows}


def page() -> str:
    """Return the page that lists the exercises and what they practise."""
    practised = notes()
    letters = dict(zip(objectives(), LETTERS, strict=True))
    first = [
        [letters[key], text, ", ".join(n for n, (keys, _) in practised.items() if key in keys)]
        for key, text in objectives().items()
    ]
    second = [
        [
            one.number,
            f"[{one.title}]({one.chapter}.md)",
            one.kind,
            one.minutes,
            one.difficulty,
            one.importance,
            " ".join(letters[key] for key in practised[one.number][0]),
        ]
        for one in all_exercises()
    ]
    marks = ["type", "min", "difficulty", "importance", "objectives"]
    return PAGE.format(
        objectives=_table(["letter", "objective", "exercises"], first),
        exercises=_table(["no.", "exercise", *marks], second),
    )


def _table(head: list[str], rows: Iterable[list]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    (ROOT / "book" / "exercises.md").write_text(page(), encoding="utf-8")
