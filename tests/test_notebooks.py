"""Chapters and their paired notebooks: in sync, overridable, short lines. nbmake executes them."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import jupytext
import pytest
import yaml
from nbmake.pytest_plugin import _should_collect

from tools.prepare_notebooks import FOLDER
from tools.sync_notebooks import LINKING, chapters, sync

ROOT = Path(__file__).parents[1]
CHAPTERS = chapters(ROOT)
PARAMETERS = {"model", "data", "n_pairs", "device", "seed"}
ROLES = {"cite", "cite:p", "cite:t", "term", "doc", "ref"}


def cells(path, kind, tag=None):
    notebook = jupytext.read(path)
    tagged = [c for c in notebook.cells if tag is None or tag in c.metadata.get("tags", [])]
    return [cell for cell in tagged if cell.cell_type == kind]


@pytest.fixture
def copy(tmp_path):
    """A copy of everything that `./run pairs` reads and writes."""
    (tmp_path / "book").mkdir()
    for name in ("_config.yml", "pyproject.toml", "jupytext.toml", *LINKING):
        shutil.copy(ROOT / name, tmp_path / name)
    for path in CHAPTERS:
        shutil.copy(path, tmp_path / "book")
        if path.with_suffix(".ipynb").exists():
            shutil.copy(path.with_suffix(".ipynb"), tmp_path / "book")
    return tmp_path


def contents(root):
    names = [
        *LINKING,
        *(f"book/{path.stem}{end}" for path in CHAPTERS for end in (".md", ".ipynb")),
    ]
    return {name: (root / name).read_text() for name in names if (root / name).exists()}


def test_pairs_and_setup_cells_are_in_sync(copy):
    sync(copy)
    here, fresh = contents(ROOT), contents(copy)
    stale = sorted(name for name in fresh if here.get(name) != fresh[name])
    assert stale == [], "./run pairs brings these up to date; commit them"


def test_a_stale_pair_is_noticed(copy):
    path = copy / "book" / CHAPTERS[0].name
    path.write_text(path.read_text() + "\nOne more line.\n")
    sync(copy)
    assert contents(copy) != contents(ROOT)
    assert "One more line." in path.with_suffix(".ipynb").read_text()


def test_the_url_comes_from_the_configuration_alone(copy):
    config = copy / "_config.yml"
    old = yaml.safe_load(config.read_text())["repository"]["url"].removeprefix(
        "https://github.com/"
    )
    config.write_text(config.read_text().replace(old, "someone/a.copy"))
    sync(copy)
    for name, text in contents(copy).items():
        assert old not in text, name
        assert "someone/a.copy" in text or "colab-setup" not in text, name


def test_the_version_comes_from_the_project_alone(copy):
    project = copy / "pyproject.toml"
    for version, reference in (("3.1.4", " notice-lib==3.1.4 "), ("3.2.0.dev0", "@main ")):
        project.write_text(f'[project]\nversion = "{version}"\n')
        sync(copy)
        for name, text in contents(copy).items():
            assert reference in text or "colab-setup" not in text, name


def test_every_notebook_has_its_chapter():
    notebooks = {path.stem for path in (ROOT / "book").glob("*.ipynb")}
    assert notebooks == {path.stem for path in CHAPTERS}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_notebook_has_no_outputs(path):
    for cell in cells(path.with_suffix(".ipynb"), "code"):
        assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_parameters_can_be_overridden(path):
    """papermill takes an unknown name silently, so the names are checked here."""
    (cell,) = cells(path, "code", "parameters")
    statements = ast.parse(cell.source).body
    assert all(isinstance(statement, ast.Assign) for statement in statements)
    assert {statement.targets[0].id for statement in statements} == PARAMETERS


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_colab_cell_does_nothing_elsewhere(path):
    (cell,) = cells(path, "code", "colab-setup")
    (line,) = cell.source.splitlines()
    run = subprocess.run(
        ["/bin/sh", "-c", line.removeprefix("!")],
        env={"PATH": "/nowhere"},  # so that pip and python would be missed
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert "torch" not in line


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_code_lines_fit_the_page(path):
    """But for the Colab cell, which is one line, and folded."""
    for cell in cells(path, "code"):
        if "colab-setup" in cell.metadata.get("tags", []):
            continue
        for line in cell.source.splitlines():
            assert len(line) <= 79, line


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_prose_reads_well_in_a_notebook(path):
    """Colab shows MyST directives as raw text, so chapters have none, and few roles."""
    for cell in cells(path, "markdown"):
        assert not re.search(r"^(```|:::+)\{", cell.source, re.MULTILINE), cell.source
        assert set(re.findall(r"\{([\w:-]+)\}`", cell.source)) <= ROLES, cell.source


def test_all_chapters_are_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text()
    for path in CHAPTERS:
        assert f"book/{path.stem}" in toc, path.stem


def test_nbmake_takes_the_prepared_notebooks():
    """It passes over some folders without a word, and then nothing is tested."""
    assert _should_collect(FOLDER / "00_welcome.ipynb", nbmake_enabled=True)
