"""Exercises of the report."""

import re
from collections.abc import Callable, Mapping
from math import comb

from .verdict import NotYet, check, entry, filled, number, tried


@check
def check_luck(function: Callable[[int, int], float]) -> None:
    """8.1: the probability that at least k of n seeds show by luck what is false."""
    cases = [(1, 1), (1, 3), (2, 3), (3, 3), (2, 5)]
    found = {case: number(tried(function, *case)) for case in cases}
    wrong = [(k, n) for k, n in cases if not _alike(found[k, n], _at_least(k, n))]
    if not wrong:
        return
    if all(_alike(found[k, n], _exactly(k, n)) for k, n in cases):
        raise NotYet("this is exactly k; add the cases with more.")
    k, n = wrong[0]
    raise NotYet(f"for k = {k} and n = {n} it is not {found[k, n]:.4g}.")


def _alike(found: float, wanted: float) -> bool:
    """Whether two probabilities agree within 2 %, since small ones are rounded, too."""
    return abs(found - wanted) <= 0.02 * wanted


def _exactly(k: int, n: int) -> float:
    return comb(n, k) * 0.05**k * 0.95 ** (n - k)


def _at_least(k: int, n: int) -> float:
    return sum(_exactly(i, n) for i in range(k, n + 1))


@check
def check_verdict(function: Callable[[float, float, float], str]) -> None:
    """8.2: "seen", "not seen" or "undecided", from an interval and the least that counts."""
    cases = {
        (0.02, 0.05, 0.01): "seen",
        (-0.004, 0.006, 0.01): "not seen",
        (0.002, 0.03, 0.01): "undecided",
        (-0.05, -0.02, 0.01): "not seen",
        (-0.3, 0.4, 0.01): "undecided",
        (0.002, 0.006, 0.01): "not seen",
        (0.01, 0.02, 0.01): "seen",
        (-0.02, 0.01, 0.01): "undecided",
    }
    for given, wanted in cases.items():
        found = tried(function, *given)
        if found != wanted:
            low, high, least = given
            raise NotYet(
                f"an interval from {low:+g} to {high:+g}, where {least:g} counts, is not {found!r}."
            )


RUBRIC = ("claim", "evidence", "strongest objection", "missing control", "scope")
"""The points of a referee's report."""
FEWEST_WORDS, MOST_WORDS = 12, 90


@check
def check_review(review: Mapping[str, str]) -> str:
    """8.3: a referee's report, {point of `RUBRIC`: sentences}; only its form is checked."""
    filled(review)
    texts = {point: entry(review, point) for point in RUBRIC}
    for point, text in texts.items():
        if not isinstance(text, str):
            raise NotYet(f"{point}: write sentences.")
        words = {word.lower() for word in re.findall(r"[\w'-]+", text)}
        if not FEWEST_WORDS <= len(words) <= MOST_WORDS:
            raise NotYet(f"{point}: {len(words)} different words; {FEWEST_WORDS} to {MOST_WORDS}.")
    if len(set(texts.values())) < len(texts):
        raise NotYet("two points have the same text.")
    if not re.search(r"\d", texts["evidence"]):
        raise NotYet("evidence: name a number or a figure.")
    return "The form is complete. Now exchange it with somebody, and grade by the rubric."
