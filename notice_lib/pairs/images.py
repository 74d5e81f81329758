"""Image files: what is read, how it becomes RGB, and what is refused.

Read are JPEG, PNG, WebP, GIF, BMP and TIFF; AVIF and JPEG 2000, where Pillow was built with them;
and HEIC, where the package pillow-heif is installed: by their content, whatever the file is called.
Refused are files of more than `MAX_BYTES`, pictures of more than `MAX_PIXELS` (a small file can
hold a huge one), truncated files, and whatever else does not decode as a whole. No other decoder of
Pillow is ever started; some of them run other programs.

A picture becomes 8-bit RGB as you see it on a page:

- EXIF orientation is applied, since cameras store a turned picture with a note.
- Transparent pixels show white.
- Of an animation or a file of several pages, the first picture counts.
- 16-bit grey keeps the upper 8 of the bits that its largest value needs. Files say how many bits a
  value has room for, not how many are used: a picture of 8 or 12 bits in 16 would become black. A
  sensor's few hot pixels, up to one value in 200, do not count as the largest; they become white.
- Pillow reads the upper 8 bits only of 16-bit colour, so such a picture is refused where its values
  leave the upper ones unused. 32-bit and floating-point pixels have no known range and are refused.
- CMYK is converted by Pillow's formula; embedded colour profiles are not applied.

A picture of nearly one colour, such as the black one that a failed download leaves, shows nothing
to ask about, nor does a black one with a stamp on a hundredth of it: `check_image` refuses it, and
`open_image` opens it with a warning. A small thing on a page of another colour is something.
"""

import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError, features

from ..errors import NoticeError

_OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
FORMATS: tuple[str, ...] = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"),
    *(name for name, feature in _OPTIONAL.items() if features.check(feature)),
)
"""Pillow's names of the formats. JPEG takes in MPO, a JPEG followed by a second picture."""
with suppress(ImportError):
    from pillow_heif import register_heif_opener

    register_heif_opener()
    FORMATS = (*FORMATS, "HEIF")

ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
    ".jp2", ".j2k", ".heic", ".heif",
)  # fmt: skip
"""Usual endings of such files' names, in lower case."""

MAX_BYTES = 100_000_000
MAX_PIXELS = 8192 * 8192
"""Decoded, 200 MB."""
MIN_CONTRAST = 2.0
"""A picture whose channels all have a smaller standard deviation (of 0 to 255) shows nothing."""
BLACK, MOST = 8, 0.99
"""A picture of which this share has a value below 8 in every channel is black."""
HOT = 0.005
"""Share of the values of a 16-bit picture that may be a sensor's hot pixels."""

_PHOTOMETRIC = 262  # The tag of a TIFF that says whether 0 is white, which Pillow does not heed.
_KINDS = (
    # How a file begins, Pillow's name of the format where it is one of FORMATS, and what it is.
    (rb"\xff\xd8\xff", "JPEG", "a JPEG image"),
    (rb"\x89PNG", "PNG", "a PNG image"),
    (rb"RIFF....WEBP", "WEBP", "a WebP image"),
    (rb"GIF8", "GIF", "a GIF image"),
    (rb"II\*\0|MM\0\*", "TIFF", "a TIFF image or a camera's raw file"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG2000", "a JPEG 2000 image"),
    (rb"....ftypavi[fs]", "AVIF", "an AVIF image"),
    (
        rb"....ftyp(he[iv]|mif1|msf1)",
        "HEIF",
        "a HEIC image, which is read where pillow-heif is installed (pip install pillow-heif)",
    ),
    (rb"\0\0\0\x0cJXL |\xff\x0a", None, "a JPEG XL image"),
    (rb"(\xef\xbb\xbf)?\s*<(svg|(\?xml|!--|!DOCTYPE svg).*<svg)", None, "an SVG drawing"),
    (rb"%PDF", None, "a PDF document"),
    (rb"%!PS", None, "a PostScript file"),
    (rb"8BPS", None, "a Photoshop file"),
    (rb"P[1-7]\s", None, "a PPM image"),
    (rb"\x0a[\0-\x05]\x01", None, "a PCX image"),
    (rb"\0\0\x01\0", None, "an icon (ICO)"),
    (rb"(?i)\s*<(!doctype html|html|head)", None, "a web page (HTML) instead of an image"),
    (
        rb"version https://git-lfs",
        None,
        "a pointer of Git LFS instead of the image (fetch it with git lfs pull)",
    ),
)


class UnusableImageError(ValueError):
    """Why a file is not a usable image, as the end of a sentence that begins with its name."""

    def __init__(self, reason: str, remedy: str = "Replace it or drop its row."):
        super().__init__(reason)
        self.remedy = remedy


def open_image(path: Path, what: str) -> Image.Image:
    """Decode one image file to RGB; `what` says in a message what the file is.

    Warns:
        UserWarning: the picture is of nearly one colour.

    Raises:
        NoticeError: the file is missing, not an image that is read here, damaged, or too large.
    """
    try:
        image = _decode(path)
    except UnusableImageError as error:
        raise NoticeError(f"{path} {error}: it is {what}. {error.remedy}") from None
    if blank := _blank(image):
        warnings.warn(f"{path} {blank}: it is {what}.", stacklevel=2)
    return image


def check_image(path: Path) -> str | None:
    """Why a file is not a usable image, e.g. "is missing"; None if it is one.

    The file is decoded as a whole, so an image that passes can be opened.
    """
    try:
        return _blank(_decode(path))
    except UnusableImageError as error:
        return str(error)


def ending_of(file: Path | IO[bytes]) -> str | None:
    """The usual ending of a name for an image of this content; None for what is not read here."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            name = image.format or ""  # never empty: it is what read the file
    except Exception:  # Pillow's parsers raise anything at all on malformed files
        return None
    usual = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "HEIF": ".heic"}
    return usual.get(name, f".{name.lower()}")


def open_checked(path: Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Decode a file within the limits, in the mode and orientation in which it is stored.

    Raises:
        UnusableImageError: it is missing, not one that is read here, damaged, or too large.
    """
    path = Path(path)
    _check_file(path)
    try:
        image = Image.open(path, formats=formats)
    except UnidentifiedImageError:
        raise _not_read(path, formats) from None
    except Image.DecompressionBombError:
        raise _too_many_pixels() from None
    except Exception as error:  # Pillow's parsers raise anything at all on malformed files
        raise _damaged(error) from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_many_pixels()
        deep = not image.mode.startswith("I") and ";16" in str(image.tile)
        try:
            image.load()
        except Exception as error:
            raise _damaged(error) from None
        if image.mode.startswith("I") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
            raise UnusableImageError("is a negative of 16 bits or more", "Store it as PNG.")
        if deep and _largest(_colours(image)) < 128:
            raise UnusableImageError(
                "has 16 bits a channel of which the upper ones are unused",
                "Store it with 8 bits a channel.",
            )
        # A copy has no file and no further frames, so nothing can be decoded later on.
        return image.copy()


def _colours(image: Image.Image) -> np.ndarray:
    """(height, width, channels) values, without how opaque the pixels are."""
    pixels = np.asarray(image)
    return pixels[..., :-1] if image.mode.endswith("A") else pixels


def _largest(values: np.ndarray) -> int:
    """The largest value but for hot pixels."""
    return int(np.quantile(values, 1 - HOT, method="higher"))


def _not_read(path: Path, formats: tuple[str, ...]) -> UnusableImageError:
    """What a file is that none of the formats' readers takes, and what to do about it."""
    with open(path, "rb") as file:
        start = file.read(1024)
    remedy = f"Read here are {', '.join(formats)}: save it as one of these, or drop its row."
    for pattern, name, kind in _KINDS:
        if re.match(pattern, start, re.DOTALL):
            if name in formats:
                return _damaged(ValueError("the file is damaged or cut off"))
            return UnusableImageError(f"is {kind}", remedy)
    return UnusableImageError("is not an image of a known kind", remedy)


def _too_many_pixels() -> UnusableImageError:
    return UnusableImageError(f"has more than {MAX_PIXELS:,} pixels", "Store it smaller.")


def _damaged(error: Exception) -> UnusableImageError:
    said = " ".join(str(error).split()) or type(error).__name__
    return UnusableImageError(f"does not decode as an image ({said})")


def _check_file(path: Path) -> None:
    """Refuse what is not a file of a decodable size, before anything is read."""
    try:
        if not path.is_file():  # a directory, a pipe that would never end, nothing at all
            raise UnusableImageError(
                "is not a file" if path.exists() else "is missing", "Restore it or drop its row."
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
    if image.mode == "F":
        raise UnusableImageError(
            "has floating-point pixels", "Store it with 8 or 16 bits a channel."
        )
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() >= 2**16:
            raise UnusableImageError(
                "has pixels outside of 0 to 65,535", "Store it with 8 or 16 bits a channel."
            )
        unused = max(8, _largest(pixels).bit_length()) - 8
        return Image.fromarray((pixels >> unused).clip(max=255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        page = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(page, picture).convert("RGB")
    return image.convert("RGB")


def _blank(image: Image.Image) -> str | None:
    """Why an RGB picture shows nothing; None if it shows something."""
    statistics = ImageStat.Stat(image)
    counts = np.reshape(statistics.h, (3, 256))
    dark = counts[:, :BLACK].sum(1).min() >= MOST * image.width * image.height
    if max(statistics.stddev) >= MIN_CONTRAST and not dark:
        return None
    red, green, blue = statistics.median
    return f"shows nothing: nearly all of it has one colour, RGB ({red}, {green}, {blue})"
