"""Questions about scenes, as the models are asked them in training.

The evaluated questions offer two options ("choice"). The other kinds are for training only: with
them, an answer cannot be found by matching one option's word with the picture. Of the choices, some
are lures (the other option is in the picture, in another role) and some have no true option (both
are then equally good answers); blank pictures have none either. Without those a model does not read
the options at all: it names what it sees.
"""

from dataclasses import dataclass

from tools import scenes as renderer
from tools.scenes.states import is_heldout

QUESTIONS_PER_IMAGE = 3
NEITHER = 0.2  # part of the choices of which no option is true
STRANGER = 0.4  # part of those that are worded for another scene
LURE = 0.8  # part of the choices on a distractor that offer it as the other option
OPEN = {
    "subject": "What is {verb} the {object}?",
    "verb": "What is the {subject} doing to the {object}?",
    "object": "What is the {subject} {verb}?",
    "emotion": "What is this person feeling?",
}
OPEN_STATE = "What is this {noun} like?"
CAPTION = "What is in this picture?"


@dataclass(frozen=True)
class Question:
    """`text` asks for `answer`. If `other` is not "", it is an equally good answer.

    A caption has several words, every other answer has one.
    """

    text: str
    answer: str
    kind: str
    other: str = ""


def slots_asked(scene):
    """The slots of QUESTIONS_PER_IMAGE questions: all three of an svo scene, else the one."""
    slots = renderer.SLOTS["svo"] if scene.family == "svo" else (renderer.slot_of(scene),)
    return slots * (QUESTIONS_PER_IMAGE // len(slots))


def askable(scene, slot, words):
    """Those of `words` that would not make a held-out composition of the scene.

    Were they offered, they would always be false: a model soon learns which noun is never red.
    """
    return [w for w in sorted(words) if renderer.replace(scene, slot, w).split == "seen"]


def ask(scene, slot, kind, rng, stranger=None):
    """One Question of a kind in KINDS on `slot` of `scene`, or a choice where that kind cannot be.

    `stranger`, a scene, may lend its wording to a choice between two false options.
    """
    asked = KINDS[kind](scene, slot, rng) if kind != "choice" else None
    return asked or choice(scene, slot, rng, stranger)


def choice(scene, slot, rng, stranger=None):
    """A question with two options."""
    if rng.random() < NEITHER:
        worded = stranger if stranger is not None and rng.random() < STRANGER else scene
        absent = askable(worded, slot, renderer.options(scene, slot))
        if len(absent) > 1:
            return _undecided(worded, slot, absent, rng)
    answer = renderer.value(scene, slot)
    lures = askable(scene, slot, renderer.shown(scene, slot) - {answer})
    lured = bool(lures) and rng.random() < LURE
    offered = lures if lured else askable(scene, slot, renderer.options(scene, slot))
    words = _shuffled([answer, offered[rng.integers(len(offered))]], rng)
    kind = f"{scene.family} lure" if lured else scene.family
    return Question(renderer.question(scene, slot, *words), answer, kind)


def blank(scene, slot, rng):
    """A choice on a picture that shows nothing, worded for `scene`."""
    others = askable(scene, slot, renderer.options(scene, slot))
    return _undecided(scene, slot, [renderer.value(scene, slot), *others], rng)


def three(scene, slot, rng):
    """A question with three options."""
    answer = renderer.value(scene, slot)
    shown = renderer.shown(scene, slot) - {answer}
    offered = askable(scene, slot, {*renderer.options(scene, slot), *shown})
    if len(offered) < 2:
        return None
    words = _shuffled([answer, *rng.choice(offered, 2, replace=False)], rng)
    comma = ", the " if slot in ("subject", "object") else ", "
    text = renderer.question(scene, slot, comma.join(words[:2]), words[2])
    return Question(text, answer, "three")


def beside(scene, slot, rng):
    """A choice about a thing that is named by what stands beside it and its state."""
    if scene.family != "states" or not scene.other:
        return None
    plain = choice(scene, slot, rng)
    thing = f"this {scene.noun}"
    described = f"the {scene.noun} beside the {scene.other_state} {scene.other}"
    return Question(plain.text.replace(thing, described), plain.answer, "beside", plain.other)


def which(scene, slot, rng):
    """Which of two things in the picture is in a state, or takes part in the action."""
    if scene.family == "states" and scene.other and not is_heldout(scene.other, scene.state):
        first, second = _shuffled([scene.noun, scene.other], rng)
        return Question(
            f"Which is {scene.state}, the {first} or the {second}?", scene.noun, "which"
        )
    if scene.family == "svo" and slot == "subject":
        lures = askable(scene, slot, renderer.shown(scene, slot) - {scene.subject})
        if lures:
            first, second = _shuffled([scene.subject, lures[0]], rng)
            text = f"Which is {scene.verb} the {scene.object}, the {first} or the {second}?"
            return Question(text, scene.subject, "which")
    return None


def open_question(scene, slot, rng):
    """A question without options."""
    wording = OPEN_STATE if scene.family == "states" else OPEN[slot]
    return Question(wording.format(**vars(scene)), renderer.value(scene, slot), "open")


def caption(scene, slot, rng):
    """What the whole picture shows; two things are named from left to right."""
    return Question(CAPTION, described(scene), "caption")


def described(scene):
    """A caption of a scene, of words that are options of questions, and "and" and "person"."""
    if scene.family == "faces":
        return f"{scene.expression} person"
    if scene.family == "svo":
        action = f"{scene.subject} {scene.verb} {scene.object}"
        return f"{action} and {scene.idle}" if scene.idle else action
    things = [(scene.x, f"{scene.state} {scene.noun}")]
    if scene.other:
        things.append((scene.other_x, f"{scene.other_state} {scene.other}"))
    return " and ".join(thing for _, thing in sorted(things))


KINDS = {
    "choice": choice,
    "three": three,
    "beside": beside,
    "which": which,
    "open": open_question,
    "caption": caption,
}


def _undecided(scene, slot, words, rng):
    answer, other = (str(word) for word in rng.choice(words, 2, replace=False))
    options = _shuffled([answer, other], rng)
    return Question(renderer.question(scene, slot, *options), answer, "neither", other)


def _shuffled(words, rng):
    return [str(word) for word in rng.permutation(words)]
