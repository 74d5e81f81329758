"""Make an edition of the book from notebooks that were executed elsewhere, e.g. on a GPU.

    python tools/edition.py RUNS              # e.g. the downloaded artifacts of a GPU workflow
    python tools/edition.py RUNS --book DIR   # of the book in another folder

RUNS holds, at any depth, the executed notebook of every chapter, as ./run notebooks writes them.
Nothing is executed here. The pages are written to _build/edition/_build/html, and say at the top
which models were used.
"""

import argparse
import shutil
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
SECONDS = "```{nb-exec-table}\n```"
sys.path.insert(0, str(ROOT))

from tools.build_book import make_pages  # noqa: E402
from tools.chapters import executed_chapters  # noqa: E402


def read_runs(root: Path, runs: Path) -> dict[str, NotebookNode]:
    """Read the executed notebook of every chapter.

    Returns:
        {page as in _toc.yml: notebook}.

    Raises:
        SystemExit: a chapter is missing, failed, was interrupted, or is there twice.
    """
    notebooks, problems = {}, []
    for chapter in executed_chapters(root):
        paths = sorted(runs.rglob(f"{chapter.name}.ipynb"))
        if len(paths) != 1:
            problems.append(f"{chapter.name} is there {len(paths)} times")
            continue
        notebook = nbformat.read(paths[0], as_version=4)
        run = notebook.metadata.get("papermill", {})
        if run.get("exception") or not run.get("end_time"):
            problems.append(f"{chapter.name} failed or was not executed to its end")
        notebooks[chapter.page] = notebook
    if problems:
        sys.exit(
            f"No edition can be made of {runs}: {'; '.join(problems)}. It needs one complete run "
            "of every chapter."
        )
    return notebooks


def announcement(notebooks: dict[str, NotebookNode]) -> str:
    """Say which models were used where, as the notebooks' parameters have it."""
    models, devices, counts = set(), set(), set()
    for notebook in notebooks.values():
        given = notebook.metadata.papermill.parameters
        model = given.get("model", "the chapters' own models")
        models.update([model] if isinstance(model, str) else model)
        devices.add(given.get("device", "cpu"))
        counts.add(f"{given['n_pairs']} pairs" if "n_pairs" in given else "the default pairs")
    last = max(notebook.metadata.papermill.end_time for notebook in notebooks.values())
    return (
        f"This edition was executed with {' and '.join(sorted(models))} on "
        f"{' and '.join(sorted(devices))}, with {' or '.join(sorted(counts))}, and finished on "
        f"{last[:10]}."
    )


def table_of_seconds(notebooks: dict[str, NotebookNode]) -> str:
    """Return a table of the chapters' seconds; myst-nb knows only what it executes itself."""
    lines = ["| chapter | seconds |", "|---|---|"]
    for page, notebook in notebooks.items():
        lines.append(f"| {Path(page).name} | {notebook.metadata.papermill.duration:.0f} |")
    return "\n".join(lines)


def write_source(root: Path, notebooks: dict[str, NotebookNode], out: Path) -> None:
    """Write a copy of the book in which the executed notebooks take the place of the chapters."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(root / "book", out / "book", ignore=shutil.ignore_patterns("*.ipynb"))
    shutil.copy(root / "_toc.yml", out)
    for page, notebook in notebooks.items():
        (out / f"{page}.md").unlink()
        nbformat.write(notebook, out / f"{page}.ipynb")
    for path in (out / "book").glob("*.md"):
        text = path.read_text(encoding="utf-8").replace(SECONDS, table_of_seconds(notebooks))
        path.write_text(text, encoding="utf-8")
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config["execute"] = {"execute_notebooks": "off", "stderr_output": "remove"}
    config.pop("exclude_patterns", None)
    config.setdefault("html", {})["announcement"] = announcement(notebooks)
    (out / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run edition", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder with executed notebooks, at any depth")
    parser.add_argument("--book", type=Path, default=ROOT, help="folder of the book")
    args = parser.parse_args()
    root = args.book.resolve()
    out = root / "_build" / "edition"
    write_source(root, read_runs(root, args.runs), out)
    if not make_pages(out, []):
        sys.exit("The edition is not built: see above.")
    print(f"The edition: {out / '_build' / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
