"""Notebooks with other parameters, data and models: what is set, refused and kept."""

import csv
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from notice_lib import load_pairs
from tools.maskless import TASKS, write
from tools.prepare_notebooks import defaults, notebooks, parameters, prepare
from tools.run_notebooks import run

ROOT = Path(__file__).parents[1]
REAL = {"blip-mini": "Salesforce/blip-vqa-base", "llava-mini": "llava-hf/llava-1.5-7b-hf"}


def tool(name, *arguments):
    command = [sys.executable, ROOT / "tools" / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder, n=8)
    return folder


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_every_chapter_takes_the_real_models(path):
    """As many as by default, in their order: a BLIP for a BLIP, a LLaVA for a LLaVA.

    A twin has the page's answers built in, and no real model takes its place.
    """
    own = defaults(path)["model"]
    model = parameters(path, {}, REAL)["model"]
    assert isinstance(model, list) == isinstance(own, list)
    own, model = ([one] if isinstance(one, str) else one for one in (own, model))
    assert model == [REAL.get(name, name) for name in own]


def test_parameters_reach_the_notebook(data, tmp_path):
    (path,) = prepare(tmp_path, ["03"], {"data": str(data), "n_pairs": 8}, REAL)
    cells = nbformat.read(path, as_version=4).cells
    (injected,) = [c for c in cells if "injected-parameters" in c.metadata.get("tags", [])]
    lines = set(injected.source.splitlines())
    assert {f'data = "{data}"', "n_pairs = 8", 'model = "Salesforce/blip-vqa-base"'} <= lines


def test_unknown_parameters_and_chapters_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="no parameter pairs"):
        prepare(tmp_path / "out", None, {"pairs": 8}, {})
    with pytest.raises(SystemExit, match="no chapter 99"):
        prepare(tmp_path / "out", ["99"], {}, {})
    assert not (tmp_path / "out").exists()
    assert "unrecognized arguments: --pairs" in tool("run_notebooks.py", "--pairs", "8").stderr
    assert "is not of the form OLD=NEW" in tool("run_notebooks.py", "--model", "blip").stderr
    assert "states or faces with pairs" in tool("run_notebooks.py", "--data", tmp_path).stderr


def test_data_without_masks(data):
    for task in TASKS:
        pairs = load_pairs(task, data=data)
        assert len(pairs) == 8
        assert {pair.split for pair in pairs} == {"heldout"}
        assert not any(pair.distractor or pair.masks("clean") for pair in pairs)
        by_scene = [pair.scene_id for pair in pairs]
        assert all(by_scene.count(scene) == 4 for scene in by_scene)
    assert "multiple of 4" in tool("maskless.py", data / "more", "--n", "6").stderr


def notebook(path, source):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_a_failing_notebook_is_kept_and_the_others_run(tmp_path):
    """Peak memory is the kernel's, which is a process further down.

    In a process of its own, as `./run notebooks` is: what this one holds would be counted, too.
    """
    prepared = [
        notebook(tmp_path / "01_fails.ipynb", "1 / 0"),
        notebook(
            tmp_path / "02_large.ipynb", "import os\nb = b'1' * 500_000_000\nprint(os.getcwd())"
        ),
    ]
    out = tmp_path / "out"
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        relative = Path(os.path.relpath(out))
        job = (prepared, relative, sys.executable, dict(os.environ), {"n_pairs": 8})
        assert alone.apply(run, job) is False
    with open(out / "runs.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["status"], second["status"]) == ("failed", "ok")
    assert "ZeroDivisionError" in (out / "01_fails.ipynb").read_text()
    assert str(ROOT) not in (out / "02_large.ipynb").read_text()
    assert int(first["peak_mib"]) < 400 < 477 <= int(second["peak_mib"]) < 800
    assert first["parameters"] == '{"n_pairs": 8}'
