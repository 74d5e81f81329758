"""What all checks share: verdicts, and how answers are read."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import numpy as np


class NotYet(Exception):
    """What is wrong with an answer, in a clause that does not give the answer away."""


class NotBegun(Exception):
    """What is still missing before there is anything to check."""


class Verdict(str):
    """What a check says: "Right.", "Not yet: ..." or "Nothing to check yet: ..."."""

    @property
    def is_right(self) -> bool:
        """Whether the answer is accepted."""
        return self.startswith("Right.")

    def _repr_markdown_(self) -> str:
        return str(self)


def check(judge: Callable[..., str | None]) -> Callable[..., Verdict]:
    """Make a check of a function that raises `NotYet`, or returns what to add to "Right."."""

    @wraps(judge)
    def checked(answer: Any, *given: Any, **named: Any) -> Verdict:
        try:
            if answer is None or answer is ...:
                raise NotBegun("write your answer in place of None.")
            more = judge(answer, *given, **named)
        except NotBegun as missing:
            return Verdict(f"Nothing to check yet: {missing}")
        except NotYet as reason:
            return Verdict(f"Not yet: {reason}")
        return Verdict(f"Right. {more or ''}".strip())

    return checked


def called(function: Callable, *given: Any) -> Any:
    """Return what a reader's function returns; an exception in it is what is wrong with it."""
    try:
        return function(*given)
    except Exception as error:
        raise NotYet(f"it stops with {type(error).__name__}: {error}") from error


def tried(function: Callable, *given: Any) -> Any:
    """Return what a reader's function returns; a function that returns nothing is not begun."""
    found = called(function, *given)
    if found is None or found is ...:
        raise NotBegun("let the function return its result.")
    return found


def number(value: Any, unit: str = "") -> float:
    """Return an answer as a number; any other answer is told what is wanted."""
    wanted = f"one number is wanted{', ' if unit else ''}{unit}, not {value!r}."
    if isinstance(value, (str, bool, np.bool_)) or np.ndim(value):
        raise NotYet(wanted)
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise NotYet(wanted) from error
    if not np.isfinite(found):
        raise NotYet(wanted)
    return found


def near(found: float, wanted: float, step: float = 0.01) -> bool:
    """Whether two numbers agree within 1 %, or when rounded to multiples of `step`."""
    return abs(found - wanted) <= max(0.6 * step, 0.01 * abs(wanted))


def refuse_slips(found: float, slips: Mapping[str, float], step: float = 0.01) -> None:
    """Say which usual mistake, {what it is: the value it gives}, an answer comes from."""
    for why, wrong in slips.items():
        if near(found, wrong, step):
            raise NotYet(why)


def members(value: Any, example: str) -> set:
    """Return an answer that is a set, a list or a tuple of hashable things as a set."""
    if not isinstance(value, (set, frozenset, list, tuple)):
        raise NotYet(f"give a set, such as {example}, not {value!r}.")
    try:
        return set(value)
    except TypeError as error:
        raise NotYet(f"give a set, such as {example}.") from error


def entry(answer: Any, *keys: str) -> Any:
    """Return an entry of an answer that is a dictionary, or one of dictionaries."""
    for key in keys:
        if not isinstance(answer, Mapping) or key not in answer:
            raise NotYet(f"the answer is a dictionary with an entry {key!r}.")
        answer = answer[key]
    if answer is None:
        raise NotBegun(f"{', '.join(keys)} is None.")
    return answer


def true_or_false(answer: Any, truth: Mapping[str, bool]) -> None:
    """Count the wrong entries of a dictionary of True and False; which they are stays open."""
    given = {key: entry(answer, key) for key in truth}
    for key, value in given.items():
        if not isinstance(value, (bool, np.bool_)):
            raise NotYet(f"{key!r} is True or False, not {value!r}.")
    wrong = sum(bool(given[key]) != truth[key] for key in truth)
    if wrong:
        raise NotYet(f"{wrong} of the {len(truth)} answers {'is' if wrong == 1 else 'are'} wrong.")


FEWEST_WORDS = 8
"""Different words of a sentence that gives a reason."""


def explained(why: Any, what: str) -> None:
    """Ask for a sentence on why something is so; only its form is checked."""
    if why is None:
        raise NotBegun(f"write {what}.")
    if not isinstance(why, str) or len(set(why.lower().split())) < FEWEST_WORDS:
        raise NotYet(f"say in a sentence {what}.")


def filled(answer: Any) -> None:
    """Ask for a dictionary in which not everything is None."""
    if not isinstance(answer, Mapping):
        raise NotYet(f"give a dictionary, not {answer!r}.")
    if all(value is None for value in answer.values()):
        raise NotBegun("fill in the dictionary.")
