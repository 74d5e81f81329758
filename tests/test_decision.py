"""Decisions on planted scenes: levels, power, the guard, halves and units."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t

from notice_lib import NoticeError, load_pairs
from notice_lib.heads.decision import (
    Condition,
    Group,
    as_units,
    decide,
    fewest_scenes,
    half_of,
    scenes_needed,
)


def group(means, n=20, spread=1.0, minimum=0.0, seed=0, name="") -> Group:
    """Candidates with these means, in two conditions."""
    rng = np.random.default_rng(seed)
    values = [np.array(means) + rng.normal(0, spread, (n, len(means))) for _ in range(2)]
    names = [f"c{i}" for i in range(len(means))]
    return Group(name, names, [Condition(own, minimum) for own in values])


def test_the_four_verdicts():
    assert decide([group([0, 0, 3.0])], 2.0).verdict == "seen"
    assert decide([group([0, 0, 0])], 2.0).verdict == "undecided"
    assert decide([group([0, 0, 0], minimum=2.0)], 3.0).verdict == "not seen"
    assert decide([group([0, 0, 9.0], n=5)], 2.0).verdict == "not testable"
    assert decide([], 1.0).verdict == "not testable"


def test_a_finding_names_the_best_candidate_and_its_hardest_condition():
    one = group([0, 3.0, 0], name="svo, subject")
    one.conditions[1].values[:, 1] -= 1
    found = decide([group([0, 0, 0], name="faces"), one], 2.0)
    values = one.conditions[1].values[:, 1]
    assert found.best == "c1, svo, subject" and found.passing == 1 and found.tests == 6
    assert found.estimate == pytest.approx(values.mean())
    assert found.low < found.estimate < found.high
    # Both ends, 6 candidates, 2 conditions: t(1 - .05 / 2 / 12, 19 degrees of freedom) = 3.2431
    half = t.ppf(1 - 0.05 / 24, 19) * values.std(ddof=1) / 20**0.5
    assert found.high - found.estimate == pytest.approx(half, rel=1e-3)


def test_one_condition_that_fails_is_enough():
    one = group([5.0])
    assert decide([one], 2.0).verdict == "seen"
    one.conditions[0].values[:] -= 5
    found = decide([one], 2.0)
    assert found.verdict != "seen" and found.p > 0.05


def test_no_p_value_survives_below_the_guard():
    for tests, fewest in ((1, 6), (48, 11), (1024, 16)):
        assert fewest_scenes(tests) == fewest
        clear = np.full((fewest, 1), 1.0) + 1e-3 * np.arange(fewest)[:, None]
        enough = Group("", ["a"], [Condition(clear)], tests)
        assert decide([enough], 0.5).verdict == "seen"
        few = Group("", ["a"], [Condition(clear[1:])], tests)
        found = decide([few], 0.5)
        assert found.verdict == "not testable" and found.needed == fewest


def test_groups_with_too_few_scenes_are_left_out_and_named():
    large, small = group([3.0] * 4, n=30, name="large"), group([3.0] * 40, n=8, name="small")
    found = decide([small, large], 2.0)
    assert found.verdict == "seen" and found.left_out == ("small",)
    assert found.tests == 4 and found.scenes == 30


def test_nothing_is_not_seen_while_a_group_is_open():
    """Eight scenes with a clear effect, beside a large group that has none."""
    large = group([0] * 4, n=60, spread=0.1, minimum=1.0, name="large")
    small = group([5.0] * 40, n=8, spread=0.1, minimum=1.0, name="small")
    assert decide([large], 2.0).verdict == "not seen"
    found = decide([large, small], 2.0)
    assert found.verdict == "undecided" and found.left_out == ("small",)


def test_an_absence_takes_more_scenes_the_more_candidates_it_is_about():
    def needed(candidates, delta):
        return decide([group([0.0] * candidates, n=40, minimum=1.0)], delta).needed

    assert needed(8, 0.0) > needed(1, 0.0)
    # Every group must show an absence, one is enough for a presence.
    tight, wide = group([0.0], n=4, spread=0.5, minimum=1), group([0.0], n=4, spread=5, minimum=1)
    alone = {one: [decide([one_group], delta).needed for one_group in (tight, wide)]
             for one, delta in (("absence", 0.0), ("presence", 2.0))}  # fmt: skip
    assert decide([tight, wide], 0.0).needed >= max(alone["absence"])
    assert decide([tight, wide], 2.0).needed < max(alone["presence"])


@pytest.mark.parametrize("others", [[], [-2.0, -2.0, -2.0, -2.0]])
def test_false_seen_and_false_not_seen_are_rare(others):
    """A candidate that is exactly at the minimum in both conditions, alone or among others that are
    clearly below it: neither is it shown to be above, nor is it shown to be below."""
    wrong = {"seen": 0, "not seen": 0}
    for seed in range(200):
        found = decide([group([0.5, *others], minimum=0.5, seed=seed)], 1.0)
        wrong[found.verdict] = wrong.get(found.verdict, 0) + 1
    assert wrong["seen"] <= 10 and wrong["not seen"] <= 10


@pytest.mark.parametrize(("tests", "gap"), [(1, 1.0), (48, 1.0), (336, 0.8)])
def test_the_number_of_scenes_has_the_power_that_it_promises(tests, gap):
    """And the normal approximation has not: it takes a t-test for a z-test."""

    def power(n):
        rng = np.random.default_rng(n)
        draws = [gap + rng.normal(0, 1, (n, 1)) for _ in range(200)]
        groups = [Group("", ["a"], [Condition(own)], tests) for own in draws]
        return np.mean([decide([one], gap).verdict == "seen" for one in groups])

    n = scenes_needed(1.0, gap, tests)
    assert power(n) >= 0.72  # .8 less two standard errors
    normal = int(np.ceil(((norm.ppf(1 - 0.025 / tests) + 0.84) / gap) ** 2))
    assert normal < n
    if tests > 1:
        assert power(max(normal, fewest_scenes(tests))) < 0.7


def test_an_impossible_gap_is_refused():
    with pytest.raises(NoticeError, match="No number of scenes shows a difference of 0"):
        scenes_needed(1.0, 0.0)
    assert scenes_needed(0.0, 1.0, 48) == fewest_scenes(48)


def test_halves_are_even_and_do_not_depend_on_the_order_of_rows():
    pairs = load_pairs("svo")
    table = pd.DataFrame([(p.task, p.slot, p.scene_id) for p in pairs],
                         columns=["task", "slot", "scene_id"])  # fmt: skip
    half = half_of(table)
    assert (table.assign(half=half).groupby("scene_id")["half"].nunique() == 1).all()
    scenes = table.assign(half=half).drop_duplicates("scene_id")
    counts = scenes.groupby(["slot", "half"]).size().unstack()
    assert (abs(counts["A"] - counts["B"]) <= 1).all()
    mixed = table.sample(frac=1, random_state=0)
    assert half_of(mixed).sort_index().equals(half)


def test_halves_are_those_of_the_names_hashes():
    """By hand: the hashes of d, c, b and a begin with 18, 2e, 3e and ca."""
    table = pd.DataFrame({"task": "t", "slot": "s", "scene_id": list("abcd")})
    assert half_of(table).tolist() == ["B", "A", "B", "A"]


def test_a_scene_in_two_slots_has_one_half():
    """24 of the 54 held-out scenes of states are about a shape in one direction and about a texture
    in the other."""
    pairs = load_pairs("states").filter(lambda pair: pair.split == "heldout")
    table = pd.DataFrame([(p.task, p.slot, p.scene_id) for p in pairs],
                         columns=["task", "slot", "scene_id"])  # fmt: skip
    assert (table.groupby("scene_id")["slot"].nunique() == 2).any()
    halves = table.assign(half=half_of(table)).groupby("scene_id")["half"].nunique()
    assert (halves == 1).all()


def test_verbs_have_fewer_units_than_scenes():
    """24 held-out scenes ask 12 questions about verbs; other scenes are units as they are."""
    pairs = load_pairs("svo").filter(lambda pair: pair.split == "heldout")
    units = as_units(pairs)
    verbs = [pair for pair in units if pair.slot == "verb"]
    assert len({pair.scene_id for pair in verbs}) == 12
    assert len({pair.scene_id for pair in pairs if pair.slot == "verb"}) == 24
    for before, after in zip(pairs, units, strict=True):
        assert before.pair_id == after.pair_id
        assert (before.scene_id == after.scene_id) == (before.slot != "verb")
