"""Decide whether the scenes show a claim about heads: seen, not seen, undecided or not testable.

A claim says that at least one candidate (a head in a group of scenes) has a property. A property
consists of one or more conditions, each of the form "the mean of a number over scenes lies above a
minimum". A candidate has the property if *all* its conditions hold. Since a single failing
condition refutes it, its p-value is the largest of its conditions' p-values. The claim is

- **seen** if some candidate's p-value, multiplied by the number of tests, is at most .05;
- **not seen** if, for every candidate of every group, the upper limit of some condition lies below
  its minimum; all these limits hold simultaneously with 95 % confidence;
- **undecided** otherwise: the scenes are compatible with both answers;
- **not testable** if there are too few scenes for any p-value to survive the correction, however
  large the effect. The finding then includes the number of scenes that would be needed.

The unit of analysis is the scene: answer orders and directions of one scene are averaged first.
Verbs have fewer independent units than scenes (`as_units`). Heads that are chosen by their effect
are chosen on half A of the scenes and measured on half B. A hash of the scene's name fixes its
half (`half_of`).

Sources: Berger, Technometrics 24 (1982), for the largest p-value (an intersection-union test);
Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15 (1987), for limits that show an absence.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import log2
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import nct, t

from ..errors import NoticeError
from ..pairs import PairSet, SemanticPair
from .statistics import enough_draws, sign_flip_test

LEVEL = 0.05
POWER = 0.8
"""Probability with which a claim should be seen if its mean is `delta`."""

Verdict = Literal["seen", "not seen", "undecided", "not testable", "repeats", "does not repeat"]
"""The last two are verdicts on a selection procedure without a test, such as the paper's rule."""


@dataclass(frozen=True)
class Condition:
    """The requirement that a mean over scenes lies above a minimum.

    Attributes:
        values: one number per scene and candidate, (scenes, candidates).
        minimum: the minimum for all candidates, in the unit of `values`.
    """

    values: np.ndarray
    minimum: float = 0.0


@dataclass(frozen=True)
class Group:
    """Candidates that are measured on the same scenes.

    Attributes:
        name: the group's name, such as "svo, subject", or "" if there is only one group.
        candidates: the candidates' names, in the order of the conditions' columns.
        conditions: the conditions that a candidate must meet. They may cover different scenes.
        hypotheses: the number of tests for the candidates; None for one each. Two candidates that
            stand for the two signs of one head need one test, since p-values are two-sided.
    """

    name: str
    candidates: Sequence[str]
    conditions: Sequence[Condition]
    hypotheses: int | None = None

    @property
    def tests(self) -> int:
        """The number of tests for the candidates."""
        return len(self.candidates) if self.hypotheses is None else self.hypotheses

    @property
    def scenes(self) -> int:
        """The number of scenes in the condition with the fewest."""
        return min(len(condition.values) for condition in self.conditions)


@dataclass(frozen=True)
class Finding:
    """What the scenes say about a claim.

    Attributes:
        verdict: one of `Verdict`.
        best: the candidate with the smallest p-value, and its group.
        estimate, low, high: the mean of the best candidate's hardest condition, and that mean's
            limits, which hold for all candidates simultaneously with 95 % confidence.
        p: the best candidate's p-value, corrected for all tests.
        passing: the number of candidates whose corrected p-value is at most .05.
        tests: the number of tests that `p` is corrected for.
        scenes: the number of scenes in the smallest group that was tested.
        needed: the number of scenes that a group needs for the presence, or the absence, to be
            shown with probability .8 if the mean is `delta` and the spread is that of these scenes.
        left_out: groups with too few scenes for any p-value to survive the correction. While there
            are any, a claim cannot be "not seen".
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
    """Decide whether at least one candidate in one of the groups has the property.

    Args:
        groups: the groups of candidates. Groups with too few scenes for the number of tests are
            left out and listed in the finding.
        delta: the mean for which `Finding.needed` is computed, in the unit of the conditions. It
            lies above the minimum to plan for a presence, below it to plan for an absence.
        seed: seed of the sign flips.
    """
    kept, dropped = _testable(groups)
    if not kept:
        return _not_testable(groups, delta)
    tests = sum(group.tests for group in kept)
    measured = [_measure(group, tests, delta, seed) for group in kept]
    best, _ = min(measured, key=lambda found: (found[0].p, -found[0].estimate))
    passing = sum(found.passing for found, _ in measured)
    verdict: Verdict = "undecided"
    if passing:
        verdict = "seen"
    elif not dropped and all(absent for _, absent in measured):
        verdict = "not seen"
    return replace(
        best,
        verdict=verdict,
        passing=passing,
        scenes=min(group.scenes for group in kept),
        needed=_of_groups([found.needed for found, _ in measured], kept, delta),
        left_out=tuple(group.name for group in dropped),
    )


def fewest_scenes(tests: int, level: float = LEVEL) -> int:
    """The smallest number of scenes at which a p-value can survive a correction for `tests` tests.

    With n scenes, a two-sided sign-flip test has no p-value below 2 ** (1 - n). One test takes six
    scenes, so every number that is enough is also enough to estimate a spread (3).
    """
    return math.ceil(1 + log2(tests / level))


def scenes_needed(spread: float, gap: float, tests: int = 1, conditions: int = 1) -> int:
    """The number of scenes at which a true claim is seen with probability .8.

    The power of each condition is set so high that all conditions hold together with probability
    .8. It is computed from the noncentral t distribution. The usual normal approximation asks for
    too few scenes if they are few and the level is strict: for 48 tests and a gap of one standard
    deviation 17 instead of 23, which have a power of about .48 (tests/test_decision.py).

    Args:
        spread: standard deviation over scenes.
        gap: distance of the mean above the minimum, in the same unit.
        tests: the number of tests that p-values are corrected for.
        conditions: the number of conditions that must hold.

    Raises:
        NoticeError: the gap is not positive.
    """
    if not gap > 0:
        raise NoticeError(f"No number of scenes shows a difference of {gap:g}: give a gap above 0.")
    least = fewest_scenes(tests)
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
    """Assign each row's scene to half "A" or half "B".

    Within each task and slot, scenes are sorted by a hash of their names and assigned to A and B
    alternately. The halves therefore have equal sizes, no random number decides them, and they are
    the same for all models that answer the same scenes. A scene that occurs in several slots (shape
    and texture, say) has one half: that of the first of them, in the order of the alphabet.

    Args:
        table: a table with the columns task, slot and scene_id.
    """
    names = table[["task", "slot", "scene_id"]].astype(str)
    key = ["task", "scene_id"]
    scenes = names.sort_values([*key, "slot"]).drop_duplicates(key)
    code = scenes["scene_id"].map(lambda name: sha256(name.encode()).hexdigest())
    scenes = scenes.assign(code=code).sort_values("code")
    place = scenes.groupby(["task", "slot"]).cumcount()
    halves = scenes.assign(half=np.where(place % 2, "B", "A")).set_index(key)["half"]
    return pd.Series(halves.reindex(pd.MultiIndex.from_frame(names[key])).to_numpy(), table.index)


def as_units(pairs: PairSet) -> PairSet:
    """Replace the pairs' scene ids by names of independent units.

    There are few verbs, so several scenes ask the same question: which of two verbs a subject does
    to an object. These scenes form one unit. Every other scene is a unit by itself.
    """
    return replace(pairs, pairs=tuple(replace(pair, scene_id=_unit(pair)) for pair in pairs))


def _unit(pair: SemanticPair) -> str:
    if pair.slot != "verb":
        return pair.scene_id
    words = sorted(re.findall(r"[\w-]+", pair.prompt.lower()))
    return f"{pair.task}: {' '.join(words)}"


def _testable(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Groups with enough scenes, and the others. Leaving a group out lowers the number of tests."""
    kept = sorted(groups, key=lambda group: -group.scenes)
    dropped: list[Group] = []
    while kept:
        tests = sum(group.tests for group in kept)
        if kept[-1].scenes >= fewest_scenes(tests):
            break
        dropped.append(kept.pop())
    return kept, dropped


def _not_testable(groups: Sequence[Group], delta: float) -> Finding:
    """The finding that no group is testable, with the number of scenes that would be needed.

    That number is computed from the groups that have enough scenes (3) to estimate a spread.
    """
    tests = sum(group.tests for group in groups)
    known = [group for group in groups if group.scenes >= 3]
    needed = [_measure(group, tests, delta, 0)[0].needed for group in known]
    if not needed:
        needed = [fewest_scenes(tests)] if tests else [0]
    return Finding(
        "not testable",
        tests=tests,
        scenes=min((group.scenes for group in groups), default=0),
        needed=_of_groups(needed, groups, delta),
        left_out=tuple(group.name for group in groups),
    )


def _of_groups(needed: Sequence[int], groups: Sequence[Group], delta: float) -> int:
    """The scenes that the groups need: for a presence one group's are enough, for an absence each
    group must have its own."""
    minimum = groups[0].conditions[0].minimum if groups else 0.0
    return min(needed) if delta > minimum else max(needed)


def _measure(group: Group, tests: int, delta: float, seed: int) -> tuple[Finding, bool]:
    """One group's finding, with an open verdict; and whether no candidate has the property."""
    p, upper, low, high, mean, spread = (
        np.stack(rows)
        for rows in zip(
            *(
                _limits(condition, tests, len(group.conditions), seed)
                for condition in group.conditions
            ),
            strict=True,
        )
    )
    minimum = np.array([[condition.minimum] for condition in group.conditions])
    largest = p.max(0)
    best = int(np.lexsort((-(mean - minimum).min(0), largest))[0])
    hard = int(np.argmin(mean[:, best] - minimum[:, 0]))
    absent = bool((upper < minimum).any(0).all())
    found = Finding(
        verdict="undecided",
        best=", ".join(filter(None, (group.candidates[best], group.name))),
        estimate=float(mean[hard, best]),
        low=float(low[hard, best]),
        high=float(high[hard, best]),
        p=min(1.0, float(largest[best]) * tests),
        passing=int((largest * tests <= LEVEL).sum()),
        tests=tests,
        scenes=group.scenes,
        needed=_needed(spread, delta - minimum[:, 0], tests, best, hard),
    )
    return found, absent


def _needed(spread: np.ndarray, gaps: np.ndarray, tests: int, best: int, hard: int) -> int:
    """The number of scenes that shows a presence (gap > 0) or an absence (gap < 0).

    A presence requires all conditions of one candidate to be shown. An absence requires one
    condition of each candidate, so the candidate whose easiest condition is hardest decides.

    Args:
        spread: standard deviations over scenes, (conditions, candidates).
        gaps: delta minus the minimum of each condition.
        tests: the number of tests that p-values and limits are corrected for.
        best, hard: the candidate and the condition that a presence is planned for.
    """
    conditions = len(spread)
    if gaps[hard] > 0:
        return scenes_needed(spread[hard, best], gaps[hard], tests, conditions)
    easiest = (spread / np.abs(gaps)[:, None]).min(0).max()
    # A limit is one-sided and corrected for conditions, a p-value two-sided and not.
    return scenes_needed(easiest, 1.0, math.ceil(tests * conditions / 2), tests)


def _limits(condition: Condition, tests: int, conditions: int, seed: int) -> tuple[np.ndarray, ...]:
    """(p, upper, low, high, mean, spread) of each candidate.

    The limits hold for all tests and all conditions together, since one condition below its minimum
    is enough for an absence. The p-values need no correction for conditions: all must be passed.
    `upper` is the one-sided limit that an absence is decided by, low and high are two-sided.
    """
    values = np.asarray(condition.values, float)
    draws = enough_draws(2 * tests, LEVEL)  # The smallest corrected p is half the level.
    mean, spread = values.mean(0), values.std(0, ddof=1)
    p = sign_flip_test(values - condition.minimum, 0.0, draws, seed)
    level, error = LEVEL / tests / conditions, spread / math.sqrt(len(values))
    one, two = (t.ppf(1 - tail, len(values) - 1) * error for tail in (level, level / 2))
    above = np.where(mean > condition.minimum, p, 1.0)
    return above, mean + one, mean - two, mean + two, mean, spread
