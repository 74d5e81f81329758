"""The package as others get it: its ranges and pins, its wheel, and how fast it imports."""

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tools.colab_packages import replaced

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What Google Colab had in August 2026, from its published package list.
COLAB = {
    "torch": "2.11.0",
    "transformers": "5.15.0",
    "accelerate": "1.14.0",
    "pillow": "11.3.0",
    "numpy": "2.1.3",
    "pandas": "2.2.3",
    "pyarrow": "18.1.0",
    "scipy": "1.16.3",
    "matplotlib": "3.10.0",
    "tqdm": "4.67.3",
    "safetensors": "0.8.0",
    "typer": "0.27.1",
    "urllib3": "2.5.0",
    "certifi": "2026.7.22",
}
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
PATCH_ONE_PAIR = """
import json
import notice_lib
import transformers
from notice_lib import Site, load_model, load_pairs, sweep

pairs = load_pairs("svo", n=1, seed=0)
site = Site("layer_output", layer=0, position="correct")
found = sweep(load_model("blip-mini"), pairs, [site], corruption="image")
print(json.dumps({
    "home": notice_lib.__file__,
    "rows": len(found.table()),
    "transformers": transformers.__version__,
}))
"""


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements(*extras):
    groups = [PROJECT["dependencies"]]
    groups += [PROJECT["optional-dependencies"][extra] for extra in extras]
    return [Requirement(text) for group in groups for text in group]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_pin_everything_exactly():
    named = {canonical(name) for name in pins()}
    for version in pins().values():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), "no local version tags"
    for requirement in requirements("book", "test"):
        assert canonical(requirement.name) in named, requirement


def test_pins_lie_in_the_ranges():
    versions = {canonical(name): version for name, version in pins().items()}
    for requirement in requirements("book", "test"):
        assert requirement.specifier.contains(versions[canonical(requirement.name)]), requirement


def test_installing_in_colab_replaces_nothing():
    assert replaced(COLAB, requirements()) == []
    added = {requirement.name for requirement in requirements()} - set(COLAB)
    assert added == {"lemminflect"}  # small, and needs numpy alone


def test_conda_environment_agrees_with_pyproject_and_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    versions = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert versions.contains(python.split("=")[1])
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip[:2] == ["--constraint constraints.txt", "--editable .[book,test]"]
    for text in pip[2:]:
        name, version = text.split("==")
        assert pins()[name] == version
        assert any(r.name == name and r.specifier.contains(version) for r in requirements("book"))


def test_binder_and_devcontainer_agree_with_the_conda_environment():
    """One Python, which the project supports, and the exact pins."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = [d.split("=")[1] for d in environment["dependencies"] if str(d)[:7] == "python="]
    assert (ROOT / "binder" / "runtime.txt").read_text() == f"python-{python}\n"
    build = ROOT / "binder" / "postBuild"
    assert os.access(build, os.X_OK)
    assert '--constraint constraints.txt --editable ".[book]"' in build.read_text()
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert f"/python:{python}-" in container["image"]
    # ./run installs with the pins into .venv.
    assert container["updateContentCommand"] == "./run book"
    assert "/.venv/bin/python" in str(container["customizations"])


def test_vendored_javascript_is_as_published():
    folder = ROOT / "book" / "assets" / "vendor"
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "data/README.md"])
def test_links_to_files_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert paper["title"].startswith("What Do VLMs NOTICE?")
    assert paper["doi"] in (ROOT / "book" / "references.bib").read_text()


def test_import_is_quick_and_loads_no_torch():
    code = "import sys, time; t = time.perf_counter(); import notice_lib; " + (
        "print(time.perf_counter() - t, 'torch' in sys.modules)"
    )
    answer = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert float(answer[0]) < 1
    assert answer[1] == "False"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    subprocess.run([*PIP, *build], check=True)
    return next(folder.glob("*.whl"))


def installed(wheel, folder):
    """The Python of a new environment with the wheel, and all that is installed in this one."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", wheel], check=True)
    site_packages = next((folder / "lib").glob("python*/site-packages"))
    # Such a line adds the packages there, but not what their own .pth files add: the checkout.
    (site_packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def patch_one_pair(python, folder):
    """Patch one pair with what is installed, from a folder that is not the checkout."""
    command = [python, "-I", "-c", PATCH_ONE_PAIR]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_wheel_works_from_another_folder(wheel, tmp_path):
    result = patch_one_pair(installed(wheel, tmp_path / "env"), tmp_path)
    assert Path(result["home"]).is_relative_to(tmp_path / "env")
    assert result["rows"] == 1


def test_wheel_works_with_the_oldest_versions(wheel, tmp_path):
    """All floors at once but for torch, whose pinned version serves."""
    python = installed(wheel, tmp_path / "env")
    oldest = {
        requirement.name: next(s.version for s in requirement.specifier if s.operator == ">=")
        for requirement in requirements()
        if requirement.name != "torch"
    }
    pinned = [f"{name}=={version}" for name, version in oldest.items()]
    subprocess.run([*PIP, "--python", python, "install", *pinned], check=True)
    result = patch_one_pair(python, tmp_path)
    assert Path(result["home"]).is_relative_to(tmp_path / "env")
    assert result["rows"] == 1
    assert result["transformers"] == oldest["transformers"]
