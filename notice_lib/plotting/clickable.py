"""Maps whose cells say more: on the pages of the book, a reader points at a cell or tabs to it.

The figure is an ordinary one. Behind it stands a small JSON, of which `book/assets/maps.js` makes
a button over each cell. On paper, in a notebook and without JavaScript the figure is as it was.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import NoticeError
from .look import AltFigure, largest

SIDE = 192
"""Pixels of a picture's longer side on the page."""


@dataclass(frozen=True)
class CellNotes:
    """What the cells of one map say.

    Attributes:
        texts: a sentence for each cell, in the rows and columns of the map.
        image: a picture to show beside them.
        looks: (rows, columns, grid, grid), how much each cell's head attends to each patch of the
            image, with any one unit.
        about: what the picture and its colour are, in words.
    """

    texts: pd.DataFrame
    image: Image.Image | None = None
    looks: np.ndarray | None = None
    about: str = ""


@dataclass(frozen=True)
class ClickableFigure:
    """A figure and what its cells say."""

    figure: AltFigure
    notes: Sequence[CellNotes]

    def _ipython_display_(self) -> None:
        from IPython.display import publish_display_data

        # The figure is drawn first, since its cells have no place before.
        image = self.figure.img()
        data = json.dumps(self.data(), separators=(",", ":")).replace("</", "<\\/")
        script = f'<script type="application/json">{data}</script>'
        page = f'<div class="clickable">{image}{script}</div>'
        publish_display_data({"text/html": page, "text/plain": self.figure.alt})

    def data(self) -> dict:
        """Return the panels of a drawn figure, as JSON has them.

        Each panel has its cells as [left, top, width, height, text], in percent of the figure, row
        by row, and the picture that it shares with others: an address, what it is, the grid of its
        patches, and for each cell the base64 of a byte a patch, the square root of attention.
        """
        pictures: list[dict] = []
        panels = []
        for axes, notes in zip(_maps(self.figure), self.notes, strict=True):
            panel: dict = {"cells": _cells(axes, notes.texts)}
            if notes.image is not None:
                picture = _picture(notes)
                if picture not in pictures:
                    pictures.append(picture)
                panel["picture"] = pictures.index(picture)
            panels.append(panel)
        return {"panels": panels, "pictures": pictures}


def clickable(figure: AltFigure, notes: Sequence[CellNotes]) -> ClickableFigure:
    """Let the cells of a figure's maps say more on a page of the book.

    Args:
        figure: a figure with maps, e.g. of `percent_maps`.
        notes: one for each map, in the order in which they are read.

    Raises:
        NoticeError: there are not as many notes as maps, or they or their looks have other rows and
            columns.
    """
    shapes = [axes.images[0].get_array().shape for axes in _maps(figure)]
    given = [one.texts.shape for one in notes]
    if shapes != given:
        raise NoticeError(
            f"The figure's maps have the shapes {shapes}, but the notes have {given}. Give one "
            "text for each cell of each map."
        )
    looks = [one.texts.shape if one.looks is None else one.looks.shape[:2] for one in notes]
    if looks != given:
        raise NoticeError(
            f"The notes have the shapes {given}, but what their heads look at has {looks}. Give "
            "one look for each cell of each map, or none."
        )
    return ClickableFigure(figure, notes)


def _maps(figure: AltFigure) -> list:
    """Return the axes with a map, from the upper left to the lower right."""
    return [axes for axes in figure.axes if axes.images]


def _cells(axes, texts: pd.DataFrame) -> list[list]:
    """Return where each cell of a map is in its figure, in percent from the upper left."""
    to_figure = axes.transData + axes.figure.transFigure.inverted()
    cells: list[list] = []
    for (row, column), text in np.ndenumerate(texts.to_numpy(object)):
        ends = [(column - 0.5, row - 0.5), (column + 0.5, row + 0.5)]
        (left, top), (right, bottom) = to_figure.transform(ends)
        place = (left, 1 - top, right - left, top - bottom)
        cells.append([*(round(100 * float(part), 2) for part in place), str(text)])
    return cells


def _picture(notes: CellNotes) -> dict:
    """Return a picture as JSON has it."""
    assert notes.image is not None
    small, file = notes.image.convert("RGB"), io.BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(file, "WEBP", quality=80)
    address = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    picture: dict = {"address": address, "about": notes.about}
    if notes.looks is not None:
        shades = np.sqrt(notes.looks / largest([notes.looks]))
        shades = np.rint(255 * shades).astype(np.uint8)
        rows, columns, grid, _ = shades.shape
        cells = shades.reshape(rows * columns, -1)
        picture["grid"] = grid
        picture["looks"] = [base64.b64encode(cell.tobytes()).decode() for cell in cells]
    return picture
