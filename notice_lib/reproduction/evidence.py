"""The sweeps that the paper's claims are measured on, and what they give."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..corruption import GaussianNoise
from ..heads import gather
from ..heads.attention import AttentionMaps, attention_maps
from ..heads.chance import mean_sizes
from ..heads.decision import as_units, half_of
from ..heads.overlap import regions
from ..heads.roles import RoleScenes, role_scenes
from ..models.answers import SCORES
from ..models.base import VLM
from ..models.hooks import watch
from ..pairs import PairSet, SemanticPair
from ..patching import Site, Sweep, effects, logit_difference, run_inputs, site_grid, sweep
from ..patching.runs import Corruption

HEADS = {"blip": ("cross_attention", "correct"), "llava": ("self_attention", "last")}
"""Whose heads the paper patches, and at which token it finds their effects. Their attention is read
at the same token."""
DEPTH = {"blip": ("layer_output", "correct"), "llava": ("mlp", "last")}
"""What the paper's heat maps call MLP: in BLIP the published code patches the layer's output."""
NOISE = GaussianNoise("patch_embeddings", 3.0, 10)
NOISE_PAIRS = 24
"""Pairs of each task that get noise, in ten draws each."""

_KEPT = {"task", "slot", "corruption", "component", "layer", "head", "role", "pair_id", "scene_id"}
_KEPT |= {"draw", "donor", "effect"}
_KEPT |= {f"{run}_{score}" for run in ("base", "source") for score in SCORES}
"""Columns that the statistics read: a sweep of a large model has millions of rows."""


@dataclass(frozen=True)
class Experiment:
    """One sweep: some pairs of a task under one corruption.

    Attributes:
        kind: "heads" (`HEADS`); "option", LLaVA's heads at the correct option; "depth" (`DEPTH`);
            or another.
        task: the task of the pairs.
        corruption: as `sweep` takes it.
    """

    kind: str
    task: str
    corruption: Corruption
    pairs: PairSet
    sites: tuple[Site, ...]

    @property
    def how(self) -> str:
        """ "image", "text" or "noise"."""
        return self.corruption if isinstance(self.corruption, str) else "noise"

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.kind}-{self.how}-{self.task}"

    def run(self, model: VLM, seed: int, out: Path | None) -> Sweep:
        """Run it in a folder under `out`, where it goes on if it was stopped; or in memory."""
        folder = None if out is None else out / self.name
        return sweep(model, self.pairs, self.sites, self.corruption, seed=seed, out=folder)


@dataclass(frozen=True)
class Cell:
    """The effects of K heads (or layers) in the scenes of one task, slot and corruption.

    Attributes:
        task, slot, corruption: the corruption is "image", "text" or "noise".
        scenes: (S,) ids.
        values: (S, K) mean effects of a scene's pairs, in logits.
        total: (S,) what the effect would be if the patched run were the source run.
        half: (S,) "A" or "B".
    """

    task: str
    slot: str
    corruption: str
    scenes: np.ndarray
    values: np.ndarray
    total: np.ndarray
    half: np.ndarray

    def of(self, half: str) -> "Cell":
        """The scenes of one half."""
        at = self.half == half
        parts = (self.scenes[at], self.values[at], self.total[at], self.half[at])
        return Cell(self.task, self.slot, self.corruption, *parts)


@dataclass(frozen=True)
class RoleCell:
    """Attention on the named thing in the scenes of one task and slot, and each scene's half."""

    task: str
    slot: str
    scenes: RoleScenes
    half: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What claims are measured on: one number a scene.

    Attributes:
        heads: (layer, head) of each of the K heads, in the order of the cells' columns.
        effects: cells of the heads at the token of `HEADS`, every task under both corruptions.
        option: cells of LLaVA's heads at the correct option, under image corruption.
        depth: cells of the layers of `DEPTH`, under image corruption and under noise.
        sizes: {(task, corruption): (K,) mean of |effect| over pairs}, the paper's score.
        roles: where attention lies, for tasks and slots whose pairs have masks.
        distances: one row a scene: scene_id, and how far the image states of the corrupt and of a
            noisy run are from those of the nearest clean picture of another scene.
    """

    heads: tuple[tuple[int, int], ...]
    effects: tuple[Cell, ...]
    option: tuple[Cell, ...]
    depth: tuple[Cell, ...]
    sizes: Mapping[tuple[str, str], np.ndarray]
    roles: tuple[RoleCell, ...]
    distances: pd.DataFrame


@dataclass(frozen=True)
class Tables:
    """The sweeps' rows, from which evidence and the small tables are made.

    Attributes:
        heads: from `heads.gather`, every task under both corruptions.
        option: LLaVA's heads at the correct option, under image corruption; None for BLIP.
        depth: `effects` of `DEPTH` under image corruption and under noise.
    """

    heads: pd.DataFrame
    option: pd.DataFrame | None
    depth: pd.DataFrame


def experiments(model: VLM, sets: Mapping[str, PairSet], seed: int = 0) -> list[Experiment]:
    """The sweeps that the claims are measured on, in the order in which they are run."""

    def heads(kind: str, position: str, *corruptions: Corruption) -> list[Experiment]:
        sites = tuple(site_grid(model, [component], per_head=True, position=position))
        return [
            Experiment(kind, task, how, pairs, sites)
            for task, pairs in sets.items()
            for how in corruptions
        ]

    component, position = HEADS[model.family]
    found = heads("heads", position, "image", "text")
    if position != "correct":
        found += heads("option", "correct", "image")
    component, position = DEPTH[model.family]
    sites = tuple(site_grid(model, [component], position=position))
    few = noise_pairs(sets, seed)
    return found + [
        Experiment("depth", task, how, pairs, sites)
        for how in ("image", NOISE)
        for task, pairs in few.items()
    ]


def noise_pairs(sets: Mapping[str, PairSet], seed: int = 0) -> dict[str, PairSet]:
    """The pairs of each task that get noise."""
    return {task: pairs.sample(NOISE_PAIRS, seed) for task, pairs in sets.items()}


def gather_evidence(
    model: VLM, sets: Mapping[str, PairSet], out: Path | None, seed: int = 0
) -> Evidence:
    """Run all sweeps, in folders under `out` (or in memory)."""
    found = [(one, one.run(model, seed, out)) for one in experiments(model, sets, seed)]
    return evidence(model, sets, tables_of(found), seed)


def tables_of(found: Iterable[tuple[Experiment, Sweep]]) -> Tables:
    """The rows of all `experiments`."""
    parts: dict[str, list[pd.DataFrame]] = {"heads": [], "option": [], "depth": []}
    for one, swept in found:
        if one.kind == "depth":
            table = effects(swept.table()).assign(corruption=one.how)
        else:
            table = gather([swept])
        parts[one.kind].append(table[[name for name in table if name in _KEPT]])
    joined = {kind: pd.concat(own, ignore_index=True) for kind, own in parts.items() if own}
    return Tables(joined["heads"], joined.get("option"), joined["depth"])


def evidence(model: VLM, sets: Mapping[str, PairSet], tables: Tables, seed: int = 0) -> Evidence:
    """What the sweeps gave, scene by scene, and what is measured without patching."""
    units = units_of(sets)
    heads = cells(tables.heads, units)
    layers = tables.heads[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    return Evidence(
        tuple(layers.itertuples(index=False, name=None)),
        heads,
        () if tables.option is None else cells(tables.option, units),
        cells(tables.depth, units),
        {key: own.to_numpy() for key, own in mean_sizes(tables.heads).items()},
        _role_cells(model, sets, units),
        _distances(model, noise_pairs(sets, seed), seed),
    )


def units_of(sets: Mapping[str, PairSet]) -> pd.DataFrame:
    """The independent unit (`heads.decision.as_units`) of each pair, and its half.

    Returns:
        Index pair_id, columns scene_id (the unit's name) and half.
    """
    table = pd.DataFrame(
        [
            (pair.pair_id, pair.task, pair.slot, pair.scene_id)
            for pairs in sets.values()
            for pair in as_units(pairs)
        ],
        columns=["pair_id", "task", "slot", "scene_id"],
    )
    return table.assign(half=half_of(table)).set_index("pair_id")[["scene_id", "half"]]


def cells(table: pd.DataFrame, units: pd.DataFrame) -> tuple[Cell, ...]:
    """One cell a task, slot and corruption.

    Args:
        table: effects of single heads (layer, head) or of layers at one token.
        units: from `units_of`.
    """
    own = units.loc[table["pair_id"].astype(str)]
    table = table.assign(
        scene_id=own["scene_id"].to_numpy(),
        half=own["half"].to_numpy(),
        total=logit_difference(table, "source") - logit_difference(table, "base"),
    )
    found = []
    for (task, slot, how), part in table.groupby(["task", "slot", "corruption"], observed=True):
        matrix = part.pivot_table(index="scene_id", columns=["layer", "head"], values="effect")
        by_scene = part.groupby("scene_id")
        total = by_scene["total"].mean().reindex(matrix.index).to_numpy()
        half = by_scene["half"].first().reindex(matrix.index).to_numpy()
        scenes = matrix.index.to_numpy()
        found.append(Cell(str(task), str(slot), str(how), scenes, matrix.to_numpy(), total, half))
    return tuple(found)


def role_maps(model: VLM, sets: Mapping[str, PairSet]) -> Iterator[tuple[str, str, AttentionMaps]]:
    """(task, slot, attention at the token of `HEADS`) where masks tell the named thing in at least
    three scenes."""
    position = HEADS[model.family][1]
    for task, pairs in sets.items():
        masked = as_units(pairs).filter(lambda pair: bool(pair.clean_masks))
        for slot in dict.fromkeys(pair.slot for pair in masked):
            own = masked.filter(partial(_is_of, slot))
            maps = attention_maps(model, own, position)
            known = np.flatnonzero(regions(maps)["named"].any(axis=1))
            if len({maps.pairs[row].scene_id for row in known}) >= 3:
                yield task, slot, maps


def _is_of(slot: str, pair: SemanticPair) -> bool:
    return pair.slot == slot


def _role_cells(
    model: VLM, sets: Mapping[str, PairSet], units: pd.DataFrame
) -> tuple[RoleCell, ...]:
    half = units.drop_duplicates("scene_id").set_index("scene_id")["half"]
    found = []
    for task, slot, maps in role_maps(model, sets):
        scenes = role_scenes(maps)
        found.append(RoleCell(task, slot, scenes, half[scenes.names].to_numpy()))
    return tuple(found)


def _distances(model: VLM, sets: Mapping[str, PairSet], seed: int) -> pd.DataFrame:
    """How far the image states of corrupt and noisy runs are from the nearest clean picture of
    another scene; the mean over a scene's pairs."""
    scenes = []
    states: dict[str, list[torch.Tensor]] = {"clean": [], "corrupt": [], "noisy": []}
    for pairs in sets.values():
        for pair in as_units(pairs):
            clean, corrupt, _ = run_inputs(model, pairs, pair, "image", seed)
            _, noisy, _ = run_inputs(model, pairs, pair, NOISE, seed)
            for name, inputs in (("clean", clean), ("corrupt", corrupt), ("noisy", noisy)):
                states[name].append(_image_state(model, inputs))
            scenes.append(pair.scene_id)
    names = np.array(scenes)
    pictures, *others = (torch.stack(own).flatten(1) for own in states.values())
    same = torch.from_numpy(names[:, None] == names)
    found = [torch.cdist(own, pictures).masked_fill(same, float("inf")).amin(1) for own in others]
    table = pd.DataFrame({"scene_id": names, "corrupt": found[0], "noisy": found[1]})
    return table.groupby("scene_id", as_index=False).mean()


def _image_state(model: VLM, inputs) -> torch.Tensor:
    """What the tower gives to the text in a run (tokens, width)."""
    with watch({"tower": model.noise_point("tower_output")}) as seen:
        model.logits(inputs)
    return seen["tower"][0].float().cpu()
