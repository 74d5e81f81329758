"""Make `art/*.webp`, the sprites that scenes are drawn with, from two pinned npm packages.

Needs npm and the PyPI package resvg_py. Run once, by hand:

    python tools/scenes/make_art.py

Every sprite is trimmed, faces left, and is scaled so that its back (animals) or its top
(objects) is equally high for all: then a sprite can take another's place in a scene and
what stands on it stays where it is.
"""

import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageOps

ART = Path(__file__).parent / "art"
FLUENT = "@lobehub/fluent-emoji-3d@1.1.0"  # MIT (c) Microsoft Corporation
NOTO = "@iconify-json/noto@1.2.9"  # Apache-2.0 (c) Google
UNIT = 112  # pixels of one unit, the height of an animal or an object in a scene
BACK, TOP = 0.8, 0.84  # heights of an animal's back and of an object's top, in units
WIDEST, TALLEST = 1.2, 1.2  # limits of a sprite, in units

ANIMALS = {
    "dog": "1f415", "goat": "1f410", "horse": "1f40e", "rabbit": "1f407", "pig": "1f416",
    "cow": "1f404", "elephant": "1f418", "rooster": "1f413", "turtle": "1f422",
    "sheep": "1f411", "tiger": "1f405", "duck": "1f986",
}  # fmt: skip
OBJECTS = {
    "car": "1f697", "box": "1f4e6", "ball": "26bd", "bicycle": "1f6b2", "sled": "1f6f7",
    "suitcase": "1f9f3", "drum": "1f941", "pumpkin": "1f383", "cart": "1f6d2",
    "wheel": "1f6de", "tractor": "1f69c", "boat": "noto:speedboat",
}  # fmt: skip
NOUNS = {
    "bell": "1f514", "chair": "1fa91", "bucket": "1faa3", "lock": "1f512", "kettle": "1fad6",
    "clock": "23f0", "vase": "1f3fa", "crown": "1f451", "barrel": "1f6e2-fe0f", "mailbox": "1f4eb",
    "trophy": "1f3c6", "bottle": "svg",
}  # fmt: skip
MIRRORED = {"cart", "sled", "boat"}  # these face right in the source

BOTTLE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 128">
<defs><linearGradient id="g"><stop offset="0" stop-color="#2f7d55"/>
<stop offset=".3" stop-color="#6cc795"/><stop offset="1" stop-color="#1f5c40"/></linearGradient>
<linearGradient id="c"><stop offset="0" stop-color="#b98a50"/>
<stop offset=".4" stop-color="#e8c48c"/><stop offset="1" stop-color="#96693a"/></linearGradient>
</defs><rect x="24" y="1" width="16" height="14" rx="3" fill="url(#c)"/>
<path d="M23 12h18v24c0 9 16 12 16 30v50q0 10-10 10H17q-10 0-10-10V66c0-18 16-21 16-30z"
fill="url(#g)"/><rect x="21" y="18" width="22" height="7" rx="3" fill="#8fe0b4"/>
<rect x="7" y="72" width="50" height="32" fill="#f4ecd2"/>
<rect x="15" y="80" width="34" height="4" fill="#c9b78a"/>
<rect x="15" y="90" width="24" height="4" fill="#c9b78a"/></svg>"""


def unpack(package, folder):
    """The path of an npm package's files, fetched into `folder`."""
    out = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
    )
    target = Path(folder) / package.replace("/", "_")
    with tarfile.open(Path(folder) / out.stdout.strip().splitlines()[-1]) as archive:
        archive.extractall(target, filter="data")
    return target / "package"


def from_svg(svg):
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=256))))


def source(code, fluent, noto):
    """The RGBA picture named by a Unicode code point, `noto:<icon>` or `svg` (the bottle)."""
    if code == "svg":
        return from_svg(BOTTLE)
    if code.startswith("noto:"):
        body = noto["icons"][code[5:]]["body"]
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128">{body}</svg>'
        return from_svg(svg)
    return Image.open(fluent / f"{code}.webp")


def trimmed(image):
    """`image` as RGBA without faint pixels and empty borders."""
    pixels = np.array(image.convert("RGBA"))
    pixels[pixels[..., 3] < 24] = 0
    image = Image.fromarray(pixels)
    return image.crop(image.getbbox())


def back_height(image, left, right):
    """Median height of the outline between two fractions of the width, as part of the height."""
    solid = np.asarray(image)[..., 3] > 128
    columns = solid[:, int(left * image.width) : int(right * image.width)]
    tops = columns.argmax(0)[columns.any(0)]
    return 1 - float(np.median(tops)) / image.height


def fit(image, back, units):
    """`image` scaled so that `back` (part of its height) is `units` high, within the limits."""
    scale = UNIT * units / (back * image.height)
    width = min(scale * image.width, UNIT * WIDEST)
    height = min(scale * image.height, UNIT * TALLEST)
    return image.resize((round(width), round(height)), Image.Resampling.LANCZOS)


def main():
    ART.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fluent = unpack(FLUENT, folder) / "assets"
        noto = json.loads((unpack(NOTO, folder) / "icons.json").read_text())
        for names, place in (
            (ANIMALS, (BACK, 0.5, 0.8)),
            (OBJECTS, (TOP, 0.4, 0.6)),
            (NOUNS, None),
        ):
            for name, code in names.items():
                image = trimmed(source(code, fluent, noto))
                if name in MIRRORED:
                    image = ImageOps.mirror(image)
                if place:
                    image = fit(image, back_height(image, *place[1:]), place[0])
                else:
                    image = ImageOps.contain(image, (144, 144), Image.Resampling.LANCZOS)
                image = trimmed(image)
                image.save(ART / f"{name}.webp", lossless=True, quality=100, method=6, exact=False)


if __name__ == "__main__":
    main()
