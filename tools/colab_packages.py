"""Make an environment with the packages of Colab's published list, but without the project.

    python tools/colab_packages.py pip-freeze.txt python3.13 FOLDER

The list is pip-freeze.txt of https://github.com/googlecolab/backend-info. The script fails if the
project's ranges exclude a version in it, since installing the project in Colab would replace it.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# Packages that notebooks find in Colab besides the library's dependencies, and papermill.
ALSO = ("diffusers", "ipykernel", "ipywidgets", "papermill")
PINNED = re.compile(r"([\w.-]+)==([^\s;+]+)")
WHEEL = re.compile(r"([\w.-]+) @ \S*/[\w.]+-([\d.]+)(?:(?:%2B|\+)[\w.]+)?-\S*\.whl")


def versions(text: str) -> dict[str, str]:
    """Return {package: version} of a `pip freeze`, without local tags such as +cu128.

    This includes packages from the URLs of wheels, such as Colab's torch, but not from source.
    """
    found = {}
    for line in text.splitlines():
        match = PINNED.match(line) or WHEEL.match(line)
        if match:
            found[canonicalize_name(match[1])] = match[2]
    return found


def dependencies() -> list[Requirement]:
    """Return the library's dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"]]


def replaced(installed: dict[str, str], needed: list[Requirement]) -> list[str]:
    """Return one line for each package that installing the library would replace."""
    lines = []
    for requirement in needed:
        version = installed.get(canonicalize_name(requirement.name))
        if version and not requirement.specifier.contains(version, prereleases=True):
            lines.append(f"{requirement}, where Colab has {version}")
    return lines


def install(installed: dict[str, str], python: str, folder: Path) -> None:
    """Make an environment in which each package has the version of the list."""
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    pins = folder / "colab.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in installed.items()))
    names = [requirement.name for requirement in dependencies()]
    # Not --quiet, with which pip does not say what a conflict between two versions is caused by.
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--progress-bar", "off"]
    subprocess.run([*pip, "--constraint", pins, *names, *ALSO], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, help="pip-freeze.txt")
    parser.add_argument("python", help="an interpreter of Colab's Python version")
    parser.add_argument("folder", type=Path, help="folder of the environment, emptied if it exists")
    args = parser.parse_args()
    installed = versions(args.list.read_text())
    wrong = replaced(installed, dependencies())
    if wrong:
        sys.exit("Installing in Colab would change its packages: " + "; ".join(wrong))
    install(installed, args.python, args.folder)


if __name__ == "__main__":
    main()
