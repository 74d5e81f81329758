"""Roles on constructed attention: what each head does is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from notice_lib import NoticeError, load_pairs
from notice_lib.heads import role_splits
from notice_lib.heads.attention import AttentionMaps, minus_average, shares
from notice_lib.heads.overlap import head_overlap, outlier_patches, regions, shuffled
from notice_lib.heads.role_splits import (
    replication_rates,
    role_agreement,
    role_confusion,
    role_halves,
)
from notice_lib.heads.roles import against_random, head_roles

LAYERS, HEADS, GRID = 3, 4, 8
SINKS = [7, 56]
FEW = {"draws": 999}


@pytest.fixture(scope="module")
def pairs():
    """24 scenes, two pairs of each."""
    found = load_pairs("svo").filter(
        lambda pair: pair.slot in ("subject", "object") and pair.order == "correct_first"
    )
    scenes = sorted({pair.scene_id for pair in found if not pair.distractor})[:24]
    return tuple(pair for pair in found if pair.scene_id in scenes)


@pytest.fixture(scope="module")
def objects(pairs):
    """(N, P) masks of the named objects."""
    return regions(of(pairs, noise(pairs)))["named"].astype(float)


def noise(pairs, seed=0):
    """(N, L, H, P): every head looks somewhere else in every image."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(GRID**2), (len(pairs), LAYERS, HEADS))


def of(pairs, patches, norms=None, cls=0.0):
    norms = np.ones((len(pairs), GRID**2)) if norms is None else norms
    mass = np.full(patches.shape[:3], cls)
    return AttentionMaps(
        tuple(pairs), patches, mass, norms, "cross_attention", "correct", "clean", GRID, 96
    )


def even(masks):
    return masks / masks.sum(1, keepdims=True)


def planted(pairs, objects):
    """0.0 looks at the object, 0.1 away from it, 1.0 evenly, 1.1 where objects usually are, 2.0
    at [CLS] but for a thousandth that is all on the object; the others anywhere."""
    patches = noise(pairs)
    patches[:, 0, 0] = 0.5 * patches[:, 0, 0] + 0.5 * even(objects)
    patches[:, 0, 1] = shares(patches[:, 0, 1] * (1 - 0.9 * objects))
    patches[:, 1, 0] = 1 / GRID**2
    patches[:, 1, 1] = shares(objects.mean(0))
    patches[:, 2, 0] = 0.001 * even(objects)
    return of(pairs, patches)


def called(table, column="role"):
    """{(layer, head): role} without those that have none."""
    found = table.set_index(["layer", "head"])[column]
    return found[found != "none"].to_dict()


def test_heads_are_called_what_they_do(pairs, objects):
    table = head_roles(planted(pairs, objects), **FEW)
    assert called(table) == {(0, 0): "object detection", (0, 1): "object suppression"}
    head = table.set_index(["layer", "head"])
    assert (head["scenes"] == 24).all()
    assert head.loc[(2, 0), "by_difference"] == "object detection"
    assert head.loc[(2, 0), "image_mass"] == pytest.approx(0.001)
    assert head.loc[(1, 1), "excess_low"] > 0.05, "it does look at objects more than the average"
    assert head.loc[(0, 0), "share"] > 0.5
    for name in ("share", "excess", "excess_contrast", "attention_contrast"):
        assert (table[f"{name}_low"] <= table[name] + 1e-12).all()
        assert (table[name] <= table[f"{name}_high"] + 1e-12).all()
    assert table["outliers_excess"].isna().all(), "there are no outliers to test"
    halves = role_halves(planted(pairs, objects), repeats=4)
    confusion = role_confusion(halves)
    assert confusion.to_numpy().sum() == LAYERS * HEADS
    assert confusion.equals(confusion.T.rename_axis(index="first", columns="second"))
    assert confusion.loc["object detection", "object detection"] == 1
    assert role_agreement(table, halves)[0] == 1
    rates = replication_rates(halves)
    assert rates.loc["object detection", ["heads", "rate"]].tolist() == [1, 1]
    assert np.isnan(rates.loc["outlier suppression", "rate"])
    assert (rates["scenes"] == 12).all() and (rates["splits"] == 4).all()
    few = replication_rates(halves.assign(scenes=8))  # 12 heads need 9 scenes
    assert few["rate"].isna().all()


def test_a_rate_is_known_if_the_smaller_half_has_enough_scenes(pairs):
    """48 heads need 11 scenes: of 22 scenes each half has them, of 21 one half has 10."""
    for n, enough in ((22, True), (21, False)):
        some = pairs[: 2 * n]
        masks = regions(of(some, noise(some)))["named"].astype(float)
        patches = np.random.default_rng(0).dirichlet(np.ones(GRID**2), (len(some), 6, 8))
        patches[:, 0, 0] = 0.2 * patches[:, 0, 0] + 0.8 * even(masks)
        halves = role_halves(of(some, patches), repeats=2)
        assert (halves["scenes"] == n // 2).all()
        rates = replication_rates(halves)["rate"]
        assert rates.notna()["object detection"] == enough and "none" not in rates


def test_halves_are_disjoint_and_of_every_slot(pairs, objects, monkeypatch):
    """A head that looks at the object a little passes on one half and not on the other."""
    kinds = []

    def kept(given, rng):
        kinds.append(given.tolist())
        return random_half(given, rng)

    random_half = role_splits._random_half
    monkeypatch.setattr(role_splits, "_random_half", kept)
    patches = noise(pairs)
    patches[:, 0] = 0.88 * patches[:, 0] + 0.12 * even(objects)[:, None]
    halves = role_halves(of(pairs, patches), repeats=4, draws=999)
    assert (halves["first"] != halves["second"]).any()
    slots = {pair.scene_id: pair.slot for pair in pairs}
    assert kinds == [[f"svo {slots[name]}" for name in sorted(slots)]] * 4
    assert len(set(kinds[0])) == 2

    rng = np.random.default_rng(0)
    for _ in range(20):
        half = random_half(np.repeat(["a", "b", "c"], [10, 5, 7]), rng)
        assert half[:10].sum() == 5 and half.sum() == 11
        assert half[10:15].sum() in (2, 3) and half[15:].sum() in (3, 4)


def test_halves_take_the_region_and_the_minimum(pairs, objects):
    maps = planted(pairs, objects)
    with pytest.raises(NoticeError, match="no region 'thing'"):
        role_halves(maps, "thing")
    assert (role_halves(maps, repeats=1)[["first", "second"]] != "none").any(axis=None)
    strict = role_halves(maps, minimum=0.9, repeats=1)
    assert (strict[["first", "second"]] == "none").all(axis=None)


def test_rates_confusion_and_agreement_by_hand():
    """Two heads, two splits: the first has the role on three of four halves, the other on none."""
    roles = [("object detection", "none"), ("object detection", "object detection")]
    halves = pd.DataFrame(
        [(0, 0, repeat, 9, *own) for repeat, own in enumerate(roles)]
        + [(0, 1, repeat, 9, "none", "none") for repeat in range(2)],
        columns=["layer", "head", "repeat", "scenes", "first", "second"],
    )
    confusion = role_confusion(halves)
    has, none = "object detection", "none"
    assert confusion.loc[[has, none], [has, none]].to_numpy().tolist() == [[0.5, 0.25], [0.25, 1]]
    rates = replication_rates(halves)
    assert rates.loc[has].tolist() == [0.75, 0.5 / 0.75, 9, 2]
    # Two heads need seven scenes.
    assert replication_rates(halves.assign(scenes=7)).loc[has, "rate"] == 0.5 / 0.75
    assert np.isnan(replication_rates(halves.assign(scenes=6)).loc[has, "rate"])
    table = pd.DataFrame({"layer": [0, 0], "head": [1, 0], "role": ["none", has]})
    assert role_agreement(table, halves).tolist() == [1, 0.75]


def test_contrasts_are_own_minus_other_scenes_masks(pairs, objects):
    """By brute force; and a head that looks the same everywhere has no contrast in any scene."""
    maps = planted(pairs, objects)
    table = head_roles(maps, draws=99)
    scenes = np.array([pair.scene_id for pair in pairs])
    on = np.einsum("ip,jp->ij", maps.patches[:, 0, 0], objects)
    own = np.mean([on.diagonal()[scenes == scene].mean() for scene in set(scenes)])
    other = np.mean(
        [on[scenes == a][:, scenes == b].mean() for a in set(scenes) for b in {*scenes} - {a}]
    )
    assert table["share"][0] == pytest.approx(own)
    assert table["attention_contrast"][0] == pytest.approx(own - other)
    same = table.query("layer == 1 and head < 2")
    for name in ("attention_contrast", "attention_contrast_low", "attention_contrast_high"):
        np.testing.assert_allclose(same[name], 0, atol=1e-12)


def test_below_an_average_that_looks_is_no_suppression(pairs, objects):
    patches = 0.5 * noise(pairs) + 0.5 * even(objects)[:, None, None]
    patches[:, 1, 0] = 1 / GRID**2
    table = head_roles(of(pairs, patches), **FEW)
    assert called(table, "by_difference")[1, 0] == "object suppression"
    assert (1, 0) not in called(table)


def test_outlier_suppression(pairs, objects):
    """The average looks at two sinks, the same patches in all images; 0.1 does not, 1.0 looks
    evenly."""
    patches = noise(pairs)
    patches *= 0.6 / patches.sum(-1, keepdims=True)
    patches[..., SINKS] += 0.2
    patches[:, 0, 1, SINKS] = 0.001
    patches[:, 1, 0] = 1 / GRID**2
    norms = np.ones((len(pairs), GRID**2))
    norms[:, SINKS] = 10
    maps = of(pairs, patches, norms)
    found = outlier_patches(maps)
    assert found.testable
    assert found.patches.sum() == 2 * len(pairs)
    assert found.table().loc["both"].tolist() == [1.0, 2.0]
    table = head_roles(maps, **FEW)
    assert called(table) == {(0, 1): "outlier suppression"}
    assert called(table, "by_difference") == dict.fromkeys([(0, 1), (1, 0)], "outlier suppression")
    attention = shares(patches).reshape(len(pairs), -1, GRID**2)
    expected = minus_average(attention[:, None])[:, 0][..., SINKS].sum(-1).mean(0)
    np.testing.assert_allclose(table["outliers_excess"], expected)

    for maps in (of(pairs, patches), of(pairs, noise(pairs), norms)):
        assert not outlier_patches(maps).testable
        assert not called(head_roles(maps, **FEW))


def test_heads_that_look_anywhere_have_no_role(pairs):
    """16 sets of null heads: a false-discovery rate of .05 is the chance of any role there."""
    null = [head_roles(of(pairs, noise(pairs, seed)), minimum=0.0, draws=499) for seed in range(16)]
    assert sum((table["role"] != "none").any() for table in null) <= 3
    assert sum((table["by_difference"] != "none").any() for table in null) <= 3


def test_overlap_by_hand(pairs):
    patches = np.array([[0.4, 0.4, 0.1, 0.1], [0.2, 0.2, 0.3, 0.3]]).reshape(1, 1, 2, 4)
    maps = of(pairs[:1], patches)
    mask = np.array([[True, False, True, False]])
    table = head_overlap(maps, {"named": mask, "other": np.zeros_like(mask)})
    assert table["region"].tolist() == ["named", "named"]
    assert table["area"].tolist() == [0.5, 0.5]
    expected = {
        "share": [0.5, 0.5],
        "excess": [0.0, 0.0],
        "above_mass": [0.5, 0.5],
        "above_iou": [1 / 3, 1 / 3],
        "below_mass": [0.5, 0.5],
        "below_iou": [1 / 3, 1 / 3],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, atol=1e-12)
    found = head_overlap(maps, {"named": np.array([[True, True, True, False]])})
    np.testing.assert_allclose(found["share"], [0.9, 0.7])
    np.testing.assert_allclose(found["excess"], [0.1, -0.1])
    np.testing.assert_allclose(found["above_mass"], [1.0, 0.5])
    np.testing.assert_allclose(found["above_iou"], [2 / 3, 1 / 4])
    np.testing.assert_allclose(found["below_iou"], [1 / 4, 2 / 3])


def test_regions_are_the_pairs_masks(pairs):
    found = regions(of(pairs, noise(pairs)))
    for row, pair in enumerate(pairs):
        masks = pair.patch_masks("clean", GRID, 96)
        other = {"subject": "object", "object": "subject"}[pair.slot]
        expected = {"differs": "differs", "named": pair.slot, "other": other}
        for region, name in expected.items():
            np.testing.assert_array_equal(found[region][row], masks[name].ravel())


def test_shuffled_masks_are_those_of_one_other_scene(pairs):
    maps = of(pairs, noise(pairs))
    masks = regions(maps)["differs"].copy()
    masks[:2] = False
    moved = shuffled(maps, masks)
    assert not moved[:2].any()
    donors = set()
    for row, mask in enumerate(moved[2:], start=2):
        of_mask = {pairs[i].scene_id for i in np.flatnonzero((masks == mask).all(1))}
        assert of_mask
        assert pairs[row].scene_id not in of_mask
        donors |= of_mask
    assert donors == {pair.scene_id for pair in pairs[2:]}
    with pytest.raises(NoticeError, match="Masks of 0 scenes cannot be shuffled"):
        shuffled(maps, np.zeros_like(masks))


def test_chosen_heads_against_random_ones(pairs, objects):
    table = head_roles(planted(pairs, objects), **FEW)
    found = against_random(table, [(0, 0)])
    assert found["chosen"] == table["excess_contrast"][0]
    assert found["random"] == pytest.approx(table["excess_contrast"][:HEADS].mean(), abs=0.01)
    assert found["p"] == pytest.approx(1 / HEADS, abs=0.02), "one of the layer's four heads"
    every = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    assert against_random(table, every)["p"] == 1
    with pytest.raises(NoticeError, match=r"not \[\(9, 0\)\]"):
        against_random(table, [(9, 0)])


def test_logit_suppression_is_told_by_effects(pairs, objects):
    rng = np.random.default_rng(0)
    effects = pd.DataFrame(
        {
            "pair_id": pair.pair_id,
            "scene_id": pair.scene_id,
            "task": "svo",
            "corruption": "image",
            "role": "correct",
            "component": "cross_attention",
            "layer": layer,
            "head": head,
            "effect": rng.normal(-1.0 if (layer, head) == (2, 1) else 0.0, 0.2),
        }
        for pair in pairs
        for layer in range(LAYERS)
        for head in range(HEADS)
    )
    table = head_roles(planted(pairs, objects), effects=effects, **FEW)
    suppresses = table.set_index(["layer", "head"])["logit_suppression"]
    assert suppresses[suppresses].index.tolist() == [(2, 1)]
    assert table["effect"][9] == pytest.approx(
        effects.query("layer == 2 and head == 1")["effect"].mean()
    )
    assert "effect" not in head_roles(planted(pairs, objects), draws=99)
    with pytest.raises(
        NoticeError, match="query 'correct', but the effects are of patches at last"
    ):
        head_roles(planted(pairs, objects), effects=effects.assign(role="last"), **FEW)
    mixed = effects.assign(role=np.where(effects["layer"] < 1, "last", "correct"))
    with pytest.raises(NoticeError, match="but the effects are of patches at correct, last"):
        head_roles(planted(pairs, objects), effects=mixed, **FEW)
    with pytest.raises(NoticeError, match="lack some heads of cross_attention"):
        head_roles(planted(pairs, objects), effects=effects[effects["layer"] < 2], **FEW)
    for wrong in ({"component": "mlp"}, {"corruption": np.where(effects["layer"] < 1, "a", "b")}):
        with pytest.raises(
            NoticeError, match="must be of 'cross_attention' and under one corruption"
        ):
            head_roles(planted(pairs, objects), effects=effects.assign(**wrong), **FEW)


def test_what_cannot_be_measured_is_named(pairs):
    maps = of(pairs, noise(pairs))
    with pytest.raises(NoticeError, match="no region 'thing'; choose one of differs, named, other"):
        head_roles(maps, "thing")
    two = of(pairs[:4], noise(pairs[:4]))
    with pytest.raises(NoticeError, match="2 scenes have a mask for 'named'"):
        head_roles(two)
    blind = replace(maps, pairs=tuple(replace(pair, clean_masks=None) for pair in pairs))
    with pytest.raises(NoticeError, match=r"0 scenes have a mask .* photographs have none"):
        head_roles(blind)
    with pytest.raises(NoticeError, match="5 scenes are too few for halves"):
        role_halves(of(pairs[:10], noise(pairs[:10])))
