"""Questions about scenes, as the models are asked them in training.

Besides plain questions (one option is true) there are lures (the other option is in the picture,
in another role), "neither" questions (no option is true: both are equally good answers) and blank
pictures (likewise). Without "neither" questions a model does not read the options at all: it
names what it sees.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tools import scenes as renderer

QUESTIONS_PER_IMAGE = 3
NEITHER = 0.2  # part of the questions of which no option is true
STRANGER = 0.4  # part of those that are worded for another scene
LURE = 0.8  # part of the questions on a distractor that offer it as the other option
BLANK = 0.05  # part of the images that are one plain colour
# Parts of a batch, by family and whether there is a distractor. Which of two things is in which
# state is the hardest to learn, so those scenes come more often than in the pool.
MIX = {
    ("svo", False): 0.22,
    ("svo", True): 0.13,
    ("states", False): 0.2,
    ("states", True): 0.33,
    ("faces", False): 0.12,
}


@dataclass(frozen=True)
class Question:
    """`text` offers `answer` and `other`. In the kind "neither", each of them is half right."""

    text: str
    answer: str
    other: str
    kind: str


def slots_asked(scene):
    """The slots of QUESTIONS_PER_IMAGE questions: all three of an svo scene, else the one."""
    slots = renderer.SLOTS["svo"] if scene.family == "svo" else (renderer.slot_of(scene),)
    return slots * (QUESTIONS_PER_IMAGE // len(slots))


def askable(scene, slot, words):
    """Those of `words` that would not make a held-out composition of the scene.

    Were they offered, they would always be false: a model soon learns which noun is never red.
    """
    return [w for w in sorted(words) if renderer.replace(scene, slot, w).split == "seen"]


def ask(scene, slot, rng, stranger=None):
    """One Question on `slot` of `scene`; `stranger` may lend its wording to a "neither" one."""
    if rng.random() < NEITHER:
        worded = stranger if stranger is not None and rng.random() < STRANGER else scene
        absent = askable(worded, slot, renderer.options(scene, slot))
        if len(absent) > 1:
            return _undecided(worded, slot, absent, rng)
    answer = renderer.value(scene, slot)
    lures = askable(scene, slot, renderer.shown(scene, slot) - {answer})
    lured = bool(lures) and rng.random() < LURE
    offered = lures if lured else askable(scene, slot, renderer.options(scene, slot))
    other = offered[rng.integers(len(offered))]
    kind = f"{scene.family}+lure" if lured else scene.family
    return Question(_wording(scene, slot, answer, other, rng), answer, other, kind)


def ask_blank(scene, slot, rng):
    """A Question on a picture that shows nothing, worded for `scene`."""
    others = askable(scene, slot, renderer.options(scene, slot))
    return _undecided(scene, slot, [renderer.value(scene, slot), *others], rng)


def _undecided(scene, slot, words, rng):
    answer, other = (str(word) for word in rng.choice(words, 2, replace=False))
    return Question(_wording(scene, slot, answer, other, rng), answer, other, "neither")


def _wording(scene, slot, answer, other, rng):
    first, second = (answer, other) if rng.random() < 0.5 else (other, answer)
    return renderer.question(scene, slot, first, second)


@dataclass(frozen=True)
class Batch:
    """`pixels` (n, 96, 96, 3) uint8 and QUESTIONS_PER_IMAGE questions on each, image by image."""

    pixels: np.ndarray
    questions: list


def mixture(pool):
    """Probability of each scene of `pool`, so that batches have the proportions of MIX."""
    kinds = [(s.family, len(renderer.shown(s, renderer.slot_of(s))) > 1) for s in pool.scenes]
    counts = Counter(kinds)
    weights = np.array([MIX[kind] / counts[kind] for kind in kinds])
    return weights / weights.sum()


def draw_batch(pool, size, rng, probabilities):
    """A random Batch of `size` images of `pool`."""
    chosen = rng.choice(len(pool), size=size, p=probabilities)
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
