"""What the book measured at each place of the lab's scenes, in percent, to stand beside one pair's.

The mean and its interval are those of the accepted results (data/results). These have no values of
single pairs, so the same sweeps are run again for their spread, and checked against the results.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from notice_lib import NoticeError, answered_correctly, effects
from notice_lib.models.base import VLM
from notice_lib.pairs import PairSet
from notice_lib.patching.metrics import logit_difference
from notice_lib.reproduction.experiments import module_experiments, read_tasks

DECILES = np.linspace(0, 100, 11)
CLOSE = 1e-3
"""How far a mean may be from that of the results, in logits."""
PLACE = ["slot", "component", "role", "layer"]


def answered(model: VLM, results: Path) -> dict[str, PairSet]:
    """For each task, the held-out pairs that the results are of, asked only where some are not."""
    counts = json.loads((results / "manifest.json").read_text(encoding="utf-8"))["counts"]
    return {
        task: pairs
        if counts[task]["answered correctly"] == len(pairs)
        else answered_correctly(model, pairs, "generated")
        for task, pairs in read_tasks().items()
    }


def measured(model: VLM, right: Mapping[str, PairSet], results: Path) -> dict[str, dict[str, list]]:
    """For each slot and place: the stored mean, its interval, the number of pairs, their deciles.

    All are in percent of L - L*, of denoising under image corruption. Places are named
    "component.role.layer" and, for single heads, "component.role.layer.head"; heads were measured
    over all slots of a task together, and have no deciles.

    Args:
        right: for each task, the pairs that the results are of.

    Raises:
        NoticeError: the same sweep gives another mean than the results; names the place.
    """
    settings = json.loads((results / "manifest.json").read_text(encoding="utf-8"))
    seed, number = settings["seed"], settings["module_pairs"]
    found: dict[str, dict[str, list]] = {}
    for one in module_experiments(model, right, seed, number):
        if one.corruption != "image":
            continue
        table = _by_pair(one.run(model, seed, None).table())
        wanted = _modules_table(results, one.task, right[one.task])
        for place, values in table.groupby(PLACE, observed=True):
            slot, component, role, layer = place
            row = _row(values, wanted.loc[place])
            found.setdefault(f"{one.task}-{slot}", {})[f"{component}.{role}.{layer}"] = row
    for name, places in found.items():
        task = name.split("-")[0]
        places.update(_heads(model, results, task, len(right[task])))
    return found


def _heads(model: VLM, results: Path, task: str, pairs: int) -> dict[str, list]:
    """[mean, low, high, pairs] of each head that the results have."""
    table, start = pd.read_csv(results / "heads.csv"), f"{task}_image_"
    found = {}
    for row in table.to_dict("records"):
        total = row[f"{start}effect"] / row[f"{start}fraction_recovered"]
        percent = [100 * row[start + name] / total for name in ("effect", "low", "high")]
        place = f"{row['component']}.{model.effect_role}.{row['layer']}.{row['head']}"
        found[place] = [*(round(value, 1) for value in percent), pairs]
    return found


def _by_pair(table: pd.DataFrame) -> pd.DataFrame:
    """Each pair's effect at each place in logits, its share in percent, and its scene."""
    table = effects(table)
    total = logit_difference(table, "clean") - logit_difference(table, "corrupt")
    table = table.assign(total=total)
    keys = [*PLACE, "scene_id", "pair_id"]
    of_pair = table.groupby(keys, observed=True)[["effect", "total"]].mean().reset_index()
    return of_pair.assign(share=100 * of_pair["effect"] / of_pair["total"])


def _modules_table(results: Path, task: str, right: PairSet) -> pd.DataFrame:
    table = pd.read_parquet(results / "modules.parquet")
    table = table[(table["task"] == task) & (table["corruption"] == "image")]
    if set(table["slot"]) == {"all"}:  # A task of one slot.
        table = table.assign(slot=right[0].slot)
    return table.set_index(PLACE)


def _row(values: pd.DataFrame, stored: pd.Series) -> list:
    """[mean, low, high, pairs, the deciles]; without an interval, low and high are None."""
    of_scene = values.groupby("scene_id", observed=True)[["effect", "total"]].mean().mean()
    if abs(of_scene["effect"] - stored["effect"]) > CLOSE:
        raise NoticeError(
            f"{stored.name}: this sweep gives a mean effect of {of_scene['effect']:.5f} logits, "
            f"the results {stored['effect']:.5f}. Renew the results first (`notice reproduce`)."
        )
    percent = 100 * stored[["effect", "low", "high"]].astype(float) / of_scene["total"]
    deciles = np.percentile(values["share"], DECILES)
    known = [None if np.isnan(value) else value for value in percent.round(1)]
    return [*known, len(values), *deciles.round(1)]
