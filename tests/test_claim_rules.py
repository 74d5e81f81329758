"""Each rule by which a claim is decided, on planted evidence in which one thing is off."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from notice_lib import load_model, load_pairs
from notice_lib.corruption import GaussianNoise
from notice_lib.heads import as_units
from notice_lib.heads.decision import Finding, fewest_scenes, scenes_needed
from notice_lib.patching import run_inputs
from notice_lib.reproduction import evidence as measured
from notice_lib.reproduction.claims import _MEASURES, can_choose, important_heads, measure
from notice_lib.reproduction.evidence import halves_of, role_maps, tables_of
from tests.planted_claims import (
    PLANTED,
    SCENES,
    SLOTS,
    WAY,
    K,
    cell,
    depth_cells,
    effect_cells,
    everywhere,
    evidence,
    one_head,
    role_cells,
    sizes,
)
from tests.test_claims import CLAIMS


def decided(key, given) -> Finding:
    claim = CLAIMS.loc[key]
    return _MEASURES[key](given, claim["minimum"], claim["delta"], 0)


def heads_with(**shares) -> np.ndarray:
    """(K,) fractions of the total effect; h3=.1 is head 3 with a tenth."""
    means = np.zeros(K)
    for name, share in shares.items():
        means[int(name[1:])] = share
    return means


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Important heads


@pytest.mark.parametrize(("scenes", "enough"), [(22, True), (20, False)])
def test_half_a_has_enough_scenes_from_eleven_on(rng, scenes, enough):
    """For 48 heads. With ten, all of them together would pass the correction."""
    all_of_them = cell("svo", "subject", "image", np.full(K, 0.1), rng, n=scenes)
    assert can_choose(all_of_them) == enough
    assert important_heads(all_of_them).all() == important_heads(all_of_them).any() == enough


def test_half_a_alone_is_counted(rng):
    one = cell("svo", "subject", "image", one_head(0.1), rng, n=22)
    assert can_choose(replace(one, half=np.repeat(["A", "B"], [11, 11])))
    assert not can_choose(replace(one, half=np.repeat(["A", "B"], [10, 12])))
    assert can_choose(replace(one, half=np.repeat(["A", "B"], [12, 10])))


def test_an_important_head_is_large_whatever_the_totals_sign(rng):
    small = cell("svo", "subject", "image", one_head(0.002), rng, spread=1e-5)
    assert not important_heads(replace(small, total=-small.total)).any()


# Universal heads


def test_a_universal_head_may_push_the_other_way(rng):
    effects = effect_cells(everywhere(-0.05, ("image",)), rng, ("image",), spread=1e-3)
    found = decided("blip_vision", evidence(rng, effects=effects))
    assert found.verdict == "seen" and found.passing == 1 and found.tests == K
    assert found.estimate == pytest.approx(0.05, abs=1e-3)  # of the total effect


def test_one_task_has_no_universal_heads(rng):
    given = PLANTED["blip_vision"][0](rng)
    alone = tuple(one for one in given.effects if one.task == "svo")
    assert decided("blip_vision", given).verdict == "seen"
    assert decided("blip_vision", replace(given, effects=alone)).verdict == "not testable"


def test_the_papers_rule_is_asked_of_its_own_corruption(rng):
    image_only = sizes(rng, 1)
    for key in image_only:
        if key[1] == "text":
            image_only[key] = rng.exponential(1.0, K)
    given = evidence(rng, sizes=image_only)
    found = decided("blip_vision_procedure", given)
    assert (found.verdict, found.passing, found.estimate) == ("repeats", 1, 1)
    assert decided("blip_text_procedure", given).verdict == "does not repeat"


def test_the_papers_rule_repeats_only_if_labels_do_not(rng):
    """No head at all; or all heads of the last layer, which no permutation within it changes."""
    nothing = {key: np.ones(K) for key in sizes(rng)}
    found = decided("blip_vision_procedure", evidence(rng, sizes=nothing))
    assert found.verdict == "does not repeat" and found.p == 1
    found = decided("blip_vision_procedure", evidence(rng, sizes=sizes(rng, 8)))
    assert (found.verdict, found.passing, found.p) == ("undecided", 8, 1)


# The strongest heads


def test_each_corruption_has_a_strongest_head_of_its_own(rng):
    def means(task, how):
        return heads_with(h3=0.06, h5=0.01) if how == "image" else heads_with(h3=0.0, h5=0.02)

    effects = effect_cells(means, rng, spread=1e-4)
    found = decided("blip_image_over_text", evidence(rng, effects=effects))
    assert found.best == "L0.H3 against L0.H5" and found.verdict == "seen"
    assert found.estimate == pytest.approx(0.04, abs=1e-3)
    alone = tuple(one for one in effects if one.corruption == "image")
    found = decided("blip_image_over_text", evidence(rng, effects=alone))
    assert found.verdict == "not testable"


def test_logits_count_in_fractions_of_the_total_effect(rng):
    """.06 against .03 of totals of 10 and 18: a difference of .06 logits, .006 of the first."""
    given = effect_cells(lambda _, how: one_head(0.06 if how == "image" else 0.03), rng,
                         spread=1e-3)  # fmt: skip
    for one in given:
        if one.corruption == "text":
            one.values[:] *= 1.8
            one.total[:] *= 1.8
    found = _MEASURES["blip_image_over_text"](evidence(rng, effects=given), 0.015, 0.03, 0)
    assert found.verdict == "not seen" and found.estimate == pytest.approx(0.006, abs=1e-3)


def test_the_strongest_head_has_the_largest_mean_fraction_over_tasks(rng):
    """Head 3 has the most logits, all in a task with a large total effect, and head 7 is the
    strongest in the first task."""
    shares = {
        "svo": heads_with(h3=0.03, h5=0.05, h7=0.06),
        "states": heads_with(h3=0.06, h5=0.05),
        "faces": heads_with(h5=0.05),
    }
    last = effect_cells(lambda task, _: shares[task], rng, ("image",), spread=1e-4)
    for one in last:
        if one.task == "states":
            one.values[:] *= 10
            one.total[:] *= 10
    found = decided("llava_last_over_option", evidence(rng, effects=last))
    assert found.best.startswith("L0.H5 against")
    assert found.scenes == sum(SCENES // 2 * len(slots) for slots in SLOTS.values())


def test_scenes_of_two_tasks_may_have_one_name(rng):
    last = effect_cells(everywhere(0.06, ("image",)), rng, ("image",))
    plain = tuple(replace(one, scenes=np.arange(len(one.scenes))) for one in last)
    found = decided("llava_last_over_option", evidence(rng, effects=plain, option=plain))
    assert found.scenes == SCENES // 2 * len(SLOTS)


def test_the_option_has_a_strongest_head_of_its_own(rng):
    """And text corruption has no part in it."""

    def last(task, how):
        return heads_with(h3=0.06) if how == "image" else heads_with(h5=0.9)

    def option(task, how):
        return heads_with(h7=0.02)

    given = evidence(
        rng,
        effects=effect_cells(last, rng, spread=1e-4),
        option=effect_cells(option, rng, ("image",), spread=1e-4),
    )
    found = decided("llava_last_over_option", given)
    assert found.best == "L0.H3 against L0.H7"
    assert found.estimate == pytest.approx(0.04, abs=1e-3)
    assert decided("llava_last_over_option", replace(given, option=())).verdict == "not testable"


# No grounding


@pytest.mark.parametrize(
    ("role", "does"), [("object detection", "detects"), ("object suppression", "suppresses")]
)
def test_the_head_that_refutes_the_absence_is_named_with_what_it_does(rng, role, does):
    given = replace(PLANTED["llava_no_detection"][0](rng), roles=role_cells(rng, role, 0.1))
    found = decided("llava_no_detection", given)
    assert (found.verdict, found.best) == ("not seen", f"L5.H7 {does}, svo, subject")
    assert found.tests == sum(map(len, SLOTS.values()))  # one important head a slot


def test_there_is_one_test_for_each_important_head(rng):
    """Detection and suppression are the two sides of one test."""
    two = effect_cells(lambda *_: heads_with(h3=0.1, h47=0.1), rng, ("image",))
    given = replace(PLANTED["llava_no_detection"][0](rng), effects=two)
    assert decided("llava_no_detection", given).tests == 2 * sum(map(len, SLOTS.values()))


def test_a_slot_without_important_heads_shows_nothing_against_the_absence(rng):
    given = PLANTED["llava_no_detection"][0](rng)
    quiet = tuple(
        cell("faces", "emotion", "image", np.zeros(K), rng) if one.task == "faces" else one
        for one in given.effects
    )
    quiet = replace(given, effects=quiet)
    found = decided("llava_no_detection", quiet)
    assert found.verdict == "seen" and found.tests == sum(map(len, SLOTS.values())) - 1
    # But if half B had too few scenes to look at, nobody knows.
    for one in (given, quiet):
        roles = tuple(
            replace(own, scenes=own.scenes.of(np.arange(SCENES) < 4), half=own.half[:4])
            if own.task == "faces"
            else own
            for own in one.roles
        )
        found = decided("llava_no_detection", replace(one, roles=roles))
        assert found.verdict == "undecided" and found.left_out == ("faces, emotion",)


def test_text_corruption_makes_no_head_important_for_grounding(rng):
    given = PLANTED["llava_no_detection"][0](rng)
    text = effect_cells(lambda *_: heads_with(h3=0.1), rng, ("text",))
    roles = role_cells(rng, spread=0.008)
    for one in roles:
        for name in ("excess", "excess_contrast", "attention_contrast"):
            one.scenes.tested()[name][:, 3] += 0.3
    both = replace(given, effects=(*given.effects, *text), roles=roles)
    assert decided("llava_no_detection", both).verdict == "seen"


# Noise


def test_the_middle_layer_is_neither_early_nor_late(rng):
    middle = tuple(
        replace(one, values=np.tile(WAY * np.eye(5)[2], (SCENES, 1)))
        if one.corruption == "noise"
        else replace(one, values=np.zeros((SCENES, 5)))
        for one in depth_cells(rng, 0.0)
    )
    assert decided("blip_noise_later", evidence(rng, depth=middle)).estimate == pytest.approx(0)


def test_noise_is_compared_on_the_scenes_that_have_both(rng):
    depth = tuple(
        replace(one, scenes=one.scenes[5:], values=one.values[5:], total=one.total[5:],
                half=one.half[5:])
        if one.corruption == "noise"
        else one
        for one in depth_cells(rng, 0.2, spread=1e-3)
    )  # fmt: skip
    found = decided("blip_noise_later", evidence(rng, depth=depth))
    assert found.verdict == "seen" and found.estimate == pytest.approx(0.2, abs=1e-2)
    assert found.scenes == sum((SCENES - 5) * len(slots) for slots in SLOTS.values())


def test_distances_are_compared_as_ratios(rng):
    """In logarithms, so that limits lie as far below as above; without distances of zero."""
    table = pd.DataFrame({"scene_id": range(20), "corrupt": np.linspace(1, 3, 20)})
    table["noisy"] = 2.0 * table["corrupt"] * np.tile([0.75, 1 / 0.75], 10)
    zeros = pd.DataFrame({"scene_id": [20, 21], "corrupt": [0.0, 1.0], "noisy": [1.0, 0.0]})
    found = decided("blip_noise_out", evidence(rng, distances=pd.concat([table, zeros])))
    assert found.verdict == "seen" and found.scenes == 20
    assert found.estimate == pytest.approx(2) and 1.5 < found.low < 2
    assert found.low * found.high == pytest.approx(4)
    spread = np.log(table["noisy"] / table["corrupt"]).std()
    assert found.needed == scenes_needed(spread, np.log(2 / 1.5)) > fewest_scenes(1)
    few = pd.concat([table[:2], zeros])
    found = decided("blip_noise_out", evidence(rng, distances=few))
    assert (found.verdict, found.scenes, found.needed) == ("not testable", 2, 0)


# Total effects


def test_a_total_effect_needs_scenes_to_be_shown(rng):
    """Four are too few, and it is said how many it takes; of 30 without one no more would do."""
    given = PLANTED["blip_vision"][0](rng)
    few = tuple(
        cell("faces", "emotion", one.corruption, one_head(0.02), rng, n=4)
        if one.task == "faces"
        else one
        for one in given.effects
    )
    found = decided("blip_vision", replace(given, effects=few))
    assert (found.verdict, found.scenes, found.needed) == ("not testable", 4, 6)
    none = tuple(replace(one, total=rng.normal(0, 0.1, SCENES)) for one in given.effects)
    found = decided("blip_vision", replace(given, effects=none))
    assert (found.verdict, found.scenes, found.needed) == ("not testable", SCENES, 0)


def test_a_total_effect_below_zero_is_none(rng):
    given = PLANTED["blip_vision"][0](rng)
    turned = tuple(replace(one, total=-one.total) for one in given.effects)
    assert decided("blip_vision", replace(given, effects=turned)).verdict == "not testable"


def test_groups_that_are_left_out_are_listed_in_words(rng):
    roles = role_cells(rng, "object detection", 0.1)
    short = tuple(
        replace(one, scenes=one.scenes.of(np.arange(SCENES) < 8), half=one.half[:8])
        if one.task != "svo"
        else one
        for one in roles
    )
    table = measure("blip", evidence(rng, roles=short)).set_index("key")
    left = table.loc["blip_detection", "left_out"].split("; ")
    assert sorted(left) == ["faces, emotion", "states, colour", "states, shape"]
    assert table.loc["blip_detection", "verdict"] == "seen"


# What is measured


@pytest.fixture(scope="module")
def verbs():
    """Pairs of three units of two scenes each, and the unit of each pair."""
    pairs = load_pairs("svo").filter(lambda pair: (pair.split, pair.slot) == ("heldout", "verb"))
    unit = {pair.pair_id: pair.scene_id for pair in as_units(pairs)}
    scenes = {}
    for pair in pairs:
        scenes.setdefault(unit[pair.pair_id], set()).add(pair.scene_id)
    double = [name for name, own in scenes.items() if len(own) == 2][:3]
    assert len(double) == 3
    some = pairs.filter(lambda pair: unit[pair.pair_id] in double)
    return some, {pair.pair_id: unit[pair.pair_id] for pair in some}


def test_the_scenes_of_one_verb_have_one_half_and_one_row(verbs):
    pairs, unit = verbs
    half = halves_of({"svo": pairs})
    assert half.groupby(half.index.map(unit)).nunique().eq(1).all()
    assert half.groupby(half.index.map(unit)).first().tolist() != ["A"] * 3
    model = load_model("blip-mini", device="cpu")
    ((task, slot, maps),) = role_maps(model, {"svo": pairs})
    assert (task, slot) == ("svo", "verb")
    assert [pair.scene_id for pair in maps.pairs] == [unit[pair.pair_id] for pair in pairs]
    experiments = [
        one
        for one in measured.experiments(model, {"svo": pairs.sample(4)})
        if one.name in ("heads-image-svo", "depth-image-svo")
    ]
    swept = tables_of((one, one.run(model, 0, None)) for one in experiments)
    for table in (swept.heads, swept.depth):
        assert (table["scene_id"] == table["pair_id"].astype(str).map(unit)).all()


def test_distances_are_those_of_the_nearest_picture_of_another_scene(verbs):
    """By brute force; scenes of one unit are one. The noise is the experiments'."""
    pairs, unit = verbs
    some = pairs.filter(lambda pair: pair.order == "correct_first")
    model = load_model("blip-mini", device="cpu")
    noise = GaussianNoise("patch_embeddings", 3.0, 10)
    states = {}
    for pair in some:
        clean, corrupt, _ = run_inputs(model, some, pair, "image", 0)
        _, noisy, _ = run_inputs(model, some, pair, noise, 0)
        runs = {"clean": clean, "corrupt": corrupt, "noisy": noisy}
        states[pair.pair_id] = {run: measured._image_state(model, own) for run, own in runs.items()}
    table = measured._distances(model, {"svo": some}, 0).set_index("scene_id")
    assert sorted(table.index) == sorted(set(unit.values()))
    for name in table.index:
        for run in ("corrupt", "noisy"):
            nearest = [
                min(
                    float((own[run] - other["clean"]).norm())
                    for away, other in states.items()
                    if unit[away] != name
                )
                for pair_id, own in states.items()
                if unit[pair_id] == name
            ]
            assert table.loc[name, run] == pytest.approx(np.mean(nearest), rel=1e-3)
