"""Two heads that are each enough and neither needed, or those that come nearest, and two cells of
one layer that are, by measurement."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from notice_lib import Circuit, Site, sweep
from notice_lib.models.base import VLM
from notice_lib.pairs import PairSet, SemanticPair
from notice_lib.patching.metrics import fraction_recovered

ENOUGH, NEEDED = 50, 10
"""Percent of L - L*: a head is enough if it gives at least this much, and needed above that."""
CELLS = ("correct", "incorrect", "last")
"""The roles whose cells are searched, as in chapter 3 of the book."""
FAIR = (0.25, 0.75)
"""Where between L* and L the answer may flip: nearer to an end, a nudge flips it."""


def search(model: VLM, pairs: Sequence[SemanticPair]) -> dict:
    """Compare all heads, each at all tokens, on each pair, and return the best two of one pair.

    They are those with the largest distance of what either gives (the smaller of two) to what
    either's loss costs (the larger of two).

    Returns:
        pair: its id; heads: [component, layer, head] of both; enough, needed: what each gives and
        costs, and both together, in percent; bounds: `ENOUGH` and `NEEDED`; found: whether each is
        enough, neither is needed, and both together are.
    """
    sites = {
        f"{component}.{layer}.{head}": Site(component, layer, head, "all")
        for component in model.components
        if model.hook_point(component, 0).per_head
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
    }
    circuits = [Circuit(name, (site,)) for name, site in sites.items()]
    found = [(*best_two(_shares(model, pair, circuits)), pair) for pair in pairs]
    _, two, pair = max(found, key=lambda one: one[0])
    both = Circuit("both", tuple(sites[name] for name in two))
    alone = [Circuit(name, (sites[name],)) for name in two]
    shares = _shares(model, pair, [*alone, both])
    enough, needed = shares["denoise"].tolist(), shares["noise"].tolist()
    return {
        "pair": pair.pair_id,
        "heads": [[sites[name].component, sites[name].layer, sites[name].head] for name in two],
        "enough": [round(value, 1) for value in enough],
        "needed": [round(value, 1) for value in needed],
        "bounds": {"enough": ENOUGH, "needed": NEEDED},
        "found": min(enough[:2]) >= ENOUGH and max(needed[:2]) <= NEEDED and needed[2] >= ENOUGH,
    }


def best_two(shares: pd.DataFrame) -> tuple[float, list[str]]:
    """The two heads with the largest distance, and that distance in percent.

    Args:
        shares: one row per head, what it gives (denoise) and what its loss costs (noise).
    """
    found = []
    for bound in shares["noise"]:  # The best two are the most giving ones below some cost.
        two = shares[shares["noise"] <= bound].nlargest(2, "denoise")
        if len(two) == 2:
            found.append((two["denoise"].min() - two["noise"].max(), list(two.index)))
    return max(found)


def search_cells(model: VLM, pairs: Sequence[SemanticPair]) -> dict | None:
    """The clearest two cells of one layer's outputs that are each enough, neither needed, but both.

    Enough means that the cell, denoised, flips the answer; needed that it does so noised. This is
    the search of Figure 3.4 of the book.

    Returns:
        pair: its id; cells: [layer, role] of both; margin: by how many logits the closest of the
        five runs is on its side. None if no pair has two such cells.
    """
    found = [two for pair in pairs if (two := _two_cells(model, pair))]
    return max(found, key=lambda two: two["margin"], default=None)


def _two_cells(model: VLM, pair: SemanticPair) -> dict | None:
    cells = {
        f"{layer} {role}": Site("layer_output", layer, None, role)
        for layer in range(model.n_layers)
        for role in CELLS
    }
    circuits = [Circuit(name, (site,)) for name, site in cells.items()]
    enough = sweep(model, PairSet((pair,)), circuits, direction="denoise").table()
    low, high = _gap(enough, "base_").iloc[0], _gap(enough, "source_").iloc[0]
    if not FAIR[0] <= -low / (high - low) <= FAIR[1]:
        return None
    left = sweep(model, PairSet((pair,)), circuits, direction="noise").table()
    alone = dict(zip(cells, np.minimum(_gap(enough), _gap(left)), strict=True))
    twos = {
        f"{a}, {b}": (a, b)
        for a, b in combinations(cells, 2)
        if cells[a].layer == cells[b].layer and min(alone[a], alone[b]) > 0
    }
    if not twos:
        return None
    both = [Circuit(name, tuple(cells[one] for one in two)) for name, two in twos.items()]
    broken = _gap(sweep(model, PairSet((pair,)), both, direction="noise").table())
    margins = [
        min(alone[a], alone[b], -end) for (a, b), end in zip(twos.values(), broken, strict=True)
    ]
    best = list(twos.values())[int(np.argmax(margins))]
    if max(margins) <= 0:
        return None
    named = [[cells[name].layer, cells[name].position] for name in best]
    return {"pair": pair.pair_id, "cells": named, "margin": round(float(max(margins)), 3)}


def _gap(table: pd.DataFrame, run: str = "") -> pd.Series:
    """L of each row: of its patched run, or of the run "base_" or "source_"."""
    return table[f"{run}logit_correct"] - table[f"{run}logit_incorrect"]


def _shares(model: VLM, pair: SemanticPair, circuits: Sequence[Circuit]) -> pd.DataFrame:
    """What each circuit gives (denoise) and what its loss costs (noise), in percent of L - L*."""
    columns = {}
    for direction in ("denoise", "noise"):
        table = sweep(model, PairSet((pair,)), circuits, direction=direction).table()
        columns[direction] = 100 * fraction_recovered(table, 0).set_axis(table["circuit"])
    return pd.DataFrame(columns)
