"""Several maps of fractions recovered on one scale, in percent, with the numbers in their cells."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from ..errors import NoticeError
from .look import (
    CLEARLY,
    ON_MAP,
    PAPER,
    TOWARDS,
    AltFigure,
    described,
    draw_dashes,
    draw_frames,
    largest,
    subplots,
    thinned,
)
from .maps import extremes

PRINTED = 1.0
"""Cells with at least this many percent show their number."""

NARROW = 10
"""With more columns, numbers would touch: clearly negative cells get a dash instead."""

Cells = Collection[tuple[int, int]]
Panels = Mapping[str, Mapping[str, pd.DataFrame]]


def percent_maps(
    panels: Panels,
    across: str,
    finding: str = "",
    silent: float | None = None,
    framed: Mapping[tuple[str, str], Cells] | None = None,
    dotted: Mapping[tuple[str, str], Cells] | None = None,
    limit: float | None = None,
    label: str = "mean fraction recovered (%)",
) -> AltFigure:
    """Draw maps of fractions in percent: blue is towards the clean answer, orange away from it.

    All panels have one scale. Cells of at least one percent show their value; cells without a value
    are hatched.

    Args:
        panels: {name of the row: {title of the panel: fractions}}. A row whose titles are those of
            the row above does not repeat them. The fractions are tables, e.g. with a row for each
            token role and a column for each layer.
        across: what the tables' columns are, e.g. "layer".
        finding: what the figure shows, for the alt text.
        silent: rows of the tables whose fractions are all smaller than this in every panel are left
            out, and the figure says so.
        framed: cells to frame, as (row, column) of the tables' labels, by panel: {(row name,
            title): cells}.
        dotted: cells to mark with a dot in their corner.
        limit: the colours range from -limit to limit, a fraction; by default the largest one.
        label: name and unit of the values.

    Raises:
        NoticeError: there are no panels.
    """
    tables = [table for row in panels.values() for table in row.values()]
    if not tables:
        raise NoticeError("There are no maps to draw. Give {row name: {panel title: fractions}}.")
    every, kept = rows_kept(tables), rows_kept(tables, silent or 0.0)
    left = [str(label) for label in every if label not in kept]
    limit = 100 * (limit or largest(tables))
    names = [list(row) for row in panels.values()]
    titled = [i == 0 or row != names[i - 1] for i, row in enumerate(names)]
    height = sum(0.1 + 0.2 * max(3, len(kept)) + 0.22 * title for title in titled) + 1.25
    figure, grid = subplots(
        len(panels), max(map(len, names)), height, sharex=True, sharey=True, squeeze=False
    )
    told = []
    for axes_row, (row, maps), title in zip(grid, panels.items(), titled, strict=True):
        for axes in axes_row[len(maps) :]:
            axes.set_visible(False)
        for axes, (column, table) in zip(axes_row, maps.items(), strict=False):
            part = 100 * table.reindex(kept)
            drawn = _draw(axes, part, limit)
            for cells, mark in ((framed, draw_frames), (dotted, _draw_dots)):
                mark(axes, _places(part, (cells or {}).get((row, column), ())))
            told.append(f"{row}, {column}: {extremes(part, ' %')}.")
            if title:
                axes.set_title(column, fontsize=11)
        axes_row[0].set_ylabel(row.replace(" ", "\n"), fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel(across, fontsize=10)
    _scale(figure, drawn, grid, label)
    notes = []
    if left and silent is not None:
        notes.append(f"Left out, below {100 * silent:g} % everywhere: {', '.join(left)}.")
    if any(table.reindex(kept).isna().any(axis=None) for table in tables):
        notes.append("Hatched: does not occur.")
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=9)
    return described(figure, " ".join(filter(None, [finding, *told, *notes])))


def rows_kept(tables: Sequence[pd.DataFrame], silent: float = 0.0) -> list:
    """Return the labels of the rows that `percent_maps` draws: not silent in every table.

    Args:
        tables: the fractions of all panels.
        silent: rows whose fractions are all smaller than this are left out, but for one.
    """
    every = list(dict.fromkeys(label for table in tables for label in table.index))
    size = pd.concat([table.abs().max(axis=1) for table in tables], axis=1).max(axis=1)
    return [label for label in every if size[label] >= silent] or every[:1]


def _scale(figure: AltFigure, drawn, grid, label: str) -> None:
    """Draw the colour bar below the panels."""
    inch = 1 / figure.get_figheight()
    bar = figure.colorbar(
        drawn, ax=grid, orientation="horizontal", shrink=0.8, aspect=30, fraction=0.3 * inch,
        pad=0.1 * inch, ticks=MaxNLocator(5),
    )  # fmt: skip
    bar.ax.tick_params(labelsize=9)
    bar.set_label(label, fontsize=10)


def _draw(axes, part: pd.DataFrame, limit: float):
    """Draw one map, in percent, with its numbers; return it for a colour bar."""
    values = part.to_numpy(float)
    drawn = axes.imshow(values, cmap=TOWARDS, vmin=-limit, vmax=limit, aspect="auto")
    axes.patch.set(facecolor=PAPER, hatch="////", edgecolor="#BBBBBB", linewidth=0)
    axes.spines[:].set_color("#BBBBBB")
    thinned(axes.xaxis, part.columns, 12)
    thinned(axes.yaxis, part.index, 12)
    axes.tick_params(labelsize=9, length=0)
    large = np.abs(np.nan_to_num(values)) >= PRINTED
    if len(part.columns) > NARROW:
        rows, columns = np.nonzero(large & (values < -limit * CLEARLY))
        draw_dashes(axes, rows, columns)
        return drawn
    for i, j in np.argwhere(large):
        text = f"{values[i, j]:.0f}".replace("-", "\N{MINUS SIGN}")
        colour = "white" if values[i, j] > 0.9 * limit else ON_MAP  # the darkest blue
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    return drawn


def _draw_dots(axes, cells: Cells) -> None:
    """Draw a dot in the upper right corner of each of the given (row, column) cells."""
    for row, column in cells:
        axes.plot(
            column + 0.38,
            row - 0.36,
            "o",
            color=ON_MAP,
            markersize=2.4,
            markeredgewidth=0,
            zorder=4,
        )


def _places(part: pd.DataFrame, cells: Cells) -> list[tuple[int, int]]:
    return [
        (part.index.get_loc(row), part.columns.get_loc(column))
        for row, column in cells
        if row in part.index and column in part.columns
    ]
