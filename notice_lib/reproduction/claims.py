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
from ..heads.statistics import enough_draws, sign_flip_test
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
    draws = enough_draws(half.values.shape[1], LEVEL)
    p = sign_flip_test(half.values, minimum * abs(half.total.mean()), draws, seed)
    return false_discovery_control(p) <= LEVEL


def _universal(corruptions: tuple[str, ...]):
    """Claim: some head has an effect of the same sign in every task, by the tested rule."""

    def test(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
        joined = [cell for cell in _by_task(evidence.effects) if cell.corruption in corruptions]
        if not _in_every_task({(cell.task, cell.corruption) for cell in joined}, corruptions):
            return Finding("not testable")
        if not _have_total(joined):
            return _without_total(joined)
        names = [head_name(*head) for head in evidence.heads]
        conditions = []
        for cell in joined:
            fractions = cell.values / cell.total.mean()
            conditions.append(Condition(np.hstack([fractions, -fractions]), minimum))
        return decide([Group("", names * 2, conditions, len(names))], delta, seed)

    return test


def _procedure(corruptions: tuple[str, ...]):
    """Claim: the paper's rule selects heads in every task, more than with permuted labels."""

    def test(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
        scores = {key: own for key, own in evidence.sizes.items() if key[1] in corruptions}
        if not _in_every_task(set(scores), corruptions):
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

    The claim must hold both in fractions of each corruption's total effect and in logits. Each
    corruption's head has the largest effect on half A, averaged over tasks; it is measured on half
    B.
    """
    of = {how: [c for c in evidence.effects if c.corruption == how] for how in ("image", "text")}
    if not all(of.values()):
        return Finding("not testable")
    if not _have_total(evidence.effects):
        return _without_total(evidence.effects)
    heads = {how: _strongest(cells) for how, cells in of.items()}
    found = {how: _on_half_b(of[how], heads[how]) for how in of}
    both = found["image"].add_suffix("_image").join(found["text"].add_suffix("_text"), how="inner")
    image, text = both["effect_image"], both["effect_text"]
    fractions = image / both["total_image"].mean() - text / both["total_text"].mean()
    # The difference in logits is divided by one total effect to have the unit of the minimum.
    logits = (image - text) / both["total_image"].mean()
    conditions = [Condition(one.to_numpy()[:, None], minimum) for one in (fractions, logits)]
    best = " against ".join(head_name(*evidence.heads[heads[how]]) for how in ("image", "text"))
    return decide([Group("", [best], conditions)], delta, seed=seed)


def _last_over_option(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
    """Claim: the strongest head recovers more at the last token than at the correct option."""
    last = [cell for cell in evidence.effects if cell.corruption == "image"]
    option = list(evidence.option)
    if not last or not option:
        return Finding("not testable")
    if not _have_total(last):
        return _without_total(last)
    heads = _strongest(last), _strongest(option)
    at_last, at_option = (
        _on_half_b(cells, head) for cells, head in zip((last, option), heads, strict=True)
    )
    both = at_last.join(at_option.add_suffix("_option"), how="inner")
    difference = (both["effect"] - both["effect_option"]).to_numpy() / both["total"].mean()
    best = " against ".join(head_name(*evidence.heads[head]) for head in heads)
    return decide([Group("", [best], [Condition(difference[:, None], minimum)])], delta, seed=seed)


def _some_head(role: str):
    """Claim: some head has the role in some task and slot."""

    def test(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
        names = [head_name(*head) for head in evidence.heads]
        groups = [
            Group(
                f"{cell.task}, {cell.slot}",
                names,
                [Condition(own, minimum) for own in cell.scenes.conditions(role)],
            )
            for cell in evidence.roles
        ]
        return decide(groups, delta, seed=seed)

    return test


def _no_grounding(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
    """Claim: no important head detects or suppresses the object.

    One head that does refutes the claim. It is supported if every important head is shown not to.
    Heads are chosen on half A and measured on half B. A slot in which a half has too few scenes for
    either is left out, and the claim is then not supported.
    """
    effects = {(c.task, c.slot): c for c in evidence.effects if c.corruption == "image"}
    groups = []
    for cell in evidence.roles:
        name, matter = f"{cell.task}, {cell.slot}", effects[cell.task, cell.slot]
        scenes = cell.scenes.of(cell.half == "B")
        if not can_choose(matter) or len(scenes) < 3:
            few = min(len(matter.of("A").values), len(scenes))
            empty = np.zeros((few, len(evidence.heads)))
            groups.append(Group(name, [""] * empty.shape[1], [Condition(empty, minimum)]))
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
    return replace(found, verdict=contrary.get(found.verdict, found.verdict))


def _noise_later(evidence: Evidence, minimum: float, delta: float, seed: int) -> Finding:
    """Claim: under noise, later layers recover more of the total effect than under semantic pairs.

    The statistic is the mean fraction that the later half of the layers recovers minus the mean of
    the earlier half (a layer in the middle is in neither), noise minus semantic pairs.
    """
    of = {how: [c for c in evidence.depth if c.corruption == how] for how in ("noise", "image")}
    if not all(of.values()):
        return Finding("not testable")
    if not _have_total(evidence.depth):
        return _without_total(evidence.depth)
    found = {}
    for how, cells in of.items():
        half = cells[0].values.shape[1] // 2
        scenes = _scenes(cells)
        effects, total = scenes.drop(columns="total").to_numpy(), scenes["total"]
        later = effects[:, -half:].mean(1) - effects[:, :half].mean(1)
        found[how] = pd.Series(later, scenes.index) / total.mean()
    difference = (found["noise"] - found["image"]).dropna().to_numpy()[:, None]
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


def _in_every_task(known: set[tuple[str, str]], corruptions: tuple[str, ...]) -> bool:
    """Whether at least two tasks are known under each of the corruptions: the claim is that they
    agree."""
    tasks = {task for task, _ in known}
    return len(tasks) > 1 and known == {(task, how) for task in tasks for how in corruptions}


def _have_total(cells: Sequence[Cell]) -> bool:
    """Whether the total effect, which effects are divided by, is shown to be positive in each task
    and corruption."""
    return all(
        decide([Group("", ["total"], [Condition(cell.total[:, None])])], 1.0).verdict == "seen"
        for cell in _by_task(cells)
    )


def _without_total(cells: Sequence[Cell]) -> Finding:
    """Nothing can be said in fractions of a total effect that is not shown to exist."""
    scenes, least = min(len(cell.values) for cell in _by_task(cells)), fewest_scenes(1)
    return Finding("not testable", scenes=scenes, needed=least if scenes < least else 0)


def _by_task(cells: Sequence[Cell]) -> list[Cell]:
    """Join the slots of each task and corruption into one cell. A scene that is in several slots is
    one scene: its rows are averaged."""
    joined: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        joined.setdefault((cell.task, cell.corruption), []).append(cell)
    return [_joined(parts) for parts in joined.values()]


def _joined(parts: Sequence[Cell]) -> Cell:
    rows = [
        pd.DataFrame(cell.values, cell.scenes).assign(total=cell.total, half=cell.half)
        for cell in parts
    ]
    by_scene = pd.concat(rows).groupby(level=0)
    means = by_scene.mean(numeric_only=True)
    return Cell(
        parts[0].task,
        "all",
        parts[0].corruption,
        means.index.to_numpy(),
        means.drop(columns="total").to_numpy(),
        means["total"].to_numpy(),
        by_scene["half"].first().to_numpy(),
    )


def _scenes(cells: Sequence[Cell]) -> pd.DataFrame:
    """The effects and the total effect of each scene of one corruption, by task and scene."""
    return pd.concat(
        {
            cell.task: pd.DataFrame(cell.values, cell.scenes).assign(total=cell.total)
            for cell in _by_task(cells)
        }
    )


def _strongest(cells: Sequence[Cell]) -> int:
    """The head with the largest fraction of the total effect on half A, averaged over tasks."""
    fractions = [
        half.values.mean(0) / half.total.mean() for half in (c.of("A") for c in _by_task(cells))
    ]
    return int(np.argmax(np.mean(fractions, axis=0)))


def _on_half_b(cells: Sequence[Cell], head: int) -> pd.DataFrame:
    """A head's effect and the total effect in each scene of half B, by task and scene."""
    scenes = _scenes([cell.of("B") for cell in _by_task(cells)])
    return scenes[[head, "total"]].rename(columns={head: "effect"})


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
