"""What image files become, and which are refused: as cameras, scanners and attackers write them."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
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
    assert check_image(folder / "picture") is None
    image = open_image(folder / "picture", "a test")
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
        # 16 bits keep their upper 8; Pillow's own conversion would cut off at 255.
        (stored(grey(0, 255, 256, 65535), "PNG"), [(0,) * 3, (0,) * 3, (1,) * 3, WHITE]),
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
        refused(content[: int(len(content) * part)], tmp_path, "(does not decode|is not an image)")


def test_what_is_no_image_is_refused(tmp_path):
    for content in (b"", b"\0" * 100, b"<html>gone</html>", "naïve".encode()):
        refused(content, tmp_path, "is not an image")
    # Pillow could open these; it would start Ghostscript for the first.
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for content in (script, b"P6\n1 1\n255\nabc", stored(of("RGB", RED), "PCX")):
        refused(content, tmp_path, "is not an image")
    refused(stored(of("F", 0.5), "TIFF"), tmp_path, "has floating-point pixels")
    refused(stored(of("I", 70_000), "TIFF"), tmp_path, "has 32-bit pixels")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # reading it would never end
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    found = {
        name: check_image(tmp_path / name) for name in ("none", "pipe", "loop", ".", "a" * 999)
    }
    assert found["none"] == "is missing"
    assert found["pipe"] == found["."] == "is no file"
    assert found["loop"] and found["a" * 999]
    with pytest.raises(
        NoticeError, match=r"none is missing: it is red\. Restore it or drop its row"
    ):
        open_image(tmp_path / "none", "red")


SAMPLES = [
    stored(image, format)
    for format in FORMATS
    for image in (Image.new("RGB", (9, 7), RED), palette(0, 1, 2).resize((9, 7)))
    if (format, image.mode) != ("JPEG", "P")
]


@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4))))
@settings(max_examples=150, deadline=None)
def test_damaged_files_give_a_picture_or_a_reason(tmp_path_factory, content, edits):
    damaged = bytearray(content)
    for start, new in edits:
        damaged[start : start + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    reason = check_image(path)
    if reason is None:
        assert open_image(path, "a test").mode == "RGB"
    else:
        with pytest.raises(NoticeError):
            open_image(path, "a test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (stored(of("L", 1, 2), "JPEG"), "is not an image: it holds masks. Read here are PNG"),
        (stored(of("RGB", RED), "PNG"), "holds no masks: they are 8-bit grey"),
        (stored(of("1", 1), "PNG"), "holds no masks: they are 8-bit grey"),
        (stored(grey(1), "PNG"), "holds no masks: they are 8-bit grey"),
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
