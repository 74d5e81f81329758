"""The summary tables of a reproduction."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import NoticeError, UsedFolderError
from ..heads import (
    bootstrap_interval,
    carried,
    chance,
    head_effects,
    head_roles,
    replication_rates,
    role_halves,
    strongest_heads,
    universal_heads,
)
from ..heads.roles import role_scenes
from ..heads.selection import Rule
from ..heads.table import HEAD, total_effect
from ..models.base import VLM
from ..pairs import PairSet
from ..patching import Site
from .evidence import Tables, halves_of, role_maps

COMPARED: tuple[Rule, ...] = ("paper", "signed")
"""The paper's rule of selecting heads, and the tested one."""
ALL = "all"
"""Value of the column slot in rows that cover all slots of a task."""
PLACE = ["component", "role", "layer"]
SPLIT_DRAWS = 1999
"""Sign flips per half of a split. It is smaller than elsewhere because there are 200 halves."""


def accuracy(asked: pd.DataFrame) -> pd.DataFrame:
    """Count the pairs that a model answers correctly.

    Args:
        asked: answers (`notice_lib.answers`) to both pictures, with the column run.

    Returns:
        One row per task, slot and answer order: task, slot, order, pairs (their number), and clean,
        corrupt and both (how many are answered correctly with that picture, or with both).
    """
    keys = ["task", "slot", "order", "pair_id"]
    right = asked.pivot(index=keys, columns="run", values="is_correct").astype(bool)
    right = right.assign(both=right.all(axis=1), pairs=True)
    counts = right.groupby(keys[:3], sort=False).sum().reset_index()
    return counts[[*keys[:3], "pairs", "clean", "corrupt", "both"]]


def role_effects(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Average the effects of modules by token role and layer, for each slot and for all slots.

    Effects are averaged over a pair's tokens of one role (and draws of noise), then over the pairs
    of a scene, then over scenes.

    Args:
        table: `effects` of one task and corruption, with the column corruption.
        seed: seed of the bootstrap.

    Returns:
        One row per slot, component, role and layer: task, slot, corruption, component, role, layer,
        pairs, scenes, effect (in logits), low and high (95 % bootstrap interval; NaN with fewer
        than three scenes), and fraction_recovered (effect divided by the mean total effect).
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
    """The numbers of `role_effects` for one slot: one row per component, role and layer."""
    of_pair = table.groupby([*PLACE, "scene_id", "pair_id"])["effect"].mean()
    of_scene = of_pair.groupby([*PLACE, "scene_id"]).mean()
    pairs = of_pair.groupby(PLACE).size()
    total = total_effect(table.drop_duplicates(["pair_id", "draw"]), "effect")
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
        fraction_recovered=found["effect"] / total,
    )


def noise_effects(swept: Tables, seed: int = 0) -> pd.DataFrame:
    """`role_effects` of the same pairs under image corruption and under Gaussian noise."""
    parts = swept.depth.groupby(["corruption", "task"], sort=False, observed=True)
    return pd.concat([role_effects(part, seed) for _, part in parts], ignore_index=True)


def heads(swept: Tables, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Tables of every head's effects, of the universal heads, and of their number by chance.

    Returns:
        Tables by file name. heads.csv: `universal_heads` by the tested rule, at the token where the
        paper patches the family's heads. option.csv: the same for LLaVA's heads at the correct
        option. universal.csv: the universal heads by the paper's rule and by the tested rule.
        chance.csv: `heads.chance` for both rules.
    """
    found = {rule: universal_heads(head_effects(swept.heads, rule, seed=seed)) for rule in COMPARED}
    chosen = [own[own["kind"] != ""].assign(rule=rule) for rule, own in found.items()]
    columns = ["rule", "component", "layer", "head", "kind", "image_effect", "text_effect"]
    tables = {
        "heads.csv": found["signed"],
        "universal.csv": pd.concat(chosen, ignore_index=True)[[*columns, "agreement"]],
        "chance.csv": pd.concat(
            [chance(swept.heads, rule, seed=seed) for rule in COMPARED], ignore_index=True
        ),
    }
    if swept.option is not None:
        at_option = head_effects(swept.option, seed=seed)
        tables["option.csv"] = universal_heads(at_option).dropna(axis=1, how="all")
    return tables


def replication(model: VLM, sets: Mapping[str, PairSet], seed: int = 0) -> pd.DataFrame:
    """`heads.replication_rates` for each task and slot with the named thing's mask in six scenes.

    Returns:
        The joined tables, with the columns task and slot first, or a table without columns if
        there are none.
    """
    found = []
    for task, slot, maps in role_maps(model, sets):
        if len(role_scenes(maps)) >= 6:
            rates = replication_rates(role_halves(maps, draws=SPLIT_DRAWS, seed=seed))
            found.append((task, slot, rates.rename_axis("role").reset_index()))
    return _joined(found)


def content(
    model: VLM, sets: Mapping[str, PairSet], swept: Tables, folder: Path, seed: int = 0
) -> pd.DataFrame:
    """What the universal and the strongest heads carry, by `heads.carried`.

    The heads are chosen on half A of the scenes and measured on half B, with donors of half B: the
    heads that are universal by either rule, and in each task those with the largest effects. A task
    with too few scenes or donors is left out, with a warning. A head is universal if it matters in
    all tasks whose half A has at least three scenes.

    Args:
        folder: folder for the sweeps with matched donors.

    Returns:
        The columns of `heads.content_shares`, and for each rule the kinds of universal head that
        half A says the head is: `paper` and `signed`; empty for a head that is only strong.

    Raises:
        UsedFolderError: the folder holds sweeps of other pairs, sites or settings.
    """
    half = halves_of(sets)
    on_a = swept.heads[swept.heads["pair_id"].astype(str).map(half) == "A"]
    counts = on_a.astype({"task": str}).groupby("task")["scene_id"].nunique()
    scenes = counts.reindex(list(sets), fill_value=0)
    large = [task for task in sets if scenes[task] >= 3]
    for task in sets:
        if task not in large:
            _not_measured(task, f"half A has {scenes[task]} scenes, but 3 are needed.")
    if not large:
        return pd.DataFrame()
    on_a = on_a[on_a["task"].isin(large)]
    kinds = {rule: universal_heads(head_effects(on_a, rule, seed=seed)) for rule in COMPARED}
    parts = []
    for task in large:
        on_b = sets[task].filter(lambda pair: half[pair.pair_id] == "B")
        sites = _chosen(on_a, task, kinds, model.effect_role, seed)
        try:
            found = carried(model, on_b, sites, seed=seed, out=folder / task)
        except UsedFolderError:
            raise  # Nothing is wrong with the task: its sweeps must go elsewhere.
        except NoticeError as error:
            _not_measured(task, str(error))
            continue
        for rule, own in kinds.items():
            kind = own[[*HEAD, "kind"]].rename(columns={"kind": rule})
            found = found.merge(kind, on=HEAD, how="left", validate="many_to_one")
        parts.append(found)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _not_measured(task: str, why: str) -> None:
    warnings.warn(f"What heads carry in {task} is not measured: {why}", stacklevel=3)


def _chosen(
    table: pd.DataFrame, task: str, kinds: Mapping[Rule, pd.DataFrame], position: str, seed: int
) -> list[Site]:
    """The heads with the largest effects in one task under image corruption, and the universal."""
    image = table[(table["corruption"] == "image") & (table["task"] == task)]
    strong = strongest_heads(head_effects(image, seed=seed), position=position)
    universal = [
        Site(row.component, row.layer, row.head, position)
        for own in kinds.values()
        for row in own[own["kind"] != ""].itertuples()
    ]
    return list(dict.fromkeys([*strong, *universal]))


def roles(model: VLM, sets: Mapping[str, PairSet], swept: Tables, seed: int = 0) -> pd.DataFrame:
    """`head_roles` for each task and slot whose pairs have masks.

    Attention and effects (under image corruption) are measured at the tokens of `VLM.effect_role`.

    Returns:
        The joined tables, with the columns task and slot first, or a table without columns if no
        pair has masks.
    """
    image = swept.heads[swept.heads["corruption"] == "image"]
    found = []
    for task, slot, maps in role_maps(model, sets):
        own = image[(image["task"] == task) & (image["slot"] == slot)]
        found.append((task, slot, head_roles(maps, effects=own, seed=seed)))
    return _joined(found)


def _joined(found: Sequence[tuple[str, str, pd.DataFrame]]) -> pd.DataFrame:
    """Join the tables of tasks and slots, with the columns task and slot first."""
    parts = [table.assign(task=task, slot=slot) for task, slot, table in found]
    if not parts:
        return pd.DataFrame()
    joined = pd.concat(parts, ignore_index=True)
    return joined[["task", "slot", *joined.columns.drop(["task", "slot"])]]
