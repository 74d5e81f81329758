"""Exercises of the chapter on what heads do."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from ..heads import HEAD_ROLES
from .verdict import NotBegun, NotYet, check, entry, filled, near, number, refuse_slips, tried

SOURCES = {"A": (2.0, 2.0, 2.0), "B": (2.0, 0.0, 0.0), "C": (2.0, 2.0, -2.0)}
"""Three heads' effects with the own source, with true donors, and with false ones."""


@check
def check_parts(function: Callable[[float, float, float], tuple]) -> None:
    """6.1: content, truth and removal from the effects of three sources."""
    cases = {
        (2.0, 1.0, 1.0): (1.0, 0.0, 1.0),
        (3.0, 3.0, 1.0): (0.0, 1.0, 2.0),
        (1.5, 0.5, -0.5): (1.0, 0.5, 0.0),
    }
    for given, wanted in cases.items():
        found = tried(function, *given)
        if np.shape(found) != (3,):
            raise NotYet("return three numbers: content, truth and removal.")
        parts = [number(part) for part in found]
        if not near(sum(parts), given[0], 0.03):
            raise NotYet(f"for {given} the parts add up to {sum(parts):g}.")
        if not all(near(*both, 0.03) for both in zip(parts, wanted, strict=True)):
            raise NotYet(
                f"{given} gave {parts}. What do the two kinds of donor share, and in what do they "
                "differ?"
            )


@check
def check_suppressor(array: np.ndarray, sink: tuple[int, int], everyone: np.ndarray) -> str:
    """6.2: attention that is largest at the sink and still has the lowest D there.

    Args:
        array: (side, side), the attention of the head.
        sink: the patch that most heads are drawn to.
        everyone: (heads, side, side), the attention of those heads and of others.
    """
    try:
        own = np.asarray(array, float)
    except (TypeError, ValueError) as error:
        raise NotYet("an array of numbers is wanted.") from error
    if own.shape != everyone.shape[1:]:
        raise NotYet(f"the shape is {own.shape}.")
    if not (own >= 0).all() or not np.isclose(own.sum(), 1, atol=0.01):
        raise NotYet("attention is not negative and sums to 1.")
    at = own[sink]
    if at <= np.delete(own.ravel(), np.ravel_multi_index(sink, own.shape)).max():
        raise NotYet("it does not look at the sink most of all.")
    crowd = everyone[:, *sink]
    crowd = crowd[crowd > 1 / own.size]
    difference = at - np.append(crowd, at).mean()
    if at >= crowd.min():
        raise NotYet(f"its D at the sink is {difference:+.3f}.")
    return f"{at:.3f} of its attention is there, and D is {difference:+.3f}."


@check
def check_lost(lost: float, prediction: float, measure: Callable[[], Mapping[str, float]]) -> str:
    """6.3: what is lost without a head, in % of L, and what was predicted.

    `measure()` gives "lost" and "effect" in %.
    """
    if prediction is None:
        raise NotBegun("write your prediction first.")
    said, found = number(prediction, "in % of L"), number(lost, "in % of L")
    truth = measure()
    if not near(found, truth["lost"], 0.1):
        slips = {
            "this is what its patch brings back.": truth["effect"],
            "what is lost counts as positive.": -truth["lost"],
        }
        refuse_slips(found, slips, 0.1)
        raise NotYet("it is another part of L. Is it the same head, and the same kind of question?")
    return (
        f"Your prediction was off by {abs(said - found):.1f} points. Its patch brings back "
        f"{truth['effect']:+.1f} %. Why do the two differ?"
    )


@check
def check_looker(chosen: tuple[str, str, int, int], table: pd.DataFrame) -> str:
    """6.4: (task, slot, layer, head) of a detector whose patch moves less than 1 % of L - L*."""
    try:
        task, slot, layer, head = chosen
    except (TypeError, ValueError) as error:
        raise NotYet("give (task, slot, layer, head).") from error
    row = table[
        (table.task == task)
        & (table.slot == slot)
        & (table.layer == layer)
        & (table["head"] == head)
    ]
    if row.empty:
        raise NotYet("there is no such head or kind of question.")
    (row,) = row.to_dict("records")
    if row["role"] != HEAD_ROLES[0]:
        raise NotYet("by the rule of this page it does not look at the object.")
    if abs(row["of_total"]) >= 0.01:
        raise NotYet(f"its patch moves {row['of_total']:+.1%}: it looks, and it matters.")
    return f"Its attention passes the rule, and its patch moves {row['of_total']:+.2%}."


@check
def check_sources(which: Mapping[str, str]) -> None:
    """6.5: which head of `SOURCES` has content, truth and removal only."""
    kinds = {"removal": "A", "content": "B", "truth": "C"}
    filled(which)
    given = {kind: entry(which, kind) for kind in kinds}
    wrong = sum(given[kind] != letter for kind, letter in kinds.items())
    if wrong:
        raise NotYet(f"{wrong} of the 3 letters {'is' if wrong == 1 else 'are'} wrong.")
