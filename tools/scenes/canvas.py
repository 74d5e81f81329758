"""Layers of a picture: what is drawn where, and what it depends on.

A picture is a list of layers, drawn in order. A layer carries a key: the values that its
pixels depend on. Two layers with the same key look the same, so the mask of what differs
between two pictures is the union of the footprints of the layers whose keys differ.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 192  # pixels a side of every picture
DETAIL = 3  # shapes are drawn this many times larger and averaged down
ART = Path(__file__).parent / "art"


@dataclass(frozen=True)
class Layer:
    """One drawn thing: RGBA `image` with its corner at `corner`, for the mask `role`."""

    key: tuple
    image: Image.Image
    corner: tuple[int, int]
    role: str = ""


def composite(background, layers):
    """uint8 array (SIZE, SIZE, 3): the layers drawn in order on an RGB image."""
    canvas = background.convert("RGBA")
    for layer in layers:
        left, top = (max(0, -c) for c in layer.corner)
        right = min(layer.image.width, SIZE - layer.corner[0])
        bottom = min(layer.image.height, SIZE - layer.corner[1])
        if left < right and top < bottom:
            dest = tuple(max(0, c) for c in layer.corner)
            canvas.alpha_composite(layer.image, dest, (left, top, right, bottom))
    return np.asarray(canvas.convert("RGB"))


def footprint(layer):
    """bool (SIZE, SIZE): where the layer is not fully transparent."""
    mask = np.zeros((SIZE, SIZE), bool)
    solid = np.asarray(layer.image.getchannel("A")) > 0
    x, y = layer.corner
    part = solid[max(0, -y) : max(0, SIZE - y), max(0, -x) : max(0, SIZE - x)]
    mask[max(0, y) : max(0, y) + part.shape[0], max(0, x) : max(0, x) + part.shape[1]] = part
    return mask


def union(layers):
    """bool (SIZE, SIZE): where at least one of the layers has its footprint."""
    mask = np.zeros((SIZE, SIZE), bool)
    for layer in layers:
        mask |= footprint(layer)
    return mask


@lru_cache(None)
def sprite(name):
    """The RGBA sprite `name` of art/, facing left."""
    return Image.open(ART / f"{name}.webp").convert("RGBA")


@lru_cache(2048)
def transformed(name, scale, flip, angle):
    """Sprite `name` scaled, mirrored if `flip`, and turned by `angle` degrees."""
    image = sprite(name)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if angle:
        image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return without_haze(image)


def without_haze(image):
    """`image` without its almost transparent pixels, so that footprints fit what is seen."""
    return Image.fromarray(np.where(np.asarray(image)[..., 3:] < 12, 0, np.asarray(image)))


def drawn(key, box, paint, role="", detail=DETAIL):
    """A layer drawn by `paint(draw, point)` inside the pixel box (x0, y0, x1, y1).

    `draw` is a PIL drawing at `detail` times the size; `point(x, y)` maps picture coordinates
    to it. Its colours are opaque or black, which makes them premultiplied by their alpha.
    """
    x0, y0, x1, y1 = (int(v) for v in box)
    image = Image.new("RGBA", ((x1 - x0) * detail, (y1 - y0) * detail))
    paint(ImageDraw.Draw(image), lambda x, y: ((x - x0) * detail, (y - y0) * detail))
    small = Image.frombytes("RGBa", image.size, image.tobytes()).reduce(detail).convert("RGBA")
    return Layer(key, small, (x0, y0), role)
