"""Where a processor puts an image, found by showing it an image of its coordinates."""

import numpy as np
import pytest
import torch
from PIL import Image

from notice_lib.models.layout import crop_places, shows_all

SIZE = 200, 100


def seen(box, side=32):
    """A processor that shows a part of an image (left, top, right, bottom, each from 0 to 1)."""

    def process(image: Image.Image) -> torch.Tensor:
        width, height = image.size
        left, top, right, bottom = box
        part = image.crop((left * width, top * height, right * width, bottom * height))
        pixels = np.asarray(part.resize((side, side)), np.float32)
        return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]

    return process


@pytest.mark.parametrize("side", [8, 32, 100])
def test_an_image_that_is_only_resized_is_shown_whole(side):
    assert shows_all(crop_places(seen((0, 0, 1, 1), side), SIZE))


@pytest.mark.parametrize(
    "box", [(0.1, 0, 1, 1), (0, 0.1, 1, 1), (0, 0, 0.9, 1), (0, 0, 1, 0.9), (0.25, 0, 0.75, 1)]
)
def test_an_image_that_is_cropped_on_any_one_side_is_not(box):
    """Each side, since a square of a wide image may be its left part."""
    assert not shows_all(crop_places(seen(box), SIZE))


def test_two_crops_of_the_whole_image_are_not_one():
    whole = crop_places(seen((0, 0, 1, 1)), SIZE)
    assert not shows_all(np.concatenate([whole, whole]))
