"""Does a head suppress the distractor: does it keep away from it, and does the answer need that?

A head suppresses the distractor if

1. its attention to it lies below that to an equal area of background;
2. the answer needs the head more where there is a distractor: taking it out (`ablate`) lowers L on
   scenes with a distractor more than on matched scenes without. Accuracy is of no use here, since
   it is at its ceiling.

Attention and ablation are at one site, a head at the tokens of one role. Patches that another thing
reaches as well do not count as the distractor's. The unit is the scene, here with its match.
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
from .chosen import LEAST_COST, MINIMUM, ChosenHeads, Masks, alone, areas_of, scene_means
from .overlap import regions
from .table import gather, scene_effects


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
            clean images are used, and the ablation's mean is over the matched scenes' pairs.
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
    matched = matched_scenes(pairs, seed)
    with_match = [pair for pair in pairs if pair.scene_id in matched]
    two, looks = _looks(chosen, with_match, masks, seed)
    one = [matched[scene] for scene in two]
    kept = pairs.filter(lambda pair: pair.scene_id in {*two, *one})
    table = gather([ablate(model, kept, chosen.sites, strict=True)])
    losses = -scene_effects(table)[[(model.image_component, *head) for head in chosen.heads]]
    clean = logit_difference(table, "clean").groupby(table["scene_id"].astype(str)).mean()
    loss_two, loss_one = losses.loc[two].to_numpy(), losses.loc[one].to_numpy()
    values = {**looks, "loss_two": loss_two, "loss_one": loss_one, "more": loss_two - loss_one}
    minima = {"away": minimum, "more": least_cost * abs(clean.mean())}
    return chosen.table(values, minima, "suppresses", seed).assign(
        scenes=len(two), L_two=clean[two].mean(), L_one=clean[one].mean()
    )


def matched_scenes(pairs: PairSet, seed: int = 0) -> dict[str, str]:
    """For each scene with a distractor, one without, of the same task and slot.

    No scene is a match twice. A match is of the same split where that can be, and then the
    questions share as many words as can be had over all scenes together; the seed decides between
    equal ones.

    Raises:
        NoticeError: no scene has a match.
    """
    kinds: dict[tuple[str, str, bool], dict[str, list[SemanticPair]]] = {}
    for pair in pairs:
        kind = kinds.setdefault((pair.task, pair.slot, pair.distractor), {})
        kind.setdefault(pair.scene_id, []).append(pair)
    rng = np.random.default_rng(seed)
    matched: dict[str, str] = {}
    for (task, slot, distractor), two in kinds.items():
        one = kinds.get((task, slot, False), {})
        if distractor and one:
            names = rng.permutation(list(one)).tolist()
            likeness = [[_likeness(own, one[name]) for name in names] for own in two.values()]
            rows, columns = linear_sum_assignment(likeness, maximize=True)
            scenes = list(two)
            matched |= {scenes[a]: names[b] for a, b in zip(rows, columns, strict=True)}
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


def _looks(
    chosen: ChosenHeads, pairs: Sequence[SemanticPair], masks: Masks, seed: int
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The scenes whose distractor has patches of its own, and (scenes, K) each: attention to it, to
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
    scenes, mean = scene_means([pair.scene_id for pair in kept])
    distractor, background = mean @ on
    return scenes, {
        "attention_distractor": distractor,
        "attention_background": background,
        "away": background - distractor,
    }
