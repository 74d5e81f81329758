"""How many universal heads a rule finds by chance, in data without any.

Each rule needs the null that can fool it. The tested rule asks for a mean over scenes, so the signs
of whole scenes are flipped: nothing has a mean then, and every head keeps its spread. That leaves
mean |effect| as it is, and with it every list of the paper's rule. So for the 2-SD rules the heads'
labels are permuted within each layer, anew in each condition: lists keep their lengths and layers,
and agree by chance alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from ..errors import NoticeError
from .selection import KINDS, MINIMUM
from .statistics import sign_flip_test, two_sd
from .table import CONDITION, HEAD, scene_effects, total_effect

DRAWS = 1000
FLIPS = 1999
"""Sign flips within a draw: of a head that stands out in every condition of a draw by chance."""


def chance(
    table: pd.DataFrame, rule: str = "signed", draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """How many heads a rule finds universal, and how many in data without universal heads.

    Args:
        table: from `gather`.
        rule: "signed" (flips of scenes) or "paper" (permuted labels).
        draws: of the null.

    Returns:
        One row a component and kind: component, kind, rule, heads (how many there are), universal,
        expected (mean over draws), p (the share of draws with at least as many; the data count as
        one) and draws.

    Raises:
        NoticeError: a rule without a null of its own.
    """
    if rule not in NULLS:
        raise NoticeError(f"Chance is known for the rules {' and '.join(NULLS)}, not for {rule!r}.")
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


def universal_by_flips(
    effects: Sequence[np.ndarray], minimum: Sequence[float], flips: int = FLIPS, seed: int = 0
) -> int:
    """How many heads the tested rule finds universal.

    Args:
        effects: for each condition (scenes, heads).
        minimum: for each condition, the smallest effect that counts.
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
    return int((false_discovery_control(p) <= 0.05).sum())


def universal_by_labels(
    scores: Mapping[tuple, np.ndarray], layers: np.ndarray, draws: int, seed: int = 0
) -> tuple[int, np.ndarray]:
    """How many heads the paper's rule finds universal, and in each draw of permuted labels.

    Args:
        scores: for each condition (heads,), the mean of |effect| over pairs.
        layers: (heads,) the layer of each head.
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
    null = []
    for _ in range(draws):
        signs = rng.choice([-1.0, 1.0], len(scenes))
        flipped = [own * signs[at, None] for own, at in zip(values, rows, strict=True)]
        null.append(universal_by_flips(flipped, minimum, seed=seed))
    return universal_by_flips(values, minimum, 9999, seed), np.array(null)


def _permuted(table: pd.DataFrame, draws: int, seed: int) -> tuple[int, np.ndarray]:
    scores = mean_sizes(table)
    layers = next(iter(scores.values())).index.get_level_values("layer").to_numpy()
    arrays = {key: own.to_numpy() for key, own in scores.items()}
    return universal_by_labels(arrays, layers, draws, seed)


def mean_sizes(table: pd.DataFrame) -> dict[tuple, pd.Series]:
    """{(task, corruption): the paper's score of each head, the mean of |effect| over pairs}."""
    sizes = table.assign(size=table["effect"].abs())
    return {
        condition: part.groupby(HEAD, observed=True)["size"].mean().sort_index()
        for condition, part in sizes.groupby(CONDITION, observed=True)
    }


NULLS = {"signed": _flipped, "paper": _permuted}
"""How chance is simulated for each rule."""
