"""The parts of a face that make its expression: brows, eyes, mouth, creases."""

from dataclasses import asdict, dataclass

import numpy as np

from .canvas import DETAIL, drawn

WHITE, INSIDE, TEETH = (255, 255, 255, 255), (84, 22, 28, 255), (252, 250, 244, 255)
TONGUE, WATER = (232, 98, 112, 255), (92, 176, 240, 255)


@dataclass(frozen=True)
class Expression:
    """Heights are in half heads, up positive for brows and lids; slopes are outer minus inner."""

    brow_inner: float  # above the middle of the eye
    brow_outer: float
    brow_arch: float
    lid_up: float  # of the upper lid above the middle of the eye
    lid_low: float  # of the lower lid below it
    lid_slope: float  # above 0: the inner end of the upper lid is pulled down
    iris: float  # radius, in eye widths
    mouth: str
    creases: str = ""


EXPRESSIONS = {
    "angry": Expression(0.17, 0.47, 0.0, 0.13, 0.08, 0.75, 0.5, "bared", "furrow"),
    "disgusted": Expression(0.19, 0.3, 0.03, 0.05, 0.045, 0.2, 0.5, "tongue", "wrinkles"),
    "fearful": Expression(0.5, 0.3, 0.0, 0.23, 0.16, -0.1, 0.3, "trembling", "sweat"),
    "happy": Expression(0.36, 0.33, 0.09, 0.13, 0.03, 0.0, 0.55, "grin", "cheeks"),
    "neutral": Expression(0.28, 0.27, 0.04, 0.12, 0.08, 0.0, 0.52, "straight"),
    "sad": Expression(0.46, 0.22, 0.0, 0.1, 0.09, -0.7, 0.52, "frown", "tear"),
    "surprised": Expression(0.44, 0.42, 0.11, 0.24, 0.17, 0.0, 0.42, "round"),
}  # fmt: skip
T = np.linspace(-1, 1, 19)
BOW = 1 - T**2


class Pen:
    """Draws in face coordinates on one layer."""

    def __init__(self, draw, point, pose):
        self.draw, self.point, self.pose = draw, point, pose

    def points(self, shape):
        return [self.point(*p) for p in self.pose(shape)]

    def fill(self, shape, colour):
        self.draw.polygon(self.points(shape), colour)

    def stroke(self, shape, colour, width):
        """A line with round ends; `width` in half heads."""
        dots = self.points(shape)
        radius = width * self.pose.size * DETAIL / 2
        self.draw.line(dots, colour, round(2 * radius), joint="curve" if width > 0.045 else None)
        for x, y in (dots[0], dots[-1]):
            self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def curve(x, y):
    return np.stack(np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float)), 1)


def circle(x, y, rx, ry=None):
    angle = np.linspace(0, 2 * np.pi, 40)
    return curve(x + rx * np.cos(angle), y + (ry or rx) * np.sin(angle))


def paint_brows(pen, e, look):
    for side in (-1, 1):
        x = side * look["eye_x"] + 0.2 * T * side
        y = -0.08 - e.brow_inner - (e.brow_outer - e.brow_inner) * (T + 1) / 2 - e.brow_arch * BOW
        pen.stroke(curve(x, y), look["brow"], look["brow_width"])


def paint_eyes(pen, e, look):
    r = look["eye"]
    top = -e.lid_up * BOW**0.6 * (1 + e.lid_slope * T * 0.9)
    low = e.lid_low * BOW**0.7
    for side in (-1, 1):
        x = side * (look["eye_x"] + r * T)
        y = -0.06
        pen.fill(np.concatenate([curve(x, y + top), curve(x, y + low)[::-1]]), WHITE)
        for radius, colour in ((e.iris * r, look["iris"]), (e.iris * r * 0.5, (15, 12, 12, 255))):
            disc = circle(0, 0.01, radius)
            within = np.clip(disc[:, 1], np.interp(disc[:, 0] / r, T, top),
                             np.interp(disc[:, 0] / r, T, low))  # fmt: skip
            pen.fill(curve(side * (look["eye_x"] + disc[:, 0]), y + within), colour)
        pen.fill(circle(side * look["eye_x"] - 0.03, y - 0.03, 0.022), WHITE)
        pen.stroke(curve(x, y + top), (40, 26, 22, 255), 0.035)
        pen.stroke(curve(x, y + low), look["line"], 0.018)


def paint_mouth(pen, e, look):
    MOUTHS[e.mouth](pen, look["mouth"], 0.54, look["lip"])


def opening(pen, x, top, low, lip, inside=INSIDE):
    """An open mouth between two lips."""
    shape = np.concatenate([curve(x, top), curve(x, low)[::-1]])
    pen.fill(shape, inside)
    pen.stroke(np.concatenate([shape, shape[:1]]), lip, 0.05)


def straight(pen, w, y, lip):
    pen.stroke(curve(0.8 * w * T, y), lip, 0.06)


def frown(pen, w, y, lip):
    pen.stroke(curve(0.85 * w * T, y + 0.1 - 0.2 * BOW), lip, 0.065)


def grin(pen, w, y, lip):
    x, top, low = 1.25 * w * T, y - 0.13 + 0.07 * BOW, y - 0.13 + 0.4 * BOW
    opening(pen, x, top, low, lip)
    teeth = np.minimum(top + 0.12, low)
    pen.fill(np.concatenate([curve(x, top), curve(x, teeth)[::-1]]), TEETH)


def bared(pen, w, y, lip):
    """Clenched teeth in a mouth with its corners down."""
    x, top, low = 1.05 * w * T, y + 0.1 - 0.2 * BOW**0.4, y + 0.1 + 0.06 * BOW**0.3
    opening(pen, x, top, low, lip, TEETH)
    middle = (top + low) / 2
    pen.stroke(curve(x, middle), lip, 0.02)
    for i in (4, 7, 9, 11, 14):
        pen.stroke(curve(x[i], [top[i], low[i]]), lip, 0.02)


def tongue(pen, w, y, lip):
    """A curled upper lip and the tongue out."""
    x, top = 0.95 * w * T, y + 0.06 - 0.13 * BOW + 0.03 * np.sin(T * 9)
    opening(pen, x, top, y + 0.08 + 0.03 * BOW, lip)
    pen.fill(np.concatenate([circle(0, y + 0.2, 0.15, 0.17)]), TONGUE)
    pen.fill(curve([-0.15, 0.15, 0.15, -0.15], [y + 0.02, y + 0.02, y + 0.2, y + 0.2]), TONGUE)
    pen.stroke(curve(0, [y + 0.06, y + 0.24]), (176, 60, 78, 255), 0.025)


def trembling(pen, w, y, lip):
    """Open, wide and wavy, with a row of teeth."""
    x = 0.95 * w * T
    top = y + 0.04 - 0.12 * BOW**0.5 + 0.025 * np.sin(T * 16)
    low = y + 0.05 + 0.13 * BOW**0.35 + 0.025 * np.sin(T * 16 + 2)
    opening(pen, x, top, low, lip)
    pen.fill(np.concatenate([curve(x, low - 0.015)[2:-2], curve(x, low - 0.075)[2:-2][::-1]]),
             TEETH)  # fmt: skip


def rounded(pen, w, y, lip):
    pen.fill(circle(0, y + 0.06, 0.19, 0.27), lip)
    pen.fill(circle(0, y + 0.06, 0.145, 0.225), INSIDE)


MOUTHS = {
    "straight": straight, "frown": frown, "grin": grin, "bared": bared, "tongue": tongue,
    "trembling": trembling, "round": rounded,
}  # fmt: skip


def drop(pen, x, y, r):
    pen.fill(np.concatenate([circle(x, y, r), curve([x], [y - 2.4 * r])]), WATER)
    pen.fill(curve([x - r * 0.9, x, x + r * 0.9], [y - 0.4 * r, y - 2.4 * r, y - 0.4 * r]), WATER)


def paint_creases(pen, e, look):
    line, nose = look["line"], look["nose"]
    if e.creases == "furrow":
        for side in (-1, 1):
            pen.stroke(curve([side * 0.05, side * 0.04], [-0.36, -0.2]), line, 0.03)
    if e.creases == "wrinkles":
        for y in (-0.1, 0.0, 0.1):
            pen.stroke(curve(0.11 * T, y - 0.05 * BOW), line, 0.028)
        for side in (-1, 1):
            pen.stroke(curve([side * (nose + 0.06), side * 0.4], [0.16, 0.42]), line, 0.03)
    if e.creases == "sweat":
        drop(pen, 0.58 * look["width"] / 0.8, -0.42, 0.06)
    if e.creases == "tear":
        drop(pen, -look["eye_x"] - 0.06, 0.24, 0.065)
    if e.creases == "cheeks":
        for side in (-1, 1):
            pen.stroke(curve(side * (look["eye_x"] + 0.12 * T), 0.1 - 0.04 * BOW), line, 0.025)


def stronger(e, intensity):
    """The expression with its departures from neutral scaled."""
    rest = asdict(EXPRESSIONS["neutral"])
    scaled = {
        k: round(rest[k] + intensity * (v - rest[k]), 4) if isinstance(v, float) else v
        for k, v in asdict(e).items()
    }
    return Expression(**scaled)


PARTS = (  # name, painter, box (x0, y0, x1, y1) in half heads, fields that it depends on
    ("creases", paint_creases, (-0.7, -0.62, 0.7, 0.5), ("creases",)),
    ("eyes", paint_eyes, (-0.62, -0.38, 0.62, 0.18), ("lid_up", "lid_low", "lid_slope", "iris")),
    ("brows", paint_brows, (-0.66, -0.78, 0.66, 0.0), ("brow_inner", "brow_outer", "brow_arch")),
    ("mouth", paint_mouth, (-0.54, 0.28, 0.54, 0.98), ("mouth",)),
)


def feature_layers(expression, intensity, pose, look):
    """A layer for each part of the expression, as the person `look` in `pose` shows it."""
    e = stronger(EXPRESSIONS[expression], intensity)
    layers = []
    for name, paint, (x0, y0, x1, y1), fields in PARTS:
        corners = pose([(x0, y0), (x1, y0), (x0, y1), (x1, y1)])
        box = (*corners.min(0), *(corners.max(0) + 1))

        def part(draw, point, paint=paint):
            paint(Pen(draw, point, pose), e, look)

        key = (name, *pose.key, *(getattr(e, field) for field in fields))
        layers.append(drawn(key, box, part, "subject"))
    return layers
