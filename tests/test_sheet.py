"""The sheet of a small model: fresh scenes, and what its rows count."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from notice_lib import load_model, load_pairs
from tools import sheet, sheet_table

SHEETS = Path(__file__).parents[1] / "data" / "checkpoints" / "sheets"
MEASURES = [
    "accuracy",
    "first option on blanks",
    "mean |L| on blanks, of clean",
    "a listed option where neither is true",
    "largest fraction recovered",
    "layers from 10 to 90 %",
    *(f"{part}, of the total effect" for part in ("effect", "content", "truth", "removal")),
    "content share K",
    "grounds",
    "suppresses the distractor",
    *(f"images with an outlier by {how}" for how in ("norm", "attention", "both")),
    "largest norm, in medians",
    "universal heads, paper rule",
    "universal heads, signed rule",
]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return sheet.fresh_sets(tmp_path_factory.mktemp("fresh"), sheet.SEED, scale=0.1)


def test_scenes_are_fresh_held_out_and_as_many_as_planned(sets):
    for task, pairs in sets.items():
        assert {pair.split for pair in pairs} == {"heldout"}
        scenes = {(pair.scene_id, pair.slot, pair.distractor) for pair in pairs}
        for slot, (plain, two) in sheet.CELLS[task].items():
            kinds = [distractor for _, of, distractor in scenes if of == slot]
            assert (kinds.count(False), kinds.count(True)) == (plain // 10, two // 10)
        stored = {pair.clean_image.read_bytes() for pair in load_pairs(task)}
        assert not stored & {pair.clean_image.read_bytes() for pair in pairs}


def test_accuracy_and_answers_without_evidence_are_of_each_kind_of_scene(sets):
    model = load_model("blip-mini")
    found = pd.DataFrame(sheet.accuracy(model, sets)).set_index("of")
    assert found.loc["svo, one thing", "value"] >= 0.9
    assert found.loc["svo, two things", "n"] == len(
        {pair.scene_id for pair in sets["svo"] if pair.distractor}
    )
    blank = pd.DataFrame(sheet.without_evidence(model, {"faces": sets["faces"]}))
    by = blank.set_index(["measure", "of"])["value"]
    assert 0 <= by["first option on blanks", "grey"] <= 1
    assert by["mean |L| on blanks, of clean", "grey"] < 0.5
    assert by["a listed option where neither is true", "all"] >= 0.9


def test_a_part_that_is_kept_is_not_measured_again(tmp_path):
    rows = [sheet.row("accuracy", "svo", 0.5, n=2), sheet.row("rise", "faces", 1.0, 0.5, 1.5, 3)]
    first = sheet.kept(tmp_path / "kept.csv", iter(rows))
    assert first.to_dict("records")[1] == rows[1]

    def measured_again():
        yield rows[0]
        raise RuntimeError

    pd.testing.assert_frame_equal(sheet.kept(tmp_path / "kept.csv", measured_again()), first)
    with pytest.raises(RuntimeError):
        sheet.kept(tmp_path / "stopped.csv", measured_again())
    assert [path.name for path in tmp_path.iterdir()] == ["kept.csv"]


@pytest.mark.parametrize("file", sorted(SHEETS.glob("*-mini*.csv")), ids=lambda file: file.stem)
def test_a_stored_sheet_is_whole(file):
    found = pd.read_csv(file).set_index("measure")
    assert list(dict.fromkeys(found.index)) == MEASURES
    asked = found.loc["accuracy"].set_index("of")["n"]
    for slots in sheet.CELLS.values():
        for slot, counts in slots.items():
            for kind, n in zip(("one thing", "two things"), counts, strict=True):
                assert asked.get(f"{slot}, {kind}", 0) == n


@pytest.mark.parametrize("name", sheet_table.NAMES)
def test_the_readme_has_the_table_of_the_stored_sheets(name):
    table = sheet_table.table_of(name)
    assert table in (SHEETS / "README.md").read_text()
    (states,) = (line for line in table.splitlines() if "two things, held out, states" in line)
    shown = [float(cell.strip(" *%")) for cell in states.split("|")[3:-1]]
    for value, seed in zip(shown, ("", "-seed1", "-seed2"), strict=True):
        found = pd.read_csv(SHEETS / f"{name}{seed}.csv").set_index(["measure", "of"])["value"]
        assert value == pytest.approx(100 * found["accuracy", "states, two things"], abs=0.05)


def test_layers_from_10_to_90_percent():
    even = pd.Series(np.arange(6) / 5 * 0.8)
    assert sheet.rise(even) == pytest.approx(0.8 * 5)
    at_once = pd.Series([0.0, 0.0, 1.0, 0.9, 1.0])  # a dip after the rise is no second rise
    assert sheet.rise(at_once) == pytest.approx(0.8)
