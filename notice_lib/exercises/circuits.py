"""Exercises of the chapter on circuits."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pandas as pd

from ..models import VLM
from ..models.inputs import Inputs
from ..pairs import PairSet
from ..patching import (
    Circuit,
    Site,
    attribution,
    logit_difference,
    make_jobs,
    reference,
    sweep,
)
from .verdict import NotYet, check, members, near, number, refuse_slips, tried


@check
def check_estimate(estimate: Callable, vlm: VLM, pairs: PairSet, sites: Sequence[Site]) -> None:
    """13.1: a head's effect on the correct answer's logit, estimated from a gradient."""
    job = make_jobs(vlm, pairs.sample(1, 0), sites)[0]
    head = job.interventions[-1].sites[0]
    point = head.component, head.layer
    _, there = reference.record(vlm, cast(Inputs, job.source), [point])
    _, here, slopes = attribution.linearise(vlm, job.base, [point], job.answer)
    slope = slopes[point][0, 0]  # of the correct answer's logit
    token = head.positions[0]
    own = reference.columns(vlm, head, slope.shape[-1])
    found = number(tried(estimate, slope, here[point][0], there[point][0], own, token))
    moved = slope * (there[point][0] - here[point][0])
    right = moved[token, own].sum().item()
    if near(found, right, step=0):
        return
    slips = {
        "the other sign. Which run is patched?": -right,
        "that is the whole module.": moved[token].sum().item(),
        "that is all tokens.": moved[:, own].sum().item(),
    }
    refuse_slips(found, slips, step=0)
    raise NotYet("it is another number. Gradient times what?")


@check
def check_backup(shares: tuple[float, float]) -> str:
    """13.2: (faithfulness, incompleteness) of one of two heads that do the same work."""
    if np.shape(shares) != (2,):
        raise NotYet("two numbers are wanted: (faithfulness, incompleteness).")
    faithful, incomplete = (number(share) for share in shares)
    both, one, none = 4.0, 4.0, 0.0
    if not near(faithful, (one - none) / (both - none)):
        raise NotYet("faithfulness is F(C) as a share of F(M), both counted from F(∅).")
    if not near(incomplete, abs(none - one)):
        raise NotYet("what is F(C without C), and what F(M without C), which has a backup?")
    return "It is perfectly faithful, and blind to the backup."


@check
def check_missed(missed: Callable[[pd.Series, pd.Series, int], float]) -> None:
    """13.3: the largest exact effect that is not among the m largest estimates."""
    effect = pd.Series([1.0, -6.04, 2.0, 0.5], list("abcd"))
    guess = pd.Series([0.9, -0.1, 3.0, -0.5], list("abcd"))
    one, three = (number(tried(missed, effect, guess, m)) for m in (1, 3))
    if one == 2:
        raise NotYet("choose sites by the estimate, not by the effect.")
    if three == 0.5:
        raise NotYet("a negative estimate is a reason to look, too.")
    if three == 0.1:
        raise NotYet("the exact effect is asked for.")
    if near(three, -6.04):
        raise NotYet("the absolute effect is asked for.")
    if not (near(one, 6.04) and near(three, 6.04)):
        raise NotYet("which sites are left when the m largest are gone?")
    other = number(tried(missed, pd.Series([3.0, 1.0, -2.0]), pd.Series([1.0, 5.0, 0.1]), 1))
    if not near(other, 3):
        raise NotYet("try a case in which the largest effect has a middling estimate.")


def circuit_of(vlm: VLM, heads: Sequence[tuple[int, int]], name: str = "heads") -> Circuit:
    """Return the circuit of these (layer, head) of the attention that reads the picture."""
    return Circuit(
        name, tuple(Site(vlm.image_component, layer, head, "all") for layer, head in heads)
    )


@check
def check_smallest(heads: set[tuple[int, int]], vlm: VLM, pair: PairSet) -> str:
    """13.4: few (layer, head) that together turn the corrupt answer, at all tokens.

    At most one head more is accepted than a greedy search needs.
    """
    chosen = members(heads, "{(3, 0), (4, 2)}")
    everything = {(i, j) for i in range(vlm.n_layers) for j in range(vlm.n_heads)}
    if not chosen or not chosen <= everything:
        raise NotYet("give (layer, head) of this model, at least one.")
    (reached,) = _reached(vlm, pair, [sorted(chosen)])
    if reached <= 0:
        raise NotYet(f"these {len(chosen)} reach L' = {reached:+.2f}; the answer has not turned.")
    greedy = _greedy(vlm, pair, sorted(everything))
    if len(chosen) > len(greedy) + 1:
        raise NotYet(f"these {len(chosen)} turn the answer, and fewer are enough.")
    return f"{len(chosen)} heads reach L' = {reached:+.2f}; a greedy search takes {len(greedy)}."


def _reached(vlm: VLM, pair: PairSet, sets: Sequence[Sequence[tuple[int, int]]]) -> list[float]:
    """L' when each of these sets of heads is patched at all tokens."""
    circuits = [circuit_of(vlm, heads, str(i)) for i, heads in enumerate(sets)]
    table = sweep(vlm, pair, circuits).table().set_index("circuit")
    by_name = logit_difference(table)
    return [float(by_name[str(i)]) for i in range(len(sets))]


def _greedy(vlm: VLM, pair: PairSet, heads: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Add the head that helps most, until the answer has turned."""
    chosen: list[tuple[int, int]] = []
    reached = -np.inf
    while reached <= 0 and len(chosen) < len(heads):
        left = [head for head in heads if head not in chosen]
        values = _reached(vlm, pair, [[*chosen, head] for head in left])
        best = int(np.argmax(values))
        chosen, reached = [*chosen, left[best]], values[best]
    return chosen
