"""Statistics over scenes, for many heads at once.

Every function takes `effects`, an array of shape (scenes, heads) that holds one number a scene and
head. The rows are independent of each other, the columns need not be: the answer orders and
directions of one scene are dependent, so they are averaged before (`selection.scene_effects`), and
whole scenes are resampled, flipped or put into halves, all heads of a scene together.
"""

import numpy as np
from scipy.stats import rankdata

from ..errors import NoticeError

CHUNK = 1000
"""Random draws that are held in memory at a time."""


def bootstrap_interval(
    effects: np.ndarray, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Studentised bootstrap intervals of the heads' mean effects.

    Scenes are drawn with replacement. In each draw the mean's distance from the observed mean is
    divided by the draw's own standard error, and the quantiles of that ratio are multiplied by the
    observed one: unlike the quantiles of the drawn means, this keeps its level with few scenes and
    skewed effects. Each head's interval stands alone; of many heads some will miss.

    Args:
        effects: shape (scenes, heads).

    Returns:
        Lower and upper ends, each of shape (heads,), in the effects' units.

    Raises:
        NoticeError: fewer than three scenes.

    Source: Hall, The Bootstrap and Edgeworth Expansion (1992), section 3.
    """
    effects = _checked(effects)
    n = len(effects)
    rng = np.random.default_rng(seed)
    mean, error = _mean_and_error(np.full((1, n), 1 / n), effects)
    ratios = []
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        drawn, its_error = _mean_and_error(rng.multinomial(n, np.full(n, 1 / n), size) / n, effects)
        off = drawn - mean
        # A draw of equal effects has no error but that of rounding, and so no ratio.
        spread = its_error > 1e-6 * error
        ratios.append(np.divide(off, its_error, out=np.zeros_like(off), where=spread))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(ratios), [1 - tail, tail], axis=0)
    return (mean - low * error)[0], (mean - high * error)[0]


def sign_flip_test(
    effects: np.ndarray, minimum: float = 0.0, draws: int = 9999, seed: int = 0
) -> np.ndarray:
    """Two-sided p-values of each head's mean effect, by flipping the signs of whole scenes.

    If a head did nothing, a scene's effect would be as likely +x as -x. So the signs of scenes
    are flipped at random, and p is the share of flips in which the mean is at least as extreme as
    the one observed (which counts as one of them: no p is 0). With a minimum the hypothesis is
    that the mean lies between -minimum and +minimum: "larger than that" is tested, rather than
    merely "not zero", which with enough scenes is true of nearly every head.

    The level is exact where effects are symmetric about their mean, and right in the limit of many
    scenes otherwise. With few scenes all flips are taken, and no p is below 2 ** (1 - scenes).

    Args:
        effects: shape (scenes, heads).
        minimum: smallest effect that counts, in the effects' units.
        draws: random flips; the smallest p is 2 / (draws + 1).

    Returns:
        Shape (heads,).

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
    """p-values as `sign_flip_test` gives them, each already corrected for all heads of the array.

    Each head is compared with the most extreme t of *any* head in a flip. So the chance that any
    head without an effect gets a p below .05 is at most .05 (family-wise error), however heads
    depend on each other: stricter than a false-discovery rate.

    Args, returns, raises: as `sign_flip_test`.

    Source: Nichols & Holmes, Human Brain Mapping 15 (2002).
    """
    count, flips = np.zeros((), int), 0
    for observed, flipped in _flips(effects, minimum, draws, seed):
        largest = flipped.max(axis=(0, 2))
        count = count + (largest[:, None] >= observed.max(axis=0)).sum(axis=0)
        flips += len(largest)
    return count / flips


def two_sd(scores: np.ndarray) -> np.ndarray:
    """Which scores are at least mean + 2 standard deviations (ddof 0) of all of them.

    A cut, no test: of any scores with a long tail some pass, and however many heads matter, at
    most a fifth of them can. Equal scores have no outlier: none passes.

    Args:
        scores: shape (heads,).

    Source: published code, BLIP/circuit_analysis.ipynb, get_circuits.
    """
    scores = np.asarray(scores, dtype=float)
    spread = scores.std()
    if spread <= 1e-12 * np.abs(scores).max(initial=0.0):
        return np.zeros(len(scores), dtype=bool)
    return scores >= scores.mean() + 2 * spread


def split_half_correlation(effects: np.ndarray, splits: int = 200, seed: int = 0) -> np.ndarray:
    """Rank correlation over heads between the mean effects of two random halves of the scenes.

    How far a ranking of heads would repeat itself on as many other scenes as one half has.

    Args:
        effects: shape (scenes, heads).

    Returns:
        Spearman's correlation of each split, shape (splits,).

    Raises:
        NoticeError: fewer than three scenes.
    """
    effects = _checked(effects)
    rng = np.random.default_rng(seed)
    first = np.zeros((splits, len(effects)))
    first[:, : len(effects) // 2] = 1
    first = rng.permuted(first, axis=1)
    halves = [half / half.sum(axis=1, keepdims=True) @ effects for half in (first, 1 - first)]
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in map(_ranks, halves))
    return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


def _ranks(means: np.ndarray) -> np.ndarray:
    return rankdata(means, axis=1)


def _mean_and_error(weights: np.ndarray, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means and their standard errors; weights (draws, scenes) of sum 1."""
    centre = effects.mean(axis=0)
    centred = effects - centre  # a variance from squares of large numbers would lose digits
    mean = weights @ centred
    variance = np.maximum(weights @ centred**2 - mean**2, 0)
    return mean + centre, np.sqrt(variance / (len(effects) - 1))


def _flips(effects: np.ndarray, minimum: float, draws: int, seed: int):
    """Chunks of (observed, flipped), of shapes (2, 1, heads) and (2, flips, heads).

    [0] is the test of effects above `minimum`, [1] of effects below -`minimum`. Each number is the
    sum over scenes divided by its largest possible value: in one array of scenes this orders
    flips as t does, and is defined where t is not. The observed signs are among the flips.
    """
    effects = _checked(effects)
    both = np.stack([effects - minimum, -effects - minimum])
    most = np.sqrt(len(effects) * (both**2).sum(axis=1, keepdims=True))
    both = np.divide(both, most, out=np.zeros_like(both), where=most > 0)
    slack = 1e-10  # flips that only differ by rounding are equal
    observed = both.sum(axis=1, keepdims=True) - slack
    for signs in _signs(len(effects), draws, seed):
        yield observed, signs @ both


def _signs(n: int, draws: int, seed: int):
    """Chunks of signs, shape (flips, n): every flip if they are few, else the observed one and
    random ones."""
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
            f"Effects of shape {effects.shape}: statistics over scenes need a finite number for "
            "each of at least three scenes (rows) and each head (columns)."
        )
    return effects
