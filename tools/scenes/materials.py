"""States of things: a sprite painted, covered with a texture, or put out of shape."""

from functools import lru_cache

import numpy as np
from PIL import Image

from .canvas import sprite

PAINT = {
    "red": (222, 40, 44), "yellow": (250, 208, 38), "green": (52, 160, 70),
    "blue": (45, 104, 224), "purple": (146, 60, 190),
}  # fmt: skip
LIGHT, DARK = np.array([247, 243, 232]), np.array([38, 48, 84])


@lru_cache(None)
def shading(noun):
    """Lightness of a noun's pixels about 1, contrast kept, and its alpha: two arrays (h, w)."""
    pixels = np.asarray(sprite(noun)).astype(int)
    light = (77 * pixels[..., 0] + 150 * pixels[..., 1] + 29 * pixels[..., 2]) / 256
    solid = pixels[..., 3] > 128
    middle, spread = np.median(light[solid]), round(float(light[solid].std()), 2)
    return np.clip(1 + 0.22 * (light - middle) / max(spread, 1), 0.45, 1.45), pixels[..., 3]


def painted(noun, colour):
    """The sprite with `colour`, an RGB triple or an array (h, w, 3), in its own shading."""
    light, alpha = shading(noun)
    light = light[..., None]
    base = np.broadcast_to(np.asarray(colour, float), (*alpha.shape, 3))
    shaded = np.where(light < 1, base * light, base + (255 - base) * (light - 1) * 1.1)
    pixels = np.concatenate([np.clip(shaded, 0, 255), alpha[..., None]], 2)
    return Image.fromarray(pixels.round().astype(np.uint8))


def blotches(shape, rng, cells):
    """Smooth random field (h, w) of about unit spread."""
    coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))


def rusty(noun, rng):
    shape = shading(noun)[1].shape
    field = blotches(shape, rng, 8) + 0.5 * blotches(shape, rng, 16)
    orange, brown = np.array([204, 104, 38]), np.array([106, 58, 38])
    level = np.digitize(field, (-0.5, 0.3))[..., None] / 2
    return painted(noun, orange * (1 - level) + brown * level)


def pattern(noun, rng, kind):
    """Dark marks on a light ground: stripes, dots or squares."""
    shape = shading(noun)[1].shape
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    x, y = x + rng.integers(0, 24), y + rng.integers(0, 24)
    if kind == "striped":
        ink = (np.sin((x + y) * 2 * np.pi / 31) * 6 + 0.5).clip(0, 1)
    elif kind == "dotted":
        row = y // 24
        dx, dy = (x + 12 * (row % 2)) % 24 - 12, y % 24 - 12
        ink = (7.6 - np.hypot(dx, dy)).clip(0, 1)
    else:
        ink = (x // 15 + y // 15) % 2
    return painted(noun, LIGHT + (DARK - LIGHT) * on_grid(ink)[..., None])


def on_grid(values):
    """Values rounded to 1/64, so that the last bits of a sine cannot move a pixel."""
    return np.round(values * 64) / 64


def remapped(image, size, source):
    """RGBA image of `size` (w, h) whose pixel (x, y) is the bilinear sample at source(x, y).

    `source` maps arrays in [0, 1] of the new picture to arrays in [0, 1] of the old one;
    outside is transparent.
    """
    w, h = size
    y, x = np.mgrid[:h, :w].astype(float)
    sx, sy = source((x + 0.5) / w, (y + 0.5) / h)
    old = np.asarray(image.convert("RGBa")).astype(float)
    old = np.pad(old, ((1, 2), (1, 2), (0, 0)))
    sx = on_grid(np.clip(sx * image.width + 0.5, 0, image.width + 1))
    sy = on_grid(np.clip(sy * image.height + 0.5, 0, image.height + 1))
    ix, iy = sx.astype(int), sy.astype(int)
    fx, fy = (sx - ix)[..., None], (sy - iy)[..., None]
    new = (
        old[iy, ix] * (1 - fx) * (1 - fy) + old[iy, ix + 1] * fx * (1 - fy)
        + old[iy + 1, ix] * (1 - fx) * fy + old[iy + 1, ix + 1] * fx * fy
    )  # fmt: skip
    premultiplied = Image.frombuffer("RGBa", (w, h), new.round().astype(np.uint8).tobytes())
    return premultiplied.convert("RGBA")


def squashed(image, rng):
    """Flat, with bulging sides."""
    size = (round(image.width * 1.25), round(image.height * 0.42))

    def source(x, y):
        width = 0.78 + 0.22 * np.sin(np.pi * y)
        return (x - 0.5) / width + 0.5, y

    return remapped(image, size, source)


def stretched(image, rng):
    """Long, with a thin waist."""
    size = (round(image.width * 0.72), round(image.height * 1.22))

    def source(x, y):
        width = 0.98 - 0.48 * np.sin(np.pi * y) ** 2
        return (x - 0.5) / width + 0.5, y

    return remapped(image, size, source)


def bent(image, rng):
    """Folded over sideways in its upper half."""
    side = int(rng.choice((-1, 1)))
    reach = 0.4 * image.height / image.width
    grown = 1 + reach
    size = (round(image.width * grown), image.height)

    def source(x, y):
        shift = side * (reach * np.clip(0.64 - y, 0, 1) / 0.64 - reach / 2)
        return (x - 0.5) * grown + 0.5 - shift, y

    return remapped(image, size, source)


def broken(image, rng):
    """Two pieces along a jagged line, the upper one fallen over."""
    pixels = np.asarray(image)
    h, w = pixels.shape[:2]
    teeth = np.abs((np.arange(w) + rng.integers(0, 22)) % 22 - 11) * 1.3
    cut = (h * 0.47 + teeth - 7)[None]
    rows = np.arange(h)[:, None]
    upper, lower = pixels.copy(), pixels.copy()
    upper[rows > cut - 1] = 0
    lower[rows < cut + 1] = 0
    side = int(rng.choice((-1, 1)))
    top = Image.fromarray(upper).crop((0, 0, w, round(h * 0.62)))
    top = top.rotate(side * 24, Image.Resampling.BICUBIC, expand=True)
    whole = Image.new("RGBA", (max(w, top.width) + round(w * 0.3), round(h * 1.12)))
    whole.alpha_composite(Image.fromarray(lower), ((whole.width - w) // 2, whole.height - h))
    x = (whole.width - top.width) // 2 - side * round(w * 0.13)
    whole.alpha_composite(top, (x, 0))
    return whole


SHAPES = {f.__name__: f for f in (squashed, stretched, bent, broken)}


def stated(noun, state, scale, seed, flip):
    """RGBA sprite of `noun` in `state`, scaled and mirrored; bottom middle stands on the table."""
    rng = np.random.default_rng(seed)
    if state in PAINT:
        image = painted(noun, PAINT[state])
    elif state == "rusty":
        image = rusty(noun, rng)
    elif state in SHAPES:
        image = SHAPES[state](sprite(noun), rng)
        image = image.crop((0, image.getbbox()[1], image.width, image.getbbox()[3]))
    else:
        image = pattern(noun, rng, state)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image
