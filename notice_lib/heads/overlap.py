"""Attention against ground truth: how much of it lies on what, in the patches' grid.

Works on shares of a head's attention to the patches and on D, those shares minus their average
over all layers and heads (`attention.shares`, `attention.minus_average`).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import NoticeError
from .attention import AttentionMaps, minus_average, shares

NAMED = {"subject": ("subject",), "object": ("object",), "verb": ("subject", "object"),
         "emotion": ("subject",), "colour": ("object",), "shape": ("object",),
         "texture": ("object",)}  # fmt: skip
"""The masks of what a question of each slot is about."""

HIGH_NORM = 3.0
"""An outlier's norm, in medians of its image. (About 10 where they were found: Darcet et al.,
2024.)"""
HIGH_ATTENTION = 3.0
"""An outlier's average attention, in even shares."""
TESTABLE = 0.5
"""Share of the images that must have an outlier, else outlier suppression is not testable."""


def regions(maps: AttentionMaps) -> dict[str, np.ndarray]:
    """Ground-truth masks on the patches.

    Returns:
        {name: (N, P) boolean}, empty rows where a pair has no such thing. `differs`: what the pair
        changes; `named`: what the question is about (`NAMED`); `other`: any other subject, object
        or distractor. A mask holds every patch that the thing reaches.
    """
    if not maps.grid:
        raise NoticeError(
            "This model's image tokens are not one square block of patches, so masks cannot be "
            "laid on them."
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
    """(N, P) masks of other scenes: each scene gets those of one other scene that has any.

    Raises:
        NoticeError: fewer than two scenes have such a mask.
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
    """How each head's D lies on regions of each image.

    Args:
        masks: {region: (N, P) boolean}: of `regions`, or `shuffled` ones for comparison.

    Returns:
        One row a pair, region, layer and head, where the pair has the region:

        - area: the region's share of the patches, what an even look would give it;
        - share: the region's share of the head's attention to the patches;
        - excess: D summed over the region: share minus the average head's;
        - above_mass: the region's share of D where D > 0; above_iou: intersection over union of
          D > 0 with the region; below_mass, below_iou: the same for D < 0.
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
    """Patches that stand out, (N, P) boolean each.

    Attributes:
        by_norm: of at least `HIGH_NORM` times the image's median norm.
        by_attention: with at least `HIGH_ATTENTION` times an even share of the average attention.
        patches: both, which is what outliers (registers, attention sinks) are in the literature.
            High attention alone may well be on an object.
        testable: at least the share `TESTABLE` of the images has such a patch.
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
        """Rows norm, attention, both; columns: share of the images with such a patch, and mean
        number of them an image."""
        found = {"norm": self.by_norm, "attention": self.by_attention, "both": self.patches}
        return pd.DataFrame(
            {
                "images": {name: rows.any(1).mean() for name, rows in found.items()},
                "patches": {name: rows.sum(1).mean() for name, rows in found.items()},
            }
        )


def outlier_patches(maps: AttentionMaps) -> Outliers:
    """Look for outlier patches: by the norm of the vision tower's output, and by attention."""
    average = shares(maps.patches.astype(float)).mean((1, 2))
    return Outliers(
        maps.norms >= HIGH_NORM * np.median(maps.norms, 1, keepdims=True),
        average >= HIGH_ATTENTION / average.shape[1],
    )
