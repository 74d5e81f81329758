"""Compare attention with ground-truth masks: how much of it lies on which region of the image.

The functions use shares of a head's attention to the patches (`attention.shares`) and D, which is
those shares minus their average over all layers and heads (`attention.minus_average`).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import NoticeError
from .attention import AttentionMaps, minus_average, shares

NAMED = {"subject": ("subject",), "object": ("object",), "verb": ("subject", "object"),
         "emotion": ("subject",), "colour": ("object",), "shape": ("object",),
         "texture": ("object",)}  # fmt: skip
"""For each slot, the masks that show what its question is about."""

HIGH_NORM = 3.0
"""Smallest norm of an outlier, as a multiple of the median norm in its image. (It was about 10 in
the models in which outliers were discovered: Darcet et al., 2024.)"""
HIGH_ATTENTION = 3.0
"""Smallest average attention to an outlier, as a multiple of an even share."""
TESTABLE = 0.5
"""Share of the images that must have an outlier for outlier suppression to be testable."""


def regions(maps: AttentionMaps) -> dict[str, np.ndarray]:
    """Project the pairs' ground-truth masks onto the model's patches.

    Returns:
        Boolean masks (N, P) by region: `differs` is what the pair changes, `named` is what the
        question is about (`NAMED`), and `other` is any other subject, object or distractor. A mask
        includes every patch that its region touches. A pair without the region has an empty row.

    Raises:
        NoticeError: the model's image tokens do not form one square grid of patches.
    """
    if not maps.grid:
        raise NoticeError(
            "The image tokens do not form one square grid of patches that shows all of the image, "
            "so masks cannot be projected onto them. Use a model with such a grid, such as BLIP or "
            "LLaVA-1.5, and square images where its processor crops others."
        )
    empty = np.zeros((maps.grid, maps.grid), bool)
    rows: dict[str, list[np.ndarray]] = {"differs": [], "named": [], "other": []}
    for pair in maps.pairs:
        masks = pair.patch_masks(maps.run, maps.grid, maps.image_size)
        named = NAMED.get(pair.slot, ())
        others = [name for name in ("subject", "object", "distractor") if name not in named]
        for region, names in (("differs", ["differs"]), ("named", named), ("other", others)):
            found = [masks.get(name, empty) for name in names]
            rows[region].append(np.any([empty, *found], axis=0).ravel())
    return {region: np.stack(found) for region, found in rows.items()}


def shuffled(maps: AttentionMaps, masks: np.ndarray, seed: int = 0) -> np.ndarray:
    """Give each scene the masks of another scene, for comparison.

    Args:
        maps: the attention maps whose pairs the masks belong to.
        masks: one region's masks, (N, P). Scenes without a mask get none and give none.
        seed: seed of the shuffle.

    Returns:
        The shuffled masks, (N, P).

    Raises:
        NoticeError: fewer than two scenes have a mask.
    """
    rng = np.random.default_rng(seed)
    has = masks.any(1)
    scenes = np.where(has, [pair.scene_id for pair in maps.pairs], "")
    names = rng.permutation(np.unique(scenes[has]))
    if len(names) < 2:
        raise NoticeError(f"Masks of {len(names)} scenes cannot be shuffled; give more scenes.")
    moved = np.zeros_like(masks)
    for scene, donor in zip(names, np.roll(names, 1), strict=True):
        rows = np.flatnonzero(scenes == scene)
        moved[rows] = masks[rng.choice(np.flatnonzero(scenes == donor), len(rows))]
    return moved


def head_overlap(maps: AttentionMaps, masks: dict[str, np.ndarray]) -> pd.DataFrame:
    """Measure how each head's attention and D are distributed over regions of each image.

    Args:
        maps: attention maps from `attention_maps`.
        masks: boolean masks (N, P) by region, from `regions`, or `shuffled` ones for comparison.

    Returns:
        One row per pair, region, layer and head, for pairs that have the region:

        - area: the region's share of the patches, which is its share of uniform attention;
        - share: the region's share of the head's attention to the patches;
        - excess: D summed over the region, which is share minus the average head's share;
        - above_mass: the region's share of the positive part of D;
        - above_iou: intersection over union of the patches with D > 0 and the region;
        - below_mass, below_iou: the same for D < 0.
    """
    attention = shares(maps.patches.astype(float))
    difference = minus_average(attention)
    return pd.concat(
        [
            _region_table(maps, attention[rows], difference[rows], mask[rows], rows, region)
            for region, mask in masks.items()
            for rows in [np.flatnonzero(mask.any(1))]
        ],
        ignore_index=True,
    )


def _region_table(maps, attention, difference, mask, rows, region) -> pd.DataFrame:
    n, layers, heads, _ = difference.shape
    per_head = layers * heads

    def on_mask(values):
        return np.einsum("nlhp,np->nlh", values, mask.astype(float))

    columns = {"share": on_mask(attention), "excess": on_mask(difference)}
    for side, values in (("above", difference), ("below", -difference)):
        mass, inside = np.maximum(values, 0), on_mask(values > 0)
        union = (values > 0).sum(-1) + mask.sum(1)[:, None, None] - inside
        with np.errstate(invalid="ignore"):
            columns[f"{side}_mass"] = on_mask(mass) / mass.sum(-1)
        columns[f"{side}_iou"] = inside / union
    known = [maps.pairs[row] for row in rows]
    layer, head = np.divmod(np.arange(per_head), heads)
    return pd.DataFrame(
        {
            **{
                name: np.repeat(np.array([getattr(pair, name) for pair in known], object), per_head)
                for name in ("pair_id", "scene_id", "task", "slot")
            },
            "component": maps.component,
            "layer": np.tile(layer, n),
            "head": np.tile(head, n),
            "region": region,
            "area": np.repeat(mask.mean(1), per_head),
            **{name: values.ravel() for name, values in columns.items()},
        }
    )


@dataclass(frozen=True)
class Outliers:
    """Patches that stand out, as boolean arrays (N, P).

    Attributes:
        by_norm: patches whose norm is at least `HIGH_NORM` times the image's median norm.
        by_attention: patches that get at least `HIGH_ATTENTION` times an even share of the average
            attention.
        patches: patches that meet both criteria. The literature calls these outliers, registers or
            attention sinks. High attention alone may simply be attention to an object.
        testable: whether at least the share `TESTABLE` of the images has such a patch.
    """

    by_norm: np.ndarray
    by_attention: np.ndarray

    @property
    def patches(self) -> np.ndarray:
        return self.by_norm & self.by_attention

    @property
    def testable(self) -> bool:
        return bool(self.patches.any(1).mean() >= TESTABLE)

    def table(self) -> pd.DataFrame:
        """Summarise the outliers by criterion.

        Returns:
            Rows norm, attention and both. Columns images (share of the images with such a patch)
            and patches (mean number of such patches per image).
        """
        found = {"norm": self.by_norm, "attention": self.by_attention, "both": self.patches}
        return pd.DataFrame(
            {
                "images": {name: rows.any(1).mean() for name, rows in found.items()},
                "patches": {name: rows.sum(1).mean() for name, rows in found.items()},
            }
        )


def outlier_patches(maps: AttentionMaps) -> Outliers:
    """Find outlier patches by the norm of the vision tower's output and by average attention."""
    average = shares(maps.patches.astype(float)).mean((1, 2))
    return Outliers(
        maps.norms >= HIGH_NORM * np.median(maps.norms, 1, keepdims=True),
        average >= HIGH_ATTENTION / average.shape[1],
    )
