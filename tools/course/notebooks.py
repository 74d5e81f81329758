"""Problem sets as notebooks: for students, for nbgrader, and back from students.

Sources are book/course/problem_set_N.md. There, `course` in a cell's metadata says what a cell is:
{answer: problem} for students' code, {test: problem} for its visible test, {written: name, points:
n} for text that a person grades. All other cells are given, and locked.
"""

from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from tools.sync_notebooks import requirement, setup_cell, with_setup_cell

from .problems import PROBLEM_SETS

ROOT = Path(__file__).parents[2]
CODE_STUB, TEXT_STUB = "...  # your code here", "*Your answer here.*"
LARGEST = 100 * 2**20
"""How many bytes of a submitted file are read."""
HIDDEN_TEST = """
### BEGIN HIDDEN TESTS
from tools.course.within_nbgrader import points

points({problem_set!r}, {problem!r}, globals())
### END HIDDEN TESTS"""


class NotAProblemSet(Exception):
    """What is wrong with a submitted file."""


def for_students(problem_set: str) -> NotebookNode:
    """The notebook that all students get, with nbgrader's metadata."""
    source = (ROOT / "book" / "course" / f"{problem_set}.md").read_text(encoding="utf-8")
    setup = setup_cell(requirement(ROOT))
    notebook = jupytext.reads(with_setup_cell(source, setup), fmt="md:myst")
    points = {problem.name: problem.points for problem in PROBLEM_SETS[problem_set]}
    for number, cell in enumerate(notebook.cells):
        role = cell.metadata.pop("course", {})
        cell.metadata["nbgrader"] = _nbgrader(role, number, points)
        cell.id = cell.metadata["nbgrader"]["grade_id"]
    notebook.metadata.pop("jupytext", None)
    nbformat.validate(notebook)
    return notebook


def _nbgrader(role: dict, number: int, points: dict[str, int]) -> dict:
    """A cell's metadata in nbgrader's format, version 3."""
    kind, name = next(iter(role.items()), ("given", str(number)))
    found = {
        "schema_version": 3,
        "grade_id": f"{kind}-{name}",
        "grade": kind in ("test", "written"),
        "solution": kind in ("answer", "written"),
        "locked": kind in ("given", "test"),
        "task": False,
    }
    if found["grade"]:
        found["points"] = points[name] if kind == "test" else role["points"]
    return found


def for_nbgrader(problem_set: str) -> NotebookNode:
    """The source from which `nbgrader generate_assignment` makes the students' notebook."""
    notebook = for_students(problem_set)
    solution = f"### BEGIN SOLUTION\n{{indent}}{CODE_STUB}\n{{indent}}### END SOLUTION"
    for cell in notebook.cells:
        kind, _, name = cell.metadata["nbgrader"]["grade_id"].partition("-")
        if kind == "test":
            cell.source += HIDDEN_TEST.format(problem_set=problem_set, problem=name)
        if kind == "answer":
            lines = cell.source.splitlines()
            for i, line in enumerate(lines):
                if line.strip() == CODE_STUB:
                    indent = line[: len(line) - len(line.lstrip())]
                    lines[i] = indent + solution.format(indent=indent)
            cell.source = "\n".join(lines)
    return notebook


NBGRADER_CONFIG = f"""c = get_config()
c.CourseDirectory.course_id = "notice"
c.ClearSolutions.code_stub = {{"python": {CODE_STUB!r}}}
c.ClearSolutions.text_stub = {TEXT_STUB!r}
c.ExecutePreprocessor.timeout = 300
"""


def submitted_cells(path: Path, problem_set: str) -> tuple[list[dict], dict[str, str]]:
    """The code to run of a submission, and its written answers by name.

    Locked cells are as they were handed out, whatever the submission made of them; visible tests
    and the set-up for Colab are left out. Cells that a student has added are run where they stand.

    Raises:
        NotAProblemSet: the file is missing, no notebook or too large, or given cells are missing.
    """
    if not path.exists():
        raise NotAProblemSet(f"there is no {path.name}")
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
        raise NotAProblemSet(f"{path.name} is a link, no file, or larger than 100 MB")
    try:
        submitted = [_read(cell) for cell in nbformat.read(path, as_version=4).cells]
    except Exception as error:  # whatever a file of somebody else's brings about
        raise NotAProblemSet(f"{path.name} is no notebook: {type(error).__name__}") from None
    issued = {_id(cell): cell for cell in for_students(problem_set).cells}
    cells, written = [], {}
    for grade_id, cell_type, source in submitted:
        given = issued.get(grade_id)
        kind, _, name = grade_id.partition("-")
        if kind == "written":
            written[name] = source
        if cell_type != "code" or kind == "test" or (given and _is_setup(given)):
            continue
        source = given.source if given and kind == "given" else source
        cells.append({"source": source, "problem": name if kind == "answer" else None})
    seen = {grade_id for grade_id, _, _ in submitted}
    lost = [name for name, cell in issued.items() if name not in seen and cell.cell_type == "code"]
    if lost:
        raise NotAProblemSet(f"cells are missing: {', '.join(lost)}")
    return cells, written


def _id(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def _read(cell: NotebookNode) -> tuple[str, str, str]:
    """A submitted cell's name, type and source."""
    read = _id(cell), cell.cell_type, cell.source
    if not all(isinstance(part, str) for part in read):
        raise TypeError("a cell's name, type and source are texts")
    return read


def _is_setup(cell: NotebookNode) -> bool:
    return "colab-setup" in cell.metadata.get("tags", [])
