"""What users rely on: names, signatures, columns. A change here is a change for them: say it in
CHANGELOG.md, and raise `SCHEMA` when a column changes."""

import ast
import importlib
import inspect
import json
from pathlib import Path

import jupytext
import pytest

import notice_lib
from notice_lib import NoticeError, patching
from notice_lib.pairs import COLUMNS
from notice_lib.patching.table import PATCHED_DTYPES, RUNS_DTYPES, SKIPPED_DTYPES

CHAPTERS = sorted((Path(__file__).parents[1] / "book").glob("[0-9][0-9]_*.md"))
PUBLIC = {
    "notice_lib",
    "notice_lib.exercises",
    "notice_lib.heads",
    "notice_lib.patching",
    "notice_lib.plotting",
    "notice_lib.reproduction",
}
"""Where a chapter may import from."""
MODULES = {"attribution", "engine", "packed", "paths", "queries", "recorded", "reference"}
"""Modules of `notice_lib.patching` that chapters name."""
SNAPSHOT = Path(__file__).parent / "reference" / "api.json"


def one(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return parameter.name
    if isinstance(default, dict):
        return f"{parameter.name}={{...}}"
    shown = default.__name__ if inspect.isfunction(default) else repr(default)
    return f"{parameter.name}={shown}"


def signature(name: str) -> str:
    """The parameters of a function or class and their defaults, without types; "" for the rest."""
    thing = getattr(notice_lib, name)
    if not callable(thing) or thing is NoticeError:
        return ""
    parameters = inspect.signature(thing).parameters.values()
    return f"({', '.join(map(one, parameters))})"


def test_the_public_interface_is_the_recorded_one():
    """To record a wanted change: python tests/test_api.py"""
    assert current() == json.loads(SNAPSHOT.read_text())


def current() -> dict:
    return {
        "names": {name: signature(name) for name in notice_lib.__all__},
        "patching": sorted(patching.__all__),
        "schema": patching.SCHEMA,
        "patched": PATCHED_DTYPES,
        "runs": RUNS_DTYPES,
        "skipped": SKIPPED_DTYPES,
        "pairs.csv": COLUMNS,
    }


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_imports_public_names_only(path):
    cells = jupytext.read(path).cells
    source = "\n".join(
        # A line that is the shell's, as in the Colab cell, is not Python.
        "\n".join(line for line in cell.source.splitlines() if not line.startswith(("!", "%")))
        for cell in cells
        if cell.cell_type == "code"
    )
    nodes = list(ast.walk(ast.parse(source)))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert not any(name.startswith("notice_lib") for name in plain)
    found = [
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module.startswith("notice_lib")
        for alias in node.names
    ]
    assert found
    for module, name in found:
        assert module in PUBLIC, f"{module} is not public"
        names = {*importlib.import_module(module).__all__}
        if module == "notice_lib.patching":
            names |= MODULES
        assert name in names, f"{module}.{name} is not public"


def test_an_unknown_name_is_no_part_of_the_library():
    with pytest.raises(AttributeError, match="no attribute 'patch_everything'"):
        _ = notice_lib.patch_everything


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(current(), indent=1) + "\n")
