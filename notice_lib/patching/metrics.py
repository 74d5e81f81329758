"""The paper's metrics, as functions on the table of a sweep (`Sweep.table`).

With L = logit(correct) - logit(incorrect) and P = probability of the correct answer; a prime marks
the patched run, the *base* run is the one that is patched (denoise: the corrupt run; noise: the
clean one), the *source* run the one that activations come from.
"""

import numpy as np
import pandas as pd


def logit_difference(table: pd.DataFrame, run: str = "") -> pd.Series:
    """L of the patched run, or of `run`: "base", "source", "clean" or "corrupt"; in logits."""
    prefix = f"{run}_" if run else ""
    return table[f"{prefix}logit_correct"] - table[f"{prefix}logit_incorrect"]


def effect(table: pd.DataFrame) -> pd.Series:
    """L' - L(base), in logits: the paper's main metric."""
    return logit_difference(table) - logit_difference(table, "base")


def restoration_probability(table: pd.DataFrame) -> pd.Series:
    """P' - P(base), between -1 and 1."""
    return table["prob_correct"] - table["base_prob_correct"]


def patched_probability(table: pd.DataFrame) -> pd.Series:
    """P', between 0 and 1: what the published head notebook averages."""
    return table["prob_correct"].copy()


def fraction_recovered(table: pd.DataFrame, smallest_gap: float = 0.5) -> pd.Series:
    """(L' - L(base)) / (L(source) - L(base)): 0 changes nothing, 1 is the whole way.

    Where clean and corrupt run differ by less than `smallest_gap` logits the ratio says nothing:
    it is NaN, which pandas' means leave out. (The published code divides by whatever it is.)
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
    """The table with one more column for each of `METRICS`."""
    return table.assign(**{name: metric(table) for name, metric in METRICS.items()})
