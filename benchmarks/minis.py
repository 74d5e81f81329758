"""Measure the embedded models as the chapters use them: all heads at every text token of pairs."""

from functools import partial

import pandas as pd

from notice_lib import PairSet, Site, load_model, load_pairs, site_grid, sweep
from notice_lib.models.base import VLM
from notice_lib.patching import reference

from .report import Report, timed

ROUNDS = 5
PAIRS_A_ROUND = 60
CORRUPTIONS = ("image", "text")
CASES = (
    ("blip-mini", "cross_attention"),
    ("blip-mini", "self_attention"),
    ("llava-mini", "self_attention"),
)


def run(tiny: bool = False) -> Report:
    """Measure pairs per second, where one pair is swept under both corruptions."""
    rounds, size = (1, 1) if tiny else (ROUNDS, PAIRS_A_ROUND)
    pairs = load_pairs("svo", n=rounds * size, seed=0)
    rows, closing = [], {}
    for name, component in CASES[::2] if tiny else CASES:
        model = load_model(name, device="cpu")
        sites = site_grid(model, [component], layers=[0] if tiny else None, per_head=True)
        rounds_of = _in_turns(model, pairs, sites, rounds)
        rows.append(rounds_of.assign(model=name, component=component))
        label = f"{name}_{component}".replace("-", "_").removesuffix("_attention")
        closing[f"{label}_pairs_per_s"] = rounds_of.pairs_per_s.median()
        closing[f"{label}_ratio"] = rounds_of.ratio.median()
        closing["max_abs_diff"] = max(closing.get("max_abs_diff", 0), rounds_of.max_abs_diff.max())
    first = next(iter(closing))
    closing = {"ratio": closing[first.replace("pairs_per_s", "ratio")]} | closing
    notes = [
        f"48 heads at every text token, {len(pairs)} pairs of svo in {rounds} rounds, each swept "
        "under both corruptions, on one thread. `ratio` is the speed-up for blip-mini's "
        "cross-attention.",
        "The reference (one full forward per site) alternates with the engine in each round. It is "
        "timed on every head at the correct option of one pair and **extrapolated** to all sites, "
        "since its cost does not depend on the site. `max_abs_diff` is the largest difference in "
        "the answers' logits on these sites.",
    ]
    return Report("minis", pd.concat(rows, ignore_index=True), closing, notes)


def _in_turns(model: VLM, pairs: PairSet, sites: list[Site], rounds: int) -> pd.DataFrame:
    """One row per round, each with len(pairs) / rounds pairs."""
    size = len(pairs) // rounds
    parts = [PairSet(pairs.pairs[i * size : (i + 1) * size], pairs.slots, pairs.near_synonyms)
             for i in range(rounds)]  # fmt: skip
    few = [Site(site.component, site.layer, site.head, "correct") for site in sites]
    _both(model, parts[0].sample(1), few[:1])
    rows = []
    for part in parts:
        fast, found = timed(partial(_both, model, part, sites))
        one = PairSet(part.pairs[:1], part.slots, part.near_synonyms)
        slow, by_reference = timed(partial(_both, model, one, few, engine=reference.patch))
        same = _both(model, one, few)
        sites_a_pair = len(found) / len(part)
        reference_pair = slow / len(by_reference) * sites_a_pair
        logits = ["logit_correct", "logit_incorrect"]
        rows.append(
            {
                "pairs": len(part),
                "sites_a_pair": sites_a_pair,
                "pairs_per_s": len(part) / fast,
                "reference_ms_a_site": 1000 * slow / len(by_reference),
                "reference_seconds_a_pair": reference_pair,
                "ratio": reference_pair * len(part) / fast,
                "max_abs_diff": (by_reference[logits] - same[logits]).abs().max().max(),
            }
        )
    return pd.DataFrame(rows)


def _both(model, pairs, sites, **how) -> pd.DataFrame:
    """The patched runs under both corruptions."""
    swept = (sweep(model, pairs, sites, corruption, **how) for corruption in CORRUPTIONS)
    return pd.concat([found.patched for found in swept], ignore_index=True)
