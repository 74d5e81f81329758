"""Masks on files and on patches."""

import numpy as np
import pytest
from PIL import Image

from notice_lib import NoticeError
from notice_lib.pairs.masks import MASK_BITS, patch_mask, read_masks, write_masks


def test_masks_survive_a_file(tmp_path):
    random = np.random.default_rng(0)
    masks = {name: random.random((7, 9)) > 0.5 for name in MASK_BITS if name != "distractor"}
    write_masks(tmp_path / "m.png", masks)
    read = read_masks(tmp_path / "m.png")
    assert read.keys() == masks.keys()
    for name in masks:
        np.testing.assert_array_equal(read[name], masks[name])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, r"m\.png needs at least one mask, .* not: none\."),
        ({"sky": np.ones((2, 2), bool)}, "a mask is named differs, subject, .*, not sky"),
        (
            {"subject": np.ones((2, 2), bool), "object": np.ones((2, 3), bool)},
            r"masks of one shape .*, not: subject \(2, 2\), object \(2, 3\)",
        ),
    ],
)
def test_masks_that_cannot_be_written_are_named(tmp_path, masks, message):
    with pytest.raises(NoticeError, match=message):
        write_masks(tmp_path / "m.png", masks)
    assert not (tmp_path / "m.png").exists()


@pytest.mark.parametrize(("size", "image_size"), [(192, 96), (192, 384), (160, 96), (96, 96)])
@pytest.mark.parametrize("resample", [2, 3])
def test_a_pixel_reaches_the_patches_that_it_changes(size, image_size, resample):
    """Against Pillow itself: no patch outside the patch mask changes, and few are in vain."""
    grid = 8
    random = np.random.default_rng(1)
    for row, column in random.integers(0, size, (20, 2)):
        mask = np.zeros((size, size), bool)
        mask[row, column] = True
        image = Image.fromarray(np.where(mask, 255.0, 0.0).astype(np.float32))
        small = np.asarray(image.resize((image_size, image_size), resample))
        step = image_size // grid
        changed = (small.reshape(grid, step, grid, step) != 0).any((1, 3))
        reached = patch_mask(mask, grid, image_size, resample)
        assert not (changed & ~reached).any()
        assert reached.sum() <= 4
