"""Exercises of the chapter on noise and painted pairs."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ..corruption.generative import source_caption, target_caption
from ..pairs import PairSet, SemanticPair
from ..patching import logit_difference
from .verdict import NotBegun, NotYet, called, check, near, number, refuse_slips, tried


@check
def check_mixed(value: float, table: pd.DataFrame, draws: int) -> None:
    """12.1: the spread of effects that are counted from the next draw's corrupt run."""
    found = number(value, "in logits")
    gaps = table.assign(gap=logit_difference(table, "corrupt"))
    gaps = gaps.drop_duplicates(["pair_id", "draw"]).set_index(["pair_id", "draw"]).gap
    after = list(zip(table.pair_id, (table.draw + 1) % draws, strict=True))
    mixed = logit_difference(table).to_numpy() - gaps.loc[after].to_numpy()
    if near(found, mixed.std()):
        return
    slips = {"that is with the same draw; take the next one's.": table.effect.std()}
    refuse_slips(found, slips)
    raise NotYet(f"the spread over these {len(table)} rows is not {found:.2f} logits.")


@check
def check_oracle(inpainter, pairs: PairSet, region: Callable[[SemanticPair], np.ndarray]) -> None:
    """12.2: an inpainter whose `paint` shows the exact partner inside the box."""
    for pair in list(pairs)[:3]:
        box, clean = region(pair), pair.image("clean")
        texts = target_caption(pair), source_caption(pair)
        paint = getattr(inpainter, "paint", None)
        if paint is None:
            raise NotYet("an inpainter has a method `paint`.")
        found = np.asarray(tried(paint, clean, box, *texts, 0))
        before = np.asarray(clean)
        wanted = np.asarray(pair.image("corrupt").resize(clean.size))
        if found.shape != before.shape:
            raise NotYet("let paint return a picture of the same size.")
        if (found != before)[~box].any():
            raise NotYet("a pixel outside the box changed.")
        if (found != wanted)[box].any():
            raise NotYet("the box does not show the partner's pixels.")


@check
def check_needed(function: Callable[[int], int | None]) -> None:
    """12.3: how many of n must pass, for Wilson's interval to lie above 0.8; or None."""
    if called(function, 100) is None:
        raise NotBegun("let the function return a number.")
    for n in (5, 15, 30, 100, 624):
        enough = (k for k in range(n + 1) if _low(k, n) > 0.8)
        wanted, found = next(enough, None), called(function, n)
        if found == wanted:
            continue
        if found is None:
            raise NotYet(f"with n = {n} some number is enough.")
        low = _low(int(min(max(number(found), 0), n)), n)
        raise NotYet(f"for n = {n} you say {found}, whose interval starts at {low:.3f}.")


def _low(k: int, n: int) -> float:
    """The lower end of Wilson's 95 % interval of k in n."""
    return binomtest(k, n).proportion_ci(0.95, method="wilson").low
