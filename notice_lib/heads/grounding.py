"""Does a head ground: does it look at what the question asks for, and does the answer need that?

Two questions about the same picture ask for thing A and for thing B (`questions.two_questions`).
A head grounds if

1. its attention follows the question: attention to A minus that to B is larger when A is asked for;
2. cutting its attention to the asked thing (`patching.knockout`) costs L;
3. it costs more than cutting it to an equal area of the other thing,
4. and more than cutting it to an equal area of the background.

A head that looks at the thing whatever is asked fails the first; one that follows the question and
is not listened to fails the others. Both questions mention both things: what differs is which of
them they ask for. At the correct option (BLIP's site) the token itself names the asked thing, so a
head that looks for its own token's word follows the question, too.

Attention and cuts are at one site, a head at the tokens of one role. All cuts of a picture take as
many patches as its larger thing has: the whole of a thing, filled up from the background. The unit
is the scene: the mean over its orders and directions.
`conditions.verdicts` says how conditions become a verdict.

The negative control is `masks="shuffled"`: with the masks of other scenes no head should pass.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from .. import progress
from ..errors import NoticeError
from ..models.base import VLM
from ..pairs import PairSet, SemanticPair
from ..patching import Job, answer_of, cut_jobs, engine
from .attention import attention_maps
from .chosen import LEAST_COST, ChosenHeads, Masks, areas_of, scene_means
from .overlap import regions
from .questions import two_questions
from .roles import MINIMUM

TOGETHER = 8
"""Couples whose cuts are run together: small models gain by it, large ones need the memory."""


def grounding(
    model: VLM,
    pairs: PairSet,
    heads: Iterable[tuple[int, int]],
    query: str | None = None,
    masks: Masks = "own",
    minimum: float = MINIMUM,
    least_cost: float = LEAST_COST,
    seed: int = 0,
) -> pd.DataFrame:
    """Which heads look at the thing that the question asks for, at a cost if they cannot.

    Args:
        pairs: with masks of both things; see `questions.two_questions`. Only clean images are used.
        heads: (layer, head) of the component that reads the image.
        query: the token role at which attention is read and cut; by default `VLM.effect_role`.
        masks: "own"; or "shuffled", the negative control.
        minimum: smallest mean of condition 1 that counts, as a part of all the head's attention;
            above zero.
        least_cost: smallest mean of conditions 2 to 4 that counts, as a part of mean L; above zero.
        seed: of built questions, chosen patches, shuffled masks and statistics.

    Returns:
        One row a head (component, layer, head, query). Means over scenes, with 95 % intervals of
        each head alone in `*_low` and `*_high`:

        - follows: attention to A minus B when A is asked for, minus the same when B is;
        - attention_asked, attention_other, attention_background: mean attention to a patch of each,
          times the number of patches of the larger thing;
        - cut_asked, cut_other, cut_background: what cutting each costs, in L;
        - over_other, over_background: cut_asked minus these costs;
        - p_follows, p_cut_asked, p_over_other, p_over_background and p (`conditions.verdicts`);
        - grounds: "yes", "no", "undecided" or "not testable"; needed: the scenes that would
          show a role of twice the minima with 80 %;
        - scenes, and L, the mean of the unmodified model.

    Raises:
        NoticeError: no head; no such head or role; fewer than three scenes have two questions about
            two things and as much background; attention cannot be cut (`knockout`).
    """
    chosen = ChosenHeads.of(model, heads, query)
    couples = _couples(chosen, two_questions(pairs, seed), masks, seed)
    costs, clean = _costs(chosen, couples, seed)
    asked, other, background = couples.mean @ costs
    clean = couples.mean @ clean
    values = {
        **couples.looks(),
        "cut_asked": asked,
        "cut_other": other,
        "cut_background": background,
        "over_other": asked - other,
        "over_background": asked - background,
    }
    least = least_cost * abs(clean.mean())
    minima = {"follows": minimum, "cut_asked": least, "over_other": least, "over_background": least}
    table = chosen.table(values, minima, "grounds", seed)
    return table.assign(scenes=len(clean), L=clean.mean())


@dataclass(frozen=True)
class _Couples:
    """N couples of questions about one picture of P patches; K heads, S scenes.

    Attributes:
        pairs: the two questions of each.
        areas: (3, N, P) boolean: the first question's thing, the second's, the background.
        attention: (2, N, K, P) to the patches, under either question.
        mean: (S, N), what takes the mean over each scene's couples.
    """

    pairs: Sequence[tuple[SemanticPair, SemanticPair]]
    areas: np.ndarray
    attention: np.ndarray
    mean: np.ndarray

    def looks(self) -> dict[str, np.ndarray]:
        """(S, K) each: whether attention follows the question, and how much of it lies where."""
        on = np.einsum("anp,qnkp->qank", self.areas.astype(float), self.attention)
        sizes = self.areas.sum(-1)[:, :, None]
        first, second = on / sizes * sizes[:2].max(0)
        looks = {
            "follows": (on[0, 0] - on[0, 1]) - (on[1, 0] - on[1, 1]),
            "attention_asked": (first[0] + second[1]) / 2,
            "attention_other": (first[1] + second[0]) / 2,
            "attention_background": (first[2] + second[2]) / 2,
        }
        return {name: self.mean @ values for name, values in looks.items()}


def _couples(chosen: ChosenHeads, pairs, masks: Masks, seed: int) -> _Couples:
    """The couples that ask for two things beside enough background, and attention in them."""
    if not pairs:
        raise NoticeError(
            "No two questions about one picture were found or could be built: give pairs that ask "
            "for different things in one clean image, or pairs of the slots subject and object "
            "whose vocabulary has both."
        )
    maps = [
        attention_maps(chosen.model, questions, chosen.query)
        for questions in zip(*pairs, strict=True)
    ]
    first, second = (regions(own) for own in maps)
    a, b = first["named"], second["named"]
    background = ~(a | b | first["other"] | second["other"])
    differ = a.any(1) & b.any(1) & (a != b).any(1)
    there = np.flatnonzero(differ & (background.sum(1) >= np.maximum(a.sum(1), b.sum(1))))
    areas = np.stack([a, b, background])
    kept = [pairs[row] for row in there]
    asked_first = [pair for pair, _ in kept]
    areas = areas_of(areas[:, there], asked_first, maps[0], masks, seed)
    attention = np.stack([chosen.attention(own.patches[there]) for own in maps])
    _, mean = scene_means([pair.scene_id for pair in asked_first])
    return _Couples(kept, areas, attention, mean)


def _costs(chosen: ChosenHeads, couples: _Couples, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(3, N, K) what cuts of the asked thing, the other and the background cost, and (N,) the uncut
    L; means over a couple's two questions."""
    costs, clean = [], []
    with progress.bar(
        total=len(couples.pairs), desc=f"cutting {chosen.model.name}", unit="couple"
    ) as bar:
        for start in range(0, len(couples.pairs), TOGETHER):
            rows = range(start, min(start + TOGETHER, len(couples.pairs)))
            jobs = [job for row in rows for job in _jobs(chosen, couples, row, seed)]
            outcomes = engine.patch(chosen.model, jobs)
            base = np.array([_gap(outcome.base) for outcome in outcomes]).reshape(len(rows), 2, 3)
            cut = np.array([_gap(outcome.patched) for outcome in outcomes])
            cut = cut.reshape(len(rows), 2, 3, -1)
            costs.append((base[..., None] - cut).mean(1))
            clean.append(base.mean((1, 2)))
            bar.update(len(rows))
    return np.concatenate(costs).transpose(1, 0, 2), np.concatenate(clean)


def _jobs(chosen: ChosenHeads, couples: _Couples, row: int, seed: int) -> list[Job]:
    """For each of a couple's two questions: cuts of the asked thing, the other, the background."""
    model, jobs = chosen.model, []
    first, second = couples.pairs[row]
    a, b, background = _equal_areas(couples.areas[:, row], first, seed)
    for pair, areas in ((first, (a, b, background)), (second, (b, a, background))):
        inputs = model.inputs(pair.image("clean"), pair.prompt)
        tokens = chosen.tokens(model.roles(inputs, pair.spans))
        jobs += cut_jobs(model, inputs, answer_of(model, pair), chosen.heads, tokens, areas)
    return jobs


def _gap(scores: torch.Tensor) -> np.ndarray:
    """L of (..., 4) scores."""
    return (scores[..., 0] - scores[..., 1]).numpy()


def _equal_areas(areas: np.ndarray, pair: SemanticPair, seed: int) -> list[tuple[int, ...]]:
    """The patches of both things and of the background, each as many as the larger thing has: what
    is lacking is filled up from the background, drawn with the seed and the pair's id."""
    rng = np.random.default_rng([seed, zlib.crc32(pair.pair_id.encode())])
    a, b, background = (np.flatnonzero(area) for area in areas)
    filling = rng.permutation(background)
    size = max(len(a), len(b))
    nothing = background[:0]
    cuts = (np.append(thing, filling[: size - len(thing)]) for thing in (a, b, nothing))
    return [tuple(cut.tolist()) for cut in cuts]
