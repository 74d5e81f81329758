"""How many universal heads chance gives: by hand, and in planted data."""

import numpy as np
import pytest

from notice_lib import NoticeError
from notice_lib.heads import chance
from notice_lib.heads.chance import universal_by_labels
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


def test_other_rules_have_no_null(one_universal):
    with pytest.raises(
        NoticeError, match="no null distribution for the rule 'max_t'; choose signed or paper"
    ):
        chance(one_universal, "max_t")
