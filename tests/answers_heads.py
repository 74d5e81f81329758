"""Answers to the exercises on selecting heads and saying what they do."""

from functools import cache
from math import ceil, log2

import numpy as np
import pandas as pd
from exercise_answers import Answers, answers, of_kinds
from scipy.stats import false_discovery_control

from notice_lib import heads
from notice_lib.exercises import selection


@answers("selection.check_scenes")
def enough_scenes():
    def right(n_heads, level):
        return ceil(1 + log2(n_heads / level))

    return Answers(
        right,
        {
            "wrong type": (lambda *_: "many", "one number"),
            "constant": (lambda *_: 11, "144 heads"),
            "near miss": (lambda n, level: ceil(log2(n / level)), "one too few"),
            "shortcut": (lambda *_: 99, "no more than needed"),
            "the library's": (heads.fewest_scenes, "by hand"),
            "the library's in disguise": (lambda *given: heads.fewest_scenes(*given), "by hand"),
        },
        forms=of_kinds(right),
    )


@answers("selection.check_fooled")
def fooled():
    right = np.random.default_rng(0).standard_normal((40, 48))
    right[:, 7] *= 10
    louder = right - right.mean(axis=0)
    biased = np.zeros((40, 48))
    biased[:, 7] = 1
    return Answers(
        louder,
        {
            "wrong type": ("louder", "an array of numbers"),
            "constant": (np.zeros((40, 48)), "the rule selects"),
            "near miss": (louder.round(2), "some head's mean"),
            "shortcut": (biased, "some head's mean is 1"),
        },
    )


@answers("selection.check_every")
def in_every_task():
    def right(p, means):
        return max(p) if len(set(np.sign(means))) == 1 else 1.0

    return Answers(
        right,
        {
            "wrong type": (lambda p, means: p, "one number"),
            "constant": (lambda p, means: 0.2, "do not give 0.2"),
            "near miss": (lambda p, means: max(p), "do not give 0.001"),
            "shortcut": (lambda p, means: min(p), "*some* task"),
        },
        rounded=lambda p, means: round(right(p, means), 3),
    )


@cache
def drawn_effects():
    rng = np.random.default_rng(2)
    return rng.normal(0, 0.02, (24, 12)) + np.where(np.arange(12) < 4, 0.05, 0.012)


PLAN = {"unit": "scene", "null": "scene signs", "minimum": 0.02, "level": 0.05, "expected": 3}


@answers("selection.check_plan")
def planned():
    p = heads.sign_flip_test(drawn_effects(), PLAN["minimum"])
    right = int((false_discovery_control(p) <= PLAN["level"]).sum())
    without = heads.sign_flip_test(drawn_effects())
    against_zero = int((false_discovery_control(without) <= PLAN["level"]).sum())
    assert 0 < right < against_zero
    return Answers(
        right,
        {
            "wrong type": ("four", "one number"),
            "constant": (0, "by this plan"),
            "near miss": (right + 1, "by this plan"),
            "shortcut": (against_zero, "against your minimum"),
        },
        (PLAN, drawn_effects()),
        forms=of_kinds(right),
    )


WHY = "A head far above the cut is found by either half, and one near the cut by chance."


@answers("selection.check_repeated")
def repeated():
    rng = np.random.default_rng(1)
    loud = np.ones(48)
    loud[[5, 9]] = 5, 3  # one far above the cut, one near it
    arrays = [rng.normal(0, loud, (16, 48)) for _ in range(3)]
    first, second = (selection._universal(half) for half in selection.halves(arrays))
    right, either = int((first & second).sum()), int((first | second).sum())
    assert 0 < right < either
    return Answers(
        right,
        {
            "wrong type": (["L0.H5"], "one number"),
            "constant": (0, "both call universal"),
            "near miss": (right + 7, "both call universal"),
            "shortcut": (either, "half"),
        },
        (1, WHY, arrays),
        forms=of_kinds(right),
    )


def three_parts(own, true, false):
    return own - true, (true - false) / 2, (true + false) / 2


@answers("what_heads_do.check_parts")
def parts():
    return Answers(
        three_parts,
        {
            "wrong type": (lambda *_: 1.0, "return three numbers"),
            "constant": (lambda *_: (1.0, 0.0, 1.0), "add up to"),
            "near miss": (lambda own, t, f: (own - t, t - f, f), "what do they differ"),
            "shortcut": (lambda own, t, f: (own, 0, 0), "what do they differ"),
        },
        rounded=lambda *given: tuple(round(part, 1) for part in three_parts(*given)),
    )


@answers("what_heads_do.check_suppressor")
def suppressor():
    sink = 2, 5
    everyone = np.ones((48, 8, 8))
    everyone[:-2, *sink] = 20
    everyone[-1, *sink] = 0
    everyone /= everyone.sum((1, 2), keepdims=True)

    def looking(share):
        made = np.ones((8, 8))
        made[sink] = share
        return made / made.sum()

    return Answers(
        looking(5),
        {
            "wrong type": ("few", "an array of numbers"),
            "constant": (looking(1), "most of all"),
            "near miss": (looking(21), "its D at the sink"),
            "shortcut": (everyone[-1], "most of all"),
        },
        (sink, everyone),
        rounded=looking(5).round(4),
    )


@answers("what_heads_do.check_lost")
def lost():
    truth = {"lost": 2.34, "effect": 5.0}
    return Answers(
        truth["lost"],
        {
            "wrong type": ("a little", "one number"),
            "constant": (0, "another part of L"),
            "near miss": (-truth["lost"], "counts as positive"),
            "shortcut": (truth["effect"], "what its patch brings back"),
        },
        (5.0, lambda: truth),
        rounded=2.3,
    )


@answers("what_heads_do.check_looker")
def looker():
    rows = [
        ("svo", "subject", 1, 2, "object detection", 0.002),
        ("svo", "subject", 1, 3, "object detection", -0.03),
        ("svo", "subject", 1, 4, "none", 0.001),
    ]
    table = pd.DataFrame(rows, columns=["task", "slot", "layer", "head", "role", "of_total"])
    return Answers(
        ("svo", "subject", 1, 2),
        {
            "wrong type": (3, "give (task, slot, layer, head)"),
            "constant": (("svo", "subject", 0, 0), "there is no such head"),
            "near miss": (("svo", "subject", 1, 3), "it looks, and it matters"),
            "shortcut": (("svo", "subject", 1, 4), "does not look"),
        },
        (table,),
    )


@answers("what_heads_do.check_sources")
def sources():
    right = {"content": "B", "truth": "C", "removal": "A"}
    return Answers(
        right,
        {
            "wrong type": ("BCA", "give a dictionary"),
            "constant": (dict.fromkeys(right, "A"), "2 of the 3"),
            "near miss": (right | {"truth": "A", "removal": "C"}, "2 of the 3"),
            "shortcut": (dict.fromkeys(right, "ABC"), "3 of the 3"),
        },
    )
