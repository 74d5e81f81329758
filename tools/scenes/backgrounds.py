"""Calm scenery behind the scenes: a few flat shapes on two vertical gradients, no noise."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from .canvas import DETAIL, SIZE

# sky above, sky at the horizon, ground at the horizon, ground below, hills
OUTDOOR = (
    ("#9fd3f2", "#e3f4fb", "#b9dd8c", "#86bf63", "#9ccf86"),
    ("#b5d8ee", "#fbeed8", "#d9d08d", "#b9b068", "#b7c98b"),
    ("#f3c9a5", "#fdeccf", "#e3c088", "#c79a5e", "#d6a878"),
    ("#c4c8ec", "#f5dfe8", "#b5cfa8", "#85ad85", "#a3b9c4"),
    ("#bfdcf0", "#eef6fb", "#d3e1ea", "#a9c0d0", "#c9d9e4"),
    ("#8fc7e8", "#d8f0f7", "#f3e2b6", "#e0c98c", "#7fb8c9"),
    ("#b9a9dc", "#f6d3c9", "#9db68c", "#6f9470", "#9a8fb5"),
)
# wall above, wall below, floor far, floor near, trim
INDOOR = (
    ("#f2e3cf", "#ecd8bd", "#c69c6d", "#a87c4f", "#fbf6ec"),
    ("#d5e5e2", "#c5dad6", "#b9a38c", "#98816a", "#f4f8f7"),
    ("#e5d9ea", "#d9cae0", "#a9a2b3", "#8b8397", "#f8f4fa"),
    ("#dbe2ee", "#cbd5e6", "#c9b79f", "#a89478", "#f5f7fb"),
    ("#f0d7d0", "#e7c8bf", "#b3aca5", "#938b84", "#fbf3f0"),
)


def gradient(above, below, height):
    """RGB image (SIZE wide) that goes from one colour to another."""
    ends = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (above, below)]
    rows = np.linspace(*ends, height)[:, None]
    return Image.fromarray(np.repeat(rows.round().astype(np.uint8), SIZE, 1))


@lru_cache(64)
def two_gradients(colours, horizon):
    image = gradient(colours[0], colours[1], SIZE)
    image.paste(gradient(colours[2], colours[3], SIZE - horizon), (0, horizon))
    return image


class Shapes:
    """Antialiased shapes pasted on an image, one alpha mask a colour."""

    def __init__(self, image):
        self.image = image

    def paste(self, colour, bottom, paint):
        """Paste `colour` where `paint(draw, scale)` draws, above the row `bottom`."""
        mask = Image.new("L", (SIZE * DETAIL, bottom * DETAIL))
        paint(ImageDraw.Draw(mask), DETAIL)
        self.image.paste(colour, (0, 0), mask.reduce(DETAIL))


def ellipse(draw, scale, x, y, rx, ry):
    draw.ellipse([scale * v for v in (x - rx, y - ry, x + rx, y + ry)], fill=255)


def hills(shapes, rng, colour, horizon):
    bumps = [(rng.integers(0, SIZE), rng.integers(35, 80), rng.integers(10, 26)) for _ in range(3)]

    def paint(draw, scale):
        for x, rx, ry in bumps:
            ellipse(draw, scale, x, horizon + 2, rx, ry)

    shapes.paste(colour, horizon, paint)


def sun(shapes, rng):
    x, y, r = rng.integers(15, SIZE - 15), rng.integers(12, 26), rng.integers(8, 13)
    shapes.paste("#fff3c4", 48, lambda draw, scale: ellipse(draw, scale, x, y, r, r))


def clouds(shapes, rng):
    places = [(rng.integers(10, SIZE - 10), rng.integers(10, 34)) for _ in range(2)]

    def paint(draw, scale):
        for x, y in places:
            for dx, dy, r in ((-9, 2, 6), (0, -2, 9), (10, 2, 7)):
                ellipse(draw, scale, x + dx, y + dy, r * 1.3, r * 0.8)

    shapes.paste("#ffffff", 48, paint)


def window(shapes, rng):
    x, width = rng.integers(10, SIZE - 60), rng.integers(30, 48)
    top, bottom = 8, rng.integers(34, 44)

    def paint(draw, scale):
        draw.rectangle([scale * v for v in (x, top, x + width, bottom)], fill=255)
        draw.rectangle([scale * v for v in (x + 3, top + 3, x + width - 3, bottom - 3)], fill=110)

    shapes.paste("#ffffff", 48, paint)


@lru_cache(256)
def scenery(seed, indoor_share=0.3):
    """RGB image (SIZE, SIZE): a landscape or a room, its horizon at 54 to 66 pixels."""
    rng = np.random.default_rng(seed)
    horizon = int(rng.integers(54, 67))
    if rng.random() < indoor_share:
        colours = INDOOR[rng.integers(len(INDOOR))]
        image = two_gradients(colours, horizon).copy()
        if rng.random() < 0.6:
            window(Shapes(image), rng)
        image.paste(colours[4], (0, horizon - 4, SIZE, horizon))
        return image
    colours = OUTDOOR[rng.integers(len(OUTDOOR))]
    image = two_gradients(colours, horizon).copy()
    shapes = Shapes(image)
    if rng.random() < 0.5:
        sun(shapes, rng)
    if rng.random() < 0.5:
        clouds(shapes, rng)
    hills(shapes, rng, colours[4], horizon)
    return image


@lru_cache(256)
def studio(seed):
    """RGB image (SIZE, SIZE): a plain wall, with or without a table, for one object or a face."""
    rng = np.random.default_rng(seed)
    colours = (OUTDOOR + INDOOR)[rng.integers(len(OUTDOOR) + len(INDOOR))]
    horizon = int(rng.integers(112, 136))
    return two_gradients(colours[:4], horizon).copy()
