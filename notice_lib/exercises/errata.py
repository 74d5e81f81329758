"""Exercises of the chapter on defects."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from ..models import VLM
from ..pairs import PairSet
from ..patching import Site, effects, logit_difference, sweep
from .by_hand import STORED, by_hand, louder
from .verdict import NotBegun, NotYet, called, check, members, near, number, tried


@check
def check_share(function: Callable[[Mapping[float, float]], float | None]) -> None:
    """14.1: the smallest share at which a correlation falls below .9, or None."""
    tried(function, {0.2: 0.1})
    cases: list[tuple[dict[float, float], float | None]] = [
        ({0.1: 0.99, 0.3: 0.95, 0.5: 0.8, 0.7: 0.7}, 0.5),
        ({0.1: 0.99, 0.3: 0.95}, None),
        ({0.7: 0.5, 0.1: 0.7}, 0.1),
        ({0.2: 0.9, 0.4: 0.89}, 0.4),
        ({1 / 3: 0.95, 2 / 3: 0.85}, 2 / 3),
    ]
    for given, wanted in cases:
        found = called(function, given)
        if found is None and wanted is None:
            continue
        if found is None or wanted is None or not near(number(found), wanted):
            raise NotYet(f"{given} does not give {found}.")


@check
def check_zero(function: Callable[[np.ndarray], float | None]) -> None:
    """14.2: where zero lies on a scale from the smallest value to the largest, or None."""
    tried(function, np.array([-1.0, 1.0]))
    cases: list[tuple[list[float], float | None]] = [
        ([-1, 1], 0.5),
        ([-1, 3], 0.25),
        ([-3, 1, 0], 0.75),
        ([0, 2], 0.0),
        ([1, 2], None),
        ([-2, -1], None),
        ([0, 0], None),
    ]
    for given, wanted in cases:
        found = called(function, np.array(given, float))
        if found is None and wanted is None:
            continue
        if found is None or wanted is None or not near(number(found), wanted):
            raise NotYet(f"{given} does not give {found}.")


@check
def check_mistake(
    mistaken: pd.DataFrame, expected: set[tuple[int, int]], sound: pd.DataFrame, select: Callable
) -> str:
    """14.3: a mistake of one's own, beside the sound analysis.

    Args:
        mistaken, sound: tables of effects, with the columns task, layer, head and effect.
        expected: the (layer, head) that the rule is expected to select in spite of the mistake.
        select: from a table to the selected (layer, head).
    """
    if expected is None:
        raise NotBegun("write down what you expect first.")
    given = members(expected, "{(3, 0)}")
    if not isinstance(mistaken, pd.DataFrame):
        raise NotYet("`mistaken` is a table of effects.")
    missing = {"task", "layer", "head", "effect"} - set(mistaken.columns)
    if missing:
        raise NotYet(f"`mistaken` has no column {missing.pop()!r}.")
    own, other = (_means(table) for table in (sound, mistaken))
    if unknown := given - set(own.index):
        raise NotYet(f"there is no head {unknown.pop()!r}; give (layer, head).")
    if own.index.equals(other.index) and np.allclose(own, other):
        raise NotYet("this table gives every head its sound effect; what is wrong with it?")
    if np.ptp(other["size"]) == 0:
        raise NotYet("all heads have the same effect in this table, which nobody would overlook.")
    before, after = set(select(sound)), set(select(mistaken))
    return (
        f"Heads that it selects: {len(after)}. Of these you expected {len(after & given)}, and "
        f"{len(before & after)} are those of the sound analysis. The rank correlation of all heads "
        f"is {own['size'].corr(other['size'], method='spearman'):.2f}."
    )


def _means(table: pd.DataFrame) -> pd.DataFrame:
    """The mean effect of each (layer, head), and the mean size, which is the paper's score."""
    both = table.assign(size=table.effect.abs()).groupby(["layer", "head"])
    return both[["effect", "size"]].mean()


ROUNDED = 0.0006
"""Three decimals are enough; the mistake is smaller than 1 % of some effects."""


@check
def check_repaired(function: Callable, suspect: Callable, vlm: VLM, pair: PairSet) -> str:
    """14.4: a repaired L' - L* of one head at one token, by hand, beside the library's.

    Args:
        suspect: the function with the mistake, of the same arguments (layer, head, position).
    """
    sites = [
        Site(vlm.image_component, layer, head, vlm.effect_role)
        for layer in range(vlm.n_layers)
        for head in range(vlm.n_heads)
    ]
    table = effects(sweep(vlm, pair, sites).table())
    for at in table.effect.abs().nlargest(3).index:
        row = table.loc[at]
        place = int(row.layer), int(row["head"]), int(row.position)
        found = _by_hand(function, place)
        if abs(found - row.effect) <= ROUNDED:
            continue
        where = f"L{place[0]}.H{place[1]} at token {place[2]}"
        if abs(found - called(suspect, *place)) <= ROUNDED:
            raise NotYet(f"{where}: this is what the suspect gives.")
        raise NotYet(f"{where} is not {found:+.3f}.")
    _refuse_stored(function, vlm, pair, table)
    return "The three heads that move most agree with a sweep."


def _by_hand(function: Callable, place: tuple[int, int, int]) -> float:
    """What a function returns for (layer, head, position), if it has patched by itself."""
    with by_hand() as hooked:
        found = number(tried(function, *place), "in logits")
    if not hooked:
        raise NotYet("no hook was registered, so nothing was patched.")
    return found


def _refuse_stored(function: Callable, vlm: VLM, pair: PairSet, table: pd.DataFrame) -> None:
    """Refuse numbers that were computed before, by changing weights behind the strongest head."""
    row = table.loc[table.effect.abs().idxmax()]
    place = int(row.layer), int(row["head"]), int(row.position)
    before = logit_difference(table, "corrupt")[row.name]
    with louder(vlm.hook_point(vlm.image_component, place[0]).module):
        now = effects(sweep(vlm, pair, [Site(vlm.image_component, *place)]).table())
        found = _by_hand(function, place)
    effect, corrupt = now.effect.item(), logit_difference(now, "corrupt").item()
    # A reader may subtract the L* that the page has computed.
    if min(abs(found - effect), abs(found - effect - corrupt + before)) > ROUNDED:
        raise NotYet(STORED)
