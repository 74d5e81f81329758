"""Figures in one style: pairs, masks, image patches, heat maps, intervals and curves.

Every function returns a complete figure with alt text (`AltFigure`), which a notebook shows if it
is the value of a cell. Sizes are chosen for pages that are 728 pixels wide; on a phone, figures
scroll sideways.
"""

from .charts import curves, intervals, scatter, strips
from .clickable import CellNotes, ClickableFigure, clickable
from .look import (
    COLOURS,
    COMPONENTS,
    GREY,
    INK,
    ON_DARK,
    ON_MAP,
    PAPER,
    SERIES,
    TOWARDS,
    UNIT,
    WIDTH,
    AltFigure,
    described,
    draw_scale,
    in_percent,
    largest,
    number,
    style,
    subplots,
)
from .maps import (
    draw_roles,
    extremes,
    head_map,
    head_means,
    head_name,
    heat_map,
    heat_maps,
    role_means,
)
from .percent import percent_maps, rows_kept
from .pictures import (
    draw_overlay,
    draw_picture,
    overlay,
    overlays,
    show_masks,
    show_pair,
    show_pairs,
    show_patches,
)
from .verdicts import verdict_rows

__all__ = [
    "COLOURS",
    "COMPONENTS",
    "GREY",
    "INK",
    "ON_DARK",
    "ON_MAP",
    "PAPER",
    "SERIES",
    "TOWARDS",
    "UNIT",
    "WIDTH",
    "AltFigure",
    "CellNotes",
    "ClickableFigure",
    "clickable",
    "curves",
    "described",
    "draw_overlay",
    "draw_picture",
    "draw_roles",
    "draw_scale",
    "extremes",
    "head_map",
    "head_means",
    "head_name",
    "heat_map",
    "heat_maps",
    "in_percent",
    "intervals",
    "largest",
    "number",
    "overlay",
    "overlays",
    "percent_maps",
    "role_means",
    "rows_kept",
    "scatter",
    "show_masks",
    "show_pair",
    "show_pairs",
    "show_patches",
    "strips",
    "style",
    "subplots",
    "verdict_rows",
]
