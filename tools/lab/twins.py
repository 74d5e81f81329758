"""Two heads that are each enough and neither needed, or those that come nearest, by measurement."""

from collections.abc import Sequence

import pandas as pd

from notice_lib import Circuit, Site, sweep
from notice_lib.models.base import VLM
from notice_lib.pairs import PairSet, SemanticPair
from notice_lib.patching.metrics import fraction_recovered

ENOUGH, NEEDED = 50, 10
"""Percent of L - L*: a head is enough if it gives at least this much, and needed above that."""


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


def _shares(model: VLM, pair: SemanticPair, circuits: Sequence[Circuit]) -> pd.DataFrame:
    """What each circuit gives (denoise) and what its loss costs (noise), in percent of L - L*."""
    columns = {}
    for direction in ("denoise", "noise"):
        table = sweep(model, PairSet((pair,)), circuits, direction=direction).table()
        columns[direction] = 100 * fraction_recovered(table, 0).set_axis(table["circuit"])
    return pd.DataFrame(columns)
