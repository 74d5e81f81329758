"""Roles of heads: what they do with the image, measured with ground-truth masks.

The roles are those of the paper's section on head roles. D denotes a head's shares of attention
minus their average over all layers and heads (`attention`).

- **Object detection**: D > 0 on the object.
- **Object suppression**: D < 0 on the object.
- **Outlier suppression**: D < 0 on patches that attract too much attention on average
  (`outlier_patches`).

A head detects (suppresses) an object if three conditions hold on average over scenes:

1. D on the object is above (below) zero.
2. D on the object is above (below) D on the masks of all other scenes. Otherwise, attending to the
   places where objects usually are would suffice.
3. Condition 2 also holds for the head's attention itself, measured as part of all its attention
   instead of as a share of its attention to the image. D compares a head with the other heads, so
   a head with uniform attention is below the average wherever the others look. And a head that
   ignores the image has no role in it, however it distributes the little attention that is left.

A head suppresses outliers if D on them is below zero and its attention to them is below an even
share of its attention to the image. The column `by_difference` gives the role without the
conditions on the head's attention itself.

Each condition is tested by flipping the signs of whole scenes (`sign_flip_test`). A single failing
condition refutes a role, so the role's p-value is the largest of its conditions' p-values. These
p-values are corrected over all heads (Benjamini and Hochberg), which bounds the expected share of
false ones among the heads with a role by .05.

Logit suppression, a negative *effect*, is a separate role that is measured by a sweep.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from ..errors import NoticeError
from .attention import AttentionMaps, shares
from .decision import LEVEL
from .overlap import outlier_patches, regions
from .statistics import bootstrap_interval, enough_draws, sign_flip_test
from .table import scene_effects

HEAD_ROLES = ("object detection", "object suppression", "outlier suppression", "none")
NAMES = ("detection", "suppression", "outliers")
"""Names of the first three roles in columns."""

MINIMUM = 0.01
"""Smallest difference that counts by default, as a part of a head's attention (a convention)."""


def head_roles(
    maps: AttentionMaps,
    region: str = "named",
    effects: pd.DataFrame | None = None,
    minimum: float = MINIMUM,
    draws: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Classify every head by where it looks.

    Args:
        maps: attention maps from `attention_maps`.
        region: the region that counts as the object, one of `overlap.regions`.
        effects: a table from `gather` with one corruption, patched at the position that is the
            maps' query. It adds the columns on logit suppression. Effects of scenes other than
            those of the maps are best.
        minimum: smallest difference that counts in each condition of the rule.
        draws: random sign flips, by default enough for a single head to get a role.
        seed: seed of the flips and the bootstrap.

    Returns:
        One row per head (component, layer, head). Numbers are means over scenes, and `*_low` and
        `*_high` are 95 % intervals for each head separately.

        - role: the first of `HEAD_ROLES` that holds; by_difference: the role without the conditions
          on the head's attention itself;
        - detection_q, suppression_q, outliers_q: the p-value of each role, corrected over heads;
        - share: the share of the head's attention to the patches that lies on the region;
        - excess: D on the region; excess_contrast: D on the region minus D on the masks of all
          other scenes;
        - attention_contrast: the same contrast for all of the head's attention, which includes
          attention to text and [CLS];
        - outliers_excess: D on outlier patches; outliers_attention: the head's attention to them
          minus an even share. Both are NaN if outlier suppression is not testable on this model;
        - image_mass, cls_mass: the attention to all patches and to [CLS];
        - query: the token that the attention comes from; scenes: the number of scenes with the
          region;
        - if `effects` is given: effect (in logits, mean over scenes), effect_low, effect_high,
          logit_suppression_q and logit_suppression.

    Raises:
        NoticeError: fewer than three scenes have the region, or `effects` lacks a head, has several
            corruptions, or is measured at another token than the attention.
    """
    measured = role_scenes(maps, region)
    tested = measured.tested()
    table = heads_of(maps).assign(query=maps.query, scenes=len(measured))
    table = table.join(classified(tested, minimum, draws, seed))
    for name, values in ({"share": measured.own_shares} | tested).items():
        table = table.join(_summary(name, values, seed))
    if effects is not None:
        _check_site(maps, effects)
        found = _suppressed_logits(effects, maps.component, draws, seed)
        table = table.merge(found, on=["layer", "head"], how="left", validate="one_to_one")
        if table["effect"].isna().any():
            raise NoticeError(
                f"The effects lack some heads of {maps.component}. Sweep all of them: "
                f"site_grid(model, [{maps.component!r}], per_head=True, position=...)."
            )
    return table


def against_random(
    table: pd.DataFrame,
    chosen: Iterable[tuple[int, int]],
    value: str = "excess_contrast",
    draws: int = 9999,
    seed: int = 0,
) -> pd.Series:
    """Compare chosen heads with random heads, as many from each layer.

    Args:
        table: table from `head_roles`.
        chosen: (layer, head) of the chosen heads.
        value: the column that is averaged over heads.
        draws: number of random choices.
        seed: seed of the random choices.

    Returns:
        chosen (mean of the chosen heads), random (mean over draws), low and high (the central 95 %
        of the random means) and p (two-sided: the share of draws that are at least as far from the
        random mean, the chosen heads counting as one draw).

    Raises:
        NoticeError: no heads are chosen, or the table lacks one of them.
    """
    rng = np.random.default_rng(seed)
    values = table.set_index(["layer", "head"])[value]
    chosen = list(dict.fromkeys(chosen))
    if not chosen or not set(chosen) <= set(values.index):
        raise NoticeError(
            f"The chosen heads must be pairs (layer, head) that are in the table, not {chosen}."
        )
    total = np.zeros(draws)
    for layer, n in pd.Series([layer for layer, _ in chosen]).value_counts().items():
        total += rng.permuted(np.tile(values[layer], (draws, 1)), axis=1)[:, :n].sum(1)
    random = total / len(chosen)
    mean = values[chosen].mean()
    far = np.abs(random - random.mean()) >= abs(mean - random.mean()) - 1e-12
    low, high = np.quantile(random, [0.025, 0.975])
    p = (1 + far.sum()) / (1 + draws)
    return pd.Series({"chosen": mean, "random": random.mean(), "low": low, "high": high, "p": p})


@dataclass(frozen=True)
class RoleScenes:
    """Attention and masks of S scenes, averaged over each scene's pairs, for K heads and P patches.

    Attributes:
        names: ids of the scenes, (S,).
        masks: masks of the region, (S, P).
        shares: attention as shares of the head's attention to the patches, (S, K, P).
        attention: attention as part of all the head's attention, (S, K, P).
        own_shares, own_attention: the parts of these that lie on the scene's own mask, (S, K).
        outliers_excess, outliers_attention: as in `head_roles`, (S, K). They are NaN in scenes
            without outliers.
    """

    names: np.ndarray
    masks: np.ndarray
    shares: np.ndarray
    attention: np.ndarray
    own_shares: np.ndarray
    own_attention: np.ndarray
    outliers_excess: np.ndarray
    outliers_attention: np.ndarray

    def __len__(self) -> int:
        return len(self.masks)

    def of(self, scenes: np.ndarray) -> "RoleScenes":
        """Select scenes by indices or by a boolean mask."""
        return RoleScenes(**{name: values[scenes] for name, values in vars(self).items()})

    def tested(self) -> dict[str, np.ndarray]:
        """The quantities that the rule tests, each (scenes, K)."""
        there = ~np.isnan(self.outliers_excess[:, 0])
        return {
            "excess": _minus_mean(self.own_shares),
            "excess_contrast": _minus_mean(_contrast(self.own_shares, self.shares, self.masks)),
            "attention_contrast": _contrast(self.own_attention, self.attention, self.masks),
            "outliers_excess": self.outliers_excess[there],
            "outliers_attention": self.outliers_attention[there],
        }

    def conditions(self, role: str) -> list[np.ndarray]:
        """The arrays (scenes, K) whose means must all be positive for a role of `HEAD_ROLES`."""
        tested = self.tested()
        on_object = ("excess", "excess_contrast", "attention_contrast")
        return {
            "object detection": [tested[name] for name in on_object],
            "object suppression": [-tested[name] for name in on_object],
            "outlier suppression": [-tested["outliers_excess"], -tested["outliers_attention"]],
        }[role]


def _contrast(own: np.ndarray, attention: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Attention on the scene's own mask minus that on other scenes' masks, (S, K).

    A scene's attention has a mean level on the masks of other scenes, and a scene's mask gets a
    mean level of attention from other scenes, since objects may be large or in usual places. Both
    levels are subtracted. The mean over scenes is that of own minus shuffled masks, and the spread
    is as small as possible.
    """
    n = len(own)
    on_others = np.einsum("skp,sp->sk", attention, (masks.sum(0) - masks) / (n - 1))
    by_others = np.einsum("skp,sp->sk", (attention.sum(0) - attention) / (n - 1), masks)
    mean = on_others.mean(0)
    # Leaving one scene out mixes the two levels slightly; the factor corrects this exactly.
    return own - mean - (on_others + by_others - 2 * mean) * (n - 1) / (n - 2)


def role_scenes(maps: AttentionMaps, region: str = "named") -> RoleScenes:
    """Average attention and masks over the pairs of each scene.

    Args:
        maps: attention maps from `attention_maps`.
        region: one of `overlap.regions`.

    Raises:
        NoticeError: the region does not exist, or fewer than three scenes have it.
    """
    known = regions(maps)
    if region not in known:
        raise NoticeError(f"There is no region {region!r}; choose one of {', '.join(known)}.")
    rows = np.flatnonzero(known[region].any(1))
    names, scene_of = np.unique([maps.pairs[row].scene_id for row in rows], return_inverse=True)
    if len(names) < 3:
        raise NoticeError(
            f"{len(names)} scenes have a mask for {region!r}, but roles need at least three. Use "
            "pairs with masks, such as the embedded ones; photographs have none."
        )
    masks = known[region][rows].astype(float)
    attention = maps.patches[rows].astype(float).reshape(len(rows), -1, masks.shape[1])
    share = shares(attention)
    mean = (scene_of == np.arange(len(names))[:, None]).astype(float)
    mean /= mean.sum(1, keepdims=True)

    found = outlier_patches(maps)
    outliers = np.where(found.testable, found.patches[rows], False).astype(float)
    even = outliers.mean(1, keepdims=True) * attention.sum(-1)
    with np.errstate(invalid="ignore"):
        there = mean * outliers.any(1)
        there /= there.sum(1, keepdims=True)
    return RoleScenes(
        names=names,
        masks=mean @ masks,
        shares=np.tensordot(mean, share, 1),
        attention=np.tensordot(mean, attention, 1),
        own_shares=mean @ _on(masks, share),
        own_attention=mean @ _on(masks, attention),
        outliers_excess=there @ _minus_mean(_on(outliers, share)),
        outliers_attention=there @ (_on(outliers, attention) - even),
    )


def _on(masks: np.ndarray, attention: np.ndarray) -> np.ndarray:
    return np.einsum("np,nkp->nk", masks, attention)


def _minus_mean(values: np.ndarray) -> np.ndarray:
    """D on a mask, from shares on it (..., K): summing over patches commutes with averaging."""
    return values - values.mean(-1, keepdims=True)


def heads_of(maps: AttentionMaps) -> pd.DataFrame:
    _, layers, heads, _ = maps.patches.shape
    layer, head = np.divmod(np.arange(layers * heads), heads)
    return pd.DataFrame(
        {
            "component": maps.component,
            "layer": layer,
            "head": head,
            "image_mass": maps.patches.sum(-1).mean(0).ravel(),
            "cls_mass": maps.cls.mean(0).ravel(),
        }
    )


def classified(tested, minimum, draws, seed) -> pd.DataFrame:
    """The columns role, by_difference and <name>_q for each of `NAMES`, with one row per head."""
    p = {name: _p(values, minimum, draws, seed) for name, values in tested.items()}
    by_difference = {
        "detection": [p["excess"][0], p["excess_contrast"][0]],
        "suppression": [p["excess"][1], p["excess_contrast"][1]],
        "outliers": [p["outliers_excess"][1]],
    }
    own = {
        "detection": p["attention_contrast"][0],
        "suppression": p["attention_contrast"][1],
        "outliers": p["outliers_attention"][1],
    }
    weak, strict = [], []
    for name in NAMES:
        weak.append(false_discovery_control(np.max(by_difference[name], axis=0)))
        strict.append(false_discovery_control(np.max([*by_difference[name], own[name]], axis=0)))
    return pd.DataFrame(
        {
            "role": _first(strict),
            "by_difference": _first(weak),
            **{f"{name}_q": q for name, q in zip(NAMES, strict, strict=True)},
        }
    )


def _first(q: list[np.ndarray]) -> np.ndarray:
    """The first role of each head that holds."""
    return np.select([value <= LEVEL for value in q], HEAD_ROLES[:3], HEAD_ROLES[3])


def _p(
    values: np.ndarray, minimum: float, draws: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """p-values for a mean above `minimum` and for a mean below -`minimum`, each (heads,).

    A p-value is 1 if the mean has the other sign or there are fewer than three scenes.
    """
    if len(values) < 3:
        return np.ones(values.shape[1]), np.ones(values.shape[1])
    draws = draws or enough_draws(values.shape[1], LEVEL)
    p, mean = sign_flip_test(values, minimum, draws, seed), values.mean(0)
    return np.where(mean > 0, p, 1.0), np.where(mean < 0, p, 1.0)


def _summary(name: str, values: np.ndarray, seed: int) -> pd.DataFrame:
    if len(values) < 3:
        mean = low = high = np.full(values.shape[1], np.nan)
    else:
        mean, (low, high) = values.mean(0), bootstrap_interval(values, 1 - LEVEL, seed=seed)
    return pd.DataFrame({name: mean, f"{name}_low": low, f"{name}_high": high})


def _check_site(maps: AttentionMaps, effects: pd.DataFrame) -> None:
    """Refuse effects at another token: a head's role at one token says nothing about them."""
    at = sorted(set(effects["role"].astype(str)))
    if at != [maps.query]:
        raise NoticeError(
            f"The attention comes from the query {maps.query!r}, but the effects are of patches at "
            f"{', '.join(at)}. Use the same token: attention_maps(model, pairs, {at[0]!r})."
        )


def _suppressed_logits(
    table: pd.DataFrame, component: str, draws: int | None, seed: int
) -> pd.DataFrame:
    """Each head's mean effect, and whether it is significantly negative (logit suppression)."""
    single = table[table["component"] == component]
    if single["corruption"].nunique() != 1:
        raise NoticeError(
            f"The effects must be of {component!r} and under one corruption, but the table has "
            f"{sorted(table['component'].unique())} under {sorted(table['corruption'].unique())}."
        )
    by_scene = scene_effects(single)
    values = by_scene.to_numpy()
    found = by_scene.columns.to_frame(index=False)[["layer", "head"]]
    found = found.join(_summary("effect", values, seed))
    found["logit_suppression_q"] = false_discovery_control(_p(values, 0.0, draws, seed)[1])
    return found.assign(logit_suppression=found["logit_suppression_q"] <= LEVEL)
