"""Scenes of a thing in a state: "this bottle is broken"."""

from dataclasses import dataclass, replace as with_fields

from .backgrounds import studio
from .canvas import Layer, drawn, without_haze
from .materials import stated

NOUNS = (
    "bottle", "bell", "chair", "bucket", "lock", "kettle", "clock", "vase", "crown", "barrel",
    "mailbox", "trophy",
)  # fmt: skip
VALUES = {
    "colour": ("red", "yellow", "green", "blue", "purple"),
    "shape": ("broken", "bent", "squashed", "stretched"),
    "texture": ("rusty", "striped", "dotted", "checked"),
}
SLOT = {word: slot for slot, words in VALUES.items() for word in words}
GROUPS = (VALUES["colour"], VALUES["shape"] + VALUES["texture"])  # options of one question
# For each noun two colours and two other states that no training scene shows: every state is
# held out of three nouns or more, and seen with seven or more.
HELDOUT = {
    "bottle": ("red", "blue", "broken", "rusty"),
    "bell": ("yellow", "green", "bent", "striped"),
    "chair": ("green", "purple", "squashed", "dotted"),
    "bucket": ("blue", "yellow", "stretched", "checked"),
    "lock": ("purple", "red", "broken", "dotted"),
    "kettle": ("red", "green", "bent", "checked"),
    "clock": ("yellow", "purple", "squashed", "broken"),
    "vase": ("green", "blue", "stretched", "bent"),
    "crown": ("blue", "purple", "squashed", "stretched"),
    "barrel": ("red", "yellow", "rusty", "striped"),
    "mailbox": ("green", "purple", "dotted", "checked"),
    "trophy": ("blue", "red", "rusty", "striped"),
}
BOX = 144  # pixels: the longest side of a noun's sprite in art/


@dataclass(frozen=True)
class States:
    """What the picture shows. `other` is a second thing in `other_state`, or ""."""

    noun: str
    state: str
    flip: bool
    x: int  # centre
    ground: int  # y of the table under it
    size: int  # pixels: the longest side
    seed: int  # of the details of the state, as the place of rust
    background: int  # seed
    other: str = ""
    other_state: str = ""
    other_x: int = 0

    family = "states"

    @property
    def split(self):
        return "heldout" if is_heldout(self.noun, self.state) else "seen"

    @property
    def slot(self):
        return SLOT[self.state]


def is_heldout(noun, state):
    """Whether no training scene shows this composition: HELDOUT, 48 of the 156 of NOUNS."""
    return state in HELDOUT.get(noun, ())


def options(state):
    """The states that a question may set against this one."""
    return tuple(w for group in GROUPS if state in group for w in group if w != state)


def sample(rng, split="seen", distractor=False, nouns=NOUNS):
    """A random States scene; with `distractor`, a second thing is in another state.

    Any thing with a sprite can be one of `nouns`; what is held out is so of NOUNS only.
    """
    wanted = split == "heldout"
    while True:
        noun, state = str(rng.choice(nouns)), str(rng.choice(tuple(SLOT)))
        if is_heldout(noun, state) == wanted:
            break
    common = {
        "noun": noun, "state": state, "flip": bool(rng.integers(2)),
        "seed": int(rng.integers(1 << 31)), "background": int(rng.integers(1 << 31)),
        "ground": int(rng.integers(158, 173)),
    }  # fmt: skip
    if not distractor:
        x, size = 96 + int(rng.integers(-18, 19)), int(rng.integers(104, 125))
        return States(**common, x=x, size=size)
    side, dx = int(rng.choice((-1, 1))), int(rng.integers(44, 49))
    while True:
        other = str(rng.choice([n for n in nouns if n != noun]))
        other_state = str(rng.choice([s for s in VALUES[SLOT[state]] if s != state]))
        if wanted or not is_heldout(other, other_state):
            break
    return States(
        **common, x=96 + side * dx, size=int(rng.integers(74, 83)), other=other,
        other_state=other_state, other_x=96 - side * dx,
    )  # fmt: skip


def replace(scene, slot, value):
    """The scene with its thing in another state and nothing else changed."""
    return with_fields(scene, state=value)


def swap(scene):
    """The scene with the states of the two things exchanged."""
    return with_fields(scene, state=scene.other_state, other_state=scene.state)


def question(scene, slot, first, second):
    return f"Is this {scene.noun} {first} or {second}?"


def shown(scene, slot):
    """States of the slot that are in the picture, of whatever thing."""
    states = {scene.state, scene.other_state} - {""}
    return {state for state in states if SLOT[state] == slot}


def thing(scene, role, noun, state, x):
    key = (role, noun, state, scene.flip, scene.size, scene.seed, x, scene.ground)
    image = stated(noun, state, scene.size / BOX, scene.seed, scene.flip)
    image = without_haze(image)
    corner = (round(x - image.width / 2), scene.ground - image.height)
    return Layer(key, image, corner, role)


def shadow(scene, x):
    half = scene.size * 0.42
    box = (x - half - 2, scene.ground - 8, x + half + 3, scene.ground + 8)

    def paint(draw, point):
        draw.ellipse(
            (*point(x - half, scene.ground - 6), *point(x + half, scene.ground + 5)),
            (0, 0, 0, 50),
        )

    return drawn(("shadow", x, scene.ground, half), box, paint)


def picture(scene):
    """(background image, layers) of the scene."""
    layers = []
    if scene.other:
        layers += [
            shadow(scene, scene.other_x),
            thing(scene, "distractor", scene.other, scene.other_state, scene.other_x),
        ]
    layers += [
        shadow(scene, scene.x), thing(scene, "object", scene.noun, scene.state, scene.x)
    ]  # fmt: skip
    return studio(scene.background), layers
