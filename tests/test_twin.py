"""The committed twins of blip-mini: their outliers are there, and only the avoider avoids them."""

import copy
import json
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from notice_lib import heads, load_model, load_pairs
from tools.sheet import one_each
from tools.training import evaluation, outliers

ROOT = Path(__file__).parent.parent
PLANTED = ROOT / "data" / "checkpoints" / "blip-mini-outliers"
REGISTER = PLANTED.with_name("blip-mini-register")
MAX_BYTES = 10_000_000


@cache
def metrics():
    return json.loads((PLANTED / "metrics.json").read_text())


@cache
def loaded(folder):
    return load_model(folder, "cpu")


@pytest.fixture(scope="module")
def pairs():
    """Questions about shapes, one of each scene."""
    shapes = load_pairs("states").filter(lambda pair: pair.slot == "shape")
    return one_each(shapes).sample(16, 0, by=["order"])


@pytest.fixture(scope="module")
def found(pairs):
    return heads.outlier_pictures(loaded(PLANTED), pairs)


@pytest.mark.parametrize("folder", [PLANTED, REGISTER], ids=lambda folder: folder.name)
def test_a_twins_folder_is_small_and_holds_no_pickle(folder):
    files = list(folder.iterdir())
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}


def test_both_twins_have_one_tower_and_text_sides_of_their_own():
    one, other = (loaded(folder).model.state_dict() for folder in (PLANTED, REGISTER))
    differ = {name.split(".")[0] for name, own in one.items() if not torch.equal(own, other[name])}
    assert differ == {"text_encoder", "text_decoder"}


def test_outliers_are_where_their_file_says(found):
    """The file has the places of all embedded pictures, by rows from the upper left."""
    stored = json.loads((PLANTED / "outliers.json").read_text())
    data = (ROOT / "data" / "embedded").resolve()
    for pair, high in zip(found.maps.pairs, found.high, strict=True):
        name = Path(pair.clean_image).resolve().relative_to(data).as_posix()
        assert stored[name] == np.flatnonzero(high).tolist(), name
    each = np.array([len(places) for places in stored.values()])
    assert len(each) == 864
    assert ((each >= 2) & (each <= 6)).mean() >= 0.85 and (each == 0).mean() <= 0.05


def test_outliers_are_background_of_ten_times_the_norm(found):
    size = found.maps.norms / np.median(found.maps.norms, 1, keepdims=True)
    assert 9 < np.median(size[found.high]) < 11
    assert size[~found.high].max() < 3
    assert found.outliers.sum() / found.high.sum() >= 0.95


@torch.no_grad()
@pytest.mark.parametrize("folder", [PLANTED, REGISTER], ids=lambda folder: folder.name)
def test_twins_answer_as_blip_mini_does(folder):
    items = evaluation.stored_items(ROOT / "data" / "embedded")
    items = [items[i] for i in np.random.default_rng(0).permutation(len(items))[:60]]
    vlm = loaded(folder)
    axis = metrics()["training"]["axis"]
    register = outliers.register(vlm.model.vision_model, axis)
    with register if folder == REGISTER else nullcontext():
        given = evaluation.answer(vlm.model, vlm.processor, items)
    assert np.mean([word == item.correct for word, item in zip(given, items, strict=True)]) >= 0.95


def test_the_card_says_what_was_measured():
    card = " ".join((PLANTED / "README.md").read_text().split())
    own = metrics()["results"]
    registered = json.loads((REGISTER / "metrics.json").read_text())["results"]
    for arm in (own, registered, metrics()["checkpoint"], metrics()["projected"]):
        assert f"answer {100 * arm['accuracy']:.1f} % correctly" in card
    what, rows = own["outliers"], {(row["layer"], row["head"]): row for row in own["heads"]}
    followers = {tuple(at) for at in metrics()["training"]["known heads"]["followers"]}
    drawn = {at for at, row in rows.items() if row["avoidance"] < -heads.outliers.AVOIDANCE}
    assert drawn < followers
    before, after = own["before fine-tuning"]["followers"], own["attention"]["followers"]
    behind, avoider = registered["attention"]["followers"], rows[3, 0]
    for said in (
        f"{100 * what['pictures with 2 to 6']:.0f} % of the pictures have two to six outliers, "
        f"{100 * what['pictures with none']:.0f} % have none",
        f"{100 * what['outside all masks']:.1f} % of the outliers lie outside all masks",
        f"{what['norm behind it, in medians']:.1f} medians behind the last LayerNorm, "
        f"and {what['norm before the last LayerNorm, in medians']:.1f} before it",
        f"({what['largest norm of another patch behind it']:.1f} medians at most)",
        f"avoidance {avoider['avoidance']:.2f}, by the direction {avoider['by_direction']:.2f}, "
        f"looking costs {avoider['forced']:.1f} logits".replace("0.", "."),
        f"{len(drawn)} of the {len(followers)} followers",
        f"{100 * before['planted patches']:.0f} % of their attention to patches before, "
        f"{100 * after['planted patches']:.0f} % after",
        f"[CLS] {100 * behind['[CLS]']:.0f} % of all their attention, and those patches "
        f"{100 * behind['planted patches']:.0f} %",
    ):
        assert said in card


def test_of_the_known_heads_only_the_avoider_keeps_away(found):
    known = metrics()["training"]["known heads"]
    assert known["avoider"] == [[3, 0]]
    assert known["indifferent"] == [[3, 3]] and known["detecting"] == [[2, 2]]
    twin = loaded(PLANTED)
    without = copy.deepcopy(twin)
    outliers.project_out(without.model.vision_model, metrics()["training"]["axis"])
    judged = heads.outlier_avoidance(twin, without, found, [(3, 0), (3, 3), (2, 2)])
    assert judged["keeps_away"].tolist()[0] == "yes"
    assert "yes" not in judged["keeps_away"].tolist()[1:]
