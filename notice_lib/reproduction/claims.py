"""Decide the paper's claims on the evidence of its experiments.

A claim about a named checkpoint can only be settled on that checkpoint; on another model it has an
analogue at best. data/paper/claims.csv defines each analogue by a statistic, a minimum and a delta,
and it is committed before any run that it judges. It also holds the definitions of the first
version, and the reasons for the changes. `notice_lib.heads.decision` explains the verdicts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from ..heads.chance import DRAWS, universal_by_labels
from ..heads.decision import (
    LEVEL,
    Condition,
    Finding,
    Group,
    Verdict,
    decide,
    fewest_scenes,
)
from ..heads.roles import HEAD_ROLES
from ..heads.selection import MINIMUM
from ..heads.statistics import sign_flip_test
from ..paths import data_dir
from ..plotting import head_name
from .evidence import Cell, Evidence

DETECTION, SUPPRESSION, OUTLIERS = HEAD_ROLES[:3]


def paper_claims(family: str) -> pd.DataFrame:
    """The paper's claims about a model family, one row per claim of data/paper/claims.csv."""
    claims = pd.read_csv(data_dir() / "paper" / "claims.csv")
    return claims[claims["family"] == family].reset_index(drop=True)


def measure(family: str, evidence: Evidence, seed: int = 0) -> pd.DataFrame:
    """Decide every claim about a model family.

    Args:
        family: "blip" or "llava".
        evidence: the evidence from `gather_evidence`.
        seed: seed of the sign flips and permutations.

    Returns:
        The rows of `paper_claims`, with the columns of `notice_lib.heads.decision.Finding` added.
    """
    claims = paper_claims(family)
    found = [
        _MEASURES[claim.key](evidence, claim.minimum, claim.delta, seed)
        for claim in claims.itertuples()
    ]
    rows = [asdict(one) | {"left_out": "; ".join(one.left_out)} for one in found]
    return claims.join(pd.DataFrame(rows))


def can_choose(cell: Cell) -> bool:
    """Whether half A has enough scenes for any head's p-value to survive the correction."""
    n, heads = cell.of("A").values.shape
    return n >= max(3, fewest_scenes(heads))


def important_heads(cell: Cell, minimum: float = MINIMUM, seed: int = 0) -> np.ndarray:
    """Select the heads that matter in one task and slot: the tested rule on half A of the scenes.

    Args:
        cell: the heads' effects in the task and slot.
        minimum: smallest effect that counts, as a share of the total effect.
        seed: seed of the sign flips.

    Returns:
        Boolean array (K,). No head is selected if half A has too few scenes for any p-value to
        survive the correction.
    """
    half = cell.of("A")
    if not can_choose(cell):
        return np.zeros(half.values.shape[1], bool)
    p = sign_flip_test(half.values, minimum * abs(half.total.mean()), seed=seed)
    return false_discovery_control(p) <= LEVEL


def _universal(corruptions: tuple[str, ...]):
    """Claim: some head has an effect of the same sign in every task, by the tested rule."""

    def test(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
        joined = [cell for cell in _by_task(evidence.effects) if cell.corruption in corruptions]
        if len({cell.task for cell in joined}) < 2:  # The claim is that tasks agree.
            return Finding("not testable")
        names = [head_name(*head) for head in evidence.heads]
        conditions = []
        for cell in joined:
            shares = cell.values / abs(cell.total.mean())
            conditions.append(Condition(np.hstack([shares, -shares]), minimum))
        return decide([Group("", names * 2, conditions, len(names))], delta, seed)

    return test


def _procedure(corruptions: tuple[str, ...]):
    """Claim: the paper's rule selects heads in every task, more than with permuted labels."""

    def test(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
        scores = {key: own for key, own in evidence.sizes.items() if key[1] in corruptions}
        if len({task for task, _ in scores}) < 2:
            return Finding("not testable")
        layers = np.array([layer for layer, _ in evidence.heads])
        count, null = universal_by_labels(scores, layers, DRAWS, seed)
        p = (1 + (null >= count).sum()) / (1 + DRAWS)
        verdict: Verdict = "undecided"
        if not count:
            verdict = "does not repeat"
        elif p <= LEVEL:
            verdict = "repeats"
        return Finding(verdict, estimate=count, p=float(p), passing=count, tests=1)

    return test


def _image_over_text(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
    """Claim: the strongest head's effect is larger under image than under text corruption.

    The claim must hold both in shares of each corruption's total effect and in logits. Each
    corruption's head has the largest effect on half A, averaged over tasks; it is measured on half
    B.
    """
    of = {how: [c for c in evidence.effects if c.corruption == how] for how in ("image", "text")}
    if not all(of.values()):
        return Finding("not testable")
    heads = {how: _strongest(cells) for how, cells in of.items()}
    total = {how: abs(np.concatenate([c.of("B").total for c in of[how]]).mean()) for how in of}
    logits = {how: _of_scenes(of[how], heads[how]) for how in of}
    scenes = logits["image"].index.intersection(logits["text"].index)
    image, text = (logits[how][scenes].to_numpy()[:, None] for how in ("image", "text"))
    shares = Condition(image / total["image"] - text / total["text"], minimum)
    # The difference in logits is divided by one total effect to have the unit of the minimum.
    both = [shares, Condition((image - text) / total["image"], minimum)]
    best = " against ".join(head_name(*evidence.heads[heads[how]]) for how in ("image", "text"))
    return decide([Group("", [best], both)], delta, seed=seed)


def _last_over_option(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
    """Claim: the strongest head recovers more at the last token than at the correct option."""
    last = [cell for cell in evidence.effects if cell.corruption == "image"]
    option = list(evidence.option)
    if not last or not option:
        return Finding("not testable")
    heads = _strongest(last), _strongest(option)
    total = abs(np.concatenate([cell.of("B").total for cell in last]).mean())
    at_last, at_option = (
        _of_scenes(cells, head) for cells, head in zip((last, option), heads, strict=True)
    )
    difference = (at_last - at_option).dropna().to_numpy()[:, None] / total
    best = " against ".join(head_name(*evidence.heads[head]) for head in heads)
    return decide([Group("", [best], [Condition(difference, minimum)])], delta, seed=seed)


def _some_head(role: str):
    """Claim: some head has the role in some task and slot."""

    def test(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
        names = [head_name(*head) for head in evidence.heads]
        groups = []
        for cell in evidence.roles:
            values = cell.scenes.conditions(role)
            if min(map(len, values)) >= 3:
                conditions = [Condition(own, minimum) for own in values]
                groups.append(Group(f"{cell.task}, {cell.slot}", names, conditions))
        return decide(groups, delta, seed=seed)

    return test


def _no_grounding(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
    """Claim: no important head detects or suppresses the object.

    One head that does refutes the claim. It is supported if every important head is shown not to.
    Heads are chosen on half A and measured on half B.
    """
    effects = {(c.task, c.slot): c for c in evidence.effects if c.corruption == "image"}
    groups, unchosen = [], []
    for cell in evidence.roles:
        name, matter = f"{cell.task}, {cell.slot}", effects[cell.task, cell.slot]
        scenes = cell.scenes.of(cell.half == "B")
        if not can_choose(matter) or len(scenes) < 3:
            unchosen.append(name)
            continue
        chosen = important_heads(matter, seed=seed)
        if not chosen.any():
            continue
        some = [head_name(*head) for head, own in zip(evidence.heads, chosen, strict=True) if own]
        names = [f"{head} {does}" for does in ("detects", "suppresses") for head in some]
        conditions = [
            Condition(np.hstack([there[:, chosen], away[:, chosen]]), minimum)
            for there, away in zip(
                scenes.conditions(DETECTION), scenes.conditions(SUPPRESSION), strict=True
            )
        ]
        groups.append(Group(name, names, conditions, len(some)))
    found = decide(groups, delta, seed=seed)
    contrary: dict[Verdict, Verdict] = {"seen": "not seen", "not seen": "seen"}
    return replace(
        found,
        verdict=contrary.get(found.verdict, found.verdict),
        left_out=(*found.left_out, *unchosen),
    )


def _noise_later(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
    """Claim: under noise, later layers recover more of the total effect than under semantic pairs.

    The statistic is the share that the later half of the layers recovers minus the share that the
    earlier half recovers, noise minus semantic pairs. Both total effects must be shown to exist.
    """
    contrast, totals = {}, []
    for how in ("noise", "image"):
        cells = [cell for cell in evidence.depth if cell.corruption == how]
        if not cells:
            return Finding("not testable")
        total = pd.Series(
            np.concatenate([cell.total for cell in cells]),
            np.concatenate([cell.scenes for cell in cells]),
        )
        totals.append(decide([Group("", [how], [Condition(total.to_numpy()[:, None])])], 1.0))
        layers = cells[0].values.shape[1]
        later = np.where(np.arange(layers) < layers / 2, -1.0, 1.0) / (layers / 2)
        sums = np.concatenate([cell.values @ later for cell in cells])
        contrast[how] = pd.Series(sums, total.index) / total.mean()
    if any(total.verdict != "seen" for total in totals):
        return Finding("not testable", scenes=totals[0].scenes)
    difference = (contrast["noise"] - contrast["image"]).dropna().to_numpy()[:, None]
    return decide([Group("", ["noise"], [Condition(difference, minimum)])], delta, seed=seed)


def _noise_out(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
    """Claim: noise moves image states further from clean pictures than a semantic pair does.

    The statistic is the logarithm of the noisy run's distance divided by the corrupt run's.
    """
    distances = evidence.distances
    known = distances[(distances[["corrupt", "noisy"]] > 0).all(axis=1)]
    if len(known) < 3:
        return Finding("not testable", scenes=len(known))
    ratio = np.log(known["noisy"] / known["corrupt"]).to_numpy()[:, None]
    group = Group("", ["noise"], [Condition(ratio, math.log(minimum))])
    found = decide([group], math.log(delta), seed=seed)
    estimate, low, high = (math.exp(log) for log in (found.estimate, found.low, found.high))
    return replace(found, estimate=estimate, low=low, high=high)


def _by_task(cells: Sequence[Cell]) -> list[Cell]:
    """Join the slots of each task and corruption into one cell."""
    joined: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        joined.setdefault((cell.task, cell.corruption), []).append(cell)
    return [
        Cell(
            task,
            "all",
            corruption,
            *(
                np.concatenate([getattr(cell, name) for cell in parts])
                for name in ("scenes", "values", "total", "half")
            ),
        )
        for (task, corruption), parts in joined.items()
    ]


def _strongest(cells: Sequence[Cell]) -> int:
    """The head with the largest share of the total effect on half A, averaged over tasks."""
    shares = [
        half.values.mean(0) / abs(half.total.mean())
        for half in (cell.of("A") for cell in _by_task(cells))
    ]
    return int(np.argmax(np.mean(shares, axis=0)))


def _of_scenes(cells: Sequence[Cell], head: int) -> pd.Series:
    """A head's effect in each scene of half B."""
    halves = [cell.of("B") for cell in cells]
    return pd.Series(
        np.concatenate([half.values[:, head] for half in halves]),
        np.concatenate([half.scenes for half in halves]),
    )


_MEASURES: dict[str, Callable[[Evidence, float, float, int], Finding]] = {
    "blip_multimodal": _universal(("image", "text")),
    "blip_vision": _universal(("image",)),
    "blip_text": _universal(("text",)),
    "llava_multimodal": _universal(("image", "text")),
    "blip_multimodal_procedure": _procedure(("image", "text")),
    "blip_vision_procedure": _procedure(("image",)),
    "blip_text_procedure": _procedure(("text",)),
    "llava_multimodal_procedure": _procedure(("image", "text")),
    "blip_image_over_text": _image_over_text,
    "llava_last_over_option": _last_over_option,
    "blip_detection": _some_head(DETECTION),
    "blip_suppression": _some_head(SUPPRESSION),
    "blip_outliers": _some_head(OUTLIERS),
    "llava_no_detection": _no_grounding,
    "blip_noise_later": _noise_later,
    "llava_noise_later": _noise_later,
    "blip_noise_out": _noise_out,
    "llava_noise_out": _noise_out,
}
