"""Some heads at the tokens of one role, and what is measured of them by scene."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from ..errors import NoticeError
from ..models.base import ROLES, VLM
from ..pairs import SemanticPair
from ..patching import Site
from ..patching.sites import check_sites
from .attention import AttentionMaps
from .conditions import means, verdicts
from .overlap import shuffled

LEAST_COST = 0.005
"""Smallest cost that counts by default, as a part of the mean L of the unmodified model."""

THINGS = ("subject", "object", "distractor")
"""Masks that show a thing."""

Masks = Literal["own", "shuffled"]


@dataclass(frozen=True)
class ChosenHeads:
    """K heads of the component that reads the image, at the tokens of one role.

    Attributes:
        model: whose heads they are.
        heads: (layer, head) of each.
        query: the token role.
    """

    model: VLM
    heads: tuple[tuple[int, int], ...]
    query: str

    @classmethod
    def of(cls, model: VLM, heads: Iterable[tuple[int, int]], query: str | None) -> "ChosenHeads":
        """Without a query, at the tokens of `VLM.effect_role`.

        Raises:
            NoticeError: no head; no such head or role.
        """
        if query is None:
            query = model.effect_role
        if query not in ROLES:
            raise NoticeError(f"A query is one of {', '.join(ROLES)}, not {query!r}.")
        chosen = cls(model, tuple(dict.fromkeys(heads)), query)
        if not chosen.heads:
            raise NoticeError("No head was given: name at least one, as (layer, head).")
        check_sites(model, chosen.sites)
        return chosen

    @property
    def sites(self) -> list[Site]:
        """The heads as sites of a sweep."""
        component = self.model.image_component
        return [Site(component, layer, head, self.query) for layer, head in self.heads]

    def tokens(self, roles: Sequence[str]) -> tuple[int, ...]:
        """Which tokens of a run have the role."""
        return tuple(i for i, role in enumerate(roles) if role == self.query)

    def attention(self, patches: np.ndarray) -> np.ndarray:
        """(N, K, P) of all heads' attention (N, L, H, P)."""
        layers, heads = (list(part) for part in zip(*self.heads, strict=True))
        return patches[:, layers, heads].astype(float)

    def table(
        self,
        values: Mapping[str, np.ndarray],
        minima: Mapping[str, float],
        verdict: str,
        seed: int,
    ) -> pd.DataFrame:
        """One row a head: component, layer, head, query, means of `values` with intervals, and
        p-values and the verdict on the conditions that `minima` names (`conditions.verdicts`).

        Args:
            values: {name: (scenes, K)}.
            verdict: the name of the verdict's column.
        """
        table = pd.DataFrame(self.heads, columns=["layer", "head"])
        table.insert(0, "component", self.model.image_component)
        table["query"] = self.query
        judged = verdicts({name: values[name] for name in minima}, minima, seed)
        return table.join(means(values, seed)).join(judged.rename(columns={"verdict": verdict}))


def scene_means(scene_ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The S scenes among the ids of N rows, and (S, N) what takes the mean over each one's rows."""
    names, scene = np.unique(scene_ids, return_inverse=True)
    mean = (scene == np.arange(len(names))[:, None]).astype(float)
    return names.tolist(), mean / mean.sum(1, keepdims=True)


def areas_of(
    areas: np.ndarray, pairs: Sequence[SemanticPair], maps: AttentionMaps, masks: Masks, seed: int
) -> np.ndarray:
    """Areas (areas, N, P) by the pairs' own masks, or by another scene's as the negative control.

    Raises:
        NoticeError: fewer than three scenes; `masks` is neither "own" nor "shuffled".
    """
    if masks not in ("own", "shuffled"):
        raise NoticeError(f"masks is 'own' or 'shuffled', not {masks!r}.")
    scenes = {pair.scene_id for pair in pairs}
    if len(scenes) < 3:
        raise NoticeError(
            f"{len(scenes)} scenes have the masks that are compared here, and enough background: "
            "three or more are needed. Real pictures have no masks."
        )
    if masks == "own":
        return areas
    # With one seed, all areas of a pair come from the same other picture.
    of = replace(maps, pairs=tuple(pairs))
    return np.stack([shuffled(of, area, seed) for area in areas])


def alone(model: VLM, pair: SemanticPair, name: str) -> np.ndarray:
    """(P,) the clean image's patches that the mask of one thing reaches and no other thing's."""
    masks = pair.patch_masks("clean", model.grid, model.image_size)
    nothing = np.zeros((model.grid, model.grid), bool)
    others = [masks.get(other, nothing) for other in THINGS if other != name]
    return (masks.get(name, nothing) & ~np.any(others, axis=0)).ravel()
