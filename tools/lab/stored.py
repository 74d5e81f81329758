"""What the book measured at each place of the lab's scenes, in percent, to stand beside one pair's.

The mean and its interval are those of the accepted results (data/results). These have no values of
single pairs, so the same sweeps are run again for their spread, and checked against the results.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from notice_lib import NoticeError, answered_correctly, effects
from notice_lib.heads.decision import as_units
from notice_lib.models.base import VLM
from notice_lib.pairs import PairSet
from notice_lib.patching.metrics import logit_difference
from notice_lib.reproduction.evidence import Experiment, experiments
from notice_lib.reproduction.experiments import module_experiments, read_tasks

DECILES = np.linspace(0, 100, 11)
CLOSE = 1e-3
"""How far a mean may be from that of the results, in logits."""
PLACE = ["slot", "component", "role", "layer"]
HEAD = ["component", "role", "layer", "head"]
TABLES = {"heads": "heads.csv", "option": "option.csv"}
"""The results' table of each kind of experiment on heads."""


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
    over all slots of a task together.

    Args:
        right: for each task, the pairs that the results are of.

    Raises:
        NoticeError: the same sweep gives another mean than the results; names the place.
    """
    settings = json.loads((results / "manifest.json").read_text(encoding="utf-8"))
    seed, number = settings["seed"], settings["module_pairs"]
    found: dict[str, dict[str, list]] = {}
    for one in module_experiments(model, right, seed, number):
        if one.how != "image":
            continue
        wanted = _modules_table(results, one.task, right[one.task])
        for (slot, *place), values in _by_pair(model, one, seed, PLACE):
            row = _row(values, wanted.loc[slot, *place])
            found.setdefault(f"{one.task}-{slot}", {})[_name(place)] = row
    for one in experiments(model, right, seed):
        if one.kind not in TABLES or one.how != "image":
            continue
        one = replace(one, pairs=as_units(one.pairs))  # As the results count scenes.
        wanted = _heads_table(results / TABLES[one.kind], one.task)
        places = {
            _name(place): _row(values, wanted.loc[place[0], *place[2:]])
            for place, values in _by_pair(model, one, seed, HEAD)
        }
        for slot in dict.fromkeys(pair.slot for pair in right[one.task]):
            found[f"{one.task}-{slot}"].update(places)
    return found


def _name(place: Iterable) -> str:
    return ".".join(map(str, place))


def _by_pair(
    model: VLM, one: Experiment, seed: int, place: list[str]
) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """Each place, with each pair's effect there in logits, its share in percent, and its scene."""
    table = effects(one.run(model, seed, None).table())
    total = logit_difference(table, "clean") - logit_difference(table, "corrupt")
    keys = [*place, "scene_id", "pair_id"]
    of_pair = table.assign(total=total).groupby(keys, observed=True)[["effect", "total"]].mean()
    shares = of_pair.assign(share=100 * of_pair["effect"] / of_pair["total"]).reset_index()
    yield from shares.groupby(place, observed=True)


def _modules_table(results: Path, task: str, right: PairSet) -> pd.DataFrame:
    table = pd.read_parquet(results / "modules.parquet")
    table = table[(table["task"] == task) & (table["corruption"] == "image")]
    if set(table["slot"]) == {"all"}:  # A task of one slot.
        table = table.assign(slot=right[0].slot)
    return table.set_index(PLACE)


def _heads_table(path: Path, task: str) -> pd.DataFrame:
    table = pd.read_csv(path).set_index(["component", "layer", "head"])
    return table.filter(regex=f"^{task}_image_").rename(columns=lambda name: name.split("_", 2)[2])


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
