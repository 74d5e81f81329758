"""Answers to the exercises on data, the own ones too."""

from functools import cache

import numpy as np
import pandas as pd
from exercise_answers import Answers, answers, blip, worked_pair
from PIL import Image, ImageOps

from notice_lib import load_pairs
from notice_lib.exercises import data, own


@answers("data.check_blind")
def eyes_shut():
    return Answers(
        (0.5, 0.0),
        {
            "wrong type": (0.5, "two numbers"),
            "constant": ((0.0, 0.0), "what the picture shows"),
            "near miss": ((0.5, 0.25), "the same twice"),
            "shortcut": ((1.0, 1.0), "what the picture shows"),
        },
        rounded=(0.5, 0),
    )


@answers("data.check_prior")
def prior():
    table = pd.DataFrame({"L": [4.0, 1.0, 6.13], "L*": [-2.0, -4.0, -5.0]})
    each = (table["L"] + table["L*"]) / 2
    return Answers(
        each.abs().mean(),
        {
            "wrong type": (each, "one number"),
            "constant": (0.0, "3 pairs it is not 0.00 logits"),
            "near miss": (each.mean(), "opposite preferences"),
            "shortcut": ((table["L"] - table["L*"]).abs().mean() / 2, "what the picture does"),
        },
        (table,),
        rounded=round(each.abs().mean(), 2),
    )


def corrected(r_ab, r_a, r_b):
    return r_ab / np.sqrt(r_a * r_b)


@answers("data.check_corrected")
def attenuation():
    return Answers(
        corrected,
        {
            "wrong type": (lambda *_: "0.6", "one number"),
            "constant": (lambda *_: 0.6, "do not correlate with 0.60"),
            "near miss": (lambda r, a, b: r / (a * b), "geometric mean"),
            "shortcut": (lambda r, *_: r, "do not correlate"),
        },
        rounded=lambda *given: round(corrected(*given), 2),
    )


@answers("data.check_confound")
def confound():
    table = data.draw_confounded(load_pairs("states"))
    right = data._guessed(table, "distractor")
    return Answers(
        ("distractor", right),
        {
            "wrong type": (0.9, "a column and a share"),
            "constant": (("slot", 0.5), "does not tell most"),
            "near miss": (("distractor", right - 0.03), "how often"),
            "shortcut": (("distractor", 1.0), "how often"),
        },
        (table,),
        rounded=("distractor", round(right, 2)),
    )


@cache
def labels():
    words = ["red", "blue"] * 9
    rows = [
        {"image": f"{i}.png", "rest": "bell", "slot": "colour", "attribute": word}
        for i, word in enumerate(words)
    ]
    other = {"image": "20.png", "rest": "cup", "slot": "colour", "attribute": "red"}
    broken = {"image": "IMG_9999.png", "rest": "bell", "slot": "colour", "attribute": "blue"}
    return pd.DataFrame([*rows, other, broken])


@answers("own.check_row")
def ready_row():
    pictures = {"clean_image": "0.png", "corrupt_image": "1.png"}
    question = {"prompt": "Is this bell red or blue?", "correct": "red", "incorrect": "blue"}
    right = pictures | question
    return Answers(
        right,
        {
            "wrong type": (list(right.values()), "give a dictionary"),
            "constant": (right | {"corrupt_image": "0.png"}, "the same answer"),
            "near miss": (right | {"correct": "blue", "incorrect": "red"}, "what the *clean*"),
            "another noun": (right | {"corrupt_image": "20.png"}, "do not share noun"),
            "shortcut": (right | {"corrupt_image": "IMG_9999.png"}, "two usable pictures"),
        },
        (labels(),),
    )


@answers("own.check_spoiled")
def spoiled_word():
    word, factor, _ = own._secret(labels(), 0)
    (other,) = {"red", "blue"} - {word}
    return Answers(
        (word, factor),
        {
            "wrong type": (word, "a word and a factor"),
            "constant": ((other, 0.7), "as bright as before"),
            "near miss": ((word, factor + 0.05), "the factor is another"),
            "shortcut": ((word, 1.0), "the factor is another"),
        },
        (labels(), 0),
        rounded=(word, round(factor, 2)),
    )


@answers("own.check_drawn")
def drawn():
    pair = worked_pair()
    clean, mask = pair.image("clean"), Image.fromarray(pair.masks("clean")["differs"])
    blue = ImageOps.colorize(clean.convert("L"), "black", "white", (40, 80, 230))
    right = {
        "clean": clean,
        "corrupt": Image.composite(blue, clean, mask),
        "prompt": pair.prompt,
        "correct": pair.correct,
        "incorrect": pair.incorrect,
        "why": "Only the colour of the bell itself differs, and nothing around it was touched.",
    }
    noise = np.random.default_rng(0).integers(0, 255, (*right["clean"].size[::-1], 3))
    other = Image.fromarray(np.uint8(noise))
    exchanged = right | {"clean": right["corrupt"], "corrupt": right["clean"]}
    return Answers(
        right,
        {
            "wrong type": (right | {"clean": noise}, "are pictures"),
            "constant": (right | {"corrupt": other}, "more than one property"),
            "near miss": (exchanged, "does not answer both pictures as intended"),
            "no reason": (right | {"why": "it is exact"}, "say in a sentence"),
            "one picture": (right | {"corrupt": clean}, "are the same"),
            "shortcut": (right | {"corrupt": pair.image("corrupt")}, "as they are"),
        },
        (blip(),),
    )
