"""How many universal heads a rule finds by chance, in data that contain none.

Each rule needs a null distribution that can fool it. The tested rule looks at means over scenes, so
its null flips the signs of whole scenes: every mean then has expectation zero, and every head keeps
its spread. Flips do not change mean absolute effects, however, and therefore not a single selection
of the paper's rule. The null of that rule permutes the heads' labels within each layer, separately
in each condition: the selections keep their sizes and layers, but agree only by chance.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from ..errors import NoticeError
from .decision import LEVEL
from .selection import KINDS, MINIMUM
from .statistics import enough_draws, sign_flip_test, two_sd
from .table import CONDITION, HEAD, scene_effects, total_effect

DRAWS = 1000
FLIPS = 1999
"""The least number of sign flips per test within one draw of the null. Only heads whose means
exceed the minimum in every condition, with one sign, are tested."""


def chance(
    table: pd.DataFrame, rule: str = "signed", draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Count the heads that a rule finds universal, in the data and under its null distribution.

    Args:
        table: effects from `gather`.
        rule: "signed" (whose null flips scenes) or "paper" (whose null permutes labels).
        draws: number of draws of the null.
        seed: seed of the draws.

    Returns:
        One row per component and kind: component, kind, rule, heads (the number of heads of the
        component), universal (how many are universal), expected (mean number over draws), p (share
        of draws with at least as many, the data counting as one draw) and draws.

    Raises:
        NoticeError: the rule has no null distribution.
    """
    if rule not in NULLS:
        raise NoticeError(
            f"There is no null distribution for the rule {rule!r}; choose {' or '.join(NULLS)}."
        )
    rows = []
    for component, part in table.groupby("component", observed=True):
        for kind, corruptions in KINDS.items():
            if not set(corruptions) <= set(part["corruption"]):
                continue
            own = part[part["corruption"].isin(corruptions)]
            found, null = NULLS[rule](own, draws, seed)
            p = (1 + (null >= found).sum()) / (1 + draws)
            n = own[HEAD].drop_duplicates().shape[0]
            rows.append((component, kind, rule, n, found, null.mean(), p, draws))
    names = ["component", "kind", "rule", "heads", "universal", "expected", "p", "draws"]
    return pd.DataFrame(rows, columns=names)


def null_flips(heads: int) -> int:
    """Flips per test within a draw: so many that a lone head among `heads` can be selected."""
    return max(FLIPS, math.ceil(2 * heads / LEVEL))


def universal_by_flips(
    effects: Sequence[np.ndarray], minimum: Sequence[float], flips: int, seed: int = 0
) -> int:
    """Count the heads that the tested rule finds universal.

    Args:
        effects: one array (scenes, heads) per condition.
        minimum: the smallest effect that counts, one per condition.
        flips: random sign flips per test.
        seed: seed of the flips.
    """
    means = np.stack([values.mean(0) for values in effects])
    least = np.array(minimum)[:, None]
    stand_out = (np.abs(means) > least).all(0) & (np.ptp(np.sign(means), 0) == 0)
    p = np.ones(means.shape[1])
    if not stand_out.any():
        return 0
    p[stand_out] = np.max(
        [
            sign_flip_test(values[:, stand_out], smallest, flips, seed)
            for values, smallest in zip(effects, minimum, strict=True)
        ],
        axis=0,
    )
    return int((false_discovery_control(p) <= LEVEL).sum())


def universal_by_labels(
    scores: Mapping[tuple, np.ndarray], layers: np.ndarray, draws: int, seed: int = 0
) -> tuple[int, np.ndarray]:
    """Count the heads that the paper's rule finds universal, in the data and with permuted labels.

    Args:
        scores: the mean absolute effect over pairs in each condition, (heads,).
        layers: the layer of each head, (heads,).
        draws: number of permutations.
        seed: seed of the permutations.

    Returns:
        The number in the data, and the numbers in the draws, (draws,).
    """
    rng = np.random.default_rng(seed)
    chosen = [two_sd(score) for score in scores.values()]
    everywhere = np.ones((draws, len(layers)), bool)
    for selected in chosen:
        for layer in np.unique(layers):
            at = np.flatnonzero(layers == layer)
            everywhere[:, at] &= rng.permuted(np.tile(selected[at], (draws, 1)), axis=1)
    return int(np.all(chosen, axis=0).sum()), everywhere.sum(1)


def _flipped(table: pd.DataFrame, draws: int, seed: int) -> tuple[int, np.ndarray]:
    matrices, minimum = [], []
    for _, part in table.groupby(CONDITION, observed=True):
        matrices.append(scene_effects(part).sort_index(axis=1))
        minimum.append(MINIMUM * abs(total_effect(part, "effect")))
    scenes = sorted(set().union(*(matrix.index for matrix in matrices)))
    rows = [np.searchsorted(scenes, matrix.index) for matrix in matrices]
    values = [matrix.to_numpy() for matrix in matrices]
    rng = np.random.default_rng(seed)
    heads = values[0].shape[1]
    flips = null_flips(heads)
    null = []
    for _ in range(draws):
        signs = rng.choice([-1.0, 1.0], len(scenes))
        flipped = [own * signs[at, None] for own, at in zip(values, rows, strict=True)]
        null.append(universal_by_flips(flipped, minimum, flips, seed))
    found = universal_by_flips(values, minimum, enough_draws(heads, LEVEL), seed)
    return found, np.array(null)


def _permuted(table: pd.DataFrame, draws: int, seed: int) -> tuple[int, np.ndarray]:
    scores = mean_sizes(table)
    layers = next(iter(scores.values())).index.get_level_values("layer").to_numpy()
    arrays = {key: own.to_numpy() for key, own in scores.items()}
    return universal_by_labels(arrays, layers, draws, seed)


def mean_sizes(table: pd.DataFrame) -> dict[tuple, pd.Series]:
    """The paper's score of each head, its mean absolute effect, by (task, corruption)."""
    sizes = table.assign(size=table["effect"].abs())
    return {
        condition: part.groupby(HEAD, observed=True)["size"].mean().sort_index()
        for condition, part in sizes.groupby(CONDITION, observed=True)
    }


NULLS = {"signed": _flipped, "paper": _permuted}
"""For each rule, the function that counts universal heads in the data and under its null."""
