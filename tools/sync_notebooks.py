"""Write the repository's URL wherever it is needed, and bring the paired notebooks up to date.

_config.yml names the repository, and pyproject.toml the version. This script writes both into the
cell of every notebook that installs the library in Colab, and the URL into the pages that link to
the repository. What a page folds is folded in its notebook, too.

Usage: python tools/sync_notebooks.py [FOLDER]   (the repository's root by default)
"""

import re
import sys
import tomllib
from pathlib import Path

import nbformat
import yaml
from jupytext.cli import jupytext

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.editions import folded

SETUP_CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?:(?!```).*\n)*?:?tags: .*colab-setup.*\n(?:(?!```).*\n)*```\n",
    re.MULTILINE,
)
LINKING = (
    "README.md",
    "CITATION.cff",
    "pyproject.toml",
    "book/00_welcome.md",
    "book/how_do_i.md",
    "book/runtimes.md",
)
REPOSITORY = re.compile(
    r"//(github\.com|colab\.research\.google\.com/github|mybinder\.org/v2/gh)/[\w-]+/[\w.-]*\w"
)
FIRST_CELL = re.compile(r"^```\{code-cell\}", re.MULTILINE)


def repository(root: Path) -> dict[str, str]:
    """Return the url and the branch of the repository."""
    return yaml.safe_load((root / "_config.yml").read_text())["repository"]


def requirement(root: Path) -> str:
    """Return what notebooks install: this very release, or the branch between releases."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if re.fullmatch(r"[\d.]+", version):
        return f"notice-lib=={version}"
    return "git+{url}@{branch}".format(**repository(root))


def setup_cell(requirement: str) -> str:
    """Return the cell that installs the library in Colab and describes the runtime.

    Elsewhere the variable is not set, and nothing happens. Colab's torch and transformers satisfy
    the library's ranges, so pip does not replace them.
    """
    return (
        "```{code-cell} ipython3\n"
        "---\n"
        "mystnb:\n"
        "  code_prompt_show: Set-up for Google Colab\n"
        "tags: [colab-setup, hide-input]\n"
        "---\n"
        f'!test -z "$COLAB_RELEASE_TAG" || (pip install -q {requirement}'
        " && python -m notice_lib.colab)\n"
        "```\n"
    )


def with_setup_cell(source: str, cell: str) -> str:
    """Return the source with this set-up cell, which becomes the first cell if there was none."""
    if SETUP_CELL.search(source):
        return SETUP_CELL.sub(lambda _: cell, source, count=1)
    first = FIRST_CELL.search(source)
    if first is None:
        return source
    return source[: first.start()] + cell + "\n" + source[first.start() :]


def chapters(root: Path) -> list[Path]:
    """Return the sources of the chapters, which are the numbered pages of book/."""
    return sorted((root / "book").glob("[0-9][0-9]_*.md"))


def sources(root: Path) -> list[Path]:
    """Return the sources of all paired notebooks: the chapters, and the course's worksheet."""
    return [*chapters(root), *sorted((root / "book" / "course").glob("worksheet.md"))]


def sync(root: Path) -> None:
    """Bring links, set-up cells and then the notebooks with their folds below `root` up to date."""
    cell = setup_cell(requirement(root))
    owner_and_name = repository(root)["url"].removeprefix("https://github.com/")
    for name in LINKING:
        text = (root / name).read_text()
        (root / name).write_text(REPOSITORY.sub(rf"//\1/{owner_and_name}", text))
    paired = sources(root)
    for path in paired:
        # This writes even without a change, since jupytext takes the newer file as the source.
        path.write_text(with_setup_cell(path.read_text(), cell))
    jupytext(["--quiet", "--sync", *map(str, paired)])
    for path in paired:
        notebook = path.with_suffix(".ipynb")
        nbformat.write(folded(nbformat.read(notebook, as_version=4)), notebook)


if __name__ == "__main__":
    sync(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
