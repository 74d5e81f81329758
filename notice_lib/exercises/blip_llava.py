"""Exercises of the chapter on BLIP and LLaVA."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ..pairs import SemanticPair
from .verdict import NotBegun, NotYet, check, near, number, refuse_slips, tried


@check
def check_difference(function: Callable[[pd.DataFrame, int, int], float]) -> None:
    """7.1: a head's mean percentage at the last token minus that at the correct option."""
    made = _made_table()
    tried(function, made, 0, 1)
    for layer, head in ((0, 1), (3, 2), (3, 1)):
        own = made[(made.layer == layer) & (made["head"] == head)]
        means = own.groupby("role").percent.mean()
        wanted = means["last"] - means["correct"]
        found = number(tried(function, made, layer, head), "in percentage points")
        if near(found, wanted, 0.1):
            continue
        where = f"L{layer}.H{head} of a made-up table:"
        refuse_slips(found, {f"{where} the wrong sign.": -wanted}, 0.1)
        refuse_slips(found, {f"{where} in percentage points, please.": wanted / 100}, 0.001)
        refuse_slips(found, {f"{where} that is a ratio.": means["last"] / means["correct"]}, 0.1)
        raise NotYet(f"{where} it is not {found:.2f}.")


def _made_table() -> pd.DataFrame:
    """Made-up rows such as those of a sweep over heads at the last token and the option."""
    rng = np.random.default_rng(5)
    roles = ("correct", "incorrect", "last")
    rows = [(i, j, role) for i in (0, 3) for j in (1, 2) for role in roles]
    made = pd.DataFrame(rows * 4, columns=["layer", "head", "role"])
    made["percent"] = rng.normal(3, 4, len(made)).round(1)
    made["fraction_recovered"] = made.percent / 100
    return made


@check
def check_random(
    function: Callable[[SemanticPair], float],
    pairs: Sequence[SemanticPair],
    differing: Callable[[SemanticPair], np.ndarray],
    cut: Callable[[SemanticPair, np.ndarray], float],
) -> None:
    """7.2: L when the last token cannot see as many random patches as the pictures differ on.

    Args:
        differing: the patches (booleans) on which a pair's two pictures differ.
        cut: L when the last token cannot see these patches (indices).
    """
    if not pairs:
        raise NotBegun("this exercise needs masks.")
    for pair in pairs[:3]:
        found = number(tried(function, pair), "in logits")
        where = differing(pair)
        away = np.flatnonzero(~where)
        n = min(int(where.sum()), len(away))
        picked = np.random.default_rng(0).choice(away, n, replace=False)
        right = cut(pair, picked)
        off = found - right  # 1 % of L would not tell these patches from others, which cost little
        if near(off, 0):
            continue
        slips = {
            "nothing is cut.": cut(pair, np.array([], int)) - right,
            "that cuts where the pictures differ.": cut(pair, np.flatnonzero(where)) - right,
            "that cuts all other patches.": cut(pair, away) - right,
        }
        refuse_slips(off, slips)
        raise NotYet(f"for {pair.pair_id} it is not {found:.2f}.")
