"""Rendered scenes with exact counterfactuals and masks, for the embedded pairs.

A scene is a frozen record of plain values. `sample` draws one, `replace` and `swap` give its
counterfactuals, `render` its picture (a pure function of the record) and `differs` the mask
of what two renders do not share.
"""

import numpy as np

from . import faces, states, svo
from .canvas import SIZE, composite, union

MODULES = {"svo": svo, "states": states, "faces": faces}
FAMILIES = tuple(MODULES)
DISTRACTOR_FAMILIES = ("svo", "states")
SLOTS = {family: tuple(module.VALUES) for family, module in MODULES.items()}
VALUES = {slot: words for module in MODULES.values() for slot, words in module.VALUES.items()}
NOUNS = states.NOUNS
ROLES = ("subject", "object", "distractor")

__all__ = [
    "DISTRACTOR_FAMILIES", "FAMILIES", "NOUNS", "ROLES", "SIZE", "SLOTS", "VALUES", "differs",
    "options", "question", "render", "replace", "sample", "shown", "slot_of", "swap", "value",
]  # fmt: skip


def sample(family, rng, split="seen", distractor=False, **given):
    """A random scene. `split` "heldout" shows compositions (faces: identities) never "seen".

    `given` are further arguments of the family's `sample`.
    """
    if distractor and family not in DISTRACTOR_FAMILIES:
        raise ValueError(f"{family} scenes have no distractors: use {DISTRACTOR_FAMILIES}")
    return MODULES[family].sample(rng, split, distractor, **given)


def slot_of(scene):
    """The slot whose word a counterfactual of this scene changes."""
    return scene.slot


def value(scene, slot=None):
    """The word in the scene's slot."""
    slot = slot or scene.slot
    if scene.family == "states":
        return scene.state
    return scene.expression if scene.family == "faces" else getattr(scene, slot)


def options(scene, slot=None):
    """Words that a question may set against the true one: false of the scene, same group."""
    slot = slot or scene.slot
    if scene.family == "states":
        words = states.options(scene.state)
    else:
        words = [w for w in VALUES[slot] if w != value(scene, slot)]
    return tuple(w for w in words if w not in shown(scene, states.SLOT.get(w, slot)))


def replace(scene, slot, word):
    """The scene with another word in a slot and nothing else changed."""
    return MODULES[scene.family].replace(scene, slot, word)


def swap(scene):
    """A distractor scene with the roles (states: the states) of its two things exchanged."""
    return MODULES[scene.family].swap(scene)


def question(scene, slot, first, second):
    """English question with two options, of which one is true of the scene."""
    return MODULES[scene.family].question(scene, slot, first, second)


def shown(scene, slot):
    """Set of the slot's words that are true of something in the picture."""
    return MODULES[scene.family].shown(scene, slot)


def render(scene):
    """uint8 array (SIZE, SIZE, 3) and {role: bool array (SIZE, SIZE)} for the scene's ROLES."""
    background, layers = MODULES[scene.family].picture(scene)
    masks = {
        role: union([layer for layer in layers if layer.role == role])
        for role in ROLES
        if any(layer.role == role for layer in layers)
    }
    return composite(background, layers), masks


def differs(scene, other):
    """bool array (SIZE, SIZE): footprints, in both pictures, of the layers that they do not share.

    Says nothing of the background: for scenes with the same one.
    """
    pictures = [MODULES[s.family].picture(s)[1] for s in (scene, other)]
    keys = [{layer.key for layer in layers} for layers in pictures]
    changed = keys[0] ^ keys[1]
    mask = np.zeros((SIZE, SIZE), bool)
    for layers in pictures:
        mask |= union([layer for layer in layers if layer.key in changed])
    return mask
