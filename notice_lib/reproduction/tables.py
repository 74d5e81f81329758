"""The small tables that a reproduction leaves."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..heads import (
    bootstrap_interval,
    chance,
    head_effects,
    head_roles,
    replication_rates,
    role_halves,
    universal_heads,
)
from ..heads.selection import Rule
from ..heads.table import total_effect
from ..models.base import VLM
from ..pairs import PairSet
from .evidence import Tables, role_maps

ALL = "all"
"""What tables call a task's slots together."""
PLACE = ["component", "role", "layer"]
SPLIT_DRAWS = 1999
"""Sign flips for each half of each split: there are 200 halves."""


def accuracy(asked: pd.DataFrame) -> pd.DataFrame:
    """How many pairs a model answers correctly: a row a task, slot and answer order.

    Args:
        asked: answers (`notice_lib.answers`) to both pictures, with the column `run`.

    Returns:
        task, slot, order, pairs, and how many are correct of the clean pictures, of the corrupt
        ones, and of both.
    """
    keys = ["task", "slot", "order", "pair_id"]
    right = asked.pivot(index=keys, columns="run", values="is_correct").astype(bool)
    right = right.assign(both=right.all(axis=1), pairs=True)
    counts = right.groupby(keys[:3], sort=False).sum().reset_index()
    return counts[[*keys[:3], "pairs", "clean", "corrupt", "both"]]


def role_effects(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean effects of modules by token role and layer, for each slot and for all together.

    The mean is taken over a pair's tokens of one role (and draws of noise), then over the pairs
    of a scene, then over scenes.

    Args:
        table: `effects` of one task and corruption, with the column `corruption`.
        seed: of the bootstrap.

    Returns:
        A row a slot, component, role and layer: task, slot, corruption, component, role, layer,
        pairs, scenes, effect (logits), low and high (95 % bootstrap interval; NaN with fewer than
        three scenes), and fraction_recovered (the effect over the mean effect of going all the way
        from base to source run).
    """
    names = ["task", "slot", "corruption", *PLACE]
    table = table.astype(dict.fromkeys((*names[:5], "pair_id", "scene_id"), str))
    slots = list(dict.fromkeys(table["slot"]))
    parts = [
        _cells(table if slot == ALL else table[table["slot"] == slot], seed).assign(slot=slot)
        for slot in (ALL, *(slots if len(slots) > 1 else ()))
    ]
    found = pd.concat(parts, ignore_index=True).assign(
        task=table["task"].iloc[0], corruption=table["corruption"].iloc[0]
    )
    sizes = dict.fromkeys(("layer", "pairs", "scenes"), "int32")
    numbers = dict.fromkeys(("effect", "low", "high", "fraction_recovered"), "float32")
    return found[[*names, "pairs", "scenes", *numbers]].astype(sizes | numbers)


def _cells(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row a component, role and layer."""
    of_pair = table.groupby([*PLACE, "scene_id", "pair_id"])["effect"].mean()
    of_scene = of_pair.groupby([*PLACE, "scene_id"]).mean()
    pairs = of_pair.groupby(PLACE).size()
    way = total_effect(table.drop_duplicates(["pair_id", "draw"]), "effect")
    parts = []
    for role, values in of_scene.groupby("role"):
        matrix = values.droplevel("role").unstack("scene_id").T.dropna()
        low = high = np.full(matrix.shape[1], np.nan)
        if len(matrix) >= 3:
            low, high = bootstrap_interval(matrix.to_numpy(), seed=seed)
        part = matrix.columns.to_frame(index=False).assign(role=role)
        effect = matrix.to_numpy().mean(axis=0)
        parts.append(part.assign(scenes=len(matrix), effect=effect, low=low, high=high))
    found = pd.concat(parts, ignore_index=True)
    return found.assign(
        pairs=pairs.reindex(pd.MultiIndex.from_frame(found[PLACE])).to_numpy(),
        fraction_recovered=found["effect"] / way,
    )


def noise_effects(swept: Tables, seed: int = 0) -> pd.DataFrame:
    """`role_effects` of the same pairs under image corruption and under Gaussian noise."""
    parts = swept.depth.groupby(["corruption", "task"], sort=False, observed=True)
    return pd.concat([role_effects(part, seed) for _, part in parts], ignore_index=True)


def heads(swept: Tables, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Effects of every head, the universal ones by two rules, and how many chance gives.

    Returns:
        heads.csv: `universal_heads` by the tested rule, where the paper finds the family's heads;
        option.csv: LLaVA's at the correct option; universal.csv: the universal heads by the
        paper's rule and by the tested one; chance.csv: `heads.chance` of both.
    """
    rules: tuple[Rule, ...] = ("paper", "signed")
    found = {rule: universal_heads(head_effects(swept.heads, rule, seed=seed)) for rule in rules}
    chosen = [own[own["kind"] != ""].assign(rule=rule) for rule, own in found.items()]
    columns = ["rule", "component", "layer", "head", "kind", "image_effect", "text_effect"]
    tables = {
        "heads.csv": found["signed"],
        "universal.csv": pd.concat(chosen, ignore_index=True)[[*columns, "agreement"]],
        "chance.csv": pd.concat(
            [chance(swept.heads, rule, seed=seed) for rule in rules], ignore_index=True
        ),
    }
    if swept.option is not None:
        at_option = head_effects(swept.option, seed=seed)
        tables["option.csv"] = universal_heads(at_option).dropna(axis=1, how="all")
    return tables


def replication(model: VLM, sets: Mapping[str, PairSet], seed: int = 0) -> pd.DataFrame:
    """`heads.replication_rates` of each task and slot with masks in at least six scenes."""
    found = []
    for task, slot, maps in role_maps(model, sets):
        if len({pair.scene_id for pair in maps.pairs}) >= 6:
            rates = replication_rates(role_halves(maps, draws=SPLIT_DRAWS, seed=seed))
            found.append(rates.rename_axis("role").reset_index().assign(task=task, slot=slot))
    if not found:
        return pd.DataFrame()
    table = pd.concat(found, ignore_index=True)
    return table[["task", "slot", *table.columns.drop(["task", "slot"])]]


def roles(model: VLM, sets: Mapping[str, PairSet], swept: Tables, seed: int = 0) -> pd.DataFrame:
    """`head_roles` of each task and slot whose pairs have masks, at the token of `HEADS`, with the
    heads' effects there under image corruption; no column where no pair has masks."""
    image = swept.heads[swept.heads["corruption"] == "image"]
    found = []
    for task, slot, maps in role_maps(model, sets):
        own = image[(image["task"] == task) & (image["slot"] == slot)]
        found.append(head_roles(maps, effects=own, seed=seed).assign(task=task, slot=slot))
    if not found:
        return pd.DataFrame()
    table = pd.concat(found, ignore_index=True)
    return table[["task", "slot", *table.columns.drop(["task", "slot"])]]
