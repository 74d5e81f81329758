"""The experiments that the paper's claims rest on, and the evidence that they provide."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..corruption import GaussianNoise
from ..heads import gather, scene_effects
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
"""For each family, the component whose heads the paper patches, and the token at which it patches
them. The heads' attention is read at the same token."""
DEPTH = {"blip": ("layer_output", "correct"), "llava": ("mlp", "last")}
"""For each family, the component that the paper's heat maps call MLP (the published code patches
BLIP's layer output), and the token at which it is patched."""
NOISE = GaussianNoise("patch_embeddings", 3.0, 10)
NOISE_PAIRS = 24
"""Number of pairs per task that are run with noise, in ten draws each."""

_KEPT = {"task", "slot", "corruption", "component", "layer", "head", "role", "pair_id", "scene_id"}
_KEPT |= {"draw", "donor", "effect"}
_KEPT |= {f"{run}_{score}" for run in ("base", "source") for score in SCORES}
"""Columns that the statistics read. Others are dropped since large sweeps have millions of rows."""


@dataclass(frozen=True)
class Experiment:
    """One sweep over pairs of one task under one corruption.

    Attributes:
        kind: the sites that are patched: "heads" (those of `HEADS`), "option" (LLaVA's heads at the
            correct option), "depth" (those of `DEPTH`) or "modules" (every module at every token).
        task: the task of the pairs.
        corruption: the corruption, as an argument of `sweep`.
        pairs: the pairs to run.
        sites: the sites to patch.
    """

    kind: str
    task: str
    corruption: Corruption
    pairs: PairSet
    sites: tuple[Site, ...]

    @property
    def how(self) -> str:
        """Name of the corruption: "image", "text" or "noise"."""
        return self.corruption if isinstance(self.corruption, str) else "noise"

    @property
    def name(self) -> str:
        """Name of the experiment, and of its folder."""
        return f"{self.kind}-{self.how}-{self.task}"

    def run(self, model: VLM, seed: int, out: Path | None) -> Sweep:
        """Run the sweep in memory, or in a folder under `out` where a stopped sweep resumes."""
        folder = None if out is None else out / self.name
        return sweep(model, self.pairs, self.sites, self.corruption, seed=seed, out=folder)


@dataclass(frozen=True)
class Cell:
    """The effects of K heads (or layers) in the S scenes of one task, slot and corruption.

    Attributes:
        task, slot: the task and slot of the pairs.
        corruption: "image", "text" or "noise".
        scenes: ids of the scenes, (S,).
        values: effects in logits, averaged over each scene's pairs, (S, K).
        total: total effects in logits (source minus base run), (S,).
        half: the half of each scene, "A" or "B", (S,).
    """

    task: str
    slot: str
    corruption: str
    scenes: np.ndarray
    values: np.ndarray
    total: np.ndarray
    half: np.ndarray

    def of(self, half: str) -> "Cell":
        """The part of the cell that lies in one half of the scenes."""
        at = self.half == half
        parts = (self.scenes[at], self.values[at], self.total[at], self.half[at])
        return Cell(self.task, self.slot, self.corruption, *parts)


@dataclass(frozen=True)
class RoleCell:
    """Attention to the named thing in the scenes of one task and slot.

    Attributes:
        task, slot: the task and slot of the pairs.
        scenes: attention and masks of the S scenes.
        half: the half of each scene, "A" or "B", (S,).
    """

    task: str
    slot: str
    scenes: RoleScenes
    half: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """The measurements that claims are decided on, scene by scene.

    Attributes:
        heads: (layer, head) of each of the K heads, in the order of the cells' columns.
        effects: effects of the heads at the token of `HEADS`, in every task under image and text
            corruption.
        option: effects of LLaVA's heads at the correct option, under image corruption.
        depth: effects of the layers of `DEPTH`, under image corruption and under noise.
        sizes: the paper's score of each head, its mean absolute effect over pairs, as one array
            (K,) per (task, corruption).
        roles: attention to the named thing, for each task and slot whose pairs have masks.
        distances: one row per scene. The columns corrupt and noisy hold the distance of that run's
            image states from those of the nearest clean picture of another scene.
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
    """The rows of the sweeps, from which the evidence and the summary tables are computed.

    Attributes:
        heads: effects of the heads from `heads.gather`, in every task under image and text
            corruption.
        option: effects of LLaVA's heads at the correct option, under image corruption; None for
            BLIP.
        depth: `effects` at the sites of `DEPTH`, under image corruption and under noise.
    """

    heads: pd.DataFrame
    option: pd.DataFrame | None
    depth: pd.DataFrame


def experiments(model: VLM, sets: Mapping[str, PairSet], seed: int = 0) -> list[Experiment]:
    """List the sweeps that the claims rest on, in the order in which they are run."""

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
    """Sample the pairs of each task that are run with noise."""
    return {task: pairs.sample(NOISE_PAIRS, seed) for task, pairs in sets.items()}


def gather_evidence(
    model: VLM, sets: Mapping[str, PairSet], out: Path | None, seed: int = 0
) -> Evidence:
    """Run all experiments and compute the evidence that claims are decided on.

    Args:
        model: a BLIP or a LLaVA.
        sets: the pairs of each task, all answered correctly with both pictures.
        out: the folder that keeps the sweeps, or None to run in memory.
        seed: seed of replaced words, noise and samples.
    """
    found = [(one, one.run(model, seed, out)) for one in experiments(model, sets, seed)]
    return evidence(model, sets, tables_of(found), seed)


def tables_of(found: Iterable[tuple[Experiment, Sweep]]) -> Tables:
    """Join the rows of all `experiments` by kind.

    Their scene ids are those of independent units (`heads.decision.as_units`), so that every table
    and every claim counts the same scenes.
    """
    parts: dict[str, list[pd.DataFrame]] = {"heads": [], "option": [], "depth": []}
    for one, swept in found:
        if one.kind == "depth":
            table = effects(swept.table()).assign(corruption=one.how)
        else:
            table = gather([swept])
        unit = {pair.pair_id: pair.scene_id for pair in as_units(one.pairs)}
        table = table.assign(scene_id=table["pair_id"].astype(str).map(unit))
        parts[one.kind].append(table[[name for name in table if name in _KEPT]])
    joined = {kind: pd.concat(own, ignore_index=True) for kind, own in parts.items() if own}
    return Tables(joined["heads"], joined.get("option"), joined["depth"])


def evidence(model: VLM, sets: Mapping[str, PairSet], tables: Tables, seed: int = 0) -> Evidence:
    """Compute the evidence from the sweeps' tables, and measure what needs no patching."""
    half = halves_of(sets)
    heads = cells(tables.heads, half)
    layers = tables.heads[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    return Evidence(
        tuple(layers.itertuples(index=False, name=None)),
        heads,
        () if tables.option is None else cells(tables.option, half),
        cells(tables.depth, half),
        {key: own.to_numpy() for key, own in mean_sizes(tables.heads).items()},
        _role_cells(model, sets, half),
        _distances(model, noise_pairs(sets, seed), seed),
    )


def halves_of(sets: Mapping[str, PairSet]) -> pd.Series:
    """Find the half of each pair's scene (`heads.decision.half_of`), by pair id."""
    table = pd.DataFrame(
        [
            (pair.pair_id, pair.task, pair.slot, pair.scene_id)
            for pairs in sets.values()
            for pair in as_units(pairs)
        ],
        columns=["pair_id", "task", "slot", "scene_id"],
    )
    return half_of(table).set_axis(table["pair_id"])


def cells(table: pd.DataFrame, half: pd.Series) -> tuple[Cell, ...]:
    """Average effects over each scene's pairs, and return one cell per task, slot and corruption.

    Args:
        table: effects of single heads (layer, head) or of layers, at one token, from `tables_of`.
        half: the half of each pair's scene, from `halves_of`.

    Raises:
        NoticeError: where `heads.scene_effects` raises it.
    """
    table = table.assign(
        half=half[table["pair_id"].astype(str)].to_numpy(),
        total=logit_difference(table, "source") - logit_difference(table, "base"),
    )
    found = []
    for (task, slot, how), part in table.groupby(["task", "slot", "corruption"], observed=True):
        matrix = scene_effects(part).sort_index(axis=1)
        by_scene = part.groupby("scene_id", observed=True)
        total = by_scene["total"].mean().reindex(matrix.index).to_numpy()
        halves = by_scene["half"].first().reindex(matrix.index).to_numpy()
        scenes = matrix.index.to_numpy()
        found.append(Cell(str(task), str(slot), str(how), scenes, matrix.to_numpy(), total, halves))
    return tuple(found)


def role_maps(model: VLM, sets: Mapping[str, PairSet]) -> Iterator[tuple[str, str, AttentionMaps]]:
    """Yield the attention at the token of `HEADS` for each task and slot.

    Tasks and slots in which fewer than three scenes have a mask of the named thing are left out.
    """
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


def _role_cells(model: VLM, sets: Mapping[str, PairSet], half: pd.Series) -> tuple[RoleCell, ...]:
    found = []
    for task, slot, maps in role_maps(model, sets):
        scenes = role_scenes(maps)
        of_scene = {pair.scene_id: half[pair.pair_id] for pair in maps.pairs}
        halves = np.array([of_scene[name] for name in scenes.names])
        found.append(RoleCell(task, slot, scenes, halves))
    return tuple(found)


def _distances(model: VLM, sets: Mapping[str, PairSet], seed: int) -> pd.DataFrame:
    """Distances of corrupt and noisy runs from the nearest clean picture of another scene.

    Distances are Euclidean, between image states, and averaged over each scene's pairs.
    """
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
    """The vision tower's output that the text model reads in a run, (tokens, width)."""
    with watch({"tower": model.noise_point("tower_output")}) as seen:
        model.logits(inputs)
    return seen["tower"][0].float().cpu()
