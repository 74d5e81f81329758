"""Ground-truth masks: what the renderer knows about each image, on pixels and on patches."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import NoticeError
from .images import FORMATS, UnusableImageError, open_checked

MASK_BITS = {"differs": 1, "subject": 2, "object": 4, "distractor": 8}
"""A mask file is an 8-bit grey PNG; each named mask is one bit of it."""

_ORIENTATION = 0x0112  # EXIF's tag

# Radius of Pillow's resize filters in output pixels, by the number that image processors store.
_FILTER_RADIUS = {0: 0.5, 1: 3.0, 2: 1.0, 3: 2.0, 4: 0.5, 5: 1.0}


def read_masks(path: Path) -> dict[str, np.ndarray]:
    """Named boolean masks (height, width) of one image; masks without a pixel are left out.

    Raises:
        NoticeError: the file is missing, not an 8-bit grey PNG, damaged, too large (`images`), or
            has a bit that belongs to no mask.
    """
    try:
        image = open_checked(path, ("PNG",))
    except UnusableImageError as error:
        raise NoticeError(f"{path} {error}: it holds masks. {error.remedy}") from None
    flags = np.asarray(image)
    if image.mode != "L" or flags.max() > sum(MASK_BITS.values()):
        bits = ", ".join(f"{bit} {name}" for name, bit in MASK_BITS.items())
        raise NoticeError(
            f"{path} does not hold masks: they are 8-bit grey, each pixel the sum of what it "
            f"belongs to ({bits}). Write them with notice_lib.pairs.masks.write_masks."
        )
    masks = {name: (flags & bit) > 0 for name, bit in MASK_BITS.items()}
    return {name: mask for name, mask in masks.items() if mask.any()}


def check_masks(path: Path, image: Path) -> None:
    """Check that a file holds masks of an image.

    Raises:
        NoticeError: it holds no masks (`read_masks`), or masks of another size than the image.
    """
    sizes = {mask.shape[::-1] for mask in read_masks(path).values()}
    try:
        with Image.open(image, formats=FORMATS) as opened:
            turned = opened.getexif().get(_ORIENTATION, 1) > 4  # shown upright, as it will be read
            size = opened.size[::-1] if turned else opened.size
    except Exception:  # Whether it is a usable image is found out elsewhere, with all the others.
        return
    if sizes - {size}:
        raise NoticeError(
            f"{path} holds masks of {' x '.join(map(str, sizes.pop()))} pixels, but {image} has "
            f"{' x '.join(map(str, size))}. Write masks of the image's size."
        )


def write_masks(path: Path, masks: dict[str, np.ndarray]) -> None:
    """Store named boolean masks (height, width) as one PNG of bit flags.

    Raises:
        NoticeError: there is no mask, one has an unknown name, or their shapes differ.
    """
    if unknown := masks.keys() - MASK_BITS:
        raise NoticeError(
            f"{path}: a mask is named {', '.join(MASK_BITS)}, not {', '.join(sorted(unknown))}."
        )
    if len({np.shape(mask) for mask in masks.values()}) != 1:
        shapes = ", ".join(f"{name} {np.shape(mask)}" for name, mask in masks.items())
        raise NoticeError(
            f"{path} needs at least one mask, and masks of one shape (height, width), not: "
            f"{shapes or 'none'}. An image without masks needs no file."
        )
    flags = sum(np.uint8(MASK_BITS[name]) * np.asarray(mask, bool) for name, mask in masks.items())
    Image.fromarray(np.asarray(flags, np.uint8)).save(path, optimize=True)


def patch_mask(mask: np.ndarray, grid: int, image_size: int, resample: int = 3) -> np.ndarray:
    """Which of the model's image patches a mask reaches.

    The image processor resizes (height, width) to image_size x image_size, and a resize filter
    spreads each pixel over its support; so the mask is dilated by that support first.

    Args:
        mask: (height, width) boolean, at storage resolution.
        grid: patches per side of the vision tower.
        image_size: pixels per side that the vision tower sees.
        resample: Pillow's filter number, as in the image processor (3 is bicubic).

    Returns:
        (grid, grid) boolean.
    """
    rows = _touched(mask.shape[0], grid, image_size, resample)
    columns = _touched(mask.shape[1], grid, image_size, resample)
    return (rows.astype(int) @ mask.astype(int) @ columns.T.astype(int)) > 0


def _touched(size: int, grid: int, image_size: int, resample: int) -> np.ndarray:
    """(grid, size) boolean: which stored pixels reach which patch, along one axis."""
    scale = size / image_size
    support = _FILTER_RADIUS[resample] * max(scale, 1.0)
    edges = np.linspace(0, size, grid + 1)
    pixels = np.arange(size)
    return np.stack(
        [(pixels + 1 > low - support) & (pixels < high + support) for low, high in pairwise(edges)]
    )
