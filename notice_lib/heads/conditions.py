"""Each of some heads judged by itself: has it a role, if the role is that several means are large?

The rule is that of `decision.decide`, for one head at a time and corrected for all of them: "yes"
is its "seen", and "no" its "not seen". Conditions of several units are compared in minima.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..errors import NoticeError
from .decision import LEVEL, Condition, Group, decide
from .statistics import bootstrap_interval, sign_flip_test

VERDICTS = {"seen": "yes", "not seen": "no", "undecided": "undecided",
            "not testable": "not testable"}  # fmt: skip
"""What `decision.decide` says of a claim about one head, and what is said of the head."""
DELTA = 2.0
"""The mean, in minima, at which a head's role should be seen: it sets the scenes needed."""


def verdicts(
    conditions: Mapping[str, np.ndarray], minima: Mapping[str, float], seed: int = 0
) -> pd.DataFrame:
    """Judge the heads.

    Args:
        conditions: {name: (scenes, K)}, from three scenes on; each asks for a mean above its
            minimum.
        minima: {name: smallest mean that counts}, above zero, in the condition's unit.

    Returns:
        One row a head: `p_*` of each condition (1 where the mean is on the wrong side), `p` the
        largest of them, corrected for the heads, `verdict` (`VERDICTS`), and `needed`, the number
        of scenes that would show a role of `DELTA` with 80 %.

    Raises:
        NoticeError: a minimum is not above zero.
    """
    for name, minimum in minima.items():
        if not minimum > 0:
            raise NoticeError(f"The minimum of {name!r} is {minimum:g}; it must be above 0.")
    scaled = {name: values / minima[name] for name, values in conditions.items()}
    heads = next(iter(scaled.values())).shape[1]
    rows = []
    for head in range(heads):
        own = [Condition(values[:, [head]], 1.0) for values in scaled.values()]
        finding = decide([Group("", [""], own, hypotheses=heads)], DELTA, seed)
        p = 1.0 if np.isnan(finding.p) else finding.p
        rows.append({"p": p, "verdict": VERDICTS[finding.verdict], "needed": finding.needed})
    columns = {f"p_{name}": _p(values, seed) for name, values in scaled.items()}
    return pd.DataFrame(columns).join(pd.DataFrame(rows))


def means(
    values: Mapping[str, np.ndarray], seed: int = 0, level: float = 1 - LEVEL
) -> pd.DataFrame:
    """One row a head: the mean over scenes of each (scenes, K), with its interval in `*_low` and
    `*_high`, which covers `level` for each head alone."""
    columns: dict[str, np.ndarray] = {}
    for name, own in values.items():
        low, high = bootstrap_interval(own, level, seed=seed)
        columns |= {name: own.mean(0), f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(columns)


def _p(scaled: np.ndarray, seed: int) -> np.ndarray:
    """(K,) p-values that means lie above 1."""
    return np.where(scaled.mean(0) > 1, sign_flip_test(scaled - 1, seed=seed), 1.0)
