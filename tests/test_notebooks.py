"""Chapters and their paired notebooks: in sync, overridable, short lines. nbmake executes them."""

import ast
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import yaml
from nbmake.pytest_plugin import _should_collect

from notice_lib import data_dir
from tools.prepare_notebooks import FOLDER
from tools.sync_notebooks import LINKING, chapters, sources, sync

ROOT = Path(__file__).parents[1]
CHAPTERS = chapters(ROOT)
NOTEBOOKS = sources(ROOT)
PARAMETERS = {"model", "data", "n_pairs", "device", "seed"}
PATH, APPENDICES = (
    [Path(chapter["file"]).name for chapter in part["chapters"]]
    for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"][:2]
)
PATH.insert(0, "00_welcome")
MOST_WORDS = 2500  # of prose on a page of the path
WELCOME_WORDS = 1_000
MOST_CELLS = 20  # of the worksheet, text and code
MOST_LINES = 25  # of a cell of code that is not folded
ROLES = {"cite", "cite:p", "cite:t", "term", "doc", "ref"}


def cells(path, kind, tag=None):
    notebook = jupytext.read(path)
    tagged = [c for c in notebook.cells if tag is None or tag in c.metadata.get("tags", [])]
    return [cell for cell in tagged if cell.cell_type == kind]


@pytest.fixture
def copy(tmp_path):
    """A copy of everything that `./run pairs` reads and writes."""
    (tmp_path / "book" / "course").mkdir(parents=True)
    for name in ("_config.yml", "pyproject.toml", "jupytext.toml", *LINKING):
        shutil.copy(ROOT / name, tmp_path / name)
    for path in NOTEBOOKS:
        folder = tmp_path / path.parent.relative_to(ROOT)
        shutil.copy(path, folder)
        if path.with_suffix(".ipynb").exists():
            shutil.copy(path.with_suffix(".ipynb"), folder)
    return tmp_path


def contents(root):
    names = [
        *LINKING,
        *(
            path.relative_to(ROOT).with_suffix(end).as_posix()
            for path in NOTEBOOKS
            for end in (".md", ".ipynb")
        ),
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
    notebooks = {path.stem for path in (ROOT / "book").rglob("*.ipynb")}
    assert notebooks == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_no_outputs(path):
    for cell in cells(path.with_suffix(".ipynb"), "code"):
        assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_can_be_overridden(path):
    """papermill takes an unknown name silently, so the names are checked here."""
    (cell,) = cells(path, "code", "parameters")
    statements = ast.parse(cell.source).body
    assert all(isinstance(statement, ast.Assign) for statement in statements)
    assert {statement.targets[0].id for statement in statements} == PARAMETERS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_lines_fit_the_page(path):
    """But for the Colab cell, which is one line, and folded."""
    for cell in cells(path, "code"):
        if "colab-setup" in cell.metadata.get("tags", []):
            continue
        for line in cell.source.splitlines():
            assert len(line) <= 79, line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_prose_reads_well_in_a_notebook(path):
    """Colab shows MyST directives as raw text, so chapters have none, and few roles."""
    for cell in cells(path, "markdown"):
        assert not re.search(r"^(```|:::+)\{", cell.source, re.MULTILINE), cell.source
        assert set(re.findall(r"\{([\w:-]+)\}`", cell.source)) <= ROLES, cell.source


def test_all_chapters_are_in_the_table_of_contents():
    """In the order of their numbers: the path, then the appendices."""
    assert [*PATH, *APPENDICES] == [path.stem for path in CHAPTERS]


def words(path):
    """The prose of a page, without code, figures in Markdown and the folded hints."""
    prose = "\n".join(cell.source for cell in cells(path, "markdown"))
    prose = re.sub(r"^```.*?^```", "", prose, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"<details>.*?</details>", "", prose, flags=re.DOTALL)
    prose = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", prose)
    return len(re.findall(r"\w[\w'\u2019-]*", prose))


@pytest.mark.parametrize("name", PATH)
def test_a_page_of_the_path_is_short(name):
    most = WELCOME_WORDS if name == "00_welcome" else MOST_WORDS
    assert words(ROOT / "book" / f"{name}.md") <= most


@pytest.mark.parametrize("name", PATH)
def test_a_page_of_the_path_says_what_its_letters_mean(name):
    assert "> **Notation.** $L$ is" in (ROOT / "book" / f"{name}.md").read_text()


@pytest.mark.parametrize("name", PATH)
def test_one_worked_pair_goes_through_the_path(name):
    assert '"states-013-ba-correct"' in (ROOT / "book" / f"{name}.md").read_text()


@pytest.mark.parametrize("name", [*PATH, "course/worksheet"])
def test_visible_code_of_the_path_is_short(name):
    """What draws and counts is folded, or in the library; what is visible teaches."""
    for cell in cells(ROOT / "book" / f"{name}.md", "code"):
        if not {"hide-input", "hide-cell", "remove-input"} & set(cell.metadata.get("tags", [])):
            assert len(cell.source.splitlines()) <= MOST_LINES, cell.source


def test_the_worksheet_is_short():
    """Nobody scrolls through more in half an hour."""
    assert len(jupytext.read(ROOT / "book" / "course" / "worksheet.md").cells) <= MOST_CELLS


def test_the_welcome_leads_to_every_chapter_and_says_how_long_it_takes():
    text = (ROOT / "book" / "00_welcome.md").read_text()
    ways = text[text.index("## Four ways") :]
    found = re.findall(r"\{doc\}`(\d\d_\w+)` \((\d+) minutes\)", ways)
    assert {name for name, _ in found} == {*PATH[1:], *APPENDICES}
    for name, minutes in found:
        page = (ROOT / "book" / f"{name}.md").read_text()
        assert re.search(rf"\*\*Minutes and hardware\.\*\* {minutes} minutes", page), name


def test_nbmake_takes_the_prepared_notebooks():
    """It passes over some folders without a word, and then nothing is tested."""
    assert _should_collect(FOLDER / "00_welcome.ipynb", nbmake_enabled=True)


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
def test_only_the_books_own_models_have_a_control_without_patch_labels(name, tmp_path, monkeypatch):
    """A model's name may be the path of its folder, and this folder is no control of itself."""
    page = cells(ROOT / "book" / "06_what_heads_do.md", "code")
    (source,) = [cell.source for cell in page if "def unlabelled" in cell.source]
    (tmp_path / "cell_of_06.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    cell = import_module("cell_of_06")
    vars(cell).update(data_dir=data_dir, load_model=lambda path, device: path, device="cpu")
    controls = data_dir() / "checkpoints" / "seeds" / "unlabelled"
    assert cell.unlabelled(SimpleNamespace(name=name)) == controls / name
    for other in ("seeds/1", "."):
        path = (data_dir() / "checkpoints" / other / name).resolve()
        assert path.is_dir() and cell.unlabelled(SimpleNamespace(name=str(path))) is None
