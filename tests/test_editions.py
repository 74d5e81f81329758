"""Notebooks for a class: what students get and do not get, and that it runs."""

import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from tools.editions import FOLDED, ROOT, notebooks, write_editions
from tools.exercises import all_exercises, is_solution, notes

EXERCISES = all_exercises()
NOTEBOOKS = {path.stem: path for path in notebooks()}
CHAPTERS = [name for name in NOTEBOOKS if name != "worksheet"]
HOOKS = {
    "kept.append(args[0][place].clone())",
    "changed = args[0].clone()",
    "changed[place] = kept[0]",
    "with module.register_forward_pre_hook(keep):",
    "with module.register_forward_pre_hook(write):",
}
GIVEN = {
    "02_pairs": {'asymmetric, vlm, pairs["states"], stored["states"], seed'},
    "03_first_patch": {
        *HOOKS,
        "module = vlm.hook_point(attention, layer).module",
        "size = module.in_features // vlm.n_heads",
        "place = 0, positions, slice(head * size, (head + 1) * size)",
        "for letter, site in six.items():",
    },
    "14_errata": {
        *HOOKS,
        'module = blip.hook_point("cross_attention", layer).module',
        "size = module.in_features // blip.n_heads",
        'return difference("corrupt") - L_star',
    },
    "worksheet": {"for role in dict.fromkeys(roles):"},
}
"""Long lines of solutions that students have, since a page shows them or its empty cell does."""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    write_editions(folder)
    return folder


def read(out, edition, name):
    return nbformat.read(out / edition / f"{name}.ipynb", as_version=4)


def test_each_edition_has_every_chapter(out):
    for edition in ("student", "teacher"):
        assert sorted(path.stem for path in (out / edition).iterdir()) == list(NOTEBOOKS)


def long_lines(cells):
    """Lines of more than 20 characters; shorter ones are alike by chance."""
    lines = {line.strip() for cell in cells for line in cell.source.splitlines()}
    return {line for line in lines if len(line) > 20}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_line_of_a_solution_is_in_a_students_notebook(out, name):
    """But for heads of functions, and for what a page gives (`GIVEN`)."""
    solutions = list(filter(is_solution, nbformat.read(NOTEBOOKS[name], as_version=4).cells))
    assert solutions
    cells = read(out, "student", name).cells
    assert not any(map(is_solution, cells))
    shared = long_lines(solutions) & long_lines(cells)
    assert {line for line in shared if not line.startswith("def ")} == GIVEN.get(name, set())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_students_notebook_uses_no_name_that_only_a_solution_defines(out, name):
    rules = ["--isolated", "--select", "F821", "--quiet"]
    path = out / "student" / f"{name}.ipynb"
    ruff = [sys.executable, "-m", "ruff", "check", *rules, path]
    found = subprocess.run(ruff, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_teachers_notebook_has_everything_and_a_note_for_each_exercise(out, name):
    notebook = read(out, "teacher", name)
    text = "\n".join(cell.source for cell in notebook.cells)
    for one in (one for one in EXERCISES if one.chapter == name):
        assert one.cells[-1].source in text
        assert notes()[one.number][1] in text
    for cell in filter(is_solution, notebook.cells):
        assert "jupyter" not in cell.metadata and "cellView" not in cell.metadata


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_books_notebooks_fold_what_the_page_folds(name):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        is_folded = bool(FOLDED & set(cell.metadata.get("tags", [])))
        jupyter = cell.metadata.get("jupyter", {})
        assert jupyter.get("source_hidden", False) == is_folded
        assert (cell.metadata.get("cellView") == "form") == is_folded
        assert jupyter.get("outputs_hidden", False) == is_solution(cell)


def run(out, name):
    """Execute a student's notebook with 8 pairs and its exercises empty."""
    notebook = read(out, "student", name)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(r"n_pairs = \d+", "n_pairs = 8", cell.source)
    where = {"metadata": {"path": str(out / "student")}}
    NotebookClient(notebook, timeout=600, resources=where).execute()
    return notebook


def verdicts(notebook):
    """What the checks said."""
    outputs = (one for cell in notebook.cells for one in cell.get("outputs", []))
    shown = (one.get("data", {}).get("text/markdown", "") for one in outputs)
    return [text for text in shown if text.startswith(("Right", "Not yet", "Nothing to check"))]


def test_a_students_notebook_runs_to_its_end_with_its_exercises_empty(out):
    found = verdicts(run(out, "00_welcome"))
    assert len(found) == 2 and all(text.startswith("Nothing to check yet") for text in found)


@pytest.mark.weekly
@pytest.mark.parametrize("name", CHAPTERS[1:])
def test_every_students_notebook_runs_to_its_end(out, name):
    found = verdicts(run(out, name))
    assert len(found) == sum(one.chapter == name for one in EXERCISES)
    assert all(text.startswith("Nothing to check yet") for text in found)


@pytest.mark.weekly
def test_the_students_worksheet_runs_to_its_end(out):
    found = verdicts(run(out, "worksheet"))
    assert len(found) == 2 and all(text.startswith("Nothing to check yet") for text in found)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    command = [sys.executable, ROOT / "tools" / "editions.py", tmp_path]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 1 and "not an empty folder" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
