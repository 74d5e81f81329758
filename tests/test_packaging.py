"""The package as others get it: its ranges and pins, its wheel, and how fast it imports."""

import functools
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import tomllib
import venv
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement

from notice_lib.corruption import inpainters
from notice_lib.models import load as models
from notice_lib.released import asset, read_manifest
from tools import sync_notebooks
from tools.colab_packages import replaced
from tools.fresh_runtime import colab, runtime
from tools.release_files import CHECKPOINTS, IN_THE_WHEEL, copy, manifest

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
import socket

def refuse(*_):
    raise OSError("the test has no network")

socket.socket.connect = socket.getaddrinfo = refuse
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
    assert pip[:2] == ["--constraint constraints.txt", "--editable .[book]"]
    for text in pip[2:]:
        name, version = text.split("==")
        assert pins()[name] == version
        assert any(r.name == name for r in requirements("book", "test"))
    # What executes notebooks; nothing else that only tests need.
    only_tests = {r.name for r in requirements("test")} - {r.name for r in requirements("book")}
    assert only_tests & {text.split("==")[0] for text in pip} == {"nbmake", "papermill"}


def test_binder_and_devcontainer_agree_with_the_conda_environment():
    """One Python, which the project supports, and the exact pins."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = [d.split("=")[1] for d in environment["dependencies"] if str(d)[:7] == "python="]
    assert (ROOT / "binder" / "runtime.txt").read_text() == f"python-{python}\n"
    build = ROOT / "binder" / "postBuild"
    assert os.access(build, os.X_OK)
    assert '--constraint constraints.txt --editable ".[book]"' in build.read_text()
    start = ROOT / "binder" / "start"  # many kernels share the cores of a hub
    assert os.access(start, os.X_OK)
    command = [start, "printenv", "OMP_NUM_THREADS"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "1\n"
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert f"/python:{python}-" in container["image"]
    # ./run installs with the pins into .venv.
    assert container["updateContentCommand"] == "./run book"
    assert "/.venv/bin/python" in str(container["customizations"])


@pytest.mark.parametrize("folder", ["book/assets/vendor", "tests/vendor"])
def test_vendored_files_are_as_published(folder):
    lines = (ROOT / folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in map(str.split, lines)}
    kinds = (".js", ".mjs", ".css", ".svg", ".woff2", ".gz")
    paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    found = {published_name(path, ROOT / folder): sha_as_published(path) for path in paths}
    assert found == sums


def published_name(path, folder):
    """A vendored file's path without the ending that packing gave it."""
    return str(path.relative_to(folder)).removesuffix(".gz")


def sha_as_published(path):
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    return hashlib.sha256(content).hexdigest()


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


def test_the_manifest_lists_the_files_that_a_wheel_lacks():
    assert read_manifest(CHECKPOINTS) == manifest(CHECKPOINTS), "python tools/release_files.py"
    assert {*read_manifest(CHECKPOINTS), *IN_THE_WHEEL} == {*models.EMBEDDED, *inpainters.EMBEDDED}


def test_import_is_quick_and_loads_no_torch():
    code = "import sys, time; t = time.perf_counter(); import notice_lib; " + (
        "print(time.perf_counter() - t, 'torch' in sys.modules)"
    )
    answer = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert float(answer[0]) < 1
    assert answer[1] == "False"


def built(root, folder):
    """The wheel of a project."""
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, root]
    subprocess.run([*PIP, *build], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


def copied(root, version, repository="http://127.0.0.1/book"):
    """A copy of what a wheel is built from, with another version and repository."""
    for name in ("notice_lib", "data"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "_config.yml", "tools/wheel_contents.py"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    text = (ROOT / "pyproject.toml").read_text()
    for key, value in {"version": version, "Repository": repository}.items():
        text = re.sub(rf'^{key} = ".*"', f'{key} = "{value}"', text, flags=re.M)
    (root / "pyproject.toml").write_text(text)
    return root


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release: its project, its wheel, its files, and the port at which it expects these."""
    root = tmp_path_factory.mktemp("release")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    copied(root, "1.2.3", f"http://127.0.0.1:{port}/book")
    copy(CHECKPOINTS, root / "served" / "book" / "releases" / "download" / "v1.2.3")
    return SimpleNamespace(
        root=root, wheel=built(root, root / "wheel"), files=root / "served", port=port
    )


@contextmanager
def server(folder, port):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def checkpoints_in(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    found = [
        re.fullmatch(r"notice_lib/data/checkpoints/([\w-]+)/config.json", name) for name in names
    ]
    return {match[1] for match in found if match}


def test_a_wheel_holds_all_checkpoints_and_that_of_a_release_two(release, tmp_path):
    wheel = built(copied(tmp_path, "1.2.4.dev0"), tmp_path / "wheel")
    assert checkpoints_in(wheel) == {*IN_THE_WHEEL, *read_manifest(CHECKPOINTS)}
    assert checkpoints_in(release.wheel) == set(IN_THE_WHEEL)
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "/checkpoints/seeds/" in name]
    assert release.wheel.stat().st_size < 25e6 < wheel.stat().st_size


def test_the_wheel_of_a_release_gets_the_rest_on_first_use(release, tmp_path):
    python = installed(release.wheel, tmp_path / "env")
    result = patch_one_pair(python, tmp_path)  # the embedded default, without a network
    assert Path(result["home"]).is_relative_to(tmp_path / "env") and result["rows"] == 1
    cache = tmp_path / "hub" / "assets" / "notice-lib" / "checkpoints" / "blip-mini-noise"

    def load():
        code = "import notice_lib; print(notice_lib.load_model('blip-mini-noise').n_layers)"
        settings = os.environ | {"HF_HOME": str(tmp_path / "hub")}
        command = [python, "-I", "-c", code]
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)

    def kept():
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in cache.iterdir()
        }

    offline = load()
    assert offline.returncode == 1 and not list(cache.iterdir())
    said = offline.stderr.splitlines()[-1]
    assert "NoticeError: blip-mini-noise is not part of this package, and http://" in said
    assert "Connection refused" in said and "Try again with a network" in said

    wanted = read_manifest(CHECKPOINTS)["blip-mini-noise"]
    changed = shutil.copytree(release.files, tmp_path / "changed")
    next(changed.rglob("blip-mini-noise.model.safetensors")).write_bytes(b"something else")
    with server(changed, release.port):
        refused = load()
    assert refused.returncode == 1 and "its SHA-256 is" in refused.stderr
    assert kept() == {n: digest for n, digest in wanted.items() if n < "model.safetensors"}

    with server(release.files, release.port):
        assert load().stdout == "6\n"
    assert kept() == wanted
    assert load().stdout == "6\n"  # from the cache


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


def test_the_colab_cell_of_a_release_installs_that_version(release, tmp_path):
    cell = sync_notebooks.setup_cell(sync_notebooks.requirement(release.root))
    (line,) = [line for line in cell.splitlines() if line.startswith("!")]
    python = runtime(tmp_path / "runtime")
    environment = colab(python, release.wheel.parent)
    shell = ["/bin/sh", "-c", line.removeprefix("!")]
    ran = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("notice-lib 1.2.3, torch ")


def test_files_of_a_release_are_those_of_its_tag(tmp_path):
    def release_files(*words):
        command = [sys.executable, ROOT / "tools" / "release_files.py", *words]
        return subprocess.run(command, capture_output=True, text=True)

    wrong = release_files("v99.0", tmp_path / "out")
    assert wrong.returncode == 2 and "not v99.0" in wrong.stderr
    assert not (tmp_path / "out").exists()
    assert release_files(f"v{PROJECT['version']}", tmp_path / "out").returncode == 0
    copied = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "out").iterdir()
    }
    listed = read_manifest(CHECKPOINTS)
    assert copied == {
        asset(name, file): digest for name in listed for file, digest in listed[name].items()
    }


@pytest.mark.weekly
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
