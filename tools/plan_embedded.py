"""Which scenes data/embedded holds: drawn with a seed, balanced, without rendering them."""

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np

from tools import scenes
from tools.scenes.states import is_heldout

SEED = 20
NEAR_SYNONYMS = {"bent": ["squashed"], "squashed": ["bent"]}  # a flat thing is bent too
# Scenes of each kind and split: {kind: (plain, with a distractor)}. A kind is a slot, or "mixed":
# a shape against a texture, which counts for one slot in each direction.
CELLS = {
    "svo": {"subject": (15, 9), "verb": (24, 0), "object": (15, 9)},
    "states": {"colour": (18, 6), "shape": (6, 6), "texture": (6, 6), "mixed": (24, 0)},
    "faces": {"emotion": (72, 0)},
}
NATURAL_CELLS = {
    "svo": {"subject": (7, 0), "verb": (6, 0), "object": (7, 0)},
    "states": {"colour": (7, 0), "shape": (3, 0), "texture": (3, 0), "mixed": (7, 0)},
    "faces": {"emotion": (20, 0)},
}
SETS = ("svo", "states", "faces", "natural")
TRIES = 8  # candidates for each scene, of which the one with the rarest words is taken


@dataclass(frozen=True)
class Pair:
    """Two scenes that answer a question differently."""

    scene_id: str
    kind: str
    split: str
    distractor: bool
    a: object
    b: object

    @property
    def family(self):
        return self.a.family


def words(scene, other):
    """The true words of two scenes in the slot in which they differ."""
    return scenes.value(scene), scenes.value(other)


def kind_of(scene, other):
    """The slot in which two scenes differ, or "mixed"."""
    slots = {scene.slot, other.slot}
    return slots.pop() if len(slots) == 1 else "mixed"


def draw(family, kind, split, distractor, rng):
    """A random scene of one cell and its counterfactual."""
    while True:
        scene = scenes.sample(family, rng, split=split, distractor=distractor)
        if distractor:
            other = scenes.swap(scene)
        else:
            other = scenes.replace(scene, scene.slot, str(rng.choice(scenes.options(scene))))
        first, second = words(scene, other)
        leak = (
            family == "states"
            and distractor
            and split == "seen"
            and is_heldout(other.other, other.other_state)
        )
        if (
            kind_of(scene, other) == kind
            and other.split == split
            and second not in NEAR_SYNONYMS.get(first, ())
            and not leak
        ):
            return scene, other


def natural(scene, other, rng):
    """Another picture of what `other` shows: new background, place, pose and person."""
    while True:
        fresh = scenes.sample(other.family, rng, split=other.split)
        if other.family == "svo":
            if (fresh.asked, fresh.verb) != (other.asked, other.verb):
                continue
            for slot in scenes.SLOTS["svo"]:
                fresh = scenes.replace(fresh, slot, getattr(other, slot))
            return fresh
        if other.family == "faces":
            return scenes.replace(fresh, "emotion", other.expression)
        if (fresh.noun, fresh.state) == (other.noun, other.state):
            return fresh


@cache
def plan(name):
    """A tuple of the Pairs of a set, not rendered; depends on SEED and the set's name only."""
    families = scenes.FAMILIES if name == "natural" else (name,)
    rng = np.random.default_rng([SEED, SETS.index(name)])
    seen: Counter = Counter()
    return tuple(
        pair
        for family in families
        for pair in draw_cells(
            family,
            (NATURAL_CELLS if name == "natural" else CELLS)[family],
            ("seen", "heldout"),
            rng,
            seen,
            exact=name != "natural",
        )
    )


def draw_cells(family, cells, splits, rng, seen, exact=True):
    """Yields a family's Pairs: of each split and kind as many, plain and with a distractor, as
    `cells` has. `seen` counts what was drawn, so that rare words come first."""
    number = 0
    for split in splits:
        for kind, counts in cells.items():
            for distractor, count in zip((False, True), counts, strict=True):
                for _ in range(count):
                    drawn = [draw(family, kind, split, distractor, rng) for _ in range(TRIES)]
                    scene, other = min(drawn, key=lambda d: rarity(d, seen))
                    seen.update(marks(scene, other))
                    if not exact:
                        other = natural(scene, other, rng)
                    scene_id = f"{'' if exact else 'natural-'}{family}-{number:03d}"
                    yield Pair(scene_id, kind, split, distractor, scene, other)
                    number += 1


def marks(scene, other):
    """What should be about equally frequent in a set: words, pairs of words, compositions."""
    found = [*words(scene, other), frozenset(words(scene, other))]
    if scene.family == "svo":
        found += [scene.subject, scene.verb, scene.object]
    if scene.family == "states":
        found += [(scene.noun, scene.state), scene.noun]
    return found


def rarity(candidate, seen):
    return sum(seen[mark] for mark in marks(*candidate))
