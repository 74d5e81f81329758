"""Every stored pair is what data/embedded/README.md says."""

import csv
import json
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import scenes
from tools.build_embedded import BITS, COLUMNS, rows, stored_digest
from tools.plan_embedded import NEAR_SYNONYMS, plan

FOLDER = Path(__file__).parent.parent / "data" / "embedded"
EXACT = ("svo", "states", "faces")
SETS = (*EXACT, "natural")
MAX_BYTES = 15_000_000


@cache
def table(name):
    with open(FOLDER / name / "pairs.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def scene_rows(name):
    """{scene_id: its rows}."""
    found = defaultdict(list)
    for row in table(name):
        found[row["scene_id"]].append(row)
    return found


@cache
def pixels(name, path):
    with Image.open(FOLDER / name / path) as image:
        assert image.size == (scenes.SIZE, scenes.SIZE)
        assert image.mode == ("RGB" if path.endswith(".webp") else "L")
        return np.asarray(image)


def flag(name, path, mask):
    return (pixels(name, path) & BITS[mask]) > 0


def first_rows(name):
    return [rows[0] for rows in scene_rows(name).values()]


def test_size():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


@pytest.mark.parametrize("name", SETS)
def test_files_decode_to_their_hashes_and_all_are_used(name):
    hashes = json.loads((FOLDER / "hashes.json").read_text(encoding="utf-8"))
    stored = {
        path.relative_to(FOLDER).as_posix() for path in (FOLDER / name).rglob("*") if path.is_file()
    }
    assert stored == {file for file in hashes if file.startswith(f"{name}/")}
    for file in stored:
        assert stored_digest(FOLDER / file) == hashes[file], file
    columns = ("clean_image", "corrupt_image", "clean_masks", "corrupt_masks")
    used = {f"{name}/{row[column]}" for row in table(name) for column in columns}
    assert used == stored - {f"{name}/pairs.csv", f"{name}/vocabulary.json"}


@pytest.mark.parametrize("name", SETS)
def test_table(name):
    assert tuple(table(name)[0]) == COLUMNS
    ids = [row["pair_id"] for row in table(name)]
    assert len(set(ids)) == len(ids) >= 300
    for scene, group in scene_rows(name).items():
        assert len(group) == 4, scene
        assert (
            Counter((row["order"], row["clean_image"]) for row in group).most_common(1)[0][1] == 1
        )
        assert len({(row["split"], row["distractor"], row["task"]) for row in group}) == 1
    orders = Counter((row["order"], row["slot"], row["split"]) for row in table(name))
    for (order, slot, split), count in orders.items():
        assert order == "correct_first" or count == orders["correct_first", slot, split]


@pytest.mark.parametrize("name", EXACT)
def test_balance(name):
    by_slot = Counter(row["slot"] for row in table(name))
    assert set(by_slot) == set(scenes.SLOTS[name])
    assert len(set(by_slot.values())) == 1
    by_split = Counter(row["split"] for row in table(name))
    assert by_split["heldout"] == by_split["seen"] > 0
    share = np.mean([row["distractor"] == "true" for row in table(name)])
    assert share == (0.25 if name in scenes.DISTRACTOR_FAMILIES else 0)
    for word, count in Counter(row["correct"] for row in table(name)).items():
        assert count >= 8, word


@pytest.mark.parametrize("name", SETS)
def test_options_and_prompts(name):
    words = json.loads((FOLDER / name / "vocabulary.json").read_text(encoding="utf-8"))
    assert words["near_synonyms"] == (NEAR_SYNONYMS if name in ("states", "natural") else {})
    for row in table(name):
        correct, incorrect = row["correct"], row["incorrect"]
        assert correct != incorrect
        assert {correct, incorrect} <= set(words["slots"][row["slot"]])
        assert incorrect not in words["near_synonyms"].get(correct, ())
        assert {correct, incorrect} <= set(row["shown"].split())
        tokens = row["prompt"].removesuffix("?").split()
        assert row["prompt"][:3] == "Is " and row["prompt"][-1] == "?"
        assert tokens.count(correct) == tokens.count(incorrect) == tokens.count("or") == 1
        first = tokens.index(correct) < tokens.index(incorrect)
        assert first == (row["order"] == "correct_first")
        # what token replacement needs: two words that are neither options nor true
        spare = set(words["slots"][row["slot"]]) - set(row["shown"].split())
        assert len(spare) >= 2


@pytest.mark.parametrize("name", SETS)
def test_rows_follow_from_the_scenes(name):
    planned = [row for pair in plan(name) for row in rows(pair)]
    assert planned == table(name)


@pytest.mark.parametrize("name", SETS)
def test_heldout_compositions_are_never_trained_on(name):
    for pair in plan(name):
        assert pair.a.split == pair.b.split == pair.split
        if pair.family == "states" and pair.distractor and pair.split == "seen":
            for scene in (pair.a, pair.b):
                assert not scenes.states.is_heldout(scene.other, scene.other_state)


@pytest.mark.parametrize("name", EXACT)
def test_nothing_differs_outside_the_mask(name):
    for row in first_rows(name):
        clean, corrupt = (pixels(name, row[f"{run}_image"]) for run in ("clean", "corrupt"))
        mask = flag(name, row["clean_masks"], "differs")
        np.testing.assert_array_equal(mask, flag(name, row["corrupt_masks"], "differs"))
        changed = (clean != corrupt).any(-1)
        assert not (changed & ~mask).any(), row["scene_id"]
        # the mask is of what was drawn, so it is larger than what happens to change, not by much
        assert 0.3 * mask.sum() < changed.sum() and 0.005 < mask.mean() < 0.6, row["scene_id"]


@pytest.mark.parametrize("name", SETS)
def test_masks_name_what_is_there(name):
    for row in first_rows(name):
        roles = {"svo": {"subject", "object"}, "states": {"object"}, "faces": {"subject"}}
        expected = roles[row["task"]] | ({"differs"} if name != "natural" else set())
        expected |= {"distractor"} if row["distractor"] == "true" else set()
        for run in ("clean", "corrupt"):
            masks = {m: flag(name, row[f"{run}_masks"], m) for m in BITS}
            assert {m for m, mask in masks.items() if mask.any()} == expected
            for role in expected - {"differs"}:
                assert 0.01 < masks[role].mean() < 0.7, (row["scene_id"], role)


@pytest.mark.parametrize("name", EXACT)
def test_what_differs_is_what_the_slot_says(name):
    """The mask covers the thing asked about and leaves the others alone."""
    for row in first_rows(name):
        for run in ("clean", "corrupt"):
            masks = {m: flag(name, row[f"{run}_masks"], m) for m in BITS}
            role = {"subject": "subject", "verb": "subject", "emotion": ""}.get(
                row["slot"], "object"
            )
            if role:
                assert not (masks[role] & ~masks["differs"]).any(), row["scene_id"]
            if row["distractor"] == "true":
                assert not (masks["distractor"] & ~masks["differs"]).any(), row["scene_id"]
            if row["slot"] == "emotion":
                inside = masks["differs"] & masks["subject"]
                assert inside.sum() > 0.97 * masks["differs"].sum(), row["scene_id"]


@pytest.mark.parametrize("name", scenes.DISTRACTOR_FAMILIES)
def test_distractor_pairs_swap_two_things_that_are_both_there(name):
    swapped = [pair for pair in plan(name) if pair.distractor]
    assert len(swapped) == 36
    for pair in swapped:
        assert pair.b == scenes.swap(pair.a) and pair.a == scenes.swap(pair.b)
        for scene in (pair.a, pair.b):
            assert scenes.shown(scene, scene.slot) == {scenes.value(pair.a), scenes.value(pair.b)}


def test_natural_pairs_differ_in_more_than_their_slot():
    for pair, row in zip(plan("natural"), first_rows("natural"), strict=True):
        assert pair.a.background != pair.b.background
        if pair.family == "faces":
            assert pair.a.identity != pair.b.identity
        clean, corrupt = (pixels("natural", row[f"{run}_image"]) for run in ("clean", "corrupt"))
        assert (clean != corrupt).any(-1).mean() > 0.25, row["scene_id"]
