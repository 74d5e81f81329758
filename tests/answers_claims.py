"""Answers to the exercises on comparing models and settling claims."""

from functools import cache
from math import comb

import numpy as np
from exercise_answers import Answers, answers, some_pairs

from notice_lib.exercises import blip_llava, report


def last_over_option(table, layer, head):
    own = table[(table.layer == layer) & (table["head"] == head)]
    means = own.groupby("role").percent.mean()
    return means["last"] - means["correct"]


@answers("blip_llava.check_difference")
def difference():
    every = blip_llava._made_table()
    means = every.groupby("role").percent.mean()
    return Answers(
        last_over_option,
        {
            "wrong type": (lambda table, *_: table, "one number"),
            "constant": (lambda *_: 0.0, "it is not 0.00"),
            "near miss": (lambda *given: -last_over_option(*given), "wrong sign"),
            "shortcut": (lambda *_: means["last"] - means["correct"], "it is not"),
        },
        rounded=lambda *given: round(last_over_option(*given), 1),
    )


@cache
def knife():
    """Patches that differ, and what a cut of patches costs, of three made-up pairs."""
    where = np.zeros(36, bool)
    where[5:12] = True
    weight = np.random.default_rng(3).uniform(0.02, 0.08, 36)
    return (lambda pair: where), (lambda pair, patches: 9 - weight[patches].sum())


def random_cut(pair, seed=0, extra=0):
    differing, cut = knife()
    away = np.flatnonzero(~differing(pair))
    n = differing(pair).sum() + extra
    return cut(pair, np.random.default_rng(seed).choice(away, n, replace=False))


@answers("blip_llava.check_random")
def control():
    differing, cut = knife()
    return Answers(
        random_cut,
        {
            "wrong type": (lambda pair: [1], "one number"),
            "constant": (lambda pair: 9.0, "nothing is cut"),
            "near miss": (lambda pair: random_cut(pair, extra=1), "it is not"),
            "another draw": (lambda pair: random_cut(pair, seed=1), "it is not"),
            "shortcut": (lambda pair: cut(pair, differing(pair)), "where the pictures differ"),
        },
        (tuple(some_pairs()), differing, cut),
        rounded=lambda pair: round(random_cut(pair), 2),
    )


def by_luck(k, n, upto=None):
    return sum(comb(n, i) * 0.05**i * 0.95 ** (n - i) for i in range(k, (upto or n) + 1))


@answers("report.check_luck")
def seeds():
    return Answers(
        by_luck,
        {
            "wrong type": (lambda k, n: "rare", "one number"),
            "constant": (lambda k, n: 0.05, "for k = 1 and n = 3 it is not 0.05"),
            "near miss": (lambda k, n: by_luck(k, n, k), "exactly k"),
            "shortcut": (lambda k, n: 0.05**k, "for k = 1 and n = 3"),
        },
        rounded=lambda k, n: float(f"{by_luck(k, n):.3g}"),
    )


def verdict_of(low, high, least):
    if low >= least:
        return "seen"
    return "not seen" if high < least else "undecided"


@answers("report.check_verdict")
def verdicts():
    return Answers(
        verdict_of,
        {
            "wrong type": (lambda *_: True, "is not True"),
            "constant": (lambda *_: "undecided", "is not 'undecided'"),
            "near miss": (lambda low, high, _: verdict_of(low, high, 0), "is not"),
            "shortcut": (
                lambda low, high, least: "seen" if low > 0 else "not seen",
                "is not",
            ),
        },
    )


@answers("report.check_review")
def review():
    text = "The {} of this claim is about {} small models and none of the large ones on photographs"
    right = {point: text.format(point, 3) for point in report.RUBRIC}
    return Answers(
        right,
        {
            "wrong type": ("It is fine.", "give a dictionary"),
            "constant": (dict.fromkeys(right, right["claim"]), "the same text"),
            "near miss": (right | {"evidence": text.format("evidence", "few")}, "name a number"),
            "shortcut": (dict.fromkeys(right, "good " * 40), "1 different words"),
        },
    )
