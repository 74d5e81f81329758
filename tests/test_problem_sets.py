"""Notebooks of the problem sets: as they are issued, and as they come back."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from course_submissions import hand_in

from tools.course.issuing import read_seed, read_students
from tools.course.notebooks import (
    CODE_STUB,
    NotAProblemSet,
    for_nbgrader,
    for_students,
    submitted_cells,
)
from tools.course.problems import PROBLEM_SETS

ROOT = Path(__file__).parents[1]
FIRST = "problem_set_1"


@pytest.mark.parametrize("problem_set", PROBLEM_SETS)
def test_students_get_nbgraders_format_without_its_hidden_tests(problem_set):
    given, source = for_students(problem_set), for_nbgrader(problem_set)
    ids = [cell.metadata.nbgrader.grade_id for cell in given.cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]+", name) for name in ids)
    problems = {problem.name for problem in PROBLEM_SETS[problem_set]}
    assert {name[len("test-") :] for name in ids if name.startswith("test-")} == problems
    assert {name[len("answer-") :] for name in ids if name.startswith("answer-")} == problems
    assert sum(cell.metadata.nbgrader.get("points", 0) for cell in given.cells) == 25
    for cell, teachers in zip(given.cells, source.cells, strict=True):
        settings = cell.metadata.nbgrader
        assert settings.schema_version == 3 and settings.locked != settings.solution
        assert ("points" in settings) == settings.grade
        cleared = re.sub(r" *### BEGIN SOLUTION\n|\n *### END SOLUTION", "", teachers.source)
        cleared, hidden = re.subn(r"\n### BEGIN HIDDEN.*END HIDDEN TESTS", "", cleared, flags=re.S)
        assert cleared == cell.source
        assert hidden == settings.grade_id.startswith("test-")
    assert source.cells[-1].source != CODE_STUB


@pytest.mark.parametrize("problem_set", PROBLEM_SETS)
def test_the_points_that_pages_name_are_those_of_the_cells(problem_set):
    tested = [problem.points for problem in PROBLEM_SETS[problem_set]]
    settings = [cell.metadata.nbgrader for cell in for_students(problem_set).cells]
    written = sum(one.points for one in settings if one.grade and one.solution)
    text = (ROOT / "book" / "course" / f"{problem_set}.md").read_text()
    assert f"25 points: {' + '.join(map(str, tested))} by tests, {written} for what you" in text
    named = re.findall(r"^## \d\. .*\((\d+) points", text, re.MULTILINE)
    assert list(map(int, named)) == tested
    plan = (ROOT / "book" / "course" / "graded_week.md").read_text()
    start = f"| problem set {problem_set[-1]}, "
    (row,) = (line for line in plan.splitlines() if line.startswith(start))
    assert row.endswith(f"| 25 | tests {sum(tested)}, you {written} |")
    rubric = re.findall(r"^\| 1 \|.*\|$", plan, re.MULTILINE)
    assert len(rubric) == written


@pytest.mark.parametrize(
    ("problem_set", "first"), [("problem_set_1", "prediction"), ("problem_set_2", "plan")]
)
def test_what_must_come_before_the_numbers_is_asked_before_them(problem_set, first):
    """A prediction and a plan earn their point by their reasons, and only ahead of the result."""
    cells = for_students(problem_set).cells
    names = [cell.metadata.nbgrader.grade_id for cell in cells]
    at = names.index(f"written-{first}")
    assert cells[at].metadata.nbgrader.points == 1
    measured = PROBLEM_SETS[problem_set][-1].name
    assert at < names.index(f"answer-{measured}")
    plan = (ROOT / "book" / "course" / "graded_week.md").read_text()
    number = problem_set[-1]
    assert re.search(rf"^\| points \|.* problem set {number}, \*{first}\* and ", plan, re.MULTILINE)


def test_set_2_leaves_unit_null_and_threshold_to_the_student():
    (asked,) = (
        cell.source for cell in for_students("problem_set_2").cells if "Plan first" in cell.source
    )
    for word in ("*unit*", "*null*", "*smallest effect*", "a reason for each"):
        assert word in asked
    for chosen in ("scene", "flip", "random head"):
        assert chosen not in asked


def test_locked_cells_are_graded_as_they_were_issued(tmp_path):
    path = hand_in(
        tmp_path, "ada", FIRST, {"given-2": "def difference(*_): return 1", "test-p_value": "0"}
    )
    cells, _ = submitted_cells(path, FIRST)
    sources = [cell["source"] for cell in cells]
    assert sum("logits[answer.correct]" in source for source in sources) == 1
    assert not any("return 1" in source or "assert" in source for source in sources)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if "enough" not in c.metadata.nbgrader.grade_id]
    nbformat.write(notebook, path)
    with pytest.raises(NotAProblemSet, match="answer-enough_needed"):
        submitted_cells(path, FIRST)


def test_bad_lists_and_seeds_are_refused(tmp_path):
    for text in ("", "ada\nada", "ada\n../bob", "ada lovelace"):
        (tmp_path / "students").write_text(text)
        with pytest.raises(SystemExit, match="students"):
            read_students(tmp_path / "students")
    (tmp_path / "students").write_text("ada\n\nbob\n")
    assert read_students(tmp_path / "students") == ["ada", "bob"]
    with pytest.raises(SystemExit, match="secrets"):
        read_seed(tmp_path / "seed")
    (tmp_path / "seed").write_text("1234\n")
    with pytest.raises(SystemExit, match="guessed"):
        read_seed(tmp_path / "seed")


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "text", "other", "cell", "name"])
def test_a_file_that_is_no_notebook_is_refused(what, tmp_path):
    path = hand_in(tmp_path, "ada", FIRST, {})
    notebook = json.loads(path.read_text())
    path.rename(tmp_path / "notebook")
    if what == "link":
        path.symlink_to(tmp_path / "notebook")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("[" * 10**5)
    elif what == "other":
        path.write_text("[1]")
    else:
        changes = {"cell": {"source": {"a": 1}}, "name": {"metadata": {"nbgrader": 3}}}
        notebook["cells"][0] |= changes[what]
        path.write_text(json.dumps(notebook))
    words = "is no notebook" if path.is_file() and not path.is_symlink() else "is a link, no file"
    with pytest.raises(NotAProblemSet, match=words):
        submitted_cells(path, FIRST)
