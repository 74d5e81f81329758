"""Notebooks executed elsewhere become an edition of the book, and results are accepted."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from notice_lib import load_model, load_pairs, reproduce
from notice_lib.files import sha256
from tools import accept_results
from tools.prepare_notebooks import prepare
from tools.run_notebooks import run

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
CONFIG = """
title: Two pages
only_build_toc_files: true
exclude_patterns: ["book/*.ipynb"]
execute: {execute_notebooks: cache, timeout: 60, raise_on_error: true}
"""
TOC = """
format: jb-book
root: book/00_one
chapters:
  - file: book/01_two
  - file: book/text
"""
PAGE = """---
file_format: mystnb
kernelspec: {{name: python3, display_name: Python 3, language: python}}
---

# Page {name}

The other page is {{doc}}`{other}`.

```{{code-cell}} ipython3
:tags: [parameters]

model = "blip-mini"
n_pairs = 48
```

```{{code-cell}} ipython3
{code}
```
"""
CODE = "print(model, 'saw', n_pairs, 'pairs')"


def write_book(root: Path, code: str = CODE) -> Path:
    """Two pages with code, with their notebooks, and one page without code."""
    (root / "book").mkdir()
    (root / "_config.yml").write_text(CONFIG)
    (root / "_toc.yml").write_text(TOC)
    (root / "book" / "text.md").write_text("# Only text\n\n```{nb-exec-table}\n```\n")
    for name, other in (("00_one", "01_two"), ("01_two", "00_one")):
        page = root / "book" / f"{name}.md"
        page.write_text(PAGE.format(name=name, other=other, code=code))
        subprocess.run(
            [sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb", page], check=True
        )
    return root


def execute(root: Path, out: Path, monkeypatch, chapters=None) -> bool:
    """Execute the book's notebooks as ./run notebooks does, with a larger model."""
    monkeypatch.setattr("tools.prepare_notebooks.ROOT", root)
    models = {"blip-mini": "a-large-model"}
    prepared = prepare(out / "prepared", chapters, {"n_pairs": 8}, models)
    fine = True
    for notebook in prepared:  # each goes to its own folder, as downloaded artifacts do
        fine = (
            run([notebook], out / "runs" / notebook.stem, sys.executable, ENVIRONMENT, {}) and fine
        )
    return fine


def make(root: Path, runs: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / "edition.py", runs, "--book", root]
    return subprocess.run(command, capture_output=True, text=True)


def test_an_edition_shows_what_was_executed_elsewhere(tmp_path, monkeypatch):
    root = write_book(tmp_path)
    assert execute(root, tmp_path / "gpu", monkeypatch)
    made = make(root, tmp_path / "gpu" / "runs")
    assert made.returncode == 0, made.stdout + made.stderr
    html = root / "_build" / "edition" / "_build" / "html"
    assert made.stdout == f"The edition: {html / 'index.html'}\n"
    for name in ("00_one", "01_two"):
        page = (html / "book" / f"{name}.html").read_text()
        assert "a-large-model saw 8 pairs" in page
        assert "executed with a-large-model on cpu, with 8 pairs, and finished on 20" in page
    text = (html / "book" / "text.html").read_text()
    assert "executed with a-large-model" in text
    assert re.search(r"<p>01_two</p></td>\s*<td><p>\d+</p>", text)
    assert (root / "book" / "00_one.md").exists()


@pytest.mark.parametrize("spoilt", ["missing", "twice", "failed", "interrupted"])
def test_an_edition_needs_one_complete_run_of_every_chapter(tmp_path, monkeypatch, spoilt):
    root = write_book(tmp_path, CODE if spoilt != "failed" else "1 / 0")
    assert execute(root, tmp_path / "gpu", monkeypatch, ["01"]) == (spoilt != "failed")
    runs = tmp_path / "gpu" / "runs"
    notebook = nbformat.read(runs / "01_two" / "01_two.ipynb", 4)
    if spoilt == "interrupted":
        notebook.metadata.papermill.end_time = None
        nbformat.write(notebook, runs / "01_two" / "01_two.ipynb")
    if spoilt == "twice":
        nbformat.write(notebook, runs / "01_two.ipynb")
    made = make(root, runs)
    assert made.returncode == 1 and "00_one is there 0 times" in made.stderr
    said = {
        "twice": "01_two is there 2 times",
        "failed": "01_two failed or was not executed to its end",
        "interrupted": "01_two failed or was not executed to its end",
    }
    assert ("01_two" in made.stderr) == (spoilt != "missing")
    assert said.get(spoilt, "") in made.stderr
    assert not (root / "_build").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The results of the paper's experiments on a small model and few pairs."""
    folder = tmp_path_factory.mktemp("finished") / "blip"
    pairs = {"svo": load_pairs("svo", n=8, seed=0)}
    reproduce(load_model("blip-mini", "cpu"), pairs, folder, 0, 2)
    return folder


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy of them, as if the library's code had been committed."""
    folder = shutil.copytree(finished, tmp_path / "blip")
    change(folder, commit="0" * 40)
    return folder


def change(folder: Path, **values) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_results_are_accepted_without_their_sweeps(run_folder, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    target = accept_results.accept(run_folder, "blip-vqa-base", False, results)
    assert target == results / "blip-vqa-base"
    manifest = json.loads((target / "manifest.json").read_text())
    assert {path.name for path in target.iterdir()} == {"manifest.json", *manifest["tables"]}
    assert all(sha256(target / name) == digest for name, digest in manifest["tables"].items())
    assert (run_folder / "sweeps").is_dir()
    with pytest.raises(SystemExit, match="Use another name, or --replace"):
        accept_results.accept(run_folder, "blip-vqa-base", False, results)
    change(run_folder, minutes=1)
    accept_results.accept(run_folder, "blip-vqa-base", True, results)
    assert json.loads((target / "manifest.json").read_text())["minutes"] == 1
    assert [path.name for path in results.iterdir()] == ["blip-vqa-base"]


@pytest.mark.parametrize(
    ("owner", "name", "killed"),
    [(shutil, "copy", 2), (Path, "rename", 1), (Path, "rename", 2), (shutil, "rmtree", 3)],
)
def test_results_are_replaced_whole_or_not_at_all(
    run_folder, tmp_path, monkeypatch, owner, name, killed
):
    """If a call is killed, the next one finds all of the old results or all of the new."""
    results = tmp_path / "results"
    results.mkdir()
    target = accept_results.accept(run_folder, "blip", False, results)
    files = {path.name for path in target.iterdir()}
    change(run_folder, minutes=1)
    whole, calls = getattr(owner, name), itertools.count(1)

    def call(*args, **settings):
        if next(calls) == killed:
            raise KeyboardInterrupt
        return whole(*args, **settings)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(owner, name, call)
        accept_results.accept(run_folder, "blip", True, results)
    with pytest.raises(SystemExit, match="Use another name, or --replace"):
        accept_results.accept(run_folder, "blip", False, results)
    assert {path.name for path in target.iterdir()} == files
    accept_results.accept(run_folder, "blip", True, results)
    assert json.loads((target / "manifest.json").read_text())["minutes"] == 1
    assert [path.name for path in results.iterdir()] == ["blip"]


def test_results_that_nobody_could_check_are_not_accepted(run_folder, tmp_path):
    results = tmp_path / "results"
    results.mkdir()

    def refused(why, name="blip"):
        with pytest.raises(SystemExit, match=why):
            accept_results.accept(run_folder, name, True, results)
        assert not list(results.iterdir())

    refused("not a name", "../blip")
    change(run_folder, commit="0" * 40 + "-dirty")
    refused("not made by the code of a commit")
    change(run_folder, commit=None)
    refused("no commit is named")
    change(run_folder, commit="0" * 40, schema=1)
    refused("its schema is 1, not 3")
    change(run_folder, schema=accept_results.SCHEMA)
    (run_folder / "claims.csv").write_text("key\n")
    refused("claims.csv is not the table that the run wrote")
    (run_folder / "manifest.json").unlink()
    refused("the run is not finished")
