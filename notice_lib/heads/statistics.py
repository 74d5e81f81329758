"""Statistics over scenes, for many heads at once.

Functions take an array `effects` of shape (scenes, heads) with one number per scene and head. Rows
must be independent of each other, columns need not be. The answer orders and directions of one
scene are dependent, so they are averaged first (`table.scene_effects`), and scenes are resampled,
flipped or split as a whole, with all their heads.
"""

import math

import numpy as np
from scipy.stats import rankdata

from ..errors import NoticeError

CHUNK = 1000
"""Number of random draws that are held in memory at once."""


def enough_draws(tests: int, level: float) -> int:
    """The number of random sign flips with which one of `tests` p-values can pass a correction."""
    return max(9999, math.ceil(2 * tests / level))


def bootstrap_interval(
    effects: np.ndarray, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Compute studentised bootstrap intervals for the heads' mean effects.

    Scenes are drawn with replacement. In each draw, the distance of the mean from the observed mean
    is divided by the draw's standard error. The quantiles of this ratio are then multiplied by the
    observed standard error. Unlike quantiles of the drawn means, such intervals keep their coverage
    with few scenes and skewed effects. Each interval holds for its head alone: among many heads,
    some intervals will miss.

    Args:
        effects: shape (scenes, heads).
        level: coverage of each interval.
        draws: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        Lower and upper ends, each of shape (heads,), in the unit of `effects`.

    Raises:
        NoticeError: fewer than three scenes.

    Source: Hall, The Bootstrap and Edgeworth Expansion (1992), section 3.
    """
    effects = _checked(effects)
    mean, error = _mean_and_error(np.full((1, len(effects)), 1 / len(effects)), effects)
    low, high = _t_quantiles(effects, level, draws, seed)
    return (mean - high * error)[0], (mean - low * error)[0]


def ratio_interval(
    numerators: np.ndarray,
    denominators: np.ndarray,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of the ratio of two means over scenes, mean numerator / mean denominator.

    They hold every ratio r for which the mean of numerator - r * denominator may be zero, by the
    studentised bootstrap of `bootstrap_interval`, and equal that where all denominators are 1.

    Args:
        numerators, denominators: shape (scenes, heads), or of the denominators (scenes, 1).

    Returns:
        Lower and upper ends, each of shape (heads,); minus and plus infinity where the mean
        denominator may be zero, so that any ratio is possible.

    Raises:
        NoticeError: fewer than three scenes.

    Source: Fieller, JRSS B 16 (1954).
    """
    x, y = np.broadcast_arrays(_checked(numerators), _checked(denominators))
    sign = np.where(y.mean(0) < 0, -1, 1)
    x, y = sign * x, sign * y
    mean_x, mean_y = x.mean(0), y.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        low_t, high_t = _t_quantiles(x - mean_x / mean_y * y, level, draws, seed)
    var_x, var_y = (values.var(0) / (len(x) - 1) for values in (x, y))
    cov = ((x - mean_x) * (y - mean_y)).mean(0) / (len(x) - 1)

    def end(t: np.ndarray) -> np.ndarray:
        """The ratio r where mean_x - r mean_y is t standard errors of the mean of x - r y."""
        a, b = mean_y**2 - t**2 * var_y, mean_x * mean_y - t**2 * cov
        root = np.sqrt(np.maximum(b**2 - a * (mean_x**2 - t**2 * var_x), 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            return (b - np.sign(t) * root) / a

    bounded = mean_y**2 > np.maximum(low_t**2, high_t**2) * var_y
    return np.where(bounded, end(high_t), -np.inf), np.where(bounded, end(low_t), np.inf)


def sign_flip_test(
    effects: np.ndarray, minimum: float = 0.0, draws: int = 9999, seed: int = 0
) -> np.ndarray:
    """Test each head's mean effect by flipping the signs of whole scenes.

    If a head had no effect, a scene's effect would be +x as often as -x. The test therefore flips
    the signs of scenes at random. The p-value is the share of flips in which the mean is at least
    as extreme as the observed one, which counts as one of the flips, so that no p-value is 0. With
    a minimum, the null hypothesis is that the mean lies between -minimum and +minimum. This tests
    whether an effect is large enough to count, rather than merely not zero, which nearly every
    effect is found to be with enough scenes.

    The level is exact if effects are symmetric about their mean, and otherwise asymptotic in the
    number of scenes. With few scenes, all flips are enumerated and no p-value is below
    2 ** (1 - scenes).

    Args:
        effects: shape (scenes, heads).
        minimum: smallest effect that counts, in the unit of `effects`.
        draws: number of random flips; the smallest p-value is 2 / (draws + 1).
        seed: seed of the flips.

    Returns:
        Two-sided p-values, shape (heads,).

    Raises:
        NoticeError: fewer than three scenes.

    Source: Winkler et al., NeuroImage 92 (2014); the minimum as in McCarthy & Smyth,
    Bioinformatics 25 (2009).
    """
    count, flips = np.zeros((), int), 0
    for observed, flipped in _flips(effects, minimum, draws, seed):
        count = count + (flipped >= observed).sum(axis=1)
        flips += flipped.shape[1]
    return np.minimum(1, 2 * (count / flips).min(axis=0))


def max_t_test(
    effects: np.ndarray, minimum: float = 0.0, draws: int = 9999, seed: int = 0
) -> np.ndarray:
    """Test each head's mean effect as `sign_flip_test` does, corrected for all heads.

    Each head is compared with the most extreme t of *any* head in a flip. The probability that any
    head without an effect gets a p-value below .05 is therefore at most .05 (family-wise error),
    however the heads depend on each other. This is stricter than a false-discovery rate.

    Args:
        effects, minimum, draws, seed: as in `sign_flip_test`.

    Returns:
        Corrected two-sided p-values, shape (heads,).

    Raises:
        NoticeError: fewer than three scenes.

    Source: Nichols & Holmes, Human Brain Mapping 15 (2002).
    """
    count, flips = np.zeros((), int), 0
    for observed, flipped in _flips(effects, minimum, draws, seed):
        largest = flipped.max(axis=(0, 2))
        count = count + (largest[:, None] >= observed.max(axis=0)).sum(axis=0)
        flips += len(largest)
    return count / flips


def two_sd(scores: np.ndarray) -> np.ndarray:
    """Select the scores that are at least the mean of all scores + 2 standard deviations (ddof 0).

    This is a threshold, not a test: some scores of any long-tailed distribution pass it, and at
    most a fifth of the heads can pass, however many matter. If all scores are equal, none passes.

    Args:
        scores: shape (heads,).

    Returns:
        Boolean array of shape (heads,).

    Source: published code, BLIP/circuit_analysis.ipynb, get_circuits.
    """
    scores = np.asarray(scores, dtype=float)
    spread = scores.std()
    if spread <= 1e-12 * np.abs(scores).max(initial=0.0):
        return np.zeros(len(scores), dtype=bool)
    return scores >= scores.mean() + 2 * spread


def split_half_correlation(effects: np.ndarray, splits: int = 200, seed: int = 0) -> np.ndarray:
    """Correlate the rankings of heads by mean effect on two random halves of the scenes.

    The correlation estimates how well a ranking of heads replicates on other scenes, as many as
    one half has.

    Args:
        effects: shape (scenes, heads).
        splits: number of random splits.
        seed: seed of the splits.

    Returns:
        Spearman's rank correlation over heads in each split, shape (splits,).

    Raises:
        NoticeError: fewer than three scenes.
    """
    effects = _checked(effects)
    rng = np.random.default_rng(seed)
    first = np.zeros((splits, len(effects)))
    first[:, : len(effects) // 2] = 1
    first = rng.permuted(first, axis=1)
    halves = [half / half.sum(axis=1, keepdims=True) @ effects for half in (first, 1 - first)]
    ranks = (rankdata(means, axis=1) for means in halves)
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


def _mean_and_error(weights: np.ndarray, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means and their standard errors, for weights (draws, scenes) that sum to 1."""
    centre = effects.mean(axis=0)
    centred = effects - centre  # The variance of large numbers would lose digits.
    mean = weights @ centred
    variance = np.maximum(weights @ centred**2 - mean**2, 0)
    return mean + centre, np.sqrt(variance / (len(effects) - 1))


def _t_quantiles(
    effects: np.ndarray, level: float, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The two quantiles between which `level` of the bootstrap's t lie, each of shape (heads,).

    t is a draw's mean, less the observed mean, divided by the draw's own standard error.
    """
    n = len(effects)
    rng = np.random.default_rng(seed)
    mean, whole = _mean_and_error(np.full((1, n), 1 / n), effects)
    ratios = []
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        drawn, error = _mean_and_error(rng.multinomial(n, np.full(n, 1 / n), size) / n, effects)
        off = drawn - mean
        # A draw of equal effects has no error but that of rounding, and so no ratio.
        spread = error > 1e-6 * whole
        ratios.append(np.divide(off, error, out=np.zeros_like(off), where=spread))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail], axis=0)
    return low, high


def _flips(effects: np.ndarray, minimum: float, draws: int, seed: int):
    """Yield chunks of (observed, flipped), of shapes (2, 1, heads) and (2, flips, heads).

    Index 0 tests for effects above `minimum`, index 1 for effects below -`minimum`. Each number is
    a sum over scenes divided by an upper bound that no flip changes. It orders flips as t does, and
    it is defined where t is not. The observed signs are among the flips.
    """
    effects = _checked(effects)
    both = np.stack([effects - minimum, -effects - minimum])
    most = np.sqrt(len(effects) * (both**2).sum(axis=1, keepdims=True))
    both = np.divide(both, most, out=np.zeros_like(both), where=most > 0)
    slack = 1e-10  # Flips that differ only by rounding count as equal.
    observed = both.sum(axis=1, keepdims=True) - slack
    for signs in _signs(len(effects), draws, seed):
        yield observed, signs @ both


def _signs(n: int, draws: int, seed: int):
    """Yield chunks of signs, shape (flips, n).

    All flips are enumerated if there are few. Otherwise the observed signs come first, followed by
    random ones.
    """
    if n < 63 and 2**n <= draws + 1:
        codes = np.arange(2**n)
        yield 1.0 - 2 * (codes[:, None] >> np.arange(n) & 1)
        return
    yield np.ones((1, n))
    rng = np.random.default_rng(seed)
    for start in range(0, draws, CHUNK):
        yield 1.0 - 2 * rng.integers(2, size=(min(CHUNK, draws - start), n))


def _checked(effects: np.ndarray) -> np.ndarray:
    effects = np.asarray(effects, dtype=float)
    if effects.ndim != 2 or len(effects) < 3 or not np.isfinite(effects).all():
        raise NoticeError(
            f"These effects have shape {effects.shape}. Statistics over scenes need at least three "
            "scenes (rows), heads as columns, and finite numbers. Give more scenes, or leave out "
            "those without a value."
        )
    return effects
