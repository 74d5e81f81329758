"""Image files: what is read, how it becomes RGB, and what is refused.

Read are JPEG, PNG, WebP, GIF, BMP and TIFF, by their content, whatever the file is called. Refused
are files of more than `MAX_BYTES`, pictures of more than `MAX_PIXELS` (a small file can hold a huge
one), truncated files, and whatever else does not decode as a whole. No other decoder of Pillow is
ever started; some of them run other programs.

A picture becomes 8-bit RGB as one sees it on a page:

- EXIF orientation is applied, since cameras store a turned picture with a note.
- Transparent pixels show white.
- Of an animation or a file of several pages, the first picture counts.
- 16-bit grey keeps its upper 8 bits. 32-bit and floating-point pixels have no range that is known,
  so they are refused.
- CMYK is converted by Pillow's formula; embedded colour profiles are not applied.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import NoticeError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats. JPEG takes in MPO, a JPEG with a second picture behind it."""

MAX_BYTES = 100_000_000
MAX_PIXELS = 8192 * 8192
"""Decoded, 200 MB."""


class UnusableImageError(ValueError):
    """Why a file is no usable image, as the end of a sentence that begins with its name."""

    def __init__(self, reason: str, remedy: str = "Replace it or drop its row."):
        super().__init__(reason)
        self.remedy = remedy


def open_image(path: Path, what: str) -> Image.Image:
    """Decode one image file to RGB; `what` says in an error what the file is.

    Raises:
        NoticeError: the file is missing, no image that is read here, damaged, or too large.
    """
    try:
        return _decode(path)
    except UnusableImageError as error:
        raise NoticeError(f"{path} {error}: it is {what}. {error.remedy}") from None


def check_image(path: Path) -> str | None:
    """Why a file is no usable image, e.g. "is missing"; None if it is one.

    The file is decoded as a whole, so that an image that passes can be opened.
    """
    try:
        _decode(path)
    except UnusableImageError as error:
        return str(error)
    return None


def open_checked(path: Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Decode a file within the limits, in the mode and orientation in which it is stored.

    Raises:
        UnusableImageError: it is missing, none that is read here, damaged, or too large.
    """
    path = Path(path)
    _check_file(path)
    try:
        image = Image.open(path, formats=formats)
    except UnidentifiedImageError:
        remedy = f"Read here are {', '.join(formats)}."
        raise UnusableImageError("is not an image", remedy) from None
    except Image.DecompressionBombError:
        raise _too_many_pixels() from None
    except Exception as error:  # Pillow's parsers raise anything at all on malformed files
        raise _damaged(error) from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_many_pixels()
        try:
            image.load()
        except Exception as error:
            raise _damaged(error) from None
        # A copy has no file and no further frames, so nothing can be decoded later on.
        return image.copy()


def _too_many_pixels() -> UnusableImageError:
    return UnusableImageError(f"has more than {MAX_PIXELS:,} pixels", "Store it smaller.")


def _damaged(error: Exception) -> UnusableImageError:
    said = str(error) or type(error).__name__
    return UnusableImageError(f"does not decode as an image ({said})")


def _check_file(path: Path) -> None:
    """Refuse what is no file of a decodable size, before anything is read."""
    try:
        if not path.is_file():  # a directory, a pipe that would never end, nothing at all
            raise UnusableImageError(
                "is no file" if path.exists() else "is missing", "Restore it or drop its row."
            )
        size = path.stat().st_size
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UnusableImageError(f"cannot be read ({error.strerror})") from None
    if size > MAX_BYTES:
        raise UnusableImageError(f"has more than {MAX_BYTES:,} bytes", "Store it smaller.")


def _decode(path: Path) -> Image.Image:
    image = open_checked(path)
    try:
        return _rgb(ImageOps.exif_transpose(image))
    except UnusableImageError:
        raise
    except Exception as error:  # e.g. a malformed EXIF block
        raise _damaged(error) from None


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, as the module's docstring says."""
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnusableImageError(
            f"has {'32-bit' if image.mode == 'I' else 'floating-point'} pixels",
            "Store it with 8 or 16 bits a channel.",
        )
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        page = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(page, picture).convert("RGB")
    return image.convert("RGB")
