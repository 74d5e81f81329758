"""How many universal heads chance gives: by hand, and in planted data."""

import numpy as np
import pytest

from notice_lib import NoticeError
from notice_lib.heads import chance
from notice_lib.heads.chance import null_flips, universal_by_flips, universal_by_labels
from tests.test_selection import SIX, conditions


def test_permuted_labels_give_the_expected_number():
    """Lists of 4, 2 and 3 of 48 heads in one layer; then the lists' heads in two layers."""
    rng = np.random.default_rng(0)
    scores = {}
    for task, n in (("a", 4), ("b", 2), ("c", 3)):
        scores[task, "image"] = rng.normal(0, 0.1, 48)
        scores[task, "image"][:n] = 10
    found, null = universal_by_labels(scores, np.zeros(48, int), 20_000)
    assert found == 2
    assert null.mean() == pytest.approx(48 * 4 / 48 * 2 / 48 * 3 / 48, rel=0.3)
    # The first layer has only four heads, and all lists are among them.
    _, null = universal_by_labels(scores, np.repeat([0, 1], [4, 44]), 20_000)
    assert null.mean() == pytest.approx(4 * 1 * 2 / 4 * 3 / 4, rel=0.05)


@pytest.fixture(scope="module")
def one_universal():
    planted = {name: np.zeros(32) for name in SIX}
    for name in SIX:
        planted[name][3] = 2.0
    return conditions(planted, scenes=30)


@pytest.mark.parametrize("rule", ["signed", "paper"])
def test_a_planted_head_is_more_than_chance(one_universal, rule):
    found = chance(one_universal, rule, draws=200).set_index("kind")
    assert (found["universal"] == 1).all() and (found["heads"] == 32).all()
    assert (found["expected"] < 0.1).all() and (found["p"] < 0.05).all()
    assert (found["draws"] == 200).all() and (found["rule"] == rule).all()


def test_flips_are_of_whole_scenes():
    """All heads do in each scene the same: a flip then moves all of them, and often none counts."""
    planted = {name: np.zeros(32) for name in SIX}
    table = conditions(planted, scenes=12)
    scene = table["scene_id"].str.extract(r"(\d+)$")[0].astype(int)
    table["effect"] = 1.0 + 0.01 * scene
    table["logit_correct"] = table["base_logit_correct"] + table["effect"]
    found = chance(table, draws=300).set_index("kind").loc["vision"]
    assert found["universal"] == 32
    assert 0 < found["p"] < 0.1


@pytest.mark.parametrize("heads", [48, 144, 256, 1024])
def test_a_lone_head_can_be_found_among_as_many_heads_as_real_models_have(heads):
    """In the data and in the null alike: else chance would look smaller than it is."""
    rng = np.random.default_rng(0)
    effects = [rng.normal(0, 1, (24, heads)) for _ in range(3)]
    for values in effects:
        values[:, -1] += 20
    assert universal_by_flips(effects, [0.1] * 3, null_flips(heads)) == 1


def test_the_tested_rule_asks_for_a_size_a_sign_and_a_correction():
    rng = np.random.default_rng(0)
    size = [np.full((24, 8), 0.02) + rng.normal(0, 1e-4, (24, 8)) for _ in range(2)]
    assert universal_by_flips(size, [0.01, 0.01], 1999) == 8
    assert universal_by_flips(size, [0.03, 0.03], 1999) == 0
    assert universal_by_flips([size[0], -size[1]], [0.01, 0.01], 1999) == 0
    noise = [rng.normal(0, 1, (24, 2000))]
    assert universal_by_flips(noise, [0.0], 1999) == 0  # of 2,000 p-values about 100 are below .05


def test_the_minimum_is_a_fraction_of_the_total_effect():
    """The total effect is 10 logits: .02 logits in every scene are sure and too small to count."""
    planted = {name: np.zeros(32) for name in SIX}
    for name in SIX:
        planted[name][3] = 0.02
    table = conditions(planted, scenes=30, spread=1e-3)
    assert (chance(table, draws=20)["universal"] == 0).all()


def test_other_rules_have_no_null(one_universal):
    with pytest.raises(
        NoticeError, match="no null distribution for the rule 'max_t'; choose signed or paper"
    ):
        chance(one_universal, "max_t")
