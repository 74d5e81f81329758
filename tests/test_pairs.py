"""Pairs and sets of pairs: what is a pair, and what is said of what is none."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from notice_lib import NoticeError, PairSet, SemanticPair, load_pairs
from notice_lib.masks import write_masks


def a_pair(pair_id="p1", folder=Path("nowhere"), **changes) -> SemanticPair:
    return SemanticPair(
        **{
            "pair_id": pair_id,
            "scene_id": "s1",
            "task": "states",
            "slot": "colour",
            "split": "seen",
            "distractor": False,
            "clean_image": folder / "red.png",
            "corrupt_image": folder / "blue.png",
            "clean_masks": folder / "mask.png",
            "corrupt_masks": None,
            "prompt": "Is this bottle red or blue?",
            "correct": "red",
            "incorrect": "blue",
            "order": "correct_first",
            "shown": ("blue", "red"),
        }
        | changes
    )


RUSTY = {"correct": "rusty", "prompt": "Is it rusty or blue?", "order": "correct_first"}
REVERSED = {"prompt": "Is this bottle blue or red?", "order": "incorrect_first"}


@pytest.fixture
def stored(tmp_path) -> Path:
    """A folder with a set of two pairs."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(source / f"{name}.png")
    write_masks(source / "mask.png", {"object": np.eye(8, dtype=bool)})
    pairs = (a_pair("p1", source), a_pair("p2", source, **REVERSED))
    words = {"colour": ("blue", "green", "red")}
    PairSet(pairs, words, {"red": frozenset({"green"})}).save(tmp_path / "set")
    return tmp_path / "set"


def rewrite(folder, change):
    """Change every row of a stored set in place."""
    with open(folder / "pairs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [change(dict(row)) for row in rows]
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_set_survives_its_folder(stored):
    pairs = PairSet.load(stored)
    assert [pair.pair_id for pair in pairs] == ["p1", "p2"]
    assert pairs[0].image("clean").getpixel((0, 0)) == (255, 0, 0)
    assert pairs[1].image("corrupt").getpixel((0, 0)) == (0, 0, 255)
    assert pairs[0].masks("clean")["object"].sum() == 8
    assert pairs[0].masks("corrupt") == {}
    assert pairs.slots == {"colour": ("blue", "green", "red")}
    assert pairs.near_synonyms == {"red": frozenset({"green"}), "green": frozenset({"red"})}
    again = stored.parent / "again"
    pairs.save(again)
    assert (again / "pairs.csv").read_bytes() == (stored / "pairs.csv").read_bytes()
    assert load_pairs(again, n=1).pairs[0].shown == ("blue", "red")
    with pytest.raises(NoticeError, match="holds a pair set already"):
        pairs.save(again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"incorrect": "Red"}, "both answers are 'red'"),
        ({"order": "incorrect_first"}, "order is 'incorrect_first', but the prompt reads"),
        ({"order": "first"}, "must be one of"),
        ({"split": "train"}, "must be one of"),
        ({"correct": "green"}, "does not offer 'green' or 'blue'"),
    ],
)
def test_what_is_no_pair_is_refused(changes, message):
    with pytest.raises(NoticeError, match=message) as error:
        a_pair(**changes)
    assert "p1" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | RUSTY, "Pair p1: the answer 'rusty' is not a colour"),
        (lambda row: row | {"clean_image": "images/none.png"}, "line 2: .*none.png is missing"),
        (lambda row: row | {"clean_image": ""}, "line 2: clean_image and corrupt_image must"),
        (lambda row: row | {"clean_masks": "../../secret"}, "line 2: the path .* leaves"),
        (
            lambda row: row | {"distractor": "maybe"},
            "line 2: distractor is 'maybe'; it must be true",
        ),
        (lambda row: row | {"pair_id": "p"}, "Two pairs have the id 'p'"),
        (lambda row: {k: v for k, v in row.items() if k != "slot"}, "lacks the columns slot"),
    ],
)
def test_a_wrong_row_is_named(stored, change, message):
    rewrite(stored, change)
    with pytest.raises(NoticeError, match=message):
        PairSet.load(stored)


def test_images_that_are_none_are_named(stored):
    (stored / "images" / "red.png").write_bytes(b"no image at all")
    pair = PairSet.load(stored)[0]
    with pytest.raises(
        NoticeError, match=r"red\.png is not an image: .* the clean image of pair p1"
    ):
        pair.image("clean")
    (stored / "images" / "red.png").unlink()
    with pytest.raises(NoticeError, match=r"red\.png is missing: it is the clean image of pair p1"):
        pair.image("clean")


def test_a_folder_without_pairs_is_named(tmp_path):
    with pytest.raises(NoticeError, match=r"no pair set: it has no pairs\.csv"):
        load_pairs(tmp_path)
    with pytest.raises(NoticeError, match="svo, states, faces, natural, or a folder"):
        load_pairs("imagenet")


def many(n_red=6, n_blue=3) -> PairSet:
    pairs = [a_pair(f"r{i}") for i in range(n_red)]
    pairs += [a_pair(f"b{i}", **REVERSED) for i in range(n_blue)]
    return PairSet(tuple(pairs))


def test_filter_balance_and_sample():
    pairs = many()
    assert len(pairs.filter(lambda pair: pair.order == "correct_first")) == 6
    balanced = pairs.balance(["order"], seed=1)
    assert [pair.order for pair in balanced].count("correct_first") == 3
    assert len(balanced) == 6
    sample = pairs.sample(4, seed=2)
    assert [pair.order for pair in sample].count("correct_first") == 2
    ids = [pair.pair_id for pair in sample]
    assert len(set(ids)) == 4
    assert ids == [pair.pair_id for pair in pairs.sample(4, seed=2)]
    assert ids != [pair.pair_id for pair in pairs.sample(4, seed=3)]
    assert len(pairs.sample(100)) == len(pairs)


def test_the_table_has_a_row_a_pair():
    table = many().table()
    assert len(table) == 9
    assert table["order"].value_counts().to_dict() == {"correct_first": 6, "incorrect_first": 3}


def test_balancing_needs_no_field_but_the_pairs_own():
    with pytest.raises(AttributeError):
        many().balance(["colour"])
    assert replace(many(), pairs=()).balance().pairs == ()
