"""Answers to the exercises on the first pages: the question, the measures and the pairs."""

from math import comb

import numpy as np
import torch
from exercise_answers import Answers, answers, blip, some_pairs, worked_pair

from notice_lib import load_pairs
from notice_lib.exercises import primer
from notice_lib.exercises.pairs import _partly_replaced, _spoiled, difference_of
from notice_lib.patching import answer_of


def exchanged(pair):
    words = pair.prompt.rstrip("?").split()
    swap = {pair.correct: pair.incorrect, pair.incorrect: pair.correct}
    return " ".join(swap.get(word, word) for word in words) + "?"


@answers("welcome.check_question")
def other_order():
    pair = worked_pair()
    right = exchanged(pair)
    return Answers(
        right,
        {
            "wrong type": (["bell"], "as a string"),
            "constant": ("Is this bell red?", "only the two options"),
            "near miss": (right.replace("bell", "cup"), "only the two options"),
            "shortcut": (pair.prompt, "the question as it was"),
        },
        (pair,),
    )


def tail(hits, n):
    return sum(comb(n, k) for k in range(hits, n + 1)) / 2**n


@answers("welcome.check_chance")
def luck():
    return Answers(
        tail,
        {
            "wrong type": (0.5, "it stops with TypeError"),
            "constant": (lambda hits, n: 0.5, "0 or more of 3"),
            "near miss": (lambda hits, n: comb(n, hits) / 2**n, "exactly"),
            "shortcut": (lambda hits, n: 1 - hits / (n + 1), "3 or more of 3"),
        },
        rounded=lambda hits, n: round(tail(hits, n), 3),
    )


def said_of(L, P):
    return {way: {"L": one, "P": two} for way, one, two in zip(primer.ADDED, L, P, strict=True)}


@answers("primer.check_prediction")
def measures():
    return Answers(
        said_of([False] * 3, [False, True, True]),
        {
            "wrong type": ("P", "a dictionary"),
            "constant": (said_of([False] * 3, [False] * 3), "2 of the 6 answers"),
            "near miss": (said_of([False] * 3, [True] * 3), "1 of the 6 answers"),
            "shortcut": (said_of([1] * 3, [1] * 3), "True or False, not 1"),
        },
    )


def reach(n_layers, n_tokens, layer, position, causal):
    table = torch.zeros(n_layers, n_tokens, dtype=bool)
    table[layer, position] = True
    table[layer + 1 :, position if causal else 0 :] = True
    return table


@answers("primer.check_reach")
def reached():
    runs = [
        primer.Reached("BLIP", 2, 3, False, reach(4, 6, 2, 3, False).float()),
        primer.Reached("LLaVA", 1, 4, True, reach(4, 6, 1, 4, True).float()),
    ]
    return Answers(
        reach,
        {
            "wrong type": (lambda *_: "all", "a table of booleans"),
            "constant": (lambda n, t, *_: torch.ones(n, t), "you say that layer 0"),
            "near miss": (lambda n, t, i, j, _: reach(n, t, i, j, False), "LLaVA, patched"),
            "shortcut": (lambda n, t, *_: torch.zeros(n, t), "cannot change"),
        },
        (runs,),
        rounded=lambda *given: reach(*given).int().tolist(),
    )


@answers("primer.check_kept")
def kept():
    right = dict(zip(primer.KEEP, (False, False, True, True), strict=True))
    return Answers(
        right,
        {
            "wrong type": ([False, False, True, True], "give a dictionary"),
            "constant": (dict.fromkeys(right, True), "2 of the 4 answers"),
            "near miss": (right | {"x[0, [3]]": False}, "1 of the 4 answers"),
            "shortcut": (dict.fromkeys(right, False), "2 of the 4 answers"),
        },
        ("Zeros came out, since a slice shares the memory of the tensor.",),
    )


def tokens_of(inputs, span):
    return [
        i for i, one in enumerate(inputs.spans) if one and one[0] < span[1] and span[0] < one[1]
    ]


def by_substring(inputs, span):
    return [i for i, one in enumerate(inputs.spans) if one and tuple(one) == tuple(span)]


@answers("pairs.check_tokens_of")
def tokens():
    return Answers(
        tokens_of,
        {
            "wrong type": (lambda *_: 3, "a list of positions"),
            "constant": (lambda *_: [1], "is not at [1]"),
            "near miss": (
                lambda inputs, span: tokens_of(inputs, (span[0], span[1] + 1)),
                "is not at",
            ),
            "shortcut": (by_substring, "a word of several tokens"),
        },
        (blip(), worked_pair()),
    )


@answers("pairs.check_asymmetric")
def asymmetric():
    vlm, pairs, vocabulary = blip(), some_pairs(2), load_pairs("states")

    def mean(keep):
        gaps = []
        for pair in pairs:
            prompt = _partly_replaced(pair, vocabulary, vlm, 0, keep)
            gaps.append(difference_of(vlm, pair.image("clean"), prompt, answer_of(vlm, pair)))
        return np.mean(gaps)

    right = mean("correct")
    return Answers(
        right,
        {
            "wrong type": ("8 logits", "one number"),
            "constant": (0.0, "another one"),
            "near miss": (mean("incorrect"), "kept the incorrect"),
            "shortcut": (mean("both"), "nothing is replaced"),
        },
        (vlm, pairs, vocabulary, 0),
        rounded=round(right, 2),
    )


@answers("pairs.check_spoiled")
def spoiled():
    pairs = load_pairs("states")
    suspects, right = _spoiled(pairs)
    names = [one.pair_id for one in suspects]
    (fine, *_) = set(names) - right
    return Answers(
        sorted(right),
        {
            "wrong type": ("pair 3", "give a set"),
            "constant": (["pair 0"], "there is no 'pair 0'"),
            "near miss": ([*sorted(right)[:2], fine], "1 of these 3"),
            "shortcut": (names, "9 of these 12"),
        },
        (pairs,),
    )
