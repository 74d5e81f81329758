"""Answers to the exercises on defects and outliers."""

from functools import cache

import numpy as np
import pandas as pd
from exercise_answers import Answers, answers, behind_a_hook, blip, by_hooks, worked_set

from notice_lib import Site, effects, sweep


def smallest_share(correlation):
    return min((s for s, value in correlation.items() if value < 0.9), default=None)


@answers("errata.check_share")
def share():
    return Answers(
        smallest_share,
        {
            "wrong type": (lambda correlation: "half", "one number"),
            "constant": (lambda correlation: 0.5, "does not give 0.5"),
            "near miss": (
                lambda given: min((s for s, v in given.items() if v <= 0.9), default=None),
                "does not give 0.2",
            ),
            "shortcut": (min, "does not give 0.1"),
        },
        rounded=lambda given: None if (s := smallest_share(given)) is None else round(s, 2),
    )


def where_is_zero(values):
    low, high = values.min(), values.max()
    return None if low == high or low > 0 or high < 0 else -low / (high - low)


@answers("errata.check_zero")
def zero():
    return Answers(
        where_is_zero,
        {
            "wrong type": (lambda values: values, "one number"),
            "constant": (lambda values: 0.5, "does not give 0.5"),
            "near miss": (lambda v: -v.min() / (v.max() - v.min() + 1e-9), "does not give"),
            "shortcut": (lambda values: 0.5 if values.max() > 0 else None, "does not give 0.5"),
        },
        rounded=lambda v: None if where_is_zero(v) is None else round(where_is_zero(v), 2),
    )


@answers("errata.check_mistake")
def own_mistake():
    rng = np.random.default_rng(0)
    sound = pd.DataFrame(
        {
            "task": "svo",
            "layer": np.tile([0, 0, 1, 1], 6),
            "head": np.tile([0, 1, 0, 1], 6),
            "effect": rng.normal(size=24),
        }
    )

    def select(table):
        return list(table.nlargest(2, "effect")[["layer", "head"]].itertuples(index=False))

    return Answers(
        sound.assign(effect=sound.effect.abs()),
        {
            "wrong type": ({(0, 1)}, "is a table of effects"),
            "constant": (sound.assign(effect=1.0), "the same effect"),
            "near miss": (sound.drop(columns="head"), "has no column 'head'"),
            "shortcut": (sound, "what is wrong with it"),
            "another order": (sound.sample(frac=1, random_state=0), "what is wrong with it"),
        },
        ({(0, 1)}, sound, select),
        rounded=sound.assign(effect=sound.effect.abs().round(2)),
    )


def effect_by_hand(*place):
    return by_hooks("corrupt", *place)


def suspect(layer, head, position):
    return by_hooks("corrupt", layer, head, position, short=1)


def by_sweep(layer, head, position):
    site = Site(blip().image_component, layer, head, position)
    return effects(sweep(blip(), worked_set(), [site]).table()).effect.item()


@answers("errata.check_repaired")
def repaired():
    return Answers(
        effect_by_hand,
        {
            "wrong type": (lambda *_: "less", "one number"),
            "constant": (lambda *_: 0.0, "no hook was registered"),
            "near miss": (suspect, "what the suspect gives"),
            "the wrong sign": (lambda *place: -effect_by_hand(*place), "is not"),
            "shortcut": (by_sweep, "by hand"),
            "another shortcut": (behind_a_hook(cache(effect_by_hand)), "with other weights"),
        },
        (suspect, blip(), worked_set()),
        rounded=lambda *place: round(effect_by_hand(*place), 3),
    )


def avoidance(attention, outliers, background):
    at_outlier, at_background = attention[outliers].mean(), attention[background].mean()
    return (at_background - at_outlier) / (at_background + at_outlier)


def of_areas(attention, outliers, background):
    at_outlier, at_background = attention[outliers].sum(), attention[background].sum()
    return (at_background - at_outlier) / (at_background + at_outlier)


@answers("outliers.check_avoidance")
def how_much_is_avoided():
    return Answers(
        avoidance,
        {
            "wrong type": (lambda *given: "much", "one number is wanted"),
            "constant": (lambda *given: 1.0, "cannot tell them apart"),
            "near miss": (of_areas, "not sums over areas"),
            "shortcut": (lambda *given: -avoidance(*given), "never looks at outliers"),
        },
        rounded=lambda *given: round(avoidance(*given), 2),
    )
