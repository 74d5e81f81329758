"""A role that is a conjunction: a head has it if every one of its conditions holds.

The verdict on each of K heads, from each condition's numbers by scene and head:

- **yes**: every condition's mean over scenes lies above its minimum, the largest of their p-values
  (`sign_flip_test`) corrected over the K heads (Holm) being at most .05. So of all heads together,
  the chance that one gets a wrong "yes" is at most .05.
- **no**: some condition's mean lies below its minimum, its upper limit included. The limits hold
  for all heads and conditions together, at the same .05.
- **undecided**: neither. More scenes would tell.
- **not testable**: the signs of so few scenes cannot give a p-value of .05 / K; 1 + log2(K / .05)
  scenes can.

An interval or a p-value below .05 of one head alone is no verdict.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from .statistics import bootstrap_interval, sign_flip_test

LEVEL = 0.05
VERDICTS = ("yes", "no", "undecided", "not testable")


def verdicts(
    conditions: Mapping[str, np.ndarray], minima: Mapping[str, float], seed: int = 0
) -> pd.DataFrame:
    """Judge the heads.

    Args:
        conditions: {name: (scenes, K)}, from three scenes on; a condition asks for a mean above its
            minimum.
        minima: {name: smallest mean that counts}, in the condition's units.

    Returns:
        One row a head: `p_*` of each condition (1 where the mean is on the wrong side), `p` the
        largest of them, corrected over heads, and `verdict`.
    """
    scenes, heads = next(iter(conditions.values())).shape
    draws = max(9999, math.ceil(4 * heads / LEVEL))
    tail = LEVEL / heads / len(conditions)
    p, below = {}, []
    for name, values in conditions.items():
        above = values.mean(0) > minima[name]
        p[f"p_{name}"] = np.where(above, sign_flip_test(values, minima[name], draws, seed), 1.0)
        # Enough draws that the limit's quantile is no single draw's.
        limits = bootstrap_interval(values, 1 - 2 * tail, max(2000, math.ceil(20 / tail)), seed)
        below.append(limits[1] < minima[name])
    adjusted = _holm(np.max(list(p.values()), axis=0))
    verdict = np.select([adjusted <= LEVEL, np.any(below, axis=0)], ["yes", "no"], "undecided")
    if scenes < 1 + math.log2(heads / LEVEL):
        verdict = np.full(heads, "not testable")
    return pd.DataFrame({**p, "p": adjusted, "verdict": verdict})


def means(values: Mapping[str, np.ndarray], seed: int = 0) -> pd.DataFrame:
    """One row a head: the mean over scenes of each (scenes, K), with its 95 % interval in `*_low`
    and `*_high`, of each head alone."""
    columns: dict[str, np.ndarray] = {}
    for name, own in values.items():
        low, high = bootstrap_interval(own, 1 - LEVEL, seed=seed)
        columns |= {name: own.mean(0), f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(columns)


def _holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected over all of them (family-wise error; Holm, 1979)."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, steps)
    return adjusted
