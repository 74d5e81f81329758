"""What users rely on: names, signatures, columns. A change here is a change for them: say it in
CHANGELOG.md, and raise `SCHEMA` when a column changes."""

import inspect
import json
from pathlib import Path

import pytest
from test_metrics import a_sweep

import notice_lib
from notice_lib import NoticeError, Sweep, patching
from notice_lib.pairs import COLUMNS
from notice_lib.patching.sweep import PATCHED_DTYPES, RUNS_DTYPES

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
        "pairs.csv": COLUMNS,
    }


def test_an_unknown_name_is_no_part_of_the_library():
    with pytest.raises(AttributeError, match="no attribute 'patch_everything'"):
        _ = notice_lib.patch_everything


def test_a_sweep_survives_its_folder(tmp_path):
    sweep = a_sweep()
    sweep = Sweep(sweep.patched, sweep.runs, sweep.settings | {"schema": patching.SCHEMA})
    sweep.save(tmp_path)
    loaded = Sweep.load(tmp_path)
    assert loaded.settings == sweep.settings
    assert loaded.patched.dtypes.astype(str).to_dict() == PATCHED_DTYPES
    assert loaded.runs.dtypes.astype(str).to_dict() == RUNS_DTYPES
    assert loaded.table().equals(sweep.table())


def test_a_sweep_of_another_schema_or_none_is_refused(tmp_path):
    with pytest.raises(NoticeError, match="no finished sweep"):
        Sweep.load(tmp_path)
    sweep = a_sweep()
    Sweep(sweep.patched, sweep.runs, {"schema": 0}).save(tmp_path)
    with pytest.raises(NoticeError, match=f"schema 0, this version reads {patching.SCHEMA}"):
        Sweep.load(tmp_path)


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(current(), indent=1) + "\n")
