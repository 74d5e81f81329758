"""Dots, intervals, scatter plots and curves."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from ..errors import NoticeError
from .look import (
    COLOURS,
    GREY,
    INK,
    SERIES,
    UNIT,
    AltFigure,
    described,
    draw_legend,
    number,
    subplots,
)
from .maps import head_name

NAME_SIZE = 10
"""Size of the names of dots, in points."""


def strips(
    groups: Mapping[str, Sequence[float]], label: str, colours: Sequence[str] | None = None
) -> AltFigure:
    """Draw a row of dots for each group of values, a bar at its mean, and a line at zero.

    Args:
        groups: {name: values}; NaNs are left out.
        label: name and unit of the values.
        colours: one for each group; by default all have the colour of clean runs.
    """
    colours = colours or [COLOURS["clean"]] * len(groups)
    rng = np.random.default_rng(0)
    figure, axes = subplots(height=0.75 + 0.55 * len(groups))
    axes.axvline(0, color=GREY, linewidth=1)
    told = []
    for row, ((name, given), colour) in enumerate(zip(groups.items(), colours, strict=True)):
        values = np.asarray(given, float)
        values = values[~np.isnan(values)]
        jitter = rng.uniform(-0.2, 0.2, len(values))
        axes.plot(values, row + jitter, "o", color=colour, alpha=0.5, markersize=5)
        if not len(values):
            told.append(f"{name}: no values.")
            continue
        axes.plot([values.mean()] * 2, [row - 0.36, row + 0.36], color=INK, lw=2.5)
        told.append(
            f"{name}: mean {number(values.mean())}, from {number(values.min())} to "
            f"{number(values.max())}, {len(values)} values."
        )
    _rows(axes, groups)
    axes.set_xlabel(label)
    return described(figure, f"{' '.join(told)} Dots in rows, {label}.")


def intervals(
    table: pd.DataFrame,
    label: str,
    value: str = "estimate",
    group: str | None = None,
    reference: float = 0.0,
    sort: bool = True,
) -> AltFigure:
    """Draw a dot and its interval for each row, the largest on top, and a line at `reference`.

    Args:
        table: indexed by name, which is a string or (layer, head). The ends of the intervals are
            in the columns low and high, or <value>_low and <value>_high.
        label: name and unit of the estimate, and the kind of interval.
        value: column of the dots, e.g. "effect" of `notice_lib.heads.head_effects`.
        group: a column, e.g. "task". Rows of one name stand together, and every group has its own
            colour and marker.
        sort: whether to sort names by their largest value, or to keep the table's order.

    Raises:
        NoticeError: a column is missing, or there are too many groups to tell them apart.
    """
    rows = _banded(table, value).assign(name=[site_name(key) for key in table.index])
    rows["group"] = table[group].astype(str).to_numpy() if group else ""
    best = rows.groupby("name", sort=False)["estimate"].max()
    names = list((best.sort_values(ascending=False, kind="stable") if sort else best).index)
    groups = _series(dict.fromkeys(rows["group"]))
    step = 0.7 / max(len(groups), 2)
    figure, axes = subplots(height=0.8 + len(names) * (0.14 + 0.14 * len(groups)))
    axes.axvline(reference, color=GREY, linewidth=1)
    for i, (name, (colour, marker, _)) in enumerate(groups):
        part = rows[rows["group"] == name]
        at = [names.index(row) + step * (i - (len(groups) - 1) / 2) for row in part["name"]]
        axes.hlines(at, part["low"], part["high"], color=colour, linewidth=2)
        axes.plot(part["estimate"], at, marker, color=colour, markersize=6, label=name)
    _rows(axes, names)
    axes.set_xlabel(label)
    if len(groups) > 1:
        draw_legend(figure, columns=min(len(groups), 3))
    return described(figure, _alt_of_intervals(rows, names, label, reference))


def scatter(
    a: pd.Series,
    b: pd.Series,
    label_a: str,
    label_b: str,
    marked: Iterable[Hashable] = (),
    interval: tuple[float, float] | None = None,
) -> AltFigure:
    """Plot two values of the same sites against each other, with Spearman's rank correlation.

    Args:
        a, b: values on the horizontal and the vertical axis, matched by their index, e.g. (layer,
            head). Sites that either lacks are left out.
        label_a, label_b: their names and units.
        marked: index entries to name in the figure.
        interval: an interval of the rank correlation (over scenes), if you have one.

    Raises:
        NoticeError: the two indices share fewer than three entries.
    """
    both = pd.DataFrame({"a": a, "b": b}).dropna()
    if len(both) < 3:
        raise NoticeError(
            f"The two series share {len(both)} index entries, but rank correlation needs at least "
            "three. Index both by the same sites, e.g. by layer and head."
        )
    rho = both["a"].rank().corr(both["b"].rank())
    told = f"rank correlation {number(rho)}"
    if interval is not None:
        told += f" [{number(interval[0])}, {number(interval[1])}]"
    figure, axes = subplots(height=4.0)
    for line in (axes.axhline, axes.axvline):
        line(0, color=GREY, linewidth=0.8)
    axes.plot(both["a"], both["b"], "o", color=COLOURS["clean"], alpha=0.5, markersize=6)
    axes.set(xlabel=label_a, ylabel=label_b, title=f"{told}, {len(both)} sites")
    axes.margins(0.1)
    figure.draw_without_rendering()  # Only now do dots have their places.
    places, dots, letters = [], _in_points(axes, both), np.empty((0, 2))
    for key in marked:
        x, y = both.iloc[both.index.get_loc(key)]
        axes.plot(x, y, "o", color=COLOURS["corrupt"], markersize=7, markeredgecolor=INK)
        letters = _write_name(axes, site_name(key), (x, y), dots, letters)
        places.append(f"{site_name(key)} at {number(x)}, {number(y)}")
    named = f" Named: {'; '.join(places)}." if places else ""
    alt = f"{told.capitalize()}: {len(both)} sites, {label_a} across, {label_b} up.{named}"
    return described(figure, alt)


def _in_points(axes, data) -> np.ndarray:
    """Places in data units as places on the figure, in points."""
    return axes.transData.transform(np.asarray(data, float)) * 72 / axes.figure.dpi


def _write_name(axes, name: str, place: tuple[float, float], dots, letters) -> np.ndarray:
    """Write a name beside a dot, where it covers fewest dots, no other name, and stays inside.

    Returns:
        The places of all letters so far, (n, 2) in points.
    """
    (at,) = _in_points(axes, [place])
    size = np.array([NAME_SIZE * 0.6 * len(name), NAME_SIZE])
    frame = axes.get_window_extent().get_points() * 72 / axes.figure.dpi
    corners = []
    for away, *side in product((5, 5 + 1.2 * NAME_SIZE), (1, -1), (1, -1)):
        low = at + np.array(side) * (5, away) - size * (np.array(side) < 0)
        ends = np.stack([low, low + size])
        on_dots, on_letters = (
            ((one >= ends[0] - 3) & (one <= ends[1] + 3)).all(axis=1).sum()
            for one in (dots, letters)
        )
        leaves = (ends < frame[0]).any() or (ends > frame[1]).any()
        corners.append((100 * (on_letters + leaves) + on_dots, low))
    _, low = min(corners, key=lambda corner: corner[0])
    axes.annotate(name, place, low - at, textcoords="offset points", size=NAME_SIZE)
    written = np.stack([np.linspace(0, 1, len(name)), np.full(len(name), 0.5)], axis=1)
    return np.concatenate([letters, low + size * written])


def curves(
    conditions: Mapping[str, pd.DataFrame],
    label_x: str,
    label_y: str = UNIT,
    value: str = "estimate",
    references: Mapping[str, float] | None = None,
) -> AltFigure:
    """Draw a line for each condition, with a band if it has an interval.

    Args:
        conditions: {name: table indexed by x}, at most six. The band lies between the columns low
            and high, or <value>_low and <value>_high.
        value: column of the line.
        references: {name: y} of horizontal lines, e.g. for the whole model.

    Raises:
        NoticeError: a column is missing, or there are too many conditions to tell them apart.
    """
    figure, axes = subplots(height=3.6 + 0.2 * (len(conditions) // 2))
    told = []
    for (name, table), (colour, marker, line) in _series(conditions.items()):
        y = _banded(table, value, needed=False)
        if "low" in y:
            axes.fill_between(y.index, y["low"], y["high"], color=colour, alpha=0.18, lw=0)
        axes.plot(
            y["estimate"], color=colour, marker=marker, linestyle=line, markersize=5, label=name
        )
        ends = [f"{number(y['estimate'].iloc[i])} at {y.index[i]:g}" for i in (0, -1)]
        told.append(f"{name}: {', '.join(ends)}.")
    for name, y in (references or {}).items():
        axes.axhline(y, color=GREY, linewidth=1)
        axes.annotate(
            name, (1, y), (0, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", size=10,
        )  # fmt: skip
        told.append(f"{name}: a line at {number(y)}.")
    whole = all(pd.api.types.is_integer_dtype(table.index) for table in conditions.values())
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=whole))
    axes.set(xlabel=label_x, ylabel=label_y)
    draw_legend(figure, columns=2)
    return described(figure, f"{' '.join(told)} Curves of {label_y} over {label_x}.")


def site_name(key: Hashable) -> str:
    """Name an index entry: "L3.H0" for (3, 0), "mlp, correct, 3" for other tuples."""
    if not isinstance(key, tuple):
        return str(key)
    if len(key) == 2 and all(isinstance(part, int | np.integer) for part in key):
        return head_name(*key)
    return ", ".join(map(str, key))


def _series(items: Iterable) -> list:
    """Pair each item with its own colour, marker and line style."""
    items = list(items)
    if len(items) > len(SERIES):
        raise NoticeError(
            f"One figure shows at most {len(SERIES)} series that readers can tell apart, not "
            f"{len(items)}. Draw several figures."
        )
    return list(zip(items, SERIES, strict=False))


def _banded(table: pd.DataFrame, value: str, needed: bool = True) -> pd.DataFrame:
    """Return the columns estimate, low and high of a table; without an interval only the first."""
    prefix = f"{value}_" if f"{value}_low" in table else ""
    names = {value: "estimate", f"{prefix}low": "low", f"{prefix}high": "high"}
    missing = [name for name in names if name not in table]
    if value in missing or (needed and missing):
        raise NoticeError(f"The table lacks the columns {', '.join(missing)}; it has {[*table]}.")
    return table[[name for name in names if name in table]].rename(columns=names)


def _rows(axes, names: Iterable[str]) -> None:
    """Name the rows from top to bottom."""
    names = list(names)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _alt_of_intervals(rows: pd.DataFrame, names: list[str], label: str, reference: float) -> str:
    """Say how many intervals exclude the reference, and list those of the first six names."""
    apart = ((rows["low"] > reference) | (rows["high"] < reference)).sum()
    told = []
    for name in names[:6]:
        part = rows.loc[rows["name"] == name, ["group", "estimate", "low", "high"]]
        told.append(f"{name}: {', '.join(_interval(*row) for row in part.to_numpy())}")
    return (
        f"{apart} of {len(rows)} intervals exclude {reference:g}. "
        f"{'; '.join(told)}{'; and more' if len(names) > 6 else ''}. Dots with intervals, {label}."
    )


def _interval(group: str, estimate: float, low: float, high: float) -> str:
    return f"{group} {number(estimate)} [{number(low)}, {number(high)}]".lstrip()
