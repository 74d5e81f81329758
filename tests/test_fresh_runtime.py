"""Chapters in a fresh runtime: nothing but the notebook, the project from its public address."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.costs import activations, read_config, weights
from notice_lib.colab import advice
from tools.colab_packages import dependencies, replaced, versions

ROOT = Path(__file__).parents[1]
GIB = 2**30
# Lines of each kind that Colab's published list has.
FREEZE = """\
# Do not modify this file directly
accelerate==1.14.0
google-colab @ file:///colabtools/dist/google_colab-1.0.0.tar.gz
kernel_gateway @ git+https://github.com/googlecolab/kernel_gateway@b134e9945df25c2dcb98
huggingface_hub==1.27.0
torch @ https://example.org/whl/cpu/torch-2.11.0%2Bcpu-cp313-cp313-manylinux_2_28_x86_64.whl
torchaudio==2.11.0+cu128
en_core_web_sm @ https://example.org/en_core_web_sm-3.8.0/en_core_web_sm-3.8.0-py3-none-any.whl
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """What is left of a chapter after a run in a fresh runtime; the weekly run takes them all."""
    out = tmp_path_factory.mktemp("fresh")
    chapter = ["--chapter", "03", "--n-pairs", "8"]
    command = [sys.executable, ROOT / "tools" / "fresh_runtime.py", *chapter, "--out", out]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    return out


def outputs(path):
    """All text that a notebook's cells printed."""
    cells = json.loads(path.read_text())["cells"]
    printed = [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "stream"]
    return "".join("".join(o["text"]) for o in printed)


def test_a_chapter_runs_in_a_fresh_runtime(out):
    with open(out / "runs.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["chapter"], row["status"]) == ("03_first_patch", "ok")
    assert float(row["seconds"]) > 1 and float(row["peak_mib"]) > 200
    assert json.loads(row["parameters"]) == {"n_pairs": 8}


def test_the_set_up_cell_describes_the_runtime(out):
    printed = outputs(out / "03_first_patch.ipynb")
    assert "notice-lib " in printed and "CPU cores" in printed
    assert "No GPU." in printed or "GPU: " in printed


def test_advice_tells_three_runtimes_apart():
    assert advice(("Tesla T4", 15 * GIB), True).startswith("GPU: Tesla T4, 15 GiB. ")
    assert "Change runtime type" in advice(None, False)
    assert "delete runtime" in advice(None, True)


def test_the_page_names_what_the_estimates_say():
    """Weights and activations of the paper's models, as the page about runtimes has them."""
    page = " ".join((ROOT / "book" / "runtimes.md").read_text().split())
    blip = read_config("Salesforce/blip-vqa-base")
    llava = read_config("llava-hf/llava-1.5-7b-hf")
    assert f"{weights(blip)['float32'] / GIB:.1f} GiB of weights in 32 bits" in page
    assert f"at most {activations(blip, 'float32') / GIB:.1f} GiB for what" in page
    assert f"{weights(llava)['bfloat16'] / GIB:.1f} GiB of weights in 16 bits" in page
    assert f"at most {activations(llava, 'bfloat16') / GIB:.1f} GiB for what" in page


def test_versions_of_a_published_list():
    assert versions(FREEZE) == {
        "accelerate": "1.14.0",
        "huggingface-hub": "1.27.0",
        "torch": "2.11.0",
        "torchaudio": "2.11.0",
        "en-core-web-sm": "3.8.0",
    }


def test_a_list_that_the_ranges_exclude_is_refused(tmp_path):
    needed = {requirement.name: requirement for requirement in dependencies()}
    old = versions("torch==2.10.0+cu128\naccelerate==1.14.0\n")
    assert replaced(old, [needed["torch"], needed["accelerate"], needed["typer"]]) == [
        f"{needed['torch']}, where Colab has 2.10.0",
    ]
    (tmp_path / "list.txt").write_text("torch==2.10.0\n")
    tool = [sys.executable, ROOT / "tools" / "colab_packages.py"]
    run = subprocess.run(
        [*tool, tmp_path / "list.txt", sys.executable, tmp_path / "runtime"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and "would change its packages: torch" in run.stderr
    assert not (tmp_path / "runtime").exists()
