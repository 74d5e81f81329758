"""Answers to the tasks of the worksheet."""

from functools import cache

from exercise_answers import Answers, answers, blip, worked_set

from notice_lib import Site, effects, sweep

LAYER = 3
ROLES = ("start", "before", "correct", "or", "incorrect", "after", "last")


@cache
def by_role(direction):
    """What each role recovers alone, in percent, with one sweep a role."""
    found = {}
    for role in ROLES:
        site = Site("layer_output", LAYER, None, role)
        table = effects(sweep(blip(), worked_set(), [site], direction=direction).table())
        found[role] = 100 * table.fraction_recovered.item()
    return found


@answers("worksheet.check_roles")
def which_word():
    right = by_role("denoise")
    return Answers(
        right,
        {
            "wrong type": (58.4, "a dictionary"),
            "constant": (dict.fromkeys(ROLES, 20.0), "same value"),
            "near miss": (right | {"incorrect": right["incorrect"] / 2}, "'incorrect' is wrong"),
            "shortcut": ({"incorrect": right["incorrect"]}, "'start' is missing"),
        },
        (blip(), worked_set(), LAYER),
        rounded={role: round(value) for role, value in right.items()},
    )


@answers("worksheet.check_needed")
def needed():
    enough, moved = by_role("denoise"), by_role("noise")
    best = max(enough, key=enough.get)
    return Answers(
        moved[best],
        {
            "wrong type": ("a quarter", "one number is wanted"),
            "constant": (0, "patch the clean run"),
            "near miss": (-moved[best], "positive"),
            "shortcut": (enough[best], "Exchange the two runs"),
        },
        (50, blip(), worked_set(), LAYER),
        rounded=round(moved[best]),
    )
