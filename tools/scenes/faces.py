"""Faces with one of seven expressions: "this person is feeling sad"."""

import math
from dataclasses import dataclass, replace as with_fields
from functools import lru_cache

import numpy as np

from .backgrounds import studio
from .canvas import SIZE, drawn
from .features import EXPRESSIONS, feature_layers

COARSE = 2  # detail of the large shapes, for speed
VALUES = {"emotion": tuple(EXPRESSIONS)}
SKINS = ("#ffe0c7", "#f6cba4", "#e8b184", "#cf9464", "#a86f45", "#7d4f30", "#5f3a24")
HAIRS = ("#231a17", "#4b2f1e", "#7c4a22", "#c08a3e", "#e3bf73", "#a34a22", "#8d8d92", "#33304f")
CLOTHES = ("#3f6fb5", "#c4523f", "#4d9a6a", "#e0a93b", "#7a5aa6", "#4a4f5c", "#2d8f98")
IRISES = ("#4a2f1b", "#2f6aa8", "#3b7d4c", "#5a5f66")
STYLES = ("short", "long", "bob", "bald", "bun", "curly", "side", "scarf")


@dataclass(frozen=True)
class Faces:
    """What the picture shows. Even identities are for training, odd ones held out."""

    expression: str
    identity: int  # seed of skin, hair, shape of the face, eyes, clothes
    tilt: float  # degrees
    x: int  # centre of the face
    y: int
    size: int  # pixels: half the height of the head
    intensity: float  # of the expression, about 1
    background: int  # seed

    family = "faces"
    slot = "emotion"

    @property
    def split(self):
        return "heldout" if self.identity % 2 else "seen"


def sample(rng, split="seen", distractor=False):
    """A random Faces scene."""
    return Faces(
        expression=str(rng.choice(VALUES["emotion"])),
        identity=2 * int(rng.integers(1 << 30)) + (split == "heldout"),
        tilt=round(float(rng.uniform(-8, 8)), 1), x=96 + int(rng.integers(-7, 8)),
        y=98 + int(rng.integers(-5, 6)), size=int(rng.integers(76, 85)),
        intensity=round(float(rng.uniform(0.9, 1.1)), 2), background=int(rng.integers(1 << 31)),
    )  # fmt: skip


def replace(scene, slot, value):
    """The same person with another expression."""
    return with_fields(scene, expression=value)


def swap(scene):
    raise ValueError("faces scenes have no distractors to swap with")


def question(scene, slot, first, second):
    return f"Is this person feeling {first} or {second}?"


def shown(scene, slot):
    return {scene.expression}


def rgb(colour, light=1.0):
    """RGBA tuple of a #rrggbb colour, darkened or lightened."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (*(min(255, round(p * light)) for p in parts), 255)


def blush(skin):
    """The skin's colour on the cheeks."""
    red, green, blue, alpha = rgb(skin)
    return (red, round(green * 0.87), round(blue * 0.87), alpha)


@lru_cache(512)
def looks(identity):
    """The values that make a person, from a seed."""
    rng = np.random.default_rng(identity)
    skin, hair = str(rng.choice(SKINS)), str(rng.choice(HAIRS))
    dark_skin = SKINS.index(skin) >= 5
    brow = rgb(hair, 0.75) if hair not in ("#e3bf73", "#c08a3e", "#8d8d92") else rgb(hair, 0.55)
    return {
        "skin": skin, "hair": hair, "style": str(rng.choice(STYLES)),
        "clothes": str(rng.choice(CLOTHES)), "iris": rgb(str(rng.choice(IRISES))),
        "brow": rgb("#17100d") if dark_skin else brow,
        "line": rgb(skin, 0.38 if dark_skin else 0.5), "lip": rgb(skin, 0.5),
        "width": float(rng.uniform(0.76, 0.86)), "jaw": float(rng.uniform(0.62, 0.82)),
        "eye_x": float(rng.uniform(0.32, 0.36)), "eye": float(rng.uniform(0.18, 0.205)),
        "brow_width": float(rng.uniform(0.07, 0.095)), "nose": float(rng.uniform(0.1, 0.14)),
        "mouth": float(rng.uniform(0.33, 0.38)),
    }  # fmt: skip


class Pose:
    """Maps a face's own coordinates (1 = half the head's height, y down) to the picture."""

    def __init__(self, scene):
        angle = math.radians(scene.tilt)
        self.cos, self.sin = scene.size * math.cos(angle), scene.size * math.sin(angle)
        self.x, self.y, self.size = scene.x, scene.y, scene.size
        self.key = (scene.identity, scene.tilt, scene.x, scene.y, scene.size)

    def __call__(self, points):
        """Picture coordinates of an array (n, 2) of face coordinates."""
        u, v = np.asarray(points, float).T
        return np.stack(
            [self.x + self.cos * u - self.sin * v, self.y + self.sin * u + self.cos * v], 1
        )


def ellipse(x, y, rx, ry, start=0, end=360, n=48):
    """Points (n, 2) on an arc, clockwise from the right."""
    angle = np.radians(np.linspace(start, end, n))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def outline(look):
    """The head: a half ellipse above, a jaw of its own width below."""
    angle = np.radians(np.linspace(0, 360, 90))
    x, y = np.cos(angle), np.sin(angle)
    jaw = 1 - (1 - look["jaw"]) * np.maximum(y, 0) ** 1.5 * 0.55
    return np.stack([x * look["width"] * jaw, y], 1)


def hair_behind(look):
    w = look["width"]
    return {
        "long": [ellipse(0, 0.1, w * 1.28, 1.2), ellipse(0, 0.8, w * 1.22, 0.8)],
        "bob": [ellipse(0, -0.05, w * 1.3, 1.1)],
        "bun": [ellipse(0, -1.1, 0.36, 0.3), ellipse(0, -0.2, w * 1.1, 0.9)],
        "curly": [
            ellipse(w * 1.05 * math.cos(a), -0.25 + 0.85 * math.sin(a), 0.34, 0.34)
            for a in np.radians(np.arange(165, 400, 26))
        ],
        "scarf": [ellipse(0, 0, w * 1.26, 1.2), ellipse(0, 0.9, w * 1.2, 0.6)],
    }.get(look["style"], [])


def hair_before(look):
    """Polygons of hair over the forehead; nothing comes below y = -0.66."""
    w, style = look["width"] * 1.04, look["style"]
    cap = ellipse(0, -0.03, w, 1.03, 217, 323)
    if style == "bald":
        return []
    if style == "scarf":
        return [np.concatenate([ellipse(0, 0, w, 1.05, 180, 360),
                                ellipse(0, 0.0, w * 0.93, 0.76, 0, -180)])]  # fmt: skip
    if style == "side":
        return [np.concatenate([cap, [(w * 0.78, -0.64), (w * 0.2, -0.76), (-w * 0.4, -0.88)]])]
    if style == "curly":
        return [ellipse(w * 0.72 * c, -0.86 + 0.16 * abs(c), 0.22, 0.2) for c in
                (-1, -0.6, -0.2, 0.2, 0.6, 1)] + [cap]  # fmt: skip
    dip = {"short": -0.76, "long": -0.8, "bob": -0.72, "bun": -0.82}[style]
    return [np.concatenate([cap, ellipse(0, dip + 0.06, w * 0.7, 0.08, 0, -180)])]


def person_layers(pose, look):
    """Two layers: shoulders and hair behind, then the head with its hair and nose."""
    skin, shade, hair = rgb(look["skin"]), rgb(look["skin"], 0.86), rgb(look["hair"])
    cloth = rgb(look["clothes"])
    if look["style"] == "scarf":
        hair = cloth

    def fill(draw, point, points, colour):
        draw.polygon([point(*p) for p in pose(points)], colour)

    def behind(draw, point):
        fill(draw, point, ellipse(0, 2.05, 1.45, 1.0), rgb(look["clothes"], 0.8))
        for shape in hair_behind(look):
            fill(draw, point, shape, rgb(look["hair"], 0.82) if hair != cloth else cloth)
        fill(draw, point, [(-0.3, 0.6), (0.3, 0.6), (0.36, 1.3), (-0.36, 1.3)], shade)

    def head(draw, point):
        w = look["width"]
        if look["style"] != "scarf":
            for side in (-1, 1):
                fill(draw, point, ellipse(side * w, 0.0, 0.13, 0.2), shade)
        fill(draw, point, outline(look), skin)
        for side in (-1, 1):
            fill(draw, point, ellipse(side * w * 0.62, 0.27, 0.15, 0.1), blush(look["skin"]))
        for shape in hair_before(look):
            fill(draw, point, shape, hair)
        nose = look["nose"]
        tip = ellipse(0, 0.17, nose, nose * 0.75, 0, 180)
        draw.line([point(*p) for p in pose(tip)], look["line"], 3 * COARSE, joint="curve")

    box = (0, 0, SIZE, SIZE)
    return [
        drawn(("behind", *pose.key), box, behind, detail=COARSE),
        drawn(("head", *pose.key), box, head, "subject", COARSE),
    ]


@lru_cache(256)
def people(identity, tilt, x, y, size):
    scene = Faces("neutral", identity, tilt, x, y, size, 1.0, 0)
    return person_layers(Pose(scene), looks(identity))


def picture(scene):
    """(background image, layers) of the scene."""
    pose, look = Pose(scene), looks(scene.identity)
    layers = people(*pose.key) + feature_layers(scene.expression, scene.intensity, pose, look)
    return studio(scene.background), layers
