"""Exercises of the chapter on selection."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

from ..heads import fewest_scenes, sign_flip_test, two_sd
from .by_hand import without_fewest_scenes
from .verdict import (
    NotBegun,
    NotYet,
    check,
    entry,
    explained,
    filled,
    near,
    number,
    refuse_slips,
    tried,
)


@check
def check_scenes(function: Callable[[int, float], int]) -> None:
    """5.1: the fewest scenes with which one head among many can be selected on its own."""
    for n_heads, level in ((48, 0.05), (144, 0.05), (1024, 0.01)):
        wanted = fewest_scenes(n_heads, level)
        with without_fewest_scenes():
            found = number(tried(function, n_heads, level))
        if found == wanted - 1:
            raise NotYet("one too few. The test is two-sided, so 1 - n, not -n.")
        if found != wanted:
            smallest = 2.0 ** (1 - found)
            raise NotYet(
                f"with {found:g} scenes the smallest p-value is {smallest:.2g}; {n_heads} heads at "
                f"{level} ask for {level / n_heads:.2g}. Whole scenes, and no more than needed."
            )


@check
def check_fooled(array: np.ndarray) -> str:
    """5.2: effects without any mean, of which the paper's rule selects head 7 alone."""
    try:
        values = np.asarray(array, float)
    except (TypeError, ValueError) as error:
        raise NotYet("an array of numbers is wanted.") from error
    if values.shape != (40, 48):
        raise NotYet(f"the shape is {values.shape}.")
    mean = np.abs(values.mean(axis=0)).max()
    if not mean <= 1e-9:
        raise NotYet(f"some head's mean is {mean:.1g}.")
    chosen = np.flatnonzero(two_sd(np.abs(values).mean(axis=0))).tolist()
    if chosen != [7]:
        raise NotYet(f"the rule selects {chosen}.")
    return f"The sign-flip test gives head 7 p = {sign_flip_test(values)[7]:.2f}."


@check
def check_every(function: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """5.3: the p-value of an effect of one sign in every task."""
    cases = (
        ([0.001, 0.2, 0.01], [1.0, 0.3, 2.0], 0.2),
        ([0.001, 0.002, 0.01], [-1.0, -0.3, -2.0], 0.01),
        ([0.001, 0.001, 0.001], [1.0, -0.3, 2.0], 1.0),
    )
    for p, means, wanted in cases:
        found = number(tried(function, p, means))
        if near(found, wanted, 0.001):
            continue
        if min(p) < max(p):
            refuse_slips(found, {"the smallest p speaks for *some* task.": min(p)}, 1e-6)
        product = float(np.prod(p))
        refuse_slips(found, {"a product is small as soon as one task is.": product}, 1e-6)
        raise NotYet(f"p-values {p} with effects {means} do not give {found:g}.")


NULLS = ("pair signs", "scene signs", "head names")
"""What a plan may draw at random."""


@check
def check_plan(passing: int, plan: Mapping[str, Any], effects: np.ndarray) -> str:
    """5.4: how many heads pass by one's own plan, written before the test was run.

    Args:
        passing: the number of heads that pass.
        plan: "unit", "null" (one of `NULLS`), "minimum" (a fraction recovered), "level" and
            "expected" (heads by then).
        effects: fractions recovered, (scenes, heads).
    """
    filled(plan)
    if entry(plan, "unit") != "scene":
        raise NotYet("which unit is independent of the others? Two pairs may show one picture.")
    null = entry(plan, "null")
    if null not in NULLS:
        raise NotYet(f"null is one of {', '.join(NULLS)}, not {null!r}.")
    if null == "pair signs":
        raise NotYet("the pairs of a scene show the same pictures. Are their signs independent?")
    if null == "head names":
        raise NotYet("with its heads' names shuffled, just as many heads of one task pass.")
    minimum, level = (number(entry(plan, name)) for name in ("minimum", "level"))
    expected = number(entry(plan, "expected"))
    if not 0 < minimum < 1:
        raise NotYet("the minimum is a fraction recovered that would count, such as 0.02.")
    if not 0 < level <= 0.2:
        raise NotYet("the level is the false-discovery rate that you accept, such as 0.05.")
    if not 0 <= expected <= effects.shape[1]:
        raise NotYet(f"expected is a number of heads, from 0 to {effects.shape[1]}.")
    found = number(passing)
    p = sign_flip_test(effects, minimum)
    wanted = int((false_discovery_control(p) <= level).sum())
    if found == wanted:
        return f"You expected {expected:g}. A plan that is written afterwards expects what it got."
    slips = {
        "correct for the number of heads.": int((p <= level).sum()),
        "test against your minimum, not against zero.": int(
            (false_discovery_control(sign_flip_test(effects)) <= level).sum()
        ),
    }
    for why, wrong in slips.items():
        if found == wrong:
            raise NotYet(why)
    raise NotYet(f"by this plan it is not {found:g}.")


@check
def check_repeated(shared: int, expected: int, why: str, arrays: Sequence[np.ndarray]) -> str:
    """5.5: how many heads the paper's rule calls universal in both of two halves.

    Args:
        shared: the number of heads.
        expected: the number that was written down before.
        why: a sentence on why the two lists differ or agree; only its form is checked.
        arrays: the effects in each task, (scenes, heads); the halves are `halves(arrays)`.
    """
    if expected is None:
        raise NotBegun("write down what you expect first.")
    said, found = number(expected), number(shared)
    first, second = (_universal(half) for half in halves(arrays))
    both = int((first & second).sum())
    if found == both:
        explained(why, "why the two lists differ or agree")
        return (
            f"You expected {said:g}. One half calls {first.sum()} heads universal, the other "
            f"{second.sum()}."
        )
    slips = {
        "these are the heads of one half.": {int(first.sum()), int(second.sum())},
        "these are the heads of either half.": {int((first | second).sum())},
    }
    for why, wrong in slips.items():
        if found in wrong:
            raise NotYet(why)
    raise NotYet("apply by_paper to each half, and count the heads that both call universal.")


def halves(arrays: Sequence[np.ndarray], seed: int = 1) -> tuple[list, list]:
    """Split each task's scenes, the rows of its array, into two halves at random."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(array)) for array in arrays]
    return (
        [array[order[::2]] for array, order in zip(arrays, orders, strict=True)],
        [array[order[1::2]] for array, order in zip(arrays, orders, strict=True)],
    )


def _universal(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Which heads the paper's rule selects in every task."""
    return np.all([two_sd(np.abs(array).mean(axis=0)) for array in arrays], axis=0)
