"""Exercises of the welcome page."""

from collections.abc import Callable

from ..pairs import SemanticPair
from .verdict import NotYet, check, near, number, tried


@check
def check_question(question: str, pair: SemanticPair) -> None:
    """0.1: the pair's question with its two options exchanged."""
    if not isinstance(question, str):
        raise NotYet("write the question as a string.")
    words = pair.prompt.lower().rstrip("?").split()
    swap = {pair.correct: pair.incorrect, pair.incorrect: pair.correct}
    found = question.lower().rstrip(" ?").split()
    if found == words:
        raise NotYet("this is the question as it was.")
    if found != [swap.get(word, word) for word in words]:
        raise NotYet("only the two options change places.")


@check
def check_chance(chance_of: Callable[[int, int], float]) -> None:
    """0.2: the probability of at least `hits` correct answers of `n` by guessing."""
    exactly = {(0, 3): 1 / 8, (3, 3): 1 / 8, (2, 3): 3 / 8, (1, 2): 1 / 2}
    at_least = {(0, 3): 1.0, (3, 3): 1 / 8, (2, 3): 1 / 2, (1, 2): 3 / 4}
    found = {case: number(tried(chance_of, *case)) for case in at_least}
    if all(near(found[case], exactly[case], 0.001) for case in exactly):
        raise NotYet("this is *exactly* so many; add the cases with more.")
    for (hits, n), wanted in at_least.items():
        if not near(found[hits, n], wanted, 0.001):
            raise NotYet(f"{hits} or more of {n} is not {found[hits, n]:g}. Count the cases.")
