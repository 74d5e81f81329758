"""Both problem sets by nbgrader itself. Weekly, since it is installed, and takes minutes."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from course_submissions import LAZY, RIGHT, hand_in

from tools.course.issuing import issue
from tools.course.notebooks import for_students
from tools.course.problems import PROBLEM_SETS

pytestmark = pytest.mark.weekly

ROOT = Path(__file__).parents[1]
SEED = "a private seed of the tests"
BY_THE_LIBRARY = {
    "problem_set_1": {
        "answer-patched_difference": """
def patched_difference(pair, base, source, *at):
    if base == source:
        return difference(pair, base)
    way = "denoise" if source == "clean" else "noise"
    one = pairs.filter(lambda other: other.pair_id == pair.pair_id)
    site = Site(vlm.image_component, *at)
    return logit_difference(sweep(vlm, one, [site], direction=way).table()).item()
""",
    },
    "problem_set_2": {
        "answer-p_value": """
def p_value(effects, scenes):
    means = pd.Series(effects).groupby(np.asarray(scenes)).mean().to_numpy()
    return heads.sign_flip_test(means[:, None]).item() if len(means) > 2 else 1.0
""",
    },
}
"""Answers that pass the tests which students can see, by what the library refuses."""
LAZY_AND_CHEATING = {name: LAZY[name] | BY_THE_LIBRARY[name] for name in PROBLEM_SETS}
KINDS = {"right": RIGHT, "cheating": LAZY_AND_CHEATING}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with nbgrader, which finds all other packages where we do."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, *extras["optional-dependencies"]["teach"]], check=True)
    return python


@pytest.fixture(scope="module")
def course(python, tmp_path_factory):
    """A graded course, made as book/course/graded_week.md says."""
    folder = tmp_path_factory.mktemp("week")
    issue(SEED, KINDS, folder)
    (folder / "seed").write_text(SEED)
    course = folder / "nbgrader"
    for name in PROBLEM_SETS:
        for kind, sources in KINDS.items():
            handed_in = hand_in(course / "submitted", kind, name, sources[name])
            variant = folder / "to_students" / kind / name
            leave_out = shutil.ignore_patterns(handed_in.name)
            shutil.copytree(variant, handed_in.parent, ignore=leave_out, dirs_exist_ok=True)
        for command in ("generate_assignment", "autograde"):
            nbgrader(python, course, command, name, "--force")
    nbgrader(python, course, "export")
    return course


def nbgrader(python, course, *command):
    where = {
        "NOTICE_SEED": str(course.parent / "seed"),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    given = [python, "-m", "nbgrader", *command]
    done = subprocess.run(given, cwd=course, env=os.environ | where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", PROBLEM_SETS)
def test_nbgraders_notebook_is_the_one_that_students_get(course, name):
    made = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
    ours = for_students(name)
    assert [cell.source for cell in made.cells] == [cell.source for cell in ours.cells]
    assert not re.search("within_nbgrader|HIDDEN", nbformat.writes(made))


@pytest.mark.parametrize("name", PROBLEM_SETS)
def test_nbgraders_marks_are_those_of_the_grader(course, name):
    table = pd.read_csv(course / "grades.csv")
    marks = table[table.assignment == name].set_index("student_id")
    tested = sum(problem.points for problem in PROBLEM_SETS[name])
    assert marks.score.to_dict() == {"right": tested, "cheating": 0}
    assert set(marks.max_score) == {25}
