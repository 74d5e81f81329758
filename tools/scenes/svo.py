"""Scenes of an animal that does something with an object: "the dog is pulling the car"."""

from dataclasses import dataclass, replace as with_fields
from zlib import crc32

from .backgrounds import scenery
from .canvas import DETAIL, Layer, drawn, sprite, transformed

SUBJECTS = (
    "dog", "goat", "horse", "rabbit", "pig", "cow", "elephant", "rooster", "turtle", "sheep",
    "tiger", "duck",
)  # fmt: skip
VERBS = ("pulling", "pushing", "chasing", "riding", "carrying")
OBJECTS = (
    "car", "boat", "box", "ball", "bicycle", "sled", "suitcase", "drum", "pumpkin", "cart",
    "wheel", "tractor",
)  # fmt: skip
VALUES = {"subject": SUBJECTS, "verb": VERBS, "object": OBJECTS}
UNIT = 112  # pixels of one unit in the sprites of art/
BACK, TOP = 0.8, 0.84  # heights of a back and of an object's top, in units (make_art)


@dataclass(frozen=True)
class Svo:
    """What the picture shows. `idle` is an animal or an object that takes no part, or ""."""

    subject: str
    verb: str
    object: str
    asked: str  # the slot that a counterfactual of this scene changes
    flip: bool  # the action goes to the right
    unit: int  # pixels: the height of a sprite
    x: int  # centre of the action
    ground: int  # y of the ground under it
    background: int  # seed
    idle: str = ""
    idle_flip: bool = False
    idle_x: int = 0
    idle_ground: int = 0

    family = "svo"

    @property
    def split(self):
        held = is_heldout(self.subject, self.verb, self.object)
        return "heldout" if held else "seen"

    @property
    def slot(self):
        return self.asked


def is_heldout(subject, verb, obj):
    """Whether no training scene shows this triple (about one in ten)."""
    return crc32(f"{subject} {verb} {obj}".encode()) % 10 == 0


def sample(rng, split="seen", distractor=False):
    """A random Svo scene; with `distractor`, a third sprite stands apart from the action."""
    slots = ("subject", "object") if distractor else ("subject", "verb", "object")
    asked = str(rng.choice(slots))
    while True:
        words = {slot: str(rng.choice(words)) for slot, words in VALUES.items()}
        if is_heldout(**{"obj" if k == "object" else k: v for k, v in words.items()}) == (
            split == "heldout"
        ):
            break
    stacked = asked != "verb" and words["verb"] in ("riding", "carrying")
    x = 96 + int(rng.integers(-30, 31) if stacked else rng.integers(-4, 5))
    idle = {}
    if distractor:
        others = [word for word in VALUES[asked] if word != words[asked]]
        idle_x = int(rng.integers(30, 163))
        if stacked:
            side = int(rng.choice((-1, 1)))
            x, idle_x = 96 - 42 * side, 96 + int(rng.integers(48, 57)) * side
        idle = {
            "idle": str(rng.choice(others)),
            "idle_flip": bool(rng.integers(2)),
            "idle_x": idle_x,
            "idle_ground": int(rng.integers(76, 85)),
        }
    return Svo(
        **words, asked=asked, flip=bool(rng.integers(2)), unit=int(rng.integers(58, 64)), x=x,
        ground=int(rng.integers(166, 179)), background=int(rng.integers(1 << 31)), **idle,
    )  # fmt: skip


def replace(scene, slot, value):
    """The scene with another word in one slot and nothing else changed."""
    return with_fields(scene, **{slot: value})


def swap(scene):
    """The scene with the roles of the idle sprite and of the asked one exchanged."""
    return with_fields(scene, **{scene.asked: scene.idle, "idle": getattr(scene, scene.asked)})


def question(scene, slot, first, second):
    s, v, o = scene.subject, scene.verb, scene.object
    return {
        "subject": f"Is the {first} or the {second} {v} the {o}?",
        "verb": f"Is the {s} {first} or {second} the {o}?",
        "object": f"Is the {s} {v} the {first} or the {second}?",
    }[slot]


def shown(scene, slot):
    """Words of the slot that are in the picture, in whatever role."""
    words = {getattr(scene, slot)}
    if scene.idle in VALUES[slot]:
        words.add(scene.idle)
    return words


class Stage:
    """Places sprites and marks of one scene. Coordinates are in units, facing left."""

    def __init__(self, scene):
        self.scene = scene
        self.side = -1 if scene.flip else 1

    def at(self, x, y):
        """Pixel position of a point x units behind the centre and y above the ground."""
        scene = self.scene
        return scene.x + self.side * x * scene.unit, scene.ground - y * scene.unit

    def sprite(self, role, name, x, y, anchor=0.0, angle=0, scale=1.0):
        """A sprite whose bottom is at y; `anchor` -1, 0, 1 puts its front, middle, back at x."""
        scene = self.scene
        factor = scale * scene.unit / UNIT
        image = transformed(name, factor, scene.flip, angle * self.side)
        half = sprite(name).width * factor / 2
        px, py = self.at(x, y)
        px -= self.side * anchor * half
        corner = (round(px - image.width / 2), round(py - image.height))
        key = (role, name, factor, scene.flip, angle, x, y, anchor, scene.x, scene.ground)
        return Layer(key, image, corner, role)

    def marks(self, name, strokes, colour, width):
        """Polylines in units; a stroke of one point is a dot of that width."""
        scene = self.scene
        lines = [[self.at(*point) for point in stroke] for stroke in strokes]
        xs, ys = zip(*(p for line in lines for p in line), strict=True)
        box = (min(xs) - 9, min(ys) - 9, max(xs) + 10, max(ys) + 10)

        def paint(draw, point):
            radius = width * DETAIL / 2
            for line in lines:
                dots = [point(*p) for p in line]
                if len(dots) > 1:
                    draw.line(dots, colour, round(width * DETAIL), joint="curve")
                for x, y in (dots[0], dots[-1]):
                    draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)

        key = (name, scene.flip, scene.unit, scene.x, scene.ground)
        return drawn(key, box, paint)

    def shadow(self, x, y=0.0, width=0.5):
        scene = self.scene
        px, py = self.at(x, y)
        half = width * scene.unit
        box = (px - half - 2, py - 6, px + half + 3, py + 7)

        def paint(draw, point):
            draw.ellipse((*point(px - half, py - 4), *point(px + half, py + 4)), (0, 0, 0, 56))

        return drawn(("shadow", px, py, half), box, paint)


ROPE, STROKE, SWEAT = (122, 78, 38, 255), (255, 255, 255, 255), (66, 150, 230, 255)


def pulling(stage, subject, obj):
    """The animal walks ahead, a taut rope leads to the object behind it."""
    rope = [[(-0.75, 0.42), (0.8, 0.3)]]
    return [
        stage.shadow(-0.75), stage.shadow(0.75),
        stage.marks("rope", rope, ROPE, 3.4),
        stage.sprite("object", obj, 0.22, 0, -1),
        stage.sprite("subject", subject, -0.22, 0, 1, angle=6),
        stage.marks("knot", [[(0.24, 0.345)]], ROPE, 7),
    ]  # fmt: skip


def pushing(stage, subject, obj):
    """The animal leans against the object from behind and sweats."""
    drops = [[(0.55, 1.25), (0.52, 1.32)], [(0.8, 1.3), (0.8, 1.38)], [(1.03, 1.22), (1.07, 1.28)]]
    skid = [[(-0.95, -0.06), (-0.35, -0.06)], [(-0.8, -0.16), (-0.45, -0.16)]]
    return [
        stage.shadow(-0.5), stage.shadow(0.55),
        stage.marks("skid", skid, STROKE, 2.4),
        stage.sprite("object", obj, 0.04, 0, 1),
        stage.sprite("subject", subject, -0.03, 0, -1, angle=10),
        stage.marks("sweat", drops, SWEAT, 4.5),
    ]  # fmt: skip


def chasing(stage, subject, obj):
    """The object flees, the animal leaps after it; both leave lines of speed."""
    flee = [[(-0.2, h), (0.1, h)] for h in (0.28, 0.5, 0.72)]
    run = [[(1.32, h), (1.6, h)] for h in (0.3, 0.52, 0.74)]
    return [
        stage.shadow(-0.78), stage.shadow(0.82),
        stage.marks("flee", flee, STROKE, 3),
        stage.marks("run", run, STROKE, 3),
        stage.sprite("object", obj, -0.22, 0.1, 1, angle=-8),
        stage.sprite("subject", subject, 0.2, 0.14, -1, angle=-10),
    ]  # fmt: skip


def riding(stage, subject, obj):
    """The animal stands on the object, which rolls along."""
    run = [[(0.72, h), (1.1, h)] for h in (0.18, 0.4, 0.62)]
    return [
        stage.shadow(0, width=0.62),
        stage.marks("ride", run, STROKE, 3),
        stage.sprite("object", obj, 0, 0),
        stage.sprite("subject", subject, 0, TOP - 0.12),
    ]


def carrying(stage, subject, obj):
    """The object lies on the animal's back."""
    return [
        stage.shadow(0, width=0.55),
        stage.sprite("object", obj, 0.12, BACK - 0.08, scale=0.9),
        stage.sprite("subject", subject, 0, 0),
    ]


LAYOUTS = {f.__name__: f for f in (pulling, pushing, chasing, riding, carrying)}


def idle_layers(scene):
    apart = Stage(
        with_fields(
            scene, flip=scene.idle_flip, unit=round(scene.unit * 0.78), x=scene.idle_x,
            ground=scene.idle_ground,
        )
    )  # fmt: skip
    return [apart.shadow(0, width=0.5), apart.sprite("distractor", scene.idle, 0, 0)]


def picture(scene):
    """(background image, layers) of the scene."""
    layers = idle_layers(scene) if scene.idle else []
    layers += LAYOUTS[scene.verb](Stage(scene), scene.subject, scene.object)
    return scenery(scene.background), layers
