"""What image files become, and which are refused: as cameras, scanners and attackers write them."""

import io
import os
import struct
import warnings
import zlib
from itertools import chain

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from notice_lib import NoticeError
from notice_lib.pairs.images import FORMATS, MAX_BYTES, check_image, open_image
from notice_lib.pairs.masks import read_masks

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def stored(image: Image.Image, format: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def opened(content: bytes, folder) -> Image.Image:
    (folder / "picture").write_bytes(content)
    reason = check_image(folder / "picture")
    assert reason is None or reason.startswith("shows nothing")
    with warnings.catch_warnings(record=True) as told:
        image = open_image(folder / "picture", "a test")
    assert len(told) == (reason is not None)
    assert image.mode == "RGB"
    return image


def refused(content: bytes, folder, match: str):
    """The ending of a name says nothing of the content."""
    path = folder / "picture.png"
    path.write_bytes(content)
    with pytest.raises(NoticeError, match=rf"picture\.png {match}.*: it is a test\. [A-Z]"):
        open_image(path, "a test")
    assert check_image(path)


def no_bytes(value):
    """The id of a test with a file's content."""
    return "" if isinstance(value, bytes) else None


def of(mode: str, *pixels) -> Image.Image:
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


def palette(*pixels) -> Image.Image:
    image = of("P", *pixels)
    image.putpalette([*RED, *GREEN, *BLUE])
    return image


def grey(*values) -> Image.Image:
    return Image.fromarray(np.array([values], np.uint16))


def deep_png(kind: int, *pixels) -> bytes:
    """A PNG with 16 bits a channel; kind 2 is RGB, 4 is LA, 6 is RGBA."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    values = [*chain(*pixels)]
    head = struct.pack(">IIBBBBB", len(pixels), 1, 16, kind, 0, 0, 0)
    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def blocks(*colours) -> Image.Image:
    """Squares of 8 x 8 pixels side by side."""
    pixels = np.array([colours], np.uint8)
    return Image.fromarray(pixels.repeat(8, 0).repeat(8, 1))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (stored(of("RGB", RED, BLUE), "PNG"), [RED, BLUE]),
        (stored(of("RGB", RED, BLUE), "BMP"), [RED, BLUE]),
        (stored(of("L", 0, 200), "PNG"), [(0, 0, 0), (200, 200, 200)]),
        (stored(of("1", 0, 255), "PNG"), [(0, 0, 0), WHITE]),
        (stored(palette(0, 2), "PNG"), [RED, BLUE]),
        (stored(palette(0, 2), "GIF"), [RED, BLUE]),
        # Transparent is white, half of it is half white.
        (stored(of("RGBA", (*RED, 255), (*BLUE, 0)), "PNG"), [RED, WHITE]),
        (stored(of("RGBA", (0, 0, 0, 51)), "PNG"), [(204, 204, 204)]),
        (stored(of("RGBA", (*RED, 255), (*BLUE, 0)), "WEBP", lossless=True), [RED, WHITE]),
        (stored(of("LA", (90, 255), (90, 0)), "PNG"), [(90, 90, 90), WHITE]),
        (stored(palette(0, 2), "PNG", transparency=2), [RED, WHITE]),
        (stored(palette(0, 2), "PNG", transparency=b"\xff\x00\x00"), [RED, WHITE]),
        (stored(palette(0, 2), "GIF", transparency=2), [RED, WHITE]),
        (stored(of("RGB", RED, BLUE), "PNG", transparency=BLUE), [RED, WHITE]),
        (stored(of("L", 7, 9), "PNG", transparency=9), [(7, 7, 7), WHITE]),
        # 16 bits keep the upper 8 that are used; Pillow's own conversion would cut off at 255.
        (stored(grey(0, 255, 256, 65535), "PNG"), [(0,) * 3, (0,) * 3, (1,) * 3, WHITE]),
        (stored(grey(0, 7, 255), "PNG"), [(0,) * 3, (7,) * 3, WHITE]),
        (stored(grey(0, 2048, 4095), "PNG"), [(0,) * 3, (128,) * 3, WHITE]),
        (stored(grey(0, 255), "JPEG2000"), [(0,) * 3, WHITE]),
        (stored(of("I", 0, 1023), "TIFF"), [(0,) * 3, WHITE]),
        (deep_png(2, (65535, 0, 0), (0, 0, 40000)), [RED, (0, 0, 156)]),
        (stored(grey(0, 40000), "TIFF"), [(0,) * 3, (156,) * 3]),
        (stored(of("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), "TIFF"), [RED, WHITE]),
    ],
    ids=no_bytes,
)
def test_each_mode_becomes_rgb(tmp_path, content, expected):
    assert np.asarray(opened(content, tmp_path)).tolist() == [[list(pixel) for pixel in expected]]


def test_a_cmyk_jpeg_has_its_colours(tmp_path):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = np.asarray(opened(stored(red, "JPEG", quality=95), tmp_path)).astype(int)
    assert np.abs(pixels - RED).max() < 12


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_picture_of_several_counts(tmp_path, format):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE))
    content = stored(first, format, save_all=True, append_images=[second])
    pixels = np.asarray(opened(content, tmp_path)).astype(int)
    assert np.abs(pixels - RED).max() < 12


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(tmp_path, format, orientation):
    """The stored picture is the upright one with the inverse of its orientation's turn."""
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    colours = np.array([[RED, GREEN, BLUE], [WHITE, (0, 0, 0), RED]], np.uint8)
    upright = Image.fromarray(colours.repeat(16, 0).repeat(16, 1))
    kept = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    found = opened(stored(kept, format, exif=exif, **settings.get(format, {})), tmp_path)
    assert found.size == upright.size
    assert np.abs(np.asarray(found).astype(int) - np.asarray(upright)).max() < 12


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 99) + b"IDAT"


def test_a_small_file_that_holds_a_huge_picture_is_refused(tmp_path):
    flat = stored(Image.new("1", (9000, 8000)), "PNG")
    assert len(flat) < 50_000
    for content in (flat, png_header(8193, 8192), png_header(60_000, 60_000)):
        refused(content, tmp_path, "has more than 67,108,864 pixels")
    refused(png_header(8192, 8192), tmp_path, "does not decode")
    comment = PngInfo()
    comment.add_text("a", "a" * 2_000_000, zip=True)
    long_winded = stored(of("RGB", RED), "PNG", pnginfo=comment)
    assert len(long_winded) < 5000
    refused(long_winded, tmp_path, "does not decode")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert check_image(tmp_path / "huge") == "has more than 100,000,000 bytes"


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_refused(tmp_path, format):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = stored(Image.fromarray(pixels), format)
    opened(content, tmp_path)
    for part in (0.2, 0.5, 0.9):
        refused(content[: int(len(content) * part)], tmp_path, "does not decode")


def box(brand: bytes) -> bytes:
    """How a file of a camera or a phone begins."""
    return b"\0\0\0\x18ftyp" + brand + bytes(40)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not an image of a known kind"),
        (b"\0" * 100, "is not an image of a known kind"),
        ("naïve".encode(), "is not an image of a known kind"),
        (b"<!DOCTYPE html><p>gone", r"is a web page \(HTML\) instead of an image"),
        (b"\xef\xbb\xbf<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
        (b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg/>', "is an SVG drawing"),
        (b"<?xml?>" * 150, "is not an image of a known kind"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a pointer of Git LFS"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL image"),
        # Pillow could open these; it would start Ghostscript for the first.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "is a PostScript file"),
        (b"P6\n1 1\n255\nabc", "is a PPM image"),
        (stored(of("RGB", RED), "PCX"), "is a PCX image"),
        (stored(Image.new("RGB", (16, 16), RED), "ICO"), "is an icon"),
        (stored(of("F", 0.5), "TIFF"), "has floating-point pixels"),
        (stored(of("I", 70_000), "TIFF"), "has pixels outside of 0 to 65,535"),
        (stored(of("I", -1), "TIFF"), "has pixels outside of 0 to 65,535"),
        (b"\xff\xd8\xffgone", "does not decode as an image"),
    ],
    ids=no_bytes,
)
def test_what_is_not_read_is_called_what_it_is(tmp_path, content, said):
    refused(content, tmp_path, said)


def test_a_phones_picture_is_read_or_the_remedy_named(tmp_path):
    """Whether pillow-heif is installed or not, a HEIC file is called one."""
    refused(box(b"heic"), tmp_path, "does not decode" if "HEIF" in FORMATS else "is a HEIC image")
    if "HEIF" not in FORMATS:
        with pytest.raises(NoticeError, match=r"pip install pillow-heif"):
            open_image(tmp_path / "picture.png", "a test")


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000"])
def test_newer_formats_are_read(tmp_path, format):
    assert format in FORMATS
    found = opened(stored(blocks(RED, BLUE), format, quality=100), tmp_path)
    for place, colour in (((4, 4), RED), ((12, 4), BLUE)):
        assert np.abs(np.subtract(found.getpixel(place), colour)).max() < 12


def deep_tiff(*pixels) -> bytes:
    """A TIFF of 16-bit RGB, which Pillow reads but does not write."""
    values = struct.pack(f"<{3 * len(pixels)}H", *chain(*pixels))
    tags = [(256, 4, 1, len(pixels)), (257, 4, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1),
            (262, 3, 1, 2), (273, 4, 1, 128), (277, 3, 1, 3), (278, 4, 1, 1),
            (279, 4, 1, len(values))]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return head + entries + struct.pack("<I3H", 0, 16, 16, 16) + values


@pytest.mark.parametrize("write", [lambda *pixels: deep_png(2, *pixels), deep_tiff])
def test_deep_colour_that_would_become_black_is_refused(tmp_path, write):
    """Pillow keeps the upper 8 of 16 bits, here those that are not used."""
    refused(write((255, 0, 9), (0, 255, 9)), tmp_path, "has 16 bits a channel of which the upper")
    refused(write((4095, 0, 9), (0, 99, 9)), tmp_path, "has 16 bits a channel of which the upper")
    found = opened(write((65535, 0, 0), (0, 0, 65535)), tmp_path)
    assert np.asarray(found).tolist() == [[[*RED], [*BLUE]]]


def test_a_deep_negative_is_refused(tmp_path):
    """A TIFF in which 0 is white: Pillow turns 8 bits round, but not 16."""
    content = stored(grey(0, 65535), "TIFF", tiffinfo={262: 0})
    refused(content, tmp_path, "is a negative of 16 bits")


def test_deep_colour_with_transparency_is_seen_too(tmp_path):
    refused(deep_png(6, (255, 99, 9, 65535), (0, 0, 0, 65535)), tmp_path, "has 16 bits a channel")
    refused(deep_png(4, (255, 65535), (0, 65535)), tmp_path, "has 16 bits a channel")


NOISE = np.random.default_rng(0).integers(0, 3, (16, 16, 3), np.uint8)
HOT = np.zeros((64, 64, 3), np.uint8)
HOT[0, 0] = 40
STAMPED = np.zeros((100, 100, 3), np.uint8)
STAMPED[-8:, -12:] = 255


@pytest.mark.parametrize(
    "content",
    [
        stored(Image.new("RGB", (8, 8)), "PNG"),
        stored(Image.new("L", (8, 8), 255), "JPEG"),
        stored(Image.fromarray(120 + NOISE), "PNG"),
        stored(Image.fromarray(HOT), "PNG"),
        stored(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG"),
        stored(grey(30_000, 30_001, 30_100), "PNG"),
        stored(Image.fromarray(STAMPED), "PNG"),
        stored(Image.fromarray(STAMPED), "JPEG"),
    ],
    ids=range(8),
)
def test_a_picture_of_nearly_one_colour_is_not_usable(tmp_path, content):
    (tmp_path / "blank.png").write_bytes(content)
    assert check_image(tmp_path / "blank.png").startswith("shows nothing: nearly all of it has")
    with pytest.warns(UserWarning, match=r"blank\.png shows nothing: .*: it is a test\."):
        open_image(tmp_path / "blank.png", "a test")


def test_a_small_thing_on_a_page_is_something(tmp_path):
    page = Image.new("RGB", (100, 100), "white")
    page.paste((250, 250, 0), (40, 40, 44, 44))
    (tmp_path / "page.png").write_bytes(stored(page, "PNG"))
    assert check_image(tmp_path / "page.png") is None


def test_a_thing_in_the_dark_is_something(tmp_path):
    """It takes more than a stamp, and a colour may be dark in two channels."""
    night = STAMPED.copy()
    night[40:44, 40:44] = 90
    red = np.zeros((100, 100, 3), np.uint8)
    red[50:, :, 0] = 40
    for pixels in (night, red):
        (tmp_path / "night.png").write_bytes(stored(Image.fromarray(pixels), "PNG"))
        assert check_image(tmp_path / "night.png") is None


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_hot_pixels_do_not_make_a_deep_picture_black(tmp_path, format):
    """Twelve bits in sixteen, but for a few pixels of the sensor."""
    pixels = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
    expected = pixels >> 4
    pixels[10, :12], expected[10, :12] = 40_000, 255
    found = np.asarray(opened(stored(Image.fromarray(pixels), format), tmp_path))
    assert (found == expected[..., None]).all()


def test_hot_pixels_do_not_hide_that_deep_colour_is_black(tmp_path):
    dark = [(4095, 99, 9)] * 400
    refused(deep_png(2, *dark, (65535,) * 3), tmp_path, "has 16 bits a channel of which the upper")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # reading it would never end
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    found = {
        name: check_image(tmp_path / name) for name in ("none", "pipe", "loop", ".", "a" * 999)
    }
    assert found["none"] == "is missing"
    assert found["pipe"] == found["."] == "is not a file"
    assert found["loop"] and found["a" * 999]
    with pytest.raises(
        NoticeError, match=r"none is missing: it is red\. Restore it or drop its row"
    ):
        open_image(tmp_path / "none", "red")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (stored(of("L", 1, 2), "JPEG"), "is a JPEG image: it holds masks. Read here are PNG"),
        (stored(of("RGB", RED), "PNG"), "does not hold masks: they are 8-bit grey"),
        (stored(of("1", 1), "PNG"), "does not hold masks: they are 8-bit grey"),
        (stored(grey(1), "PNG"), "does not hold masks: they are 8-bit grey"),
        (stored(of("L", 0, 255), "PNG"), "1 differs, 2 subject, 4 object, 8 distractor"),
        (stored(of("L", 0, 1), "PNG")[:45], "does not decode"),
        (png_header(9000, 9000), "has more than 67,108,864 pixels"),
    ],
    ids=no_bytes,
)
def test_masks_are_small_grey_pngs_of_known_bits(tmp_path, content, message):
    (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(NoticeError, match=message):
        read_masks(tmp_path / "m.png")


def test_a_missing_mask_is_named(tmp_path):
    with pytest.raises(NoticeError, match=r"m\.png is missing: it holds masks"):
        read_masks(tmp_path / "m.png")


def test_the_limits_hold_when_others_lift_pillows_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(png_header(60_000, 60_000), tmp_path, "has more than 67,108,864 pixels")
