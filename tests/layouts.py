"""Folders of images in the layouts of published data sets, written by the tests."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def a_picture(number: int, form: str = "PNG") -> bytes:
    """A small image; each number another one."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form)
    return file.getvalue()


def write_folders(root: Path, folders: dict[str, int], start: int = 0, ending=".jpg") -> Path:
    """So many different images in each folder, named alike in all of them."""
    number = start
    for name, count in folders.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            form = "JPEG" if ending == ".jpg" else "PNG"
            (root / name / f"{i}{ending}").write_bytes(a_picture(number, form))
            number += 1
    return root


def write_csv(path: Path, *rows) -> Path:
    """A table of comma-joined rows."""
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n", encoding="utf-8")
    return path


def first_option(pair) -> str:
    spans = pair.spans
    start, end = min(spans.correct, spans.incorrect)
    return pair.prompt[start:end]
