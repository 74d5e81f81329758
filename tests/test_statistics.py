"""Statistics over scenes, on data whose truth is known."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from notice_lib import NoticeError
from notice_lib.heads import (
    bootstrap_interval,
    max_t_test,
    ratio_interval,
    sign_flip_test,
    split_half_correlation,
    two_sd,
)


def rate(hits, level=0.05):
    """The largest share of hits that independent tests of this level give by chance (3 SD)."""
    return level + 3 * np.sqrt(level * (1 - level) / np.size(hits))


@pytest.mark.parametrize("minimum", [0.0, 0.3])
def test_with_few_scenes_flips_are_exact_and_equal_scipys(minimum):
    x = np.random.default_rng(0).normal(0.4, 1, size=(9, 5))
    one_sided = [
        permutation_test(
            (shifted,), np.mean, permutation_type="samples", alternative="greater", axis=0,
            vectorized=True,
        ).pvalue
        for shifted in (x - minimum, -x - minimum)
    ]  # fmt: skip
    expected = np.minimum(1, 2 * np.min(one_sided, axis=0))
    np.testing.assert_allclose(sign_flip_test(x, minimum), expected, rtol=1e-12)
    drawn = sign_flip_test(x, minimum, draws=510)
    np.testing.assert_allclose(drawn, expected, atol=4 * np.sqrt(0.25 / 510) * 2)
    assert not np.array_equal(drawn, expected)


@pytest.mark.parametrize("noise", ["normal", "laplace", "standard_t"])
def test_sign_flips_reject_null_heads_at_the_nominal_rate(noise):
    rng = np.random.default_rng(1)
    arguments = (3,) if noise == "standard_t" else (0, 1)
    x = getattr(rng, noise)(*arguments, size=(24, 3000)) * rng.lognormal(size=3000)
    rejected = sign_flip_test(x, draws=1999) <= 0.05
    assert 0.04 < rejected.mean() < rate(rejected)


def test_of_a_single_head_max_t_is_the_sign_flip_test():
    x = np.random.default_rng(8).normal(0.5, 1, size=(9, 1))
    np.testing.assert_allclose(max_t_test(x), sign_flip_test(x))


def test_effects_no_larger_than_the_minimum_are_not_found_and_larger_ones_are():
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, size=(40, 3000))
    for effect in (0.0, 0.5, -0.5):
        rejected = sign_flip_test(x + effect, minimum=0.5, draws=1999) <= 0.05
        assert rejected.mean() < rate(rejected)
    for effect in (1.3, -1.3):
        assert (sign_flip_test(x + effect, minimum=0.5, draws=1999) <= 0.05).mean() > 0.99


def test_a_head_that_never_does_anything_is_never_found():
    x = np.random.default_rng(3).normal(1, 0.1, size=(20, 3))
    x[:, 1] = 0
    for test in (sign_flip_test, max_t_test):
        found = test(x) <= 0.05
        assert found.tolist() == [True, False, True]


def test_max_t_errs_in_few_data_sets_however_heads_depend():
    rng = np.random.default_rng(4)
    any_false = []
    for seed in range(300):
        shared = rng.normal(size=(20, 1))
        x = (shared + rng.normal(size=(20, 30))) * rng.lognormal(size=30)
        any_false.append((max_t_test(x, draws=499, seed=seed) <= 0.05).any())
    assert 0.01 < np.mean(any_false) < rate(any_false)


def rows_of_scenes(rng, scenes, rows, heads):
    """Skewed effects of mean 2; the rows of one scene share most of what varies."""
    shared = rng.exponential(1, size=(scenes, 1, heads))
    return 1 + shared + rng.normal(0, 0.5, size=(scenes, rows, heads))


def test_intervals_over_scenes_cover_at_their_level():
    rows = rows_of_scenes(np.random.default_rng(5), scenes=36, rows=4, heads=3000)
    for level in (0.95, 0.8):
        low, high = bootstrap_interval(rows.mean(axis=1), level)
        assert abs(((low < 2) & (high > 2)).mean() - level) < 0.02
    low, high = bootstrap_interval(rows.reshape(144, -1))
    assert ((low < 2) & (high > 2)).mean() < 0.8, "rows of one scene are not independent"


def test_interval_of_a_constant_is_the_constant():
    low, high = bootstrap_interval(np.full((5, 2), [0.0, 3.0]))
    np.testing.assert_allclose([low, high], [[0, 3], [0, 3]])


@pytest.mark.parametrize("scenes", [12, 36])
@pytest.mark.parametrize(
    ("share", "noise"), [(0.5, "normal"), (0.0, "exponential"), (1.0, "normal")]
)
def test_intervals_of_a_ratio_cover_at_their_level(scenes, share, noise):
    rng = np.random.default_rng(6)
    first, second = (getattr(rng, noise)(size=(scenes, 3000)) / 2 for _ in range(2))
    x, rest = first - first.mean() + share, second - second.mean() + 1 - share
    low, high = ratio_interval(x, x + rest)
    covered = (low < share) & (share < high)
    assert abs(covered.mean() - 0.95) < 0.025
    assert np.median(high - low) < 1.2


def test_the_interval_of_a_ratio_to_one_is_that_of_the_mean():
    x = np.random.default_rng(9).exponential(size=(12, 40)) - 0.5
    expected = bootstrap_interval(x)
    np.testing.assert_allclose(ratio_interval(x, np.ones((12, 1))), expected, atol=1e-12)
    low, high = ratio_interval(x, np.full((12, 1), -2.0))
    np.testing.assert_allclose([-2 * high, -2 * low], expected, atol=1e-12)


def test_a_ratio_to_what_may_be_zero_has_no_bounds():
    rng = np.random.default_rng(10)
    x, y = rng.normal(1, 0.1, size=(12, 1)), rng.normal(0, 1, size=(12, 1))
    low, high = ratio_interval(x, y)
    assert (low, high) == (-np.inf, np.inf)
    low, high = ratio_interval(3 * y + 30, y + 10)
    assert low == pytest.approx(3)
    assert high == pytest.approx(3)


def test_two_sd_by_hand():
    scores = [0.0] * 9 + [1.0]  # mean 0.1, SD 0.3
    assert two_sd(scores).tolist() == [False] * 9 + [True]
    assert two_sd([*scores[:-1], 0.5, 0.6]).tolist() == [False] * 10 + [True]
    # ddof 0, and a score at the cut is in: mean 0.2, SD 0.4
    assert two_sd([0.0] * 4 + [1.0]).tolist() == [False] * 4 + [True]
    assert not two_sd(np.full(7, 0.3)).any()
    assert not two_sd(np.zeros(4)).any()


def test_mean_of_absolute_values_passes_pure_noise():
    """144 heads, six conditions, no effect anywhere; each head has a spread of its own."""
    universal = {"mean of |x|": [], "|mean of x|": [], "test": []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        spread = rng.lognormal(0, 0.7, size=144)
        conditions = rng.normal(size=(6, 100, 144)) * spread
        selected = {
            "mean of |x|": [two_sd(np.abs(x).mean(axis=0)) for x in conditions],
            "|mean of x|": [two_sd(np.abs(x.mean(axis=0))) for x in conditions],
            "test": [max_t_test(x, draws=499) <= 0.05 for x in conditions],
        }
        for rule, found in selected.items():
            universal[rule].append(np.all(found, axis=0).sum())
    assert np.mean(universal["mean of |x|"]) > 4
    assert np.mean(universal["|mean of x|"]) < 0.2
    assert np.sum(universal["test"]) == 0


def test_halves_agree_on_a_planted_order_and_not_on_noise():
    noise = np.random.default_rng(7).normal(size=(40, 60))
    assert abs(split_half_correlation(noise).mean()) < 0.15
    planted = split_half_correlation(noise + np.linspace(-5, 5, 60))
    assert planted.shape == (200,)
    assert planted.min() > 0.98
    assert split_half_correlation(np.outer(np.ones(4), [1.0, 2.0, 4.0])) == pytest.approx(1)


@pytest.mark.parametrize("x", [np.zeros(5), np.zeros((2, 5)), np.full((5, 2), np.nan)])
@pytest.mark.parametrize(
    "of", [bootstrap_interval, sign_flip_test, max_t_test, split_half_correlation]
)
def test_too_few_scenes_or_no_numbers_are_refused(of, x):
    with pytest.raises(NoticeError, match="three scenes"):
        of(x)


def test_intervals_of_nearly_equal_effects_stay_near_them():
    """A bootstrap draw of equal effects has an error of rounding only; no ratio is taken of it."""
    effects = np.ones((144, 1))
    effects[:2] = 0.5
    low, high = bootstrap_interval(effects)
    assert 0.9 < low[0] < effects.mean() < high[0] < 1.1
