"""Run chapters as in Colab: in a fresh runtime, from nothing but a copy of the notebook.

    python tools/fresh_runtime.py --chapter 03 --chapter 07
    python tools/fresh_runtime.py --python OTHER/bin/python      # all, in a runtime of your own

The runtime has the packages of this environment, but not the project: the notebook's set-up cell
installs it. git is told to resolve the repository's URL to a local repository, made of the working
tree, and pip finds a wheel of the working tree, so that what runs is what would be published.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.prepare_notebooks import add_arguments, given, prepare  # noqa: E402
from tools.run_notebooks import QUIET, run  # noqa: E402
from tools.sync_notebooks import repository  # noqa: E402


def runtime(folder: Path) -> Path:
    """Make an environment with all packages of this one but the project; return its Python."""
    venv.create(folder, with_pip=True)
    packages = folder / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("notice_lib", "_notice_lib", "pip")):
            (packages / path.name).symlink_to(path)
    site_packages = next((folder / "lib").glob("python*/site-packages"))
    (site_packages / "packages.pth").write_text(f"{packages}\n")
    return folder / "bin" / "python"


def published(folder: Path) -> Path:
    """Make a folder with a repository of the working tree, and with its wheel."""
    bare, branch = folder / "repository.git", repository(ROOT)["branch"]
    git = ["git", f"--git-dir={bare}", f"--work-tree={ROOT}"]
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", branch, bare], check=True)
    # Each notebook clones it, and looking for similar files takes longer than copying them.
    subprocess.run([*git, "config", "pack.window", "0"], check=True)
    subprocess.run([*git, "add", "--all"], check=True, cwd=ROOT)
    author = ["-c", "user.name=fresh", "-c", "user.email=fresh@localhost"]
    subprocess.run([*git, *author, "commit", "--quiet", "-m", "The working tree"], check=True)
    wheel = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", *wheel, ROOT], check=True)
    return folder


def colab(python: Path, published: Path) -> dict[str, str]:
    """Return the variables of such a runtime, in which public addresses lead to `published`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | QUIET | {
        "COLAB_RELEASE_TAG": "a stand-in",
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{published / 'repository.git'}.insteadOf",
        "GIT_CONFIG_VALUE_0": repository(ROOT)["url"],
        "PIP_FIND_LINKS": str(published),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--python", type=Path, help="Python of an environment without the project")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "_build" / "fresh", help="folder for the results"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = args.python.absolute() if args.python else runtime(folder / "runtime")
        environment = colab(python, published(folder / "published"))
        values, models = given(args), dict(args.model)
        prepared = prepare(folder / "notebooks", args.chapter, values, models)
        fine = run(prepared, args.out.absolute(), str(python), environment, values | models)
    print(f"Executed notebooks and runs.csv: {args.out}")
    sys.exit(not fine)


if __name__ == "__main__":
    main()
