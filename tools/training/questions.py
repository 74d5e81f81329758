"""Questions about scenes, as the models are asked them in training.

Besides plain questions (one option is true) there are lures (the other option is in the picture,
in another role), "neither" questions (no option is true: both are equally good answers) and blank
pictures (likewise). Without "neither" questions a model does not read the options at all: it
names what it sees.
"""

from dataclasses import dataclass

import numpy as np

from tools import scenes as renderer

QUESTIONS_PER_IMAGE = 3
NEITHER = 0.2  # part of the questions of which no option is true
STRANGER = 0.4  # part of those that are worded for another scene
LURE = 0.6  # part of the questions on a distractor that offer it as the other option
BLANK = 0.05  # part of the images that are one plain colour


@dataclass(frozen=True)
class Question:
    """`text` offers `answer` and `other`; where not `certain`, each is half right."""

    text: str
    answer: str
    other: str
    certain: bool = True


def slots_asked(scene):
    """The slots of a scene's questions: all three of an svo scene, else the one there is."""
    slots = renderer.SLOTS[scene.family] if scene.family == "svo" else [renderer.slot_of(scene)]
    return [slots[i % len(slots)] for i in range(QUESTIONS_PER_IMAGE)]


def ask(scene, slot, rng, stranger=None):
    """One Question on `slot` of `scene`; `stranger` may lend its wording to a "neither" one."""
    shown = renderer.shown(scene, slot)
    absent = renderer.options(scene, slot)
    if rng.random() < NEITHER:
        answer, other = (absent[i] for i in rng.choice(len(absent), 2, replace=False))
        if stranger is not None and rng.random() < STRANGER:
            scene = stranger
        return Question(_wording(scene, slot, answer, other, rng), answer, other, certain=False)
    answer = renderer.value(scene, slot)
    lures = sorted(shown - {answer})
    offered = lures if lures and rng.random() < LURE else absent
    other = offered[rng.integers(len(offered))]
    return Question(_wording(scene, slot, answer, other, rng), answer, other)


def ask_blank(scene, slot, rng):
    """A Question on a picture that shows nothing, worded for `scene`."""
    words = (renderer.value(scene, slot), *renderer.options(scene, slot))
    answer, other = (str(word) for word in rng.choice(words, 2, replace=False))
    return Question(_wording(scene, slot, answer, other, rng), answer, other, certain=False)


def _wording(scene, slot, answer, other, rng):
    first, second = (answer, other) if rng.random() < 0.5 else (other, answer)
    return renderer.question(scene, slot, first, second)


@dataclass(frozen=True)
class Batch:
    """`pixels` (n, 96, 96, 3) uint8 and QUESTIONS_PER_IMAGE questions on each, image by image."""

    pixels: np.ndarray
    questions: list


def draw_batch(pool, size, rng):
    """A random Batch of `size` images of `pool`."""
    chosen = rng.integers(len(pool), size=size)
    pixels = pool.pixels[chosen]
    last_of_kind, questions = {}, []
    for i, index in enumerate(chosen):
        scene = pool.scenes[index]
        blank = rng.random() < BLANK
        if blank:
            plain = rng.random() < 0.5
            pixels[i] = rng.choice([0, 128, 255]) if plain else rng.integers(256, size=3)
        for slot in slots_asked(scene):
            if blank:
                questions.append(ask_blank(scene, slot, rng))
            else:
                questions.append(ask(scene, slot, rng, last_of_kind.get(slot)))
                last_of_kind[slot] = scene
    return Batch(pixels, questions)
