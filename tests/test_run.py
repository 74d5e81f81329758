"""./run where something is missing: a Python, a network, or the end of an earlier installation."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "run")
BASH = shutil.which("bash")


def settings(**more: str) -> dict[str, str]:
    """This process's environment without pip's settings, and with this Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PYTHON": sys._base_executable} | more


NO_NETWORK = {"PIP_NO_INDEX": "1"}


@pytest.fixture
def project(tmp_path):
    """What ./run needs to begin an installation."""
    for name in NEEDED:
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "notice_lib").mkdir()
    return tmp_path


def run(project: Path, word: str = "pairs", **more: str) -> subprocess.CompletedProcess:
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run([BASH, project / "run", word], env=settings(**more), text=True, **both)


def installed(project: Path) -> list[str]:
    return [path.name for path in (project / ".venv").glob("installed-*")]


def make_environment(project: Path) -> Path:
    """An environment as after an installation, but for the packages."""
    environment = project / ".venv"
    subprocess.run([sys._base_executable, "-m", "venv", environment], check=True)
    pins = (project / "pyproject.toml").read_bytes() + (project / "constraints.txt").read_bytes()
    checksum = subprocess.run(["cksum"], input=pins, capture_output=True).stdout.decode().strip()
    (environment / f"installed-book {checksum}").touch()
    return environment


def test_without_a_python_that_is_supported(project, tmp_path):
    """On the PATH is only an older one, which says so itself."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("dirname", "cat", "cksum"):
        (programs / name).symlink_to(shutil.which(name))
    old = programs / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    said = run(project, PATH=str(programs), PYTHON="")
    assert said.returncode == 1
    assert said.stdout.startswith("run: there is no Python 3.11, 3.12 or 3.13 on the PATH; PYTHON=")
    said = run(project, PYTHON=str(old))
    assert said.returncode == 1
    assert said.stdout == f"run: {old} is missing or is not Python 3.11, 3.12 or 3.13\n"
    assert not (project / ".venv").exists()


def test_another_python_than_that_of_the_environment_is_refused(project, tmp_path):
    make_environment(project)
    other = tmp_path / "python3.99"
    other.write_text("#!/bin/sh\necho Python 3.99.0\n")
    other.chmod(0o755)
    said = run(project, PYTHON=str(other), **NO_NETWORK)
    assert said.returncode == 1
    assert said.stdout.startswith("run: PYTHON is Python 3.99.0, but .venv has Python 3.")


def test_without_a_network_nothing_counts_as_installed(project):
    for _ in range(2):
        said = run(project, **NO_NETWORK)
        assert said.returncode == 1
        assert "run: the installation failed or was interrupted; pip says why." in said.stdout
        assert installed(project) == []


def test_without_a_network_an_installed_environment_is_used(project):
    environment = make_environment(project)
    said = run(project, **NO_NETWORK)
    assert "Installing" not in said.stdout
    assert "tools/family_table.py" in said.stdout  # the first thing after it, which is not here
    # Other extras are installed, which fails, and leaves what was there.
    assert "the installation failed" in run(project, "versions", **NO_NETWORK).stdout
    assert len(installed(project)) == 1 and not (environment / "unfinished").exists()
    assert "Installing" not in run(project, **NO_NETWORK).stdout


def test_after_an_interruption_the_environment_is_made_again(project):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        process = subprocess.Popen(
            [BASH, project / "run", "pairs"],
            env=settings(PIP_INDEX_URL=index),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        silent.accept()  # pip asks, and waits for an answer.
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert installed(project) == []
    assert "the installation failed or was interrupted" in said
    # An interruption while pip writes leaves a part of a package.
    (packages,) = (project / ".venv" / "lib").glob("python*/site-packages")
    (project / ".venv" / "unfinished").touch()
    (packages / "half").mkdir()
    run(project, **NO_NETWORK)
    assert not (packages / "half").exists() and (packages / "pip").exists()
