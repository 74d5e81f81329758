"""The package as others get it: its ranges and pins, its wheel, and how fast it imports."""

import hashlib
import json
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
    "matplotlib": "3.10.0",
    "tqdm": "4.67.3",
    "safetensors": "0.8.0",
}
PATCH_ONE_PAIR = """
import json, pathlib
import notice_lib
from notice_lib import Site, load_model, load_pairs, sweep

pairs = load_pairs("svo", n=1, seed=0)
result = sweep(load_model("blip-mini"), pairs, [Site("layer_output", 0, position=1)], "image")
print(json.dumps({"home": str(pathlib.Path(notice_lib.__file__).parent), "rows": len(result.table())}))
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
    for requirement in requirements():
        assert requirement.specifier.contains(COLAB[requirement.name]), requirement


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
def installed(tmp_path_factory):
    """The Python of an empty environment with the built wheel, and this one's other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    site_packages = next((folder / "env" / "lib").glob("python*/site-packages"))
    # A path line only adds packages: the editable install of the checkout is not followed.
    (site_packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def patch_one_pair(python, folder, **environment):
    answer = subprocess.run(
        [python, "-c", PATCH_ONE_PAIR],
        cwd=folder,
        env={"HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_wheel_works_from_another_folder(installed, tmp_path):
    result = patch_one_pair(installed, tmp_path)
    assert Path(result["home"]).is_relative_to(installed.parents[1])
    assert result["rows"] == 1


def test_wheel_works_with_the_oldest_versions(installed, tmp_path):
    """All floors at once, but for torch, of which only the pinned version is at hand everywhere."""
    oldest = [
        f"{requirement.name}=={next(s.version for s in requirement.specifier if s.operator == '>=')}"
        for requirement in requirements()
        if requirement.name != "torch"
    ]
    target = tmp_path / "oldest"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--target", target, "--constraint", oldest_torch(tmp_path), *oldest], check=True)
    result = patch_one_pair(installed, tmp_path, PYTHONPATH=str(target))
    assert result["rows"] == 1
