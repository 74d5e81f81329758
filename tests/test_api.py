"""What users rely on: names, signatures, columns. A change here is a change for them: say it in
CHANGELOG.md, and raise `SCHEMA` when a column changes."""

import inspect
import json
from pathlib import Path

import pytest

import notice_lib
from notice_lib import NoticeError, patching
from notice_lib.pairs import COLUMNS
from notice_lib.patching.table import PATCHED_DTYPES, RUNS_DTYPES, SKIPPED_DTYPES

SNAPSHOT = Path(__file__).parent / "reference" / "api.json"


def one(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return parameter.name
    shown = default.__name__ if inspect.isfunction(default) else repr(default)
    return f"{parameter.name}={shown}"


def signature(name: str) -> str:
    """A function's or class's parameters with their plain defaults, without types."""
    thing = getattr(notice_lib, name)
    if inspect.ismodule(thing) or thing is NoticeError:
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


def test_an_unknown_name_is_no_part_of_the_library():
    with pytest.raises(AttributeError, match="no attribute 'patch_everything'"):
        _ = notice_lib.patch_everything


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(current(), indent=1) + "\n")
