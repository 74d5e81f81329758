"""What all answers to exercises share: how they are registered, and the pair they are about."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from notice_lib import load_model, load_pairs, site_grid
from notice_lib.exercises.pairs import difference_of
from notice_lib.patching import answer_of

REFUSED = {"wrong type", "constant", "near miss", "shortcut"}
"""What every check must refuse: the last is an answer that skips the work."""


@dataclass(frozen=True)
class Answers:
    """Answers to one exercise.

    Attributes:
        right: an answer that is accepted.
        refused: {kind of answer: (the answer, words of the verdict)}.
        given: what else the check takes.
        rounded: the right answer as a reader would round it, where it has numbers.
        forms: the right answer as other kinds of number, where it counts something.
    """

    right: Any
    refused: Mapping[str, tuple[Any, str]]
    given: tuple = ()
    rounded: Any = None
    forms: tuple = ()


def of_kinds(count: int | Callable) -> tuple:
    """A count, or a function that returns one or None, as a float and as NumPy's integer."""

    def returning(kind: Callable) -> Callable:
        return lambda *given: None if (found := count(*given)) is None else kind(found)

    return tuple(returning(one) if callable(count) else one(count) for one in (float, np.int64))


CASES: dict[str, Callable[[], Answers]] = {}
"""By the check, such as "welcome.check_chance"."""


def answers(check: str):
    """Register the answers to the exercise of a check."""

    def register(function: Callable[[], Answers]) -> Callable[[], Answers]:
        CASES[check] = function
        return function

    return register


@cache
def blip():
    return load_model("blip-mini", device="cpu", check=False)


@cache
def worked_set():
    return load_pairs("states").filter(lambda one: one.pair_id == "states-013-ba-correct")


@cache
def worked_pair():
    (pair,) = worked_set()
    return pair


@cache
def some_pairs(n=4):
    return load_pairs("states").sample(n, 0, by=["scene_id"])


def behind_a_hook(function):
    """The function, with a hook that does nothing registered at each call."""

    def hooked(*given):
        module = blip().hook_point(blip().image_component, 0).module
        with module.register_forward_pre_hook(lambda *_: None):
            return function(*given)

    return hooked


@cache
def head_sites():
    """Heads of two layers at both options, of which the strongest of this pair is one."""
    sites = (
        site_grid(blip(), [blip().image_component], per_head=True, position=role)
        for role in ("correct", "incorrect")
    )
    return [site for grid in sites for site in grid if site.layer in (1, 3)]


def by_hooks(base, layer, head, positions, short=0, lazy=False):
    """L' of the worked pair minus the base run's difference, with a head's slice of the other run.

    `short` columns of the slice are left out; lazily, nothing is written.
    """
    vlm, pair = blip(), worked_pair()
    (source,) = {"clean", "corrupt"} - {base}
    answer = answer_of(vlm, pair)
    module = vlm.hook_point(vlm.image_component, layer).module
    size = module.in_features // vlm.n_heads
    place = 0, positions, slice(head * size, (head + 1) * size - short)
    kept = []

    def difference(run):
        return difference_of(vlm, pair.image(run), pair.prompt, answer)

    def write(_, args):
        changed = args[0].clone()
        changed[place] = kept[0]
        return None if lazy else (changed,)

    with module.register_forward_pre_hook(lambda _, args: kept.append(args[0][place].clone())):
        difference(source)
    with module.register_forward_pre_hook(write):
        patched = difference(base)
    return patched - difference(base)
