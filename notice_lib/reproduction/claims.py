"""The paper's experiments on one model, and each of its claims measured on what they give.

What counts as an analogue of a claim was fixed before any of it was run: statistic, comparison and
threshold are in data/paper/claims.csv. A claim about a named checkpoint is settled by that
checkpoint alone; on another model it has at best an analogue.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
import pandas as pd
import torch

from ..corruption import GaussianNoise
from ..heads import gather
from ..heads.attention import AttentionMaps, attention_maps
from ..heads.overlap import regions
from ..heads.roles import head_roles, role_halves
from ..heads.statistics import two_sd
from ..heads.table import scene_effects, total_effect
from ..models.answers import SCORES
from ..models.base import VLM
from ..models.hooks import watch
from ..pairs import PairSet
from ..patching import Site, Sweep, effects, run_inputs, site_grid, sweep
from ..patching.runs import Corruption
from ..paths import data_dir

HEADS = {"blip": ("cross_attention", "correct"), "llava": ("self_attention", "last")}
"""Whose heads the paper patches, and at which token it finds their effects."""
DEPTH = {"blip": ("layer_output", "correct"), "llava": ("mlp", "last")}
"""What the paper's heat maps call MLP: in BLIP the published code patches the layer's output."""
NOISE = GaussianNoise("patch_embeddings", 3.0, 10)
NOISE_PAIRS = 24
"""Pairs of each task that get noise, in ten draws each."""
ROLE_SCENES = 6
"""Roles are counted on halves of at least so many scenes with masks."""
DRAWS = 500
"""Bootstrap draws of whole scenes."""

_KEPT = {"task", "slot", "corruption", "component", "layer", "head", "role", "pair_id", "scene_id"}
_KEPT |= {"draw", "donor", "effect"}
_KEPT |= {f"{run}_{score}" for run in ("base", "source") for score in SCORES}
"""Columns that the statistics read: a sweep of a large model has millions of rows."""

Interval = tuple[float, float, float]
"""Estimate, and the ends of its 95 % interval; NaN where it cannot be measured."""
NOT_TESTABLE: Interval = (float("nan"),) * 3


def paper_claims(family: str) -> pd.DataFrame:
    """The paper's claims about a family: one row each, columns of data/paper/claims.csv."""
    claims = pd.read_csv(data_dir() / "paper" / "claims.csv")
    return claims[claims["family"] == family].reset_index(drop=True)


def verdict(estimate: Interval, comparison: str, threshold: float) -> str:
    """What an interval says of a threshold: "seen", "not seen", "undecided" or "not testable"."""
    _, low, high = estimate
    if np.isnan(low):
        return "not testable"
    holds = {
        "at least": (low >= threshold, high < threshold),
        "above": (low > threshold, high <= threshold),
        "at most": (high <= threshold, low > threshold),
    }[comparison]
    return "seen" if holds[0] else "not seen" if holds[1] else "undecided"


@dataclass(frozen=True)
class Evidence:
    """What the experiments gave.

    Attributes:
        heads: as of `heads.gather`, every task under both corruptions.
        at_option: LLaVA's heads at the correct option, under image corruption; for BLIP `heads`.
        depth, noisy: `effects` of `DEPTH` under image corruption and under noise.
        maps: attention of one task's pairs, whose masks tell the named object.
        distances: one row a pair: scene_id, and the distances of the corrupt and of a noisy run
            from the nearest clean picture of another scene.
    """

    heads: pd.DataFrame
    at_option: pd.DataFrame
    depth: pd.DataFrame
    noisy: pd.DataFrame
    maps: AttentionMaps | None
    distances: pd.DataFrame


@dataclass(frozen=True)
class Experiment:
    """One sweep: some pairs of a task under one corruption.

    Attributes:
        kind: "heads" (`HEADS`); "option", LLaVA's heads at the correct option; "depth" (`DEPTH`);
            or another.
        task: of the pairs.
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
        """Of its folder."""
        return f"{self.kind}-{self.how}-{self.task}"

    def run(self, model: VLM, seed: int, out: Path | None) -> Sweep:
        """Run it in a folder under `out`, where it goes on if it was stopped; or in memory."""
        folder = None if out is None else out / self.name
        return sweep(model, self.pairs, self.sites, self.corruption, seed=seed, out=folder)


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
    return evidence(model, sets, found, seed)


def evidence(
    model: VLM,
    sets: Mapping[str, PairSet],
    found: Iterable[tuple[Experiment, Sweep]],
    seed: int = 0,
) -> Evidence:
    """What all of `experiments` gave, and what is measured without patching."""
    tables: dict[str, list[pd.DataFrame]] = {"heads": [], "option": [], "depth": [], "noise": []}
    for one, swept in found:
        kind = "noise" if one.how == "noise" else one.kind
        table = effects(swept.table()) if one.kind == "depth" else gather([swept])
        tables[kind].append(table[[name for name in table if name in _KEPT]])
    joined = {kind: pd.concat(parts, ignore_index=True) for kind, parts in tables.items() if parts}
    masked = [pairs for pairs in sets.values() if any(pair.clean_masks for pair in pairs)]
    return Evidence(
        joined["heads"],
        joined.get("option", joined["heads"]),
        joined["depth"],
        joined["noise"],
        attention_maps(model, masked[0]) if masked else None,
        _distances(model, noise_pairs(sets, seed), seed),
    )


def measure(family: str, evidence: Evidence, seed: int = 0) -> pd.DataFrame:
    """Every claim about a family, measured; as `reproduce` returns."""
    claims = paper_claims(family)
    rng = np.random.default_rng(seed)
    rows = []
    for claim in claims.itertuples():
        estimate = _MEASURES[claim.key](evidence, rng)
        said = verdict(estimate, claim.comparison, claim.threshold)
        rows.append((*estimate, said))
    return claims.join(pd.DataFrame(rows, columns=["estimate", "low", "high", "verdict"]))


def _universal(corruptions: tuple[str, ...]):
    """Heads that the paper's rule selects in every condition, with its bootstrap interval."""

    def count(evidence: Evidence, rng) -> Interval:
        conditions = _conditions(evidence.heads, corruptions, absolute=True)
        if len({task for task, _ in conditions}) < 2:  # The claim is that tasks agree.
            return NOT_TESTABLE
        return _bootstrap(lambda means: float(_selected(means).sum()), conditions, rng)

    return count


def _selected(means: Mapping[tuple, np.ndarray]) -> np.ndarray:
    return np.all([two_sd(mean) for mean in means.values()], axis=0)


def _image_over_text(evidence: Evidence, rng) -> Interval:
    """Largest mean share of the way over heads, averaged over tasks: image minus text."""
    conditions = _conditions(evidence.heads, ("image", "text"), share=True)

    def difference(means):
        largest = {
            how: np.mean([mean for (_, own), mean in means.items() if own == how], axis=0).max()
            for how in ("image", "text")
        }
        return largest["image"] - largest["text"]

    return _bootstrap(difference, conditions, rng)


def _last_over_option(evidence: Evidence, rng) -> Interval:
    """Largest mean effect at the last token by that at the correct option."""
    last = _conditions(evidence.heads, ("image",))
    option = _conditions(evidence.at_option, ("image",))
    both = {(task, "last"): own for (task, _), own in last.items()}
    both |= {(task, "option"): own for (task, _), own in option.items()}

    def ratio(means):
        last, option = (
            np.abs(np.mean([m for (_, own), m in means.items() if own == at], axis=0)).max()
            for at in ("last", "option")
        )
        return float(last / option) if option > 0 else float("inf")

    return _bootstrap(ratio, both, rng)


def _roles(role: str):
    """Heads with a role on all scenes; the interval is that of halves of the scenes."""

    def count(evidence: Evidence, rng) -> Interval:
        if not shows_objects(evidence.maps):
            return NOT_TESTABLE
        found = head_roles(evidence.maps)
        if role == "outlier suppression" and found["outliers_excess"].isna().all():
            return NOT_TESTABLE
        halves = role_halves(evidence.maps)
        counts = [(part[half] == role).sum() for _, part in halves.groupby("repeat")
                  for half in ("first", "second")]  # fmt: skip
        return (float((found["role"] == role).sum()), *_ends(counts))

    return count


def _grounding(evidence: Evidence, rng) -> Interval:
    """Universal heads, by the paper's rule, whose attention detects or suppresses the object."""
    conditions = _conditions(evidence.heads, ("image", "text"), absolute=True)
    universal = _selected({key: own.to_numpy().mean(0) for key, own in conditions.items()})
    if not shows_objects(evidence.maps) or not universal.any():
        return NOT_TESTABLE
    grounded = ["object detection", "object suppression"]
    found = head_roles(evidence.maps).sort_values(["layer", "head"])
    halves = role_halves(evidence.maps).sort_values(["layer", "head"])
    counts = [(part[half].isin(grounded).to_numpy() & universal).sum()
              for _, part in halves.groupby("repeat") for half in ("first", "second")]  # fmt: skip
    estimate = (found["role"].isin(grounded).to_numpy() & universal).sum()
    return (float(estimate), *_ends(counts))


def shows_objects(maps: AttentionMaps | None) -> TypeGuard[AttentionMaps]:
    """Whether masks tell the named object in enough scenes for halves of them."""
    if maps is None:
        return False
    named = regions(maps)["named"]
    scenes = {pair.scene_id for pair, mask in zip(maps.pairs, named, strict=True) if mask.any()}
    return len(scenes) >= ROLE_SCENES


def _noise_later(evidence: Evidence, rng) -> Interval:
    """Mean depth of positive effects, from 0 (first layer) to 1: noise minus SIP."""
    matrices = {
        (task, name): part.pivot_table(index="scene_id", columns="layer", values="effect")
        for name, table in (("sip", evidence.depth), ("noise", evidence.noisy))
        for task, part in table.groupby("task", observed=True)
    }

    def depth(means) -> float:
        mean = np.clip(np.mean(list(means), axis=0), 0, None)
        return float(mean @ np.linspace(0, 1, len(mean)) / mean.sum())

    def later(means):
        noise, sip = (
            depth([m for (_, own), m in means.items() if own == name]) for name in ("noise", "sip")
        )
        return noise - sip

    return _bootstrap(later, matrices, rng)


def _noise_out(evidence: Evidence, rng) -> Interval:
    """Geometric mean over scenes of the noisy run's distance by the corrupt run's."""
    ratio = np.log(evidence.distances["noisy"] / evidence.distances["corrupt"])
    scenes = ratio.groupby(evidence.distances["scene_id"]).mean().to_frame()
    return _bootstrap(lambda means: float(np.exp(means["all", ""][0])), {("all", ""): scenes}, rng)


def _conditions(table, corruptions, absolute=False, share=False) -> dict[tuple, pd.DataFrame]:
    """{(task, corruption): scenes x heads}: effects, their sizes, or shares of the way."""
    if absolute:
        table = table.assign(effect=table["effect"].abs())
    found = {}
    for (task, how), part in table.groupby(["task", "corruption"], observed=True):
        if how in corruptions:
            matrix = scene_effects(part).sort_index(axis=1)
            found[task, how] = matrix / total_effect(part, "effect") if share else matrix
    return found


def _bootstrap(
    statistic: Callable[[Mapping[tuple, np.ndarray]], float],
    conditions: Mapping[tuple, pd.DataFrame],
    rng: np.random.Generator,
) -> Interval:
    """A statistic of the conditions' means over scenes, and its percentile interval.

    Scenes are drawn anew within each task; one that is in several conditions of it is in all or
    none.
    """
    estimate = statistic({key: own.to_numpy().mean(0) for key, own in conditions.items()})
    tasks = {task for task, _ in conditions}
    scenes = {
        task: sorted(set().union(*(own.index for key, own in conditions.items() if key[0] == task)))
        for task in sorted(tasks)
    }
    rows = {key: own.index.get_indexer(scenes[key[0]]) for key, own in conditions.items()}
    values = {key: own.to_numpy() for key, own in conditions.items()}
    drawn = []
    for _ in range(DRAWS):
        chosen = {task: rng.integers(len(own), size=len(own)) for task, own in scenes.items()}
        means = {}
        for key, own in values.items():
            at = rows[key][chosen[key[0]]]
            means[key] = own[at[at >= 0]].mean(0) if (at >= 0).any() else own.mean(0)
        drawn.append(statistic(means))
    return (float(estimate), *_ends(drawn))


def _ends(values) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values, float), [0.025, 0.975])
    return float(low), float(high)


def _distances(model: VLM, sets: Mapping[str, PairSet], seed: int) -> pd.DataFrame:
    """How far the image states of corrupt and noisy runs are from the nearest clean picture of
    another scene."""
    rows = []
    states: dict[str, list[torch.Tensor]] = {"clean": [], "corrupt": [], "noisy": []}
    for pairs in sets.values():
        for pair in pairs:
            clean, corrupt, _ = run_inputs(model, pairs, pair, "image", seed)
            _, noisy, _ = run_inputs(model, pairs, pair, NOISE, seed)
            for name, inputs in (("clean", clean), ("corrupt", corrupt), ("noisy", noisy)):
                states[name].append(_image_state(model, inputs))
            rows.append(pair.scene_id)
    scenes = np.array(rows)
    pictures, *others = (torch.stack(own).flatten(1) for own in states.values())
    same = torch.from_numpy(scenes[:, None] == scenes)
    found = [torch.cdist(own, pictures).masked_fill(same, float("inf")).amin(1) for own in others]
    return pd.DataFrame({"scene_id": scenes, "corrupt": found[0], "noisy": found[1]})


def _image_state(model: VLM, inputs) -> torch.Tensor:
    """What the tower gives to the text in a run (tokens, width)."""
    with watch({"tower": model.noise_point("tower_output")}) as seen:
        model.logits(inputs)
    return seen["tower"][0].float().cpu()


_MEASURES = {
    "blip_multimodal": _universal(("image", "text")),
    "blip_vision": _universal(("image",)),
    "blip_text": _universal(("text",)),
    "llava_multimodal": _universal(("image", "text")),
    "blip_image_over_text": _image_over_text,
    "llava_last_over_option": _last_over_option,
    "blip_detection": _roles("object detection"),
    "blip_suppression": _roles("object suppression"),
    "blip_outliers": _roles("outlier suppression"),
    "llava_no_detection": _grounding,
    "blip_noise_later": _noise_later,
    "llava_noise_later": _noise_later,
    "blip_noise_out": _noise_out,
    "llava_noise_out": _noise_out,
}
