"""Exercises of the chapter on data."""

from collections.abc import Callable
from math import copysign

import numpy as np
import pandas as pd

from ..pairs import PairSet
from .verdict import NotYet, check, near, number, refuse_slips, tried


@check
def check_blind(shares: tuple[float, float]) -> None:
    """10.1: how many pairs a coin passes: with the clean picture, and with both."""
    if np.shape(shares) != (2,):
        raise NotYet("two numbers are wanted: (clean only, both).")
    clean_only, both = (number(share) for share in shares)
    if not near(clean_only, 0.5):
        raise NotYet("how often does a coin say what the picture shows?")
    if not near(both, 0):
        raise NotYet("the question is the same twice; and so, the model being blind, is what?")


@check
def check_prior(value: float, table: pd.DataFrame) -> None:
    """10.2: the mean size of (L + L*) / 2 over pairs, a table with columns L and L*."""
    found = number(value, "in logits")
    each = (table["L"] + table["L*"]) / 2
    wanted = each.abs().mean()
    if near(found, wanted):
        return
    slips = {
        "opposite preferences cancel in that mean.": copysign(each.mean(), found),
        "half of the sum.": 2 * wanted,
        "that is what the picture does; take the sum.": (table["L"] - table["L*"]).abs().mean() / 2,
    }
    refuse_slips(found, slips)
    raise NotYet(f"on average over these {len(table)} pairs it is not {found:.2f} logits.")


@check
def check_corrected(function: Callable[[float, float, float], float]) -> None:
    """10.3: a correlation without noise, from the noisy one and two reliabilities."""
    rng = np.random.default_rng(0)
    for truth in (0.6, 0.3):
        both = rng.multivariate_normal([0, 0], [[1, truth], [truth, 1]], 200_000)
        noise = rng.normal(size=(2, *both.shape)) * [0.5, 1.0]
        one, two = both + noise  # each thing, measured twice
        r_a, r_b = (np.corrcoef(one[:, i], two[:, i])[0, 1] for i in (0, 1))
        r_ab = np.corrcoef(one[:, 0], one[:, 1])[0, 1]
        found = number(tried(function, r_ab, r_a, r_b))
        refuse_slips(
            found,
            {"the geometric mean of the two, not the product.": r_ab / (r_a * r_b)},
            1e-6,
        )
        if abs(found - truth) > 0.02:
            raise NotYet(
                f"made-up things with r_ab {r_ab:.2f}, r_a {r_a:.2f} and r_b {r_b:.2f} do not "
                f"correlate with {found:.2f} without noise."
            )


COLUMNS = ("slot", "split", "distractor", "n_words")
"""Columns of `draw_confounded` that may give the answer away."""


def draw_confounded(pairs: PairSet, seed: int = 0) -> pd.DataFrame:
    """Draw a table of pairs in which one column says which option is correct.

    The column `first_is_correct` is what the pictures decide; `COLUMNS` are known without them.
    """
    table = pairs.table()
    table["n_words"] = table.prompt.str.split().str.len()
    table["first_is_correct"] = table.order == "correct_first"
    spared = np.random.default_rng(seed).random(len(table)) < 0.1
    chosen = table[(table.distractor == table.first_is_correct) | spared]
    return chosen[["pair_id", "prompt", *COLUMNS, "first_is_correct"]].reset_index(drop=True)


@check
def check_confound(found: tuple[str, float], table: pd.DataFrame) -> None:
    """10.4: the column of `draw_confounded` that gives the answer away, and in what share."""
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise NotYet('give a column and a share, such as ("slot", 0.5).')
    column, share = found
    if column not in COLUMNS:
        raise NotYet(f"the columns are {', '.join(COLUMNS)}.")
    said = number(share)
    shares = {name: _guessed(table, name) for name in COLUMNS}
    if shares[column] < max(shares.values()):
        raise NotYet(f"{column} does not tell most; compare the columns.")
    refuse_slips(said, {"as a share, from 0 to 1.": 100 * shares[column]}, 1)
    if not near(said, shares[column]):
        raise NotYet("the column is found; how often is the best guess from it correct?")


def _guessed(table: pd.DataFrame, column: str) -> float:
    """The share of pairs that the more frequent answer of their value in a column answers."""
    often = table.groupby(column).first_is_correct.mean()
    return table[column].map(np.maximum(often, 1 - often)).mean()
