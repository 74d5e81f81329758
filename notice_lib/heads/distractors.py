"""Does a head suppress the distractor: does it keep away from it, and does the answer need that?

A head suppresses the distractor if

1. its attention to it lies below that to an equal area of background;
2. the answer needs the head more where there is a distractor: taking it out (`ablate`) lowers L on
   scenes with a distractor more than on matched scenes without. Accuracy is of no use here, since
   it is at its ceiling.

Attention and ablation are at one site, a head at the tokens of one role. Patches that another thing
reaches as well do not count as the distractor's. The unit is the scene (`decision.as_units`), here
with its match: one for each of its slots, of which only that slot's pairs are compared.
`conditions.verdicts` says how conditions become a verdict.

The negative control is `masks="shuffled"`: with the masks of other scenes no head should pass.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from ..errors import NoticeError
from ..models.base import VLM
from ..pairs import PairSet, SemanticPair
from ..pairs.prompts import words_of
from ..patching import ablate, logit_difference
from .attention import attention_maps
from .chosen import LEAST_COST, ChosenHeads, Masks, alone, areas_of, scene_means
from .decision import as_units
from .overlap import regions
from .roles import MINIMUM
from .table import HEAD, gather

Asked = tuple[str, str]
"""A scene, and the slot that its questions ask for."""


def distractor_suppression(
    model: VLM,
    pairs: PairSet,
    heads: Iterable[tuple[int, int]],
    query: str | None = None,
    masks: Masks = "own",
    minimum: float = MINIMUM,
    least_cost: float = LEAST_COST,
    seed: int = 0,
) -> pd.DataFrame:
    """Which heads keep away from the distractor, and matter more where there is one.

    Args:
        pairs: with masks; scenes with a distractor and scenes without (`matched_scenes`). Only
            clean images are used, and the ablation's mean is over the matched pairs.
        heads, query, masks, minimum, least_cost, seed: as in `grounding.grounding`.

    Returns:
        One row a head (component, layer, head, query). Means over scenes, with 95 % intervals of
        each head alone in `*_low` and `*_high`:

        - attention_distractor, attention_background: attention to the distractor, and to an equal
          area of background (the area is the smaller of the two); away: the second minus the first;
        - loss_two, loss_one: what ablating the head takes from L on scenes with a distractor, and
          on their matches without; more: the first minus the second;
        - p_away, p_more and p (`conditions.verdicts`);
        - suppresses: "yes", "no", "undecided" or "not testable"; needed: the scenes that would
          show a role of twice the minima with 80 %;
        - scenes: with a distractor, as many as without; L_two and L_one: means of the unmodified
          model on them.

    Raises:
        NoticeError: no head; no such head or role; fewer than three scenes with a distractor have
            a match and patches of the distractor alone.
    """
    chosen = ChosenHeads.of(model, heads, query)
    units = as_units(pairs)
    matched = matched_scenes(units, seed)
    with_match = [pair for pair in units if pair.distractor and _asked(pair) in matched]
    shown, looks = _looks(chosen, with_match, masks, seed)
    two = list(dict.fromkeys(map(_asked, shown)))
    one = [matched[asked] for asked in two]
    kept = units.filter(lambda pair: _asked(pair) in (two if pair.distractor else one))
    losses, clean = _ablated(chosen, kept)
    _, mean = scene_means([scene for scene, _ in two])
    (loss_two, L_two), (loss_one, L_one) = (
        (mean @ losses.loc[rows].to_numpy(), (mean @ clean.loc[rows].to_numpy()).mean())
        for rows in ([(True, *asked) for asked in two], [(False, *asked) for asked in one])
    )
    values = {**looks, "loss_two": loss_two, "loss_one": loss_one, "more": loss_two - loss_one}
    minima = {"away": minimum, "more": least_cost * abs((L_two + L_one) / 2)}
    return chosen.table(values, minima, "suppresses", seed).assign(
        scenes=len(mean), L_two=L_two, L_one=L_one
    )


def matched_scenes(pairs: PairSet, seed: int = 0) -> dict[Asked, Asked]:
    """For each scene with a distractor, and each of its slots, a scene without and the same slot.

    Scenes are counted as `decision.as_units` counts them, and a match is of the same task. No scene
    is a match twice, not even with another slot. A match is of the same split where that can be,
    and then the questions share as many words as can be had over all scenes of the slot together.
    The seed decides between equal ones.

    Raises:
        NoticeError: no scene has a match.
    """
    kinds: dict[tuple[str, str, bool], dict[str, list[SemanticPair]]] = {}
    for pair in as_units(pairs):
        kind = kinds.setdefault((pair.task, pair.slot, pair.distractor), {})
        kind.setdefault(pair.scene_id, []).append(pair)
    rng = np.random.default_rng(seed)
    matched: dict[Asked, Asked] = {}
    for (task, slot, distractor), two in kinds.items():
        one = kinds.get((task, slot, False), {})
        taken = {scene for scene, _ in matched.values()}
        free = [scene for scene in one if scene not in taken]
        if distractor and free:
            names = rng.permutation(free).tolist()
            likeness = [[_likeness(own, one[name]) for name in names] for own in two.values()]
            rows, columns = linear_sum_assignment(likeness, maximize=True)
            scenes = list(two)
            matched |= {
                (scenes[a], slot): (names[b], slot) for a, b in zip(rows, columns, strict=True)
            }
    if not matched:
        raise NoticeError(
            "No scene with a distractor has a match: give scenes of the same task and slot with "
            "and without one."
        )
    return matched


def _likeness(a: Sequence[SemanticPair], b: Sequence[SemanticPair]) -> int:
    """How many words two scenes' questions share; being of one split counts more than any words."""
    words = [{word for pair in own for word in words_of(pair.prompt)} for own in (a, b)]
    return len(words[0] & words[1]) + 1000 * (a[0].split == b[0].split)


def _asked(pair: SemanticPair) -> Asked:
    return pair.scene_id, pair.slot


def _ablated(chosen: ChosenHeads, pairs: PairSet) -> tuple[pd.DataFrame, pd.Series]:
    """What ablating each head takes from L, and L of the unmodified model: means over the pairs
    with or without a distractor of each scene and slot."""
    table = gather([ablate(chosen.model, pairs, chosen.sites, strict=True)])
    table = table.astype({"scene_id": str, "slot": str})
    rows = ["distractor", "scene_id", "slot"]
    effects = table.pivot_table("effect", rows, HEAD, observed=True)
    component = chosen.model.image_component
    losses = -effects[[(component, *head) for head in chosen.heads]]
    return losses, table.assign(L=logit_difference(table, "clean")).groupby(rows)["L"].mean()


def _looks(
    chosen: ChosenHeads, pairs: Sequence[SemanticPair], masks: Masks, seed: int
) -> tuple[list[SemanticPair], dict[str, np.ndarray]]:
    """The pairs whose distractor has patches of its own, and (scenes, K) each: attention to it, to
    as much background, and the difference."""
    maps = attention_maps(chosen.model, pairs, chosen.query)
    known = regions(maps)
    areas = np.stack(
        [
            [alone(chosen.model, pair, "distractor") for pair in pairs],
            ~(known["named"] | known["other"]),
        ]
    )
    there = np.flatnonzero(areas.any(-1).all(0))
    kept = [pairs[int(row)] for row in there]
    areas = areas_of(areas[:, there], kept, maps, masks, seed)
    attention = chosen.attention(maps.patches[there])
    sizes = areas.sum(-1)[:, :, None]
    on = np.einsum("anp,nkp->ank", areas.astype(float), attention) / sizes * sizes.min(0)
    _, mean = scene_means([pair.scene_id for pair in kept])
    distractor, background = mean @ on
    return kept, {
        "attention_distractor": distractor,
        "attention_background": background,
        "away": background - distractor,
    }
