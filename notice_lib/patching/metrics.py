"""The paper's metrics, as functions on the table of a sweep (`Sweep.table`).

L is logit(correct) - logit(incorrect), and P is the probability of the correct answer. A prime
marks the patched run. The *base* run is the one that is patched (denoise: the corrupt run; noise:
the clean one), and the *source* run is the one that activations come from.
"""

import numpy as np
import pandas as pd


def logit_difference(table: pd.DataFrame, run: str = "") -> pd.Series:
    """L in logits: of the patched run, or of `run` ("base", "source", "clean" or "corrupt")."""
    prefix = f"{run}_" if run else ""
    return table[f"{prefix}logit_correct"] - table[f"{prefix}logit_incorrect"]


def effect(table: pd.DataFrame) -> pd.Series:
    """L' - L(base), in logits: the paper's main metric."""
    return logit_difference(table) - logit_difference(table, "base")


def restoration_probability(table: pd.DataFrame) -> pd.Series:
    """P' - P(base), between -1 and 1."""
    return table["prob_correct"] - table["base_prob_correct"]


def patched_probability(table: pd.DataFrame) -> pd.Series:
    """P', between 0 and 1: the quantity that the published head notebook averages."""
    return table["prob_correct"].copy()


def fraction_recovered(table: pd.DataFrame, smallest_gap: float = 0.5) -> pd.Series:
    """(L' - L(base)) / (L(source) - L(base)): 0 if the patch changes nothing, 1 if L' = L(source).

    If base and source run differ by less than `smallest_gap` logits, the ratio is meaningless and
    becomes NaN, which pandas' means leave out. (The published code divides by any difference.)
    """
    gap = logit_difference(table, "source") - logit_difference(table, "base")
    return effect(table) / gap.where(gap.abs() >= smallest_gap, np.nan)


METRICS = {
    "effect": effect,
    "restoration_probability": restoration_probability,
    "patched_probability": patched_probability,
    "fraction_recovered": fraction_recovered,
}


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an additional column for each of `METRICS`."""
    return table.assign(**{name: metric(table) for name, metric in METRICS.items()})
