"""The planted outliers measured: what they are, and which heads keep away from them.

A head keeps away from outliers if

1. it looks less at them than at unplanted background (`avoidance` is 1 if it never looks at them, 0
   if it does not distinguish them, -1 if it looks at nothing else);
2. the direction is why: with the direction projected out of the same weights, the difference to the
   same patches is smaller;
3. the answer needs it: being forced to look at them costs more L than being forced to look at as
   many patches of unplanted background.

To compare a head's attention with an even share is not enough: whatever looks at things looks less
than evenly at everything else.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from notice_lib import heads
from notice_lib.heads.chosen import LEAST_COST, ChosenHeads, scene_means
from notice_lib.models.hooks import HookPoint
from notice_lib.patching import Intervention, Job, PlacedSite, answer_of, engine
from notice_lib.patching.reference import record

AVOIDANCE = 0.25  # smallest that counts: three fifths of the attention to background


@dataclass(frozen=True)
class Patches:
    """Where outliers are in the pictures of N pairs, and how heads look at them.

    maps: attention with the direction; outliers, background: bool (N, P) the patches of high norm
    outside all masks, and unplanted background; things: bool (N, P) patches that a mask reaches;
    high: bool (N, P) patches of high norm.
    """

    maps: heads.AttentionMaps
    outliers: np.ndarray
    background: np.ndarray
    things: np.ndarray
    high: np.ndarray


def find(model, pairs):
    """The Patches of the pairs' clean pictures."""
    maps = heads.attention_maps(model, pairs, model.effect_role)
    known = heads.regions(maps)
    things = known["named"] | known["other"]
    high = heads.outlier_patches(maps).by_norm
    return Patches(maps, high & ~things, ~things & ~high, things, high)


def describe(model, found, axis):
    """What the patches of high norm are, as plain values."""
    maps, high = found.maps, found.high
    result = {"pictures": len(high)}
    for by, row in heads.outlier_patches(maps).table().iterrows():
        result[f"patches a picture by {by}"] = float(row["patches"])
    if not high.any():
        return result
    before = maps.norms / np.median(maps.norms, 1, keepdims=True)
    behind, along = behind_norm(model, maps.pairs, axis)
    each, often = high.sum(1), high.mean(0)
    return result | {
        "pictures with 2 to 6": float(((each >= 2) & (each <= 6)).mean()),
        "pictures with none": float((each == 0).mean()),
        "norm before the last LayerNorm, in medians": float(np.median(before[high])),
        "norm behind it, in medians": float(np.median(behind[high])),
        "largest norm of another patch behind it": float(behind[~high].max()),
        "cosine with the axis": float(np.median(along[high])),
        "outside all masks": float((high & ~found.things).sum() / high.sum()),
        # 1 if always the same places, and the part of patches that are outliers if any place.
        "chance that another picture has it too": float((often**2).sum() / often.sum()),
    }


@torch.no_grad()
def behind_norm(model, pairs, axis):
    """(N, P) norms of the tower's output in medians of its picture, and cosines with the axis."""
    norms, along = [], []
    for pair in pairs:
        pixels = model.inputs(pair.image("clean"), pair.prompt).pixel_values
        states = model.model.vision_model(pixels).last_hidden_state[0, 1:]
        size = states.norm(dim=-1)
        norms.append((size / size.median()).numpy())
        along.append((states[:, axis] / size).numpy())
    return np.stack(norms), np.stack(along)


def judge(model, without, found, chosen, seed=0):
    """Which heads keep away from outliers: one row a head, means over scenes with intervals.

    without: the same model, the direction projected out. Columns as in `ChosenHeads.table`:
    avoidance; by_direction, what of it goes with the direction; forced, what looking costs in L;
    and keeps_away, the verdict.
    """
    heads_of = ChosenHeads.of(model, chosen, None)
    there = np.flatnonzero(found.outliers.any(1))
    pairs = [found.maps.pairs[row] for row in there]
    outliers, background = found.outliers[there], found.background[there]
    plain = heads.attention_maps(without, pairs, model.effect_role)
    own, other = (
        avoidance(heads_of.attention(patches), outliers, background)
        for patches in (found.maps.patches[there], plain.patches)
    )
    costs, clean = forced_looks(heads_of, pairs, outliers, background, seed)
    _, mean = scene_means([pair.scene_id for pair in pairs])
    values = {"avoidance": own, "by_direction": own - other, "forced": costs}
    values = {name: mean @ value for name, value in values.items()}
    least = LEAST_COST * abs((mean @ clean).mean())
    minima = {"avoidance": AVOIDANCE, "by_direction": AVOIDANCE, "forced": least}
    return heads_of.table(values, minima, "keeps_away", seed)


def avoidance(attention, outliers, background):
    """(N, K) from attention (N, K, P): mean on a patch of background minus mean on an outlier, of
    their sum."""
    on_outlier, on_background = (
        np.einsum("nkp,np->nk", attention, area / area.sum(1, keepdims=True))
        for area in (outliers, background)
    )
    return (on_background - on_outlier) / (on_background + on_outlier)


def forced_looks(chosen, pairs, outliers, background, seed=0):
    """(N, K) what it costs in L that a head sees nothing but outliers, more than nothing but as
    many patches of background; and (N,) the unmodified L."""
    costs, clean = [], []
    for pair, bright, plain in zip(pairs, outliers, background, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(pair.pair_id.encode())])
        areas = [np.flatnonzero(bright), rng.permutation(np.flatnonzero(plain))[: bright.sum()]]
        results = engine.patch(chosen.model, looking_jobs(chosen, pair, areas))
        at_outliers, at_background = (
            (result.patched[:, 0] - result.patched[:, 1]).numpy() for result in results
        )
        costs.append(at_background - at_outliers)
        clean.append(float(results[0].base[0] - results[0].base[1]))
    return np.stack(costs), np.array(clean)


def looking_jobs(chosen, pair, areas):
    """For each area a job whose runs give one head the mean value of the area's patches, instead of
    the mean that its attention takes."""
    model, component = chosen.model, chosen.model.image_component
    inputs, answer = model.inputs(pair.image("clean"), pair.prompt), answer_of(model, pair)
    tokens = chosen.tokens(model.roles(inputs, pair.spans))
    points = {(component, layer) for layer, _ in chosen.heads}
    _, seen = record(model, inputs, points, answer.prefix)
    _, values = record(model, inputs, points, answer.prefix, lambda _, layer: _values(model, layer))
    interventions = tuple(
        Intervention((PlacedSite(component, *head, tokens, ""),)) for head in chosen.heads
    )
    jobs = []
    for area in areas:
        given = {at: own.clone() for at, own in seen.items()}
        for at, own in given.items():
            own[:, list(tokens)] = values[at][0, model.class_tokens + area].mean(0)
        jobs.append(Job(inputs, given, interventions, answer))
    return jobs


def _values(model, layer):
    return HookPoint(model.attention_modules[layer].value, "output", per_head=True)


def share_on(maps, outliers):
    """(L, H): what part of each head's attention to patches lies on the outliers (N, P)."""
    there = outliers.any(1)
    shares = heads.shares(maps.patches[there].astype(float))
    return np.einsum("nlhp,np->nlh", shares, outliers[there].astype(float)).mean(0)
