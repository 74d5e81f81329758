"""Where a processor puts the parts of an image, found from an image that shows its coordinates.

Processors resize, crop, pad and tile an image by rules of their own, and few of them return what
they did. So they are asked: in the image that is processed here, red rises from left to right and
green from top to bottom, and the result says of every pixel where in the image it comes from.
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

NEAR = 0.02
"""Places closer to each other than this part of an image are the same place."""


def crop_places(process: Callable[[Image.Image], torch.Tensor], size: tuple[int, int]):
    """For every pixel of every crop, its place in the image.

    Args:
        process: from an image to its pixel values, (..., 3, height, width).
        size: (width, height) of the image.

    Returns:
        (crops, 2, height, width) places (x, y), from 0 to 1. Padding has places without meaning.
    """
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width).round()
    ramp[..., 1] = np.linspace(0, 255, height).round()[:, None]
    pictures = ramp, np.zeros_like(ramp), np.full_like(ramp, 255)
    shown, black, white = (_crops(process(Image.fromarray(picture))) for picture in pictures)
    return ((shown - black) / (white - black).clip(1e-6))[:, :2]


def _crops(pixel_values: torch.Tensor) -> np.ndarray:
    values = pixel_values.detach().float().cpu().numpy()
    return values.reshape(-1, *values.shape[-3:])


def arrangement(places: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The column and the row of each crop, counted among the places of all crops' middles."""
    middles = places.mean((-2, -1))
    return tuple(zip(_ranks(middles[:, 0]), _ranks(middles[:, 1]), strict=True))


def _ranks(values: np.ndarray) -> list[int]:
    order = np.argsort(values)
    steps = np.diff(values[order], prepend=values[order[:1]]) > NEAR
    ranks = np.empty(len(values), int)
    ranks[order] = steps.cumsum()
    return ranks.tolist()


def shows_all(places: np.ndarray) -> bool:
    """Whether the pixels are one crop that shows the whole image, only resized."""
    if len(places) != 1:
        return False
    x, y = places[0, 0].mean(0), places[0, 1].mean(1)
    return all(
        along[0] <= 1 / len(along) + NEAR and along[-1] >= 1 - 1 / len(along) - NEAR
        for along in (x, y)
    )
