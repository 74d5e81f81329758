"""Exercises of the chapter on pairs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
from PIL import Image

from ..corruption import replace_tokens
from ..models import VLM
from ..models.inputs import AnswerTokens, Inputs
from ..pairs import PairSet, SemanticPair
from ..patching import answer_of
from .verdict import NotYet, check, members, near, number, refuse_slips, tried


@check
def check_tokens_of(function: Callable, vlm: VLM, pair: SemanticPair) -> None:
    """2.1: the positions of all tokens that overlap a range of characters of the prompt."""
    word = min(pair.correct, pair.incorrect, key=pair.prompt.find)
    question = pair.prompt.replace(word, "ultramarine")
    picture = pair.image("clean")
    short, long = vlm.inputs(picture, pair.prompt), vlm.inputs(picture, question)
    start = question.index("ultramarine")
    first = pair.spans.correct[0]
    cases = {
        "the first word": (short, (0, 2)),
        "the correct option": (short, tuple(pair.spans.correct)),
        "the incorrect option": (short, tuple(pair.spans.incorrect)),
        "a word of several tokens": (long, (start, start + 11)),
        "the middle of a word": (long, (start + 4, start + 6)),
        "a part of the correct option": (short, (first + 1, first + 2)),
    }
    for what, (inputs, span) in cases.items():
        found = tried(function, inputs, span)
        if not isinstance(found, (list, tuple)):
            raise NotYet(f"a list of positions is wanted, not {found!r}.")
        if list(found) != _overlapping(inputs, span):
            raise NotYet(f"{what}, characters {span}, is not at {list(found)}.")


def _overlapping(inputs: Inputs, span: tuple[int, ...]) -> list[int]:
    """Positions of the tokens that share a character with a span of the prompt."""
    characters = set(range(*span))
    return [i for i, one in enumerate(inputs.spans) if one and characters & set(range(*one))]


def difference_of(vlm: VLM, picture: Image.Image, prompt: str, tokens: AnswerTokens) -> float:
    """The logit of the correct answer minus that of the incorrect one."""
    logits = vlm.logits(vlm.inputs(picture, prompt), tokens.prefix)
    return (logits[tokens.correct] - logits[tokens.incorrect]).item()


@check
def check_asymmetric(
    value: float, vlm: VLM, pairs: PairSet, vocabulary: PairSet, seed: int
) -> None:
    """2.2: the mean L* when only the incorrect option is replaced, by the word of STR."""
    found = number(value, "in logits")
    means = {
        keep: fmean(
            difference_of(
                vlm,
                pair.image("clean"),
                _partly_replaced(pair, vocabulary, vlm, seed, keep),
                answer_of(vlm, pair),
            )
            for pair in pairs
        )
        for keep in ("correct", "incorrect", "both", "neither")
    }
    if near(found, means["correct"]):
        return
    slips = {
        "you kept the incorrect option.": means["incorrect"],
        "both options are replaced.": means["neither"],
        "nothing is replaced.": means["both"],
    }
    refuse_slips(found, slips)
    raise NotYet("the mean of L* over these pairs is another one.")


def _partly_replaced(
    pair: SemanticPair, vocabulary: PairSet, vlm: VLM, seed: int, keep: str
) -> str:
    """The question that STR makes, with some of the pair's own options kept."""
    new = replace_tokens(pair, vocabulary, vlm.token_layout, seed)
    kept = {
        "correct": {pair.correct},
        "incorrect": {pair.incorrect},
        "both": {pair.correct, pair.incorrect},
        "neither": set(),
    }[keep]
    words = zip(pair.prompt.split(), new.split(), strict=True)
    return " ".join(old if old.strip("?") in kept else other for old, other in words)


def _spoiled(pairs: PairSet) -> tuple[list[SemanticPair], set[str]]:
    """Twelve pairs, three of them spoiled in different ways, and the names of the three."""
    good = pairs.filter(lambda one: not one.distractor)
    suspects = list(good.sample(13, seed=3, by=["scene_id"]))
    stranger = suspects.pop()
    i, j, k = np.random.default_rng(1).choice(12, size=3, replace=False)
    one, two, three = suspects[i], suspects[j], suspects[k]
    suspects[i] = replace(one, corrupt_image=one.clean_image)
    suspects[j] = replace(two, clean_image=two.corrupt_image, corrupt_image=two.clean_image)
    suspects[k] = replace(three, corrupt_image=stranger.corrupt_image)
    named = [replace(one, pair_id=f"pair {n}") for n, one in enumerate(suspects, 1)]
    return named, {named[place].pair_id for place in (i, j, k)}


def draw_suspects(pairs: PairSet) -> list[SemanticPair]:
    """Draw twelve pairs, "pair 1" to "pair 12", and spoil three of them."""
    return _spoiled(pairs)[0]


@check
def check_spoiled(names: Sequence[str], pairs: PairSet) -> None:
    """2.3: the names of the three spoiled pairs among `draw_suspects(pairs)`."""
    found = members(names, "{'pair 3'}")
    suspects, wanted = _spoiled(pairs)
    unknown = found - {one.pair_id for one in suspects}
    if unknown:
        raise NotYet(f"there is no {unknown.pop()!r}.")
    if found - wanted:
        raise NotYet(f"{len(found - wanted)} of these {len(found)} have nothing wrong with them.")
    if wanted - found:
        raise NotYet(f"{len(wanted - found)} more to find.")
