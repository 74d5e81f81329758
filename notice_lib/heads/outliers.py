"""Does a head keep away from outliers: patches of background with a very large norm?

A head keeps away from them if

1. it looks less at them than at other background (`avoidance` is 1 if it never looks at them, 0 if
   it does not tell them apart, -1 if it looks at nothing else);
2. what makes them outliers is why: in a model without it, the difference to the same patches is
   smaller;
3. the answer needs it: being forced to look at them costs more L than being forced to look at as
   many patches of other background.

To compare a head's attention with an even share is not enough: whatever looks at things looks less
than evenly at everything else. Condition 2 takes a model whose outliers can be taken away, such as
one in which they were planted.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import NoticeError
from ..models.base import VLM
from ..models.hooks import HookPoint
from ..pairs import SemanticPair
from ..patching import Intervention, Job, PlacedSite, answer_of, engine
from ..patching.reference import record
from .attention import AttentionMaps, attention_maps
from .chosen import LEAST_COST, ChosenHeads, scene_means
from .overlap import outlier_patches, regions

AVOIDANCE = 0.25
"""Smallest avoidance that counts: three fifths of the attention to background."""


@dataclass(frozen=True)
class OutlierPictures:
    """Where outliers are in the clean pictures of N pairs, and how heads look at them.

    Attributes:
        maps: attention with the outliers, on P patches.
        high: patches of high norm, boolean (N, P).
        things: patches that a mask reaches, boolean (N, P).
    """

    maps: AttentionMaps
    high: np.ndarray
    things: np.ndarray

    @property
    def outliers(self) -> np.ndarray:
        """Patches of high norm outside all masks, boolean (N, P)."""
        return self.high & ~self.things

    @property
    def background(self) -> np.ndarray:
        """All other patches outside all masks, boolean (N, P)."""
        return ~self.high & ~self.things


def outlier_pictures(model: VLM, pairs: Iterable[SemanticPair]) -> OutlierPictures:
    """Find outliers by their norm (`overlap.HIGH_NORM`) in the pairs' clean pictures.

    Heads look from the token at which their patch has its effect (`VLM.effect_role`).

    Raises:
        NoticeError: there are no pairs, or the model's patches form no square grid.
    """
    maps = attention_maps(model, pairs, model.effect_role)
    known = regions(maps)
    return OutlierPictures(maps, outlier_patches(maps).by_norm, known["named"] | known["other"])


def outlier_avoidance(
    model: VLM,
    without: VLM,
    found: OutlierPictures,
    heads: Iterable[tuple[int, int]],
    seed: int = 0,
) -> pd.DataFrame:
    """Which heads keep away from outliers.

    Args:
        model: a model that reads the image by cross-attention.
        without: the same model without what makes the outliers.
        found: of `model`, from `outlier_pictures`. Pictures without outliers are left out.
        heads: (layer, head) of each.
        seed: seed of the intervals, the tests and the background that a head is forced to look at.

    Returns:
        One row a head (component, layer, head, query). Means over scenes, with 95 % intervals of
        each head alone in `*_low` and `*_high`:

        - avoidance: mean attention to a patch of other background minus to an outlier, divided by
          their sum;
        - by_direction: avoidance minus what it is, on the same patches, in the model without;
        - forced: what it costs in L, in logits, to see nothing but outliers, more than nothing but
          as many patches of other background;
        - p_* of the three conditions, and p (`conditions.verdicts`);
        - keeps_away: "yes", "no", "undecided" or "not testable"; needed: the scenes that would
          show a role of twice the minima with 80 %;
        - scenes: those with outliers.

    Raises:
        NoticeError: no head; no such head; a model without cross-attention; fewer than three
            scenes with outliers.
    """
    if model.image_component != "cross_attention":
        raise NoticeError(
            f"{model.name} reads the image by {model.image_component}. What a forced look costs is "
            "measured on models with cross-attention only, such as BLIP."
        )
    chosen = ChosenHeads.of(model, heads, found.maps.query)
    there = np.flatnonzero(found.outliers.any(1))
    pairs = [found.maps.pairs[row] for row in there]
    scenes, mean = scene_means([pair.scene_id for pair in pairs])
    if len(scenes) < 3:
        raise NoticeError(
            f"{len(scenes)} scenes have outliers, but three or more are needed. {model.name} may "
            "have none, as small models do."
        )
    outliers, background = found.outliers[there], found.background[there]
    plain = attention_maps(without, pairs, found.maps.query)
    own, other = (
        avoidance(chosen.attention(patches), outliers, background)
        for patches in (found.maps.patches[there], plain.patches)
    )
    costs, clean = forced_looks(chosen, pairs, outliers, background, seed)
    values = {"avoidance": own, "by_direction": own - other, "forced": costs}
    values = {name: mean @ value for name, value in values.items()}
    least = LEAST_COST * abs((mean @ clean).mean())
    minima = {"avoidance": AVOIDANCE, "by_direction": AVOIDANCE, "forced": least}
    return chosen.table(values, minima, "keeps_away", seed).assign(scenes=len(scenes))


def avoidance(attention: np.ndarray, outliers: np.ndarray, background: np.ndarray) -> np.ndarray:
    """(N, K) from attention (N, K, P): mean on a patch of background minus mean on an outlier, of
    their sum."""
    on_outlier, on_background = (
        np.einsum("nkp,np->nk", attention, area / area.sum(1, keepdims=True))
        for area in (outliers, background)
    )
    return (on_background - on_outlier) / (on_background + on_outlier)


def forced_looks(
    chosen: ChosenHeads,
    pairs: Sequence[SemanticPair],
    outliers: np.ndarray,
    background: np.ndarray,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) what it costs in L that a head sees nothing but outliers, more than nothing but as
    many patches of background; and (N,) the unmodified L."""
    costs, clean = [], []
    for pair, bright, plain in zip(pairs, outliers, background, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(pair.pair_id.encode())])
        areas = [np.flatnonzero(bright), rng.permutation(np.flatnonzero(plain))[: bright.sum()]]
        results = engine.patch(chosen.model, _looking_jobs(chosen, pair, areas))
        at_outliers, at_background = (
            (result.patched[:, 0] - result.patched[:, 1]).numpy() for result in results
        )
        costs.append(at_background - at_outliers)
        clean.append(float(results[0].base[0] - results[0].base[1]))
    return np.stack(costs), np.array(clean)


def _looking_jobs(
    chosen: ChosenHeads, pair: SemanticPair, areas: Sequence[np.ndarray]
) -> list[Job]:
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


def _values(model: VLM, layer: int) -> HookPoint:
    return HookPoint(model.attention_modules[layer].get_submodule("value"), "output", per_head=True)
