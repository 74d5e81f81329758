"""What heads do with the image, measured with ground-truth masks (paper, section on head roles).

With D a head's shares of attention minus the average over all layers and heads (`attention`):

- **object detection**: D > 0 on the object;
- **object suppression**: D < 0 on the object;
- **outlier suppression**: D < 0 on patches that the average over-attends (`outlier_patches`).

The rule. A head detects (suppresses) an object if, on average over scenes,

1. D on the object is above (below) zero;
2. and above (below) what it is with the masks of all other scenes: otherwise looking where
   objects usually are would be enough;
3. and 2 holds of the head's own attention too, counted in all of it, not in shares of what goes
   to the image. D compares a head with the other heads: one that looks nowhere in particular is
   below the average wherever the others look; and a head that does not look at the image has no
   role in it, however its last thousandth is shared out.

A head suppresses outliers if D on them is below zero, and its own attention to them below an even
share of what it gives to the image. The column `by_difference` has the class without what is asked
of the head's own attention.

Each condition is tested by flipping whole scenes (`sign_flip_test`). The largest p-value of a
role's conditions is the role's, since one that fails is enough to refute it; these are corrected
over all heads (Benjamini and Hochberg), so that an expected share of at most .05 of the heads with
a role does not have it.

Heads with a negative *effect* (logit suppression) are a separate role, told by a sweep.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from ..errors import NoticeError
from .attention import AttentionMaps, shares
from .decision import fewest_scenes
from .overlap import outlier_patches, regions
from .statistics import bootstrap_interval, sign_flip_test
from .table import scene_effects

HEAD_ROLES = ("object detection", "object suppression", "outlier suppression", "none")
NAMES = ("detection", "suppression", "outliers")
"""Of the first three roles in columns."""

LEVEL = 0.05
MINIMUM = 0.01
"""Smallest difference that counts by default, as a part of a head's attention: a convention."""


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
        region: the object: one of `overlap.regions`.
        effects: a table from `gather`, of one corruption and of the position that is the maps'
            query, best of other scenes than those of the maps; adds what is known of logit
            suppression.
        minimum: smallest difference that counts, in each condition of the rule.
        draws: random sign flips; by default so many that one head alone can have a role.

    Returns:
        One row a head (component, layer, head). Means over scenes, with 95 % intervals of each
        head alone in `*_low` and `*_high`:

        - role (the first of `HEAD_ROLES` that holds) and by_difference; detection_q, suppression_q,
          outliers_q: the p-value of each role, corrected over heads;
        - share: the part of the head's attention to the patches that lies on the region; excess:
          D there; excess_contrast: D there minus D on the masks of all other scenes;
        - attention_contrast: the same of all the head's attention, to text and [CLS] as well;
        - outliers_excess: D on outlier patches; outliers_attention: the head's attention to them
          minus an even share; NaN if outlier suppression is not testable on this model;
        - image_mass, cls_mass: attention to all patches, and to [CLS];
        - query: the token that the attention comes from; scenes: how many have the region;
        - with `effects`: effect (logits, mean over scenes), effect_low, effect_high,
          logit_suppression_q and logit_suppression.

    Raises:
        NoticeError: fewer than three scenes have the region; the effects lack a head, are of
            several corruptions, or are at another token than the attention.
    """
    measured = role_scenes(maps, region)
    tested = measured.tested()
    table = _heads(maps).assign(query=maps.query, scenes=len(measured))
    table = table.join(_classified(tested, minimum, draws, seed))
    for name, values in ({"share": measured.own_shares} | tested).items():
        table = table.join(_summary(name, values, seed))
    if effects is not None:
        _check_site(maps, effects)
        found = _suppressed_logits(effects, maps.component, draws, seed)
        table = table.merge(found, on=["layer", "head"], how="left", validate="one_to_one")
        if table["effect"].isna().any():
            raise NoticeError(
                f"The effects lack some heads of {maps.component}: sweep "
                f"site_grid(model, [{maps.component!r}], per_head=True, position=...)."
            )
    return table


def role_halves(
    maps: AttentionMaps,
    region: str = "named",
    minimum: float = MINIMUM,
    repeats: int = 100,
    draws: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Classify every head on random halves of the scenes, which share no scene.

    The halves have as many scenes of each task and slot.

    Returns:
        One row a repeat and head: its role on the one half (`first`) and on the other (`second`),
        and how many scenes a half has (`scenes`).

    Raises:
        NoticeError: fewer than six scenes have the region.
    """
    rng = np.random.default_rng(seed)
    measured = role_scenes(maps, region)
    if len(measured) < 6:
        raise NoticeError(f"{len(measured)} scenes are too few for halves; give at least 6.")
    heads = _heads(maps)[["component", "layer", "head"]]
    kind = {pair.scene_id: f"{pair.task} {pair.slot}" for pair in maps.pairs}
    kinds = np.array([kind[name] for name in measured.names])
    parts = []
    for repeat in range(repeats):
        first = _random_half(kinds, rng)
        roles = [
            _classified(measured.of(half).tested(), minimum, draws, seed)["role"]
            for half in (first, ~first)
        ]
        parts.append(
            heads.assign(repeat=repeat, scenes=first.sum(), first=roles[0], second=roles[1])
        )
    return pd.concat(parts, ignore_index=True)


def _random_half(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S,) boolean: half of the scenes of each kind; of odd numbers the half that is larger
    changes from kind to kind."""
    order = rng.permutation(len(kinds))
    order = order[np.argsort(kinds[order], kind="stable")]
    chosen = np.zeros(len(kinds), bool)
    chosen[order[::2]] = True
    return chosen


def replication_rates(halves: pd.DataFrame) -> pd.DataFrame:
    """How often a head that has a role on one half of the scenes has it on the other.

    It is no interval of the number of heads with the role on all scenes: halves have half as many
    scenes, so fewer heads pass.

    Args:
        halves: from `role_halves`.

    Returns:
        One row a role: heads (their mean number on a half), rate (of the heads with the role on one
        half, the share that has it on the other; NaN without any, and where a half has too few
        scenes for any head to get a role), scenes (of a half), splits.
    """
    table = role_confusion(halves)
    heads = table.sum(axis=1)
    scenes = halves["scenes"].iloc[0]
    enough = scenes >= fewest_scenes(len(halves.drop_duplicates(["layer", "head"])))
    rate = pd.Series(np.diag(table), table.index) / heads.where((heads > 0) & enough)
    found = pd.DataFrame({"heads": heads, "rate": rate}).drop("none")
    return found.assign(scenes=scenes, splits=halves["repeat"].nunique())


def role_confusion(halves: pd.DataFrame) -> pd.DataFrame:
    """Role on one half of the scenes against role on the other: number of heads, the mean over
    repeats. The halves have no order, so the table is symmetric."""
    found = pd.crosstab(halves["first"], halves["second"])
    found = found.reindex(index=HEAD_ROLES, columns=HEAD_ROLES, fill_value=0)
    return (found + found.to_numpy().T) / 2 / halves["repeat"].nunique()


def role_agreement(table: pd.DataFrame, halves: pd.DataFrame) -> pd.Series:
    """For each row of `head_roles`' table, the share of halves that give the head the same role."""
    keys = ["layer", "head"]
    both = halves.melt(keys, ["first", "second"], value_name="half")
    both = both.merge(table[[*keys, "role"]], on=keys)
    same = (both["half"] == both["role"]).groupby([both[key] for key in keys]).mean()
    return table[keys].join(same.rename("agreement"), on=keys)["agreement"]


def against_random(
    table: pd.DataFrame,
    chosen: Iterable[tuple[int, int]],
    value: str = "excess_contrast",
    draws: int = 9999,
    seed: int = 0,
) -> pd.Series:
    """Are chosen heads different from random ones, as many of each layer?

    Args:
        table: of `head_roles`.
        chosen: (layer, head) of the chosen heads.
        value: the column that is averaged over heads.

    Returns:
        chosen (mean), random (mean over draws), low and high (95 % of the random means), and p:
        how often random heads are at least as far from the random mean, either side.

    Raises:
        NoticeError: no heads are given, or the table lacks one.
    """
    rng = np.random.default_rng(seed)
    values = table.set_index(["layer", "head"])[value]
    chosen = list(dict.fromkeys(chosen))
    if not chosen or not set(chosen) <= set(values.index):
        raise NoticeError(f"Choose heads (layer, head) that the table has, not {chosen}.")
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
    """Attention on masks, means over the pairs of each of S scenes; K heads, P patches.

    Attributes:
        names: (S,) ids of the scenes.
        masks: (S, P).
        shares, attention: (S, K, P): of the head's attention to patches, and of all its attention.
        own_shares, own_attention: (S, K): of these, what lies on the scene's own masks.
        outliers_excess, outliers_attention: (S, K) as in `head_roles`; NaN in scenes without
            outliers.
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
        """Some of the scenes, by indices or a boolean mask."""
        return RoleScenes(**{name: values[scenes] for name, values in vars(self).items()})

    def tested(self) -> dict[str, np.ndarray]:
        """What the rule tests, (scenes, K) each."""
        there = ~np.isnan(self.outliers_excess[:, 0])
        return {
            "excess": _minus_mean(self.own_shares),
            "excess_contrast": _minus_mean(_contrast(self.own_shares, self.shares, self.masks)),
            "attention_contrast": _contrast(self.own_attention, self.attention, self.masks),
            "outliers_excess": self.outliers_excess[there],
            "outliers_attention": self.outliers_attention[there],
        }

    def conditions(self, role: str) -> list[np.ndarray]:
        """For one of `HEAD_ROLES`, the arrays (scenes, K) whose means must all be positive."""
        tested = self.tested()
        on_object = ("excess", "excess_contrast", "attention_contrast")
        return {
            "object detection": [tested[name] for name in on_object],
            "object suppression": [-tested[name] for name in on_object],
            "outlier suppression": [-tested["outliers_excess"], -tested["outliers_attention"]],
        }[role]


def _contrast(own: np.ndarray, attention: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(S, K) attention on own masks against that on other scenes' masks.

    A scene's attention and its masks each have a mean level on the other scenes' masks and
    attention (large objects, usual places). With both levels and their mean taken off, what is
    left has the mean over scenes of own minus shuffled masks, and no more spread than it must.
    """
    n = len(own)
    on_others = np.einsum("skp,sp->sk", attention, (masks.sum(0) - masks) / (n - 1))
    by_others = np.einsum("skp,sp->sk", (attention.sum(0) - attention) / (n - 1), masks)
    mean = on_others.mean(0)
    # Leaving one scene out mixes the two levels a little; the factor undoes it exactly.
    return own - mean - (on_others + by_others - 2 * mean) * (n - 1) / (n - 2)


def role_scenes(maps: AttentionMaps, region: str = "named") -> RoleScenes:
    """What the roles' conditions are tested on.

    Raises:
        NoticeError: no such region; fewer than three scenes have it.
    """
    known = regions(maps)
    if region not in known:
        raise NoticeError(f"There is no region {region!r}; there are {', '.join(known)}.")
    rows = np.flatnonzero(known[region].any(1))
    names, scene_of = np.unique([maps.pairs[row].scene_id for row in rows], return_inverse=True)
    if len(names) < 3:
        raise NoticeError(
            f"{len(names)} scenes have a mask for {region!r}: roles need three or more, and real "
            "pictures have no masks."
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
    """D on a mask from shares on it, (..., K): the sum over patches commutes with the average."""
    return values - values.mean(-1, keepdims=True)


def _heads(maps: AttentionMaps) -> pd.DataFrame:
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


def _classified(tested, minimum, draws, seed) -> pd.DataFrame:
    """role, by_difference and the roles' q-values; one row a head."""
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
    """The first role that holds, by head."""
    return np.select([value <= LEVEL for value in q], HEAD_ROLES[:3], HEAD_ROLES[3])


def _p(
    values: np.ndarray, minimum: float, draws: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each head's p-values that its mean is above `minimum`, and that it is below -`minimum`.

    1 on the wrong side, and where there are fewer than three scenes.
    """
    draws = draws or max(9999, math.ceil(2 * values.shape[1] / LEVEL))
    if len(values) < 3:
        return np.ones(values.shape[1]), np.ones(values.shape[1])
    p, mean = sign_flip_test(values, minimum, draws, seed), values.mean(0)
    return np.where(mean > 0, p, 1.0), np.where(mean < 0, p, 1.0)


def _summary(name: str, values: np.ndarray, seed: int) -> pd.DataFrame:
    if len(values) < 3:
        mean = low = high = np.full(values.shape[1], np.nan)
    else:
        mean, (low, high) = values.mean(0), bootstrap_interval(values, 1 - LEVEL, seed=seed)
    return pd.DataFrame({name: mean, f"{name}_low": low, f"{name}_high": high})


def _check_site(maps: AttentionMaps, effects: pd.DataFrame) -> None:
    """A head's role at one token says nothing of its effect at another."""
    at = sorted(set(effects["role"].astype(str)))
    if at != [maps.query]:
        raise NoticeError(
            f"The attention is that of the query {maps.query!r}, the effects are of patches at "
            f"{', '.join(at)}. Read both at one token: attention_maps(model, pairs, {at[0]!r})."
        )


def _suppressed_logits(
    table: pd.DataFrame, component: str, draws: int | None, seed: int
) -> pd.DataFrame:
    """Each head's mean effect and whether it is negative; columns layer, head, effect, ..."""
    single = table[table["component"] == component]
    if single["corruption"].nunique() != 1:
        raise NoticeError(
            f"The effects must be of {component!r} and of one corruption, but these are of "
            f"{sorted(table['component'].unique())} and {sorted(table['corruption'].unique())}."
        )
    by_scene = scene_effects(single)
    values = by_scene.to_numpy()
    found = by_scene.columns.to_frame(index=False)[["layer", "head"]]
    found = found.join(_summary("effect", values, seed))
    found["logit_suppression_q"] = false_discovery_control(_p(values, 0.0, draws, seed)[1])
    return found.assign(logit_suppression=found["logit_suppression_q"] <= LEVEL)
