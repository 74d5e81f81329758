"""Figures with pictures: pairs, masks, image patches, and attention over an image."""

from collections.abc import Iterable, Mapping
from textwrap import fill

import numpy as np
from PIL import Image

from ..pairs import SemanticPair
from .look import (
    CLEARLY,
    COLOURS,
    ON_MAP,
    TOWARDS,
    WIDTH,
    AltFigure,
    described,
    draw_dashes,
    draw_scale,
    largest,
    number,
    style,
    subplots,
)

RUNS = ("clean", "corrupt")
ABOVE_AVERAGE = "attention minus its average (share)"

Overlay = tuple[Image.Image, np.ndarray, np.ndarray | None]
"""An image, signed values (grid, grid), and a mask (height, width) to outline, or None."""


def show_pair(pair: SemanticPair) -> AltFigure:
    """Show the clean and the corrupt image of a pair, with the prompt and both answers."""
    return show_pairs([pair], columns=1)


def show_pairs(pairs: Iterable[SemanticPair], columns: int = 2) -> AltFigure:
    """Show pairs in a grid, each with its prompt above and an answer below each image."""
    pairs = list(pairs)
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    with style():
        figure = AltFigure(figsize=(WIDTH, rows * (WIDTH / columns / 2 + 0.75)))
        cells = figure.subfigures(rows, columns, squeeze=False, hspace=0.06).ravel()
        for cell, pair in zip(cells, pairs, strict=False):
            cell.suptitle(fill(pair.prompt, 60 // columns))
            answers = {"clean": pair.correct, "corrupt": pair.incorrect}
            for axes, run in zip(cell.subplots(1, 2), RUNS, strict=True):
                draw_picture(axes, pair.image(run))
                name = f"{run}: {answers[run]}" if columns == 1 else answers[run]
                axes.set_xlabel(name, color=COLOURS[run])
    told = [f"{pair.prompt} Clean: {pair.correct}, corrupt: {pair.incorrect}." for pair in pairs]
    return described(figure, f"The clean and the corrupt picture of: {' '.join(told)}")


def show_masks(pair: SemanticPair) -> AltFigure:
    """Show both images of a pair once for each mask, and fade what lies outside the mask."""
    masks = {run: pair.masks(run) for run in RUNS}
    names = [name for name in ("differs", "subject", "object", "distractor") if name in
             masks["clean"].keys() | masks["corrupt"].keys()]  # fmt: skip
    told = []
    with style():
        size = WIDTH / max(len(names), 2)
        figure = AltFigure(figsize=(size * len(names), 2 * size + 0.5))
        grid = figure.subplots(2, len(names), squeeze=False)
        for run, row in zip(RUNS, grid, strict=True):
            image = np.asarray(pair.image(run)) / 255
            row[0].set_ylabel(run, color=COLOURS[run])
            for name, axes in zip(names, row, strict=True):
                mask = masks[run].get(name, np.zeros(image.shape[:2], bool))
                draw_picture(axes, np.where(mask[..., None], image, 0.15 * image + 0.85))
                told.append(f"{name}, {run}: {mask.mean():.0%}")
                if run == "clean":
                    axes.set_title(name)
    alt = f"Both pictures of {pair.prompt!r}, faded but for a mask. Share of the picture in it: "
    return described(figure, f"{alt}{'; '.join(told)}.")


def show_patches(
    image: Image.Image, values: np.ndarray, label: str = "share of attention"
) -> AltFigure:
    """Show an image with the model's grid of image patches.

    Args:
        image: the picture.
        values: (grid, grid). Booleans fade the image patches that are false; numbers colour all of
            them, from 0 to the largest. Use `overlay` for numbers of both signs.
        label: name and unit of the numbers.
    """
    values = np.asarray(values)
    with style():
        figure = AltFigure(figsize=(WIDTH * 0.7, WIDTH * 0.7 - 0.3))
        axes = figure.subplots()
    draw_picture(axes, image)
    place = _place(image)
    if values.dtype == bool:
        veil = np.where(values, np.nan, 1.0)
        axes.imshow(veil, cmap="Greys_r", vmin=0, vmax=1, alpha=0.75, **place)
        told = f"{values.sum()} of them are in full colour, the others faded"
    else:
        drawn = axes.imshow(values, cmap="viridis", vmin=0, alpha=0.65, **place)
        figure.colorbar(drawn, label=label)
        told = f"{label} is largest, {values.max():.2g}, at {_patch(values.argmax(), values)}"
    line = "#BBBBBB" if values.dtype == bool else "white"
    for edge in np.linspace(0, 1, values.shape[0] + 1)[1:-1]:
        axes.axhline(edge * image.height - 0.5, color=line, linewidth=0.6)
        axes.axvline(edge * image.width - 0.5, color=line, linewidth=0.6)
    rows, columns = values.shape
    return described(figure, f"{rows} by {columns} patches over a picture: {told}.")


def overlay(
    image: Image.Image,
    values: np.ndarray,
    mask: np.ndarray | None = None,
    label: str = ABOVE_AVERAGE,
    limit: float | None = None,
) -> AltFigure:
    """Show signed values of image patches over an image, with the outline of a mask.

    Args:
        image: the picture.
        values: (grid, grid), e.g. a head's attention minus the average of all heads.
        mask: (height, width) booleans.
        label: name and unit of the values.
        limit: the colours range from -limit to limit; by default the largest value.
    """
    return overlays({"": (image, values, mask)}, label, limit)


def overlays(
    panels: Mapping[str, Overlay],
    label: str = ABOVE_AVERAGE,
    limit: float | None = None,
    columns: int = 3,
) -> AltFigure:
    """Show several overlays (see `overlay`) on one scale.

    Args:
        panels: {title: (image, values, mask or None)}.
        label: name and unit of the values.
        limit: the colours range from -limit to limit; by default the largest value.
        columns: number of panels in a row.
    """
    limit = limit or largest(values for _, values, _ in panels.values())
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height = rows * (WIDTH / max(columns, 1.5) + 0.25) + 0.6
    figure, grid = subplots(rows, columns, height, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
        drawn = draw_overlay(axes, *panel, limit)
        axes.set_title(title)
    draw_scale(figure, drawn, grid, label)
    told = [f"{title}: {alt_of_overlay(*panel)}".lstrip(": ") for title, panel in panels.items()]
    shown = "Patches of a grey picture in colour" if len(panels) == 1 else "Grey pictures, coloured"
    return described(figure, f"{shown} by {label}. {' '.join(told)}")


def draw_overlay(axes, image: Image.Image, values: np.ndarray, mask, limit: float):
    """Draw one overlay on given axes; return it for a colour bar.

    The picture is grey, so that only values have colours, and it shows through where they are
    small.
    """
    values = np.asarray(values, float)
    grey = np.asarray(image.convert("L"), float)
    draw_picture(axes, 255 - 0.8 * (255 - grey), cmap="gray", vmin=0, vmax=255)
    strength = 0.9 * np.sqrt(np.abs(values) / limit).clip(0, 1)
    drawn = axes.imshow(
        values, cmap=TOWARDS, vmin=-limit, vmax=limit, alpha=strength, **_place(image)
    )
    rows, columns = np.nonzero(values < -limit * CLEARLY)
    height, width = image.height / values.shape[0], image.width / values.shape[1]
    draw_dashes(axes, (rows + 0.5) * height - 0.5, (columns + 0.5) * width - 0.5, width)
    if mask is not None and mask.any():
        for colour, thickness in (("white", 3.5), (ON_MAP, 1.6)):
            axes.contour(np.asarray(mask, float), levels=[0.5], colors=colour, linewidths=thickness)
    return drawn


def alt_of_overlay(image: Image.Image, values: np.ndarray, mask: np.ndarray | None) -> str:
    """Say where an overlay is largest and smallest, and how much of it lies in the mask."""
    values = np.asarray(values, float)
    told = (
        f"largest {number(values.max())} at {_patch(values.argmax(), values)}, "
        f"smallest {number(values.min())} at {_patch(values.argmin(), values)}"
    )
    if mask is None:
        return f"{told}."
    pixels = np.asarray(Image.fromarray(values.clip(0)).resize(image.size, Image.Resampling.BOX))
    inside = pixels[np.asarray(mask, bool)].sum() / (pixels.sum() or 1.0)
    return (
        f"{told}; {inside:.0%} of what is above zero lies in the outlined mask "
        f"({np.mean(mask):.0%} of the picture)."
    )


def draw_picture(axes, image, **settings) -> None:
    """Draw an image without axes."""
    axes.imshow(image, **settings)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _place(image: Image.Image) -> dict:
    """Return where image patches lie on axes whose unit is the image's pixels."""
    extent = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    return {"extent": extent, "interpolation": "nearest"}


def _patch(index: np.integer, values: np.ndarray) -> str:
    row, column = np.unravel_index(index, values.shape)
    return f"row {row + 1}, column {column + 1}"
