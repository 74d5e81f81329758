"""Copy paired notebooks with their parameters set, ready to be executed.

They are copied into _notebooks, where nbmake executes them. Each chapter keeps the models of its
parameters cell, except those that --model exchanges:

    python tools/prepare_notebooks.py --chapter 04 --data my_data --device cuda \\
        --model blip-mini=Salesforce/blip-vqa-base --model llava-mini=llava-hf/llava-1.5-7b-hf
"""

import argparse
import ast
import logging
import shutil
import sys
from pathlib import Path

import nbformat
from papermill import execute_notebook

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.sync_notebooks import sources  # noqa: E402

FOLDER = ROOT / "_notebooks"  # nbmake silently skips everything below a folder _build


def notebooks(chapters: list[str] | None = None) -> list[Path]:
    """Return the notebooks of the given chapters (numbers or names), or of all chapters.

    The course's worksheet is one of them only if it is named: it is written for one model and pair.
    """
    found = [path.with_suffix(".ipynb") for path in sources(ROOT)]
    if not chapters:
        return [path for path in found if path.parent.name == "book"]
    named = {key: path for path in found for key in (path.stem, path.stem[:2])}
    unknown = sorted(set(chapters) - set(named))
    if unknown:
        names = ", ".join(path.stem for path in found)
        raise SystemExit(f"There is no chapter {', '.join(unknown)}; the chapters are {names}.")
    return [named[chapter] for chapter in chapters]


def defaults(path: Path) -> dict:
    """Return what a notebook's parameters cell sets, by name."""
    for cell in nbformat.read(path, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            statements = ast.parse(cell.source).body
            return {one.targets[0].id: ast.literal_eval(one.value) for one in statements}
    return {}


def exchanged(model: str | list[str], models: dict[str, str]) -> str | list[str]:
    """Return a chapter's model or models, with those in `models` exchanged."""
    if isinstance(model, list):
        return [models.get(name, name) for name in model]
    return models.get(model, model)


def parameters(path: Path, values: dict, models: dict[str, str]) -> dict:
    """Return the parameters to set in one notebook; refuse unknown ones, unlike papermill."""
    own = defaults(path)
    wanted = dict(values)
    if models:
        wanted["model"] = exchanged(own["model"], models)
    unknown = sorted(set(wanted) - set(own))
    if unknown:
        raise SystemExit(f"{path.name} has no parameter {', '.join(unknown)}, only {list(own)}.")
    return wanted


def prepare(folder: Path, chapters: list[str] | None, values: dict, models: dict) -> list[Path]:
    """Write the notebooks into a folder, or nothing if a parameter does not fit one of them."""
    wanted = [(path, parameters(path, values, models)) for path in notebooks(chapters)]
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it logs every file
    for path, settings in wanted:
        execute_notebook(path, folder / path.name, settings, prepare_only=True)
    return [folder / path.name for path, _ in wanted]


def exchange(text: str) -> tuple[str, str]:
    """Parse OLD=NEW. A folder becomes an absolute path, since notebooks run in other folders."""
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OLD=NEW")
    return old, str(Path(new).resolve()) if Path(new).is_dir() else new


def data_folder(text: str) -> str:
    """Parse "embedded", or a folder of pair sets, which becomes an absolute path."""
    if text == "embedded":
        return text
    folder = Path(text).resolve()
    if not any(folder.glob("*/pairs.csv")):
        raise argparse.ArgumentTypeError(f"{text} has no folder svo, states or faces with pairs")
    return str(folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose chapters and set their parameters."""
    parser.add_argument(
        "--chapter", action="append", help="a chapter, e.g. 07 (repeatable); all by default"
    )
    parser.add_argument(
        "--model", action="append", type=exchange, default=[], metavar="OLD=NEW",
        help="use NEW instead of OLD, e.g. blip-mini=Salesforce/blip-vqa-base (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=data_folder, help="a folder with the sets svo, states and faces"
    )
    parser.add_argument(
        "--n-pairs", type=int, help="number of pairs; each chapter has its own default"
    )
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument("--seed", type=int)


def given(args: argparse.Namespace) -> dict:
    """Return the parameters that were given on the command line."""
    values = {name: getattr(args, name) for name in ("data", "n_pairs", "device", "seed")}
    return {name: value for name, value in values.items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    prepare(FOLDER, args.chapter, given(args), dict(args.model))


if __name__ == "__main__":
    main()
