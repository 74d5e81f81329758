"""Do roles repeat on other scenes? Roles of heads on random halves of the scenes."""

import numpy as np
import pandas as pd

from ..errors import NoticeError
from .attention import AttentionMaps
from .decision import fewest_scenes
from .roles import HEAD_ROLES, MINIMUM, classified, heads_of, role_scenes


def role_halves(
    maps: AttentionMaps,
    region: str = "named",
    minimum: float = MINIMUM,
    repeats: int = 100,
    draws: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Classify every head on random, disjoint halves of the scenes.

    Each task and slot contributes equally many scenes to both halves.

    Args:
        maps, region, minimum, draws: as in `head_roles`.
        repeats: number of random splits.
        seed: seed of the splits and the flips.

    Returns:
        One row per repeat and head: component, layer, head, repeat, scenes (the number of scenes in
        the first half), and the head's role on either half (first, second).

    Raises:
        NoticeError: fewer than six scenes have the region.
    """
    rng = np.random.default_rng(seed)
    measured = role_scenes(maps, region)
    if len(measured) < 6:
        raise NoticeError(
            f"{len(measured)} scenes are too few for halves; give at least 6 that have a mask for "
            f"{region!r}."
        )
    heads = heads_of(maps)[["component", "layer", "head"]]
    kind = {pair.scene_id: f"{pair.task} {pair.slot}" for pair in maps.pairs}
    kinds = np.array([kind[name] for name in measured.names])
    parts = []
    for repeat in range(repeats):
        first = _random_half(kinds, rng)
        smaller = min(first.sum(), (~first).sum())
        roles = [
            classified(measured.of(half).tested(), minimum, draws, seed)["role"]
            for half in (first, ~first)
        ]
        parts.append(heads.assign(repeat=repeat, scenes=smaller, first=roles[0], second=roles[1]))
    return pd.concat(parts, ignore_index=True)


def _random_half(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose a random half of the scenes of each kind, (S,) boolean.

    Where kinds have odd numbers of scenes, the larger half alternates between them.
    """
    order = rng.permutation(len(kinds))
    order = order[np.argsort(kinds[order], kind="stable")]
    chosen = np.zeros(len(kinds), bool)
    chosen[order[::2]] = True
    return chosen


def replication_rates(halves: pd.DataFrame) -> pd.DataFrame:
    """Measure how often a head that has a role on one half of the scenes has it on the other half.

    The rate is not an interval for the number of heads with the role on all scenes: with half as
    many scenes, fewer heads pass.

    Args:
        halves: table from `role_halves`.

    Returns:
        One row per role: heads (mean number of heads with the role on a half), rate (the share of
        them that has the role on the other half, too), scenes (in a half) and splits. The rate is
        NaN if no head has the role, or if a half has too few scenes for any head to get one.
    """
    table = role_confusion(halves)
    heads = table.sum(axis=1)
    scenes = halves["scenes"].iloc[0]
    enough = scenes >= fewest_scenes(len(halves.drop_duplicates(["layer", "head"])))
    rate = pd.Series(np.diag(table), table.index) / heads.where((heads > 0) & enough)
    found = pd.DataFrame({"heads": heads, "rate": rate}).drop("none")
    return found.assign(scenes=scenes, splits=halves["repeat"].nunique())


def role_confusion(halves: pd.DataFrame) -> pd.DataFrame:
    """Cross-tabulate the heads' roles on one half of the scenes and on the other.

    Args:
        halves: table from `role_halves`.

    Returns:
        Mean numbers of heads over repeats, with `HEAD_ROLES` as index and columns. The table is
        symmetric because the halves have no order.
    """
    found = pd.crosstab(halves["first"], halves["second"])
    found = found.reindex(index=HEAD_ROLES, columns=HEAD_ROLES, fill_value=0)
    return (found + found.to_numpy().T) / 2 / halves["repeat"].nunique()


def role_agreement(table: pd.DataFrame, halves: pd.DataFrame) -> pd.Series:
    """The share of halves on which each head has the same role as on all scenes.

    Args:
        table: table from `head_roles`.
        halves: table from `role_halves`.

    Returns:
        One number per row of `table`.
    """
    keys = ["layer", "head"]
    both = halves.melt(keys, ["first", "second"], value_name="half")
    both = both.merge(table[[*keys, "role"]], on=keys)
    same = (both["half"] == both["role"]).groupby([both[key] for key in keys]).mean()
    return table[keys].join(same.rename("agreement"), on=keys)["agreement"]
