"""When a claim about heads is seen, not seen, undecided, or not testable on these scenes.

A claim says that some candidate, a head in a group of scenes, has a property. A property is one
condition or several: the mean over scenes of some number lies above a minimum. A candidate has the
property if *all* its conditions hold, so its p-value is the largest of theirs (one condition that
fails is enough to refute it), and the claim is

- **seen** if some candidate's p-value, times the number of tests, is at most .05;
- **not seen** if for every candidate some condition's upper limit lies below its minimum, all
  limits holding at once with 95 %;
- **undecided** otherwise: these scenes allow both;
- **not testable** if there are too few scenes for any p-value to survive the correction, whatever
  the effect. Then the number of scenes that it would take is part of the answer.

The unit is the scene: its answer orders and directions are averaged before. Verbs have fewer units
than scenes (`as_units`). What is chosen by its effect is chosen on half A of the scenes and is
measured on half B (`half_of`), halves that a hash of the scene's name has fixed.

Sources: Berger, Technometrics 24 (1982), for the largest p-value (an intersection-union test);
Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15 (1987), for limits that show an absence.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import nct, t

from ..errors import NoticeError
from ..pairs import PairSet, SemanticPair
from .statistics import sign_flip_test

LEVEL = 0.05
POWER = 0.8
"""How often a claim that is true by `delta` should be seen."""

Verdict = Literal["seen", "not seen", "undecided", "not testable", "repeats", "does not repeat"]
"""The last two are of a procedure that tests nothing: whether it finds again what it found."""


@dataclass(frozen=True)
class Condition:
    """A number of each scene and candidate, whose mean over scenes must lie above a minimum.

    Attributes:
        values: (scenes, candidates).
        minimum: in the values' unit; one for all candidates.
    """

    values: np.ndarray
    minimum: float = 0.0


@dataclass(frozen=True)
class Group:
    """Candidates that are measured on the same scenes.

    Attributes:
        name: of the group, such as "svo, subject"; "" where there is one group.
        candidates: their names, in the columns' order.
        conditions: what each candidate must fulfil. Conditions may be about different scenes.
        hypotheses: the number of tests that the candidates make; by default one each. Two
            candidates for the two signs of one head make one, since p-values are two-sided.
    """

    name: str
    candidates: Sequence[str]
    conditions: Sequence[Condition]
    hypotheses: int = 0

    @property
    def tests(self) -> int:
        """The number of tests that the candidates make."""
        return self.hypotheses or len(self.candidates)

    @property
    def scenes(self) -> int:
        """The number of scenes of the smallest condition."""
        return min(len(condition.values) for condition in self.conditions)


@dataclass(frozen=True)
class Finding:
    """What the scenes say about a claim.

    Attributes:
        verdict: one of `Verdict`.
        best: the candidate with the smallest p-value, and its group.
        estimate, low, high: the mean of the condition that is hardest for it, and the limits of
            that mean, which hold for all candidates at once with 95 %.
        p: its p-value, corrected for all tests.
        passing: the number of candidates whose corrected p-value is at most .05.
        tests: the number of tests that p is corrected for.
        scenes: the number of scenes of the smallest group that was tested.
        needed: the number of scenes a group would need for a claim that is true by delta to be seen
            with 80 %, at the spread that these scenes have.
        left_out: groups with too few scenes for any p-value to survive the correction.
    """

    verdict: Verdict
    best: str = ""
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    passing: int = 0
    tests: int = 0
    scenes: int = 0
    needed: int = 0
    left_out: tuple[str, ...] = ()


def decide(groups: Sequence[Group], delta: float, seed: int = 0) -> Finding:
    """Decide whether some candidate of some group has its property.

    Args:
        groups: those with too few scenes for the number of tests are left out and named.
        delta: the mean at which the answer should be found (see `Finding.needed`), in the unit of
            the conditions: above the minimum to see a presence, below it to show an absence.
        seed: of the sign flips.
    """
    kept, dropped = _testable(groups)
    if not kept:
        return _not_testable(groups, delta)
    tests = sum(group.tests for group in kept)
    measured = [_measure(group, tests, delta, seed) for group in kept]
    best = min(measured, key=lambda found: (found.p, -found.estimate))
    passing = sum(found.passing for found in measured)
    if passing:
        verdict: Verdict = "seen"
    elif all(found.verdict == "not seen" for found in measured):
        verdict = "not seen"
    else:
        verdict = "undecided"
    return replace(
        best,
        verdict=verdict,
        passing=passing,
        scenes=min(group.scenes for group in kept),
        left_out=tuple(group.name for group in dropped),
    )


def fewest_scenes(tests: int, level: float = LEVEL) -> int:
    """The smallest number of scenes with which one p-value can survive a correction for `tests`.

    Flipping the signs of n scenes gives no two-sided p-value below 2 ** (1 - n).
    """
    return math.ceil(1 + math.log2(tests / level))


def scenes_needed(spread: float, gap: float, tests: int = 1, conditions: int = 1) -> int:
    """The number of scenes at which a true claim is seen with 80 %.

    Each condition is seen with a chance that makes all of them together .8. The power is that of a
    t-test with its noncentral distribution: with a dozen scenes and a strict level the normal
    approximation asks for too few scenes by a third, and gives half of the power that it promises
    (tests/test_decision.py shows both).

    Args:
        spread: standard deviation over scenes.
        gap: how far the mean lies above the minimum, in the same unit.
        tests: the number of tests that p-values are corrected for.
        conditions: how many conditions must hold.

    Raises:
        NoticeError: the gap is not above zero.
    """
    if not gap > 0:
        raise NoticeError(f"No number of scenes shows a difference of {gap:g}; it must be above 0.")
    least = max(3, fewest_scenes(tests))
    power = 1 - (1 - POWER) / conditions

    def enough(n: int) -> bool:
        cut = t.ppf(1 - LEVEL / 2 / tests, n - 1)
        return spread == 0 or nct.sf(cut, n - 1, gap / spread * math.sqrt(n)) >= power

    high = least
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return max(high, least)


def half_of(table: pd.DataFrame) -> pd.Series:
    """The half, "A" or "B", of each row's scene.

    Within each task and slot, scenes are ordered by a hash of their names and go to A and B in
    turn. So the halves are of one size, depend on no random number, and a scene is in the same half
    for every model that answers the same scenes.

    Args:
        table: with the columns task, slot and scene_id.
    """
    keys = ["task", "slot", "scene_id"]
    scenes = table[keys].astype(str).drop_duplicates()
    code = scenes["scene_id"].map(lambda name: sha256(name.encode()).hexdigest())
    scenes = scenes.assign(code=code).sort_values("code")
    place = scenes.groupby(["task", "slot"]).cumcount()
    halves = scenes.assign(half=np.where(place % 2, "B", "A")).set_index(keys)["half"]
    return pd.Series(
        halves.reindex(pd.MultiIndex.from_frame(table[keys].astype(str))).to_numpy(), table.index
    )


def as_units(pairs: PairSet) -> PairSet:
    """The pairs, with scene ids that name independent units.

    There are few verbs, so several scenes ask which of the same two verbs the same subject does to
    the same object. They are one unit. Other scenes are units as they are.
    """
    return replace(pairs, pairs=tuple(replace(pair, scene_id=_unit(pair)) for pair in pairs))


def _unit(pair: SemanticPair) -> str:
    if pair.slot != "verb":
        return pair.scene_id
    words = sorted(re.findall(r"[\w-]+", pair.prompt.lower()))
    return f"{pair.task}: {' '.join(words)}"


def _testable(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Groups with enough scenes, and those without; each that is left out makes fewer tests."""
    kept = sorted(groups, key=lambda group: -group.scenes)
    dropped: list[Group] = []
    while kept:
        tests = sum(group.tests for group in kept)
        if kept[-1].scenes >= max(3, fewest_scenes(tests)):
            break
        dropped.append(kept.pop())
    return kept, dropped


def _not_testable(groups: Sequence[Group], delta: float) -> Finding:
    """With the number of scenes that it would take, where there are enough to tell their spread."""
    tests = sum(group.tests for group in groups)
    known = [group for group in groups if group.scenes >= 3]
    needed = [_measure(group, tests, delta, 0).needed for group in known]
    return Finding(
        "not testable",
        tests=tests,
        scenes=min((group.scenes for group in groups), default=0),
        needed=min(needed, default=fewest_scenes(tests) if tests else 0),
        left_out=tuple(group.name for group in groups),
    )


def _measure(group: Group, tests: int, delta: float, seed: int) -> Finding:
    """One group's finding: "not seen" means that none of its candidates has the property."""
    p, upper, low, mean, spread = (
        np.stack(rows)
        for rows in zip(
            *(_limits(condition, tests, seed) for condition in group.conditions), strict=True
        )
    )
    minimum = np.array([[condition.minimum] for condition in group.conditions])
    largest = p.max(0)
    best = int(np.lexsort((-(mean - minimum).min(0), largest))[0])
    hard = int(np.argmin(mean[:, best] - minimum[:, 0]))
    absent = bool((upper < minimum).any(0).all())
    return Finding(
        verdict="not seen" if absent else "undecided",
        best=", ".join(filter(None, (group.candidates[best], group.name))),
        estimate=float(mean[hard, best]),
        low=float(low[hard, best]),
        high=float(upper[hard, best]),
        p=min(1.0, float(largest[best]) * tests),
        passing=int((largest * tests <= LEVEL).sum()),
        tests=tests,
        scenes=group.scenes,
        needed=_needed(spread[hard, best], delta - minimum[hard, 0], tests, len(group.conditions)),
    )


def _needed(spread: float, gap: float, tests: int, conditions: int) -> int:
    """Scenes for a presence by delta to be seen, or an absence if delta lies below the minimum:
    for a presence all conditions of one candidate must be shown, for an absence all candidates."""
    return scenes_needed(spread, abs(gap), tests, conditions if gap > 0 else tests)


def _limits(condition: Condition, tests: int, seed: int) -> tuple[np.ndarray, ...]:
    """(p, upper, low, mean, spread) of each candidate; limits of all tests at once."""
    values = np.asarray(condition.values, float)
    draws = max(9999, math.ceil(4 * tests / LEVEL))  # The smallest corrected p is half the level.
    mean, spread = values.mean(0), values.std(0, ddof=1)
    p = sign_flip_test(values - condition.minimum, 0.0, draws, seed)
    reach = t.ppf(1 - LEVEL / tests, len(values) - 1) * spread / math.sqrt(len(values))
    above = np.where(mean > condition.minimum, p, 1.0)
    return above, mean + reach, mean - reach, mean, spread
