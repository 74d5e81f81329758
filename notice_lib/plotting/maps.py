"""Heat maps of token roles and of heads; layers run from left to right in all of them."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import pandas as pd

from ..errors import NoticeError
from ..models.base import ROLES
from .look import (
    COMPONENTS,
    UNIT,
    AltFigure,
    described,
    draw_frames,
    draw_scale,
    draw_signed,
    largest,
    number,
    subplots,
    thinned,
)

Tables: TypeAlias = pd.DataFrame | Mapping[str, pd.DataFrame]
Heads = Iterable[tuple[int, int]]


def role_means(table: pd.DataFrame, value: str = "effect") -> dict[str, pd.DataFrame]:
    """Average a column by token role and layer, first within each pair, then over pairs.

    Every pair has the same weight, however many of its tokens share a role.

    Returns:
        {component: (roles x layers) means}. Roles are in the order of `notice_lib.models.ROLES`,
        followed by others such as "image:differs"; roles without rows are left out.
    """
    keys = ["component", "role", "layer"]
    by_pair = table.astype({"component": str, "role": str}).groupby([*keys, "pair_id"])[value]
    means = by_pair.mean().groupby(keys).mean().unstack("layer")
    roles = _in_order(means.index.get_level_values("role"))
    return {
        component: means.loc[component].reindex(roles)
        for component in dict.fromkeys(means.index.get_level_values("component"))
    }


def head_means(table: pd.DataFrame, value: str = "effect") -> pd.DataFrame:
    """Average a column by layer and head, first within each pair, then over pairs.

    A table without pairs, such as that of `notice_lib.heads.head_effects`, must already have one
    row per head.

    Returns:
        (heads x layers) signed means.

    Raises:
        NoticeError: the table has several components, whole modules, or, without pairs, several
            rows for one head.
    """
    components = sorted(set(table["component"].astype(str)))
    if len(components) != 1 or (table["head"] < 0).any():
        raise NoticeError(
            "A map of heads needs rows of single heads of one component, but the table has "
            f"{', '.join(components) or 'no rows'}, heads {table['head'].min()} to "
            f"{table['head'].max()} (-1 is a whole module). Select rows by component and head."
        )
    if "pair_id" in table:
        by_pair = table.groupby(["layer", "head", "pair_id"])[value].mean()
        return by_pair.groupby(["layer", "head"]).mean().unstack("layer")
    if table.duplicated(["layer", "head"]).any():
        raise NoticeError(
            "Some heads have several rows. Pass one table for each panel: "
            '{task: part for task, part in table.groupby("task")}.'
        )
    return table.set_index(["layer", "head"])[value].unstack("layer")


def heat_map(
    table: pd.DataFrame,
    value: str = "effect",
    components: Iterable[str] | None = None,
    label: str = UNIT,
    limit: float | None = None,
) -> AltFigure:
    """Draw the mean of `value` by token role and layer, one panel for each component.

    Means are those of `role_means`. Blue is positive, orange with a dash is negative, white is
    zero, and cells without a value are hatched.

    Args:
        table: `effects(sweep.table())`.
        value: column to average.
        components: components to draw, in this order; by default all of the table.
        label: name and unit of the value.
        limit: the colours range from -limit to limit; by default the largest mean.
    """
    means = role_means(table, value)
    names = _chosen(means, components)
    columns = min(2, len(names))
    panels = [(COMPONENTS.get(name, name), means[name]) for name in names]
    figure = _role_panels(panels, columns, label, limit)
    return described(figure, _alt_of_roles(panels, label, [table]))


def heat_maps(
    tables: Mapping[str, pd.DataFrame],
    value: str = "effect",
    components: Iterable[str] | None = None,
    label: str = UNIT,
    limit: float | None = None,
) -> AltFigure:
    """Draw the heat maps of several tables on one scale, with one column for each table.

    Args:
        tables: {title: table}, e.g. image and text corruption, or the two answer orders.
        components: components to draw, one row each; by default all of the first table.

    The other arguments are those of `heat_map`.
    """
    means = {title: role_means(table, value) for title, table in tables.items()}
    names = _chosen(next(iter(means.values())), components)
    panels = [
        (f"{title}: {COMPONENTS.get(name, name)}" if len(names) > 1 else title, found[name])
        for name in names
        for title, found in means.items()
    ]
    figure = _role_panels(panels, len(tables), label, limit)
    return described(figure, _alt_of_roles(panels, label, tables.values()))


def head_map(
    tables: Tables,
    value: str = "effect",
    selected: Heads | Mapping[str, Heads] | None = None,
    label: str = UNIT,
    limit: float | None = None,
    columns: int = 2,
) -> AltFigure:
    """Draw the signed mean of `value` by head and layer (see `head_means`); frame selected heads.

    Args:
        tables: one table of `effects(sweep.table())` or of `notice_lib.heads.head_effects` (then
            with value="effect"), or {title: table} for several panels on one scale.
        value: column to average.
        selected: (layer, head) pairs to frame, or {title: pairs} if panels differ. By default the
            column `selected` of each table, if it has one.
        label: name and unit of the value.
        limit: the colours range from -limit to limit; by default the largest mean.
        columns: number of panels in a row.
    """
    if not isinstance(tables, Mapping):
        tables = {"": tables}
    means = {title: head_means(table, value) for title, table in tables.items()}
    framed = {title: _selected(table, title, selected) for title, table in tables.items()}
    limit = limit or largest(means.values())
    columns = min(columns, len(means))
    rows = -(-len(means) // columns)
    heads = max(map(len, means.values()))
    height = rows * (0.7 + min(0.26, 3.2 / heads * columns) * heads) + 0.8
    figure, grid = subplots(rows, columns, height, squeeze=False, sharey=True)
    for axes in grid.flat[len(means) :]:
        axes.set_visible(False)
    for axes, (title, array) in zip(grid.flat, means.items(), strict=False):
        drawn = draw_heads(axes, array, limit, framed[title])
        axes.set_title(title)
    for axes in grid[:, 0]:
        axes.set_ylabel("head")
    draw_scale(figure, drawn, grid, f"mean {label}")
    found = [_alt_of_heads(title, array, framed[title]) for title, array in means.items()]
    pairs = _counted(tables.values())
    return described(
        figure, f"{' '.join(found)} Rows are heads, columns layers; mean {label}{pairs}."
    )


def draw_heads(axes, means: pd.DataFrame, limit: float, selected: Heads = ()):
    """Draw one map of (heads x layers) on given axes; return it for a colour bar."""
    drawn = draw_signed(axes, means.to_numpy(), limit)
    thinned(axes.xaxis, means.columns, 8)
    thinned(axes.yaxis, means.index, 12)
    axes.set_xlabel("layer")
    axes.tick_params(length=0)
    places = [(means.index.get_loc(head), means.columns.get_loc(layer)) for layer, head in selected]
    draw_frames(axes, places)
    return drawn


def draw_roles(axes, means: pd.DataFrame, limit: float):
    """Draw one map of (roles x layers) on given axes; return it for a colour bar."""
    drawn = draw_signed(axes, means.to_numpy(), limit)
    thinned(axes.xaxis, means.columns, 8)
    axes.set_yticks(range(len(means)), means.index)
    axes.set_xlabel("layer")
    axes.tick_params(length=0)
    return drawn


def extremes(means: pd.DataFrame, unit: str = "") -> str:
    """Say where the smallest and the largest value of a map are.

    Args:
        means: (roles x layers), or (heads x layers).
        unit: what follows each number, e.g. " %".
    """
    cells = means.rename_axis(index="row", columns="column").stack().dropna()
    if not len(cells):
        return "no values"
    low, high = (
        f"{number(cells[at])}{unit} at {_name(at)}" for at in (cells.idxmin(), cells.idxmax())
    )
    return f"from {low} to {high}"


def head_name(layer: int, head: int) -> str:
    """Name a head as the paper does, e.g. "L3.H0"."""
    return f"L{layer}.H{head}"


def _role_panels(panels, columns, label, limit) -> AltFigure:
    """Draw panels (title, means) in a grid, with the same roles and one scale."""
    roles = _in_order(role for _, means in panels for role in means.index)
    panels = [(title, means.reindex(roles)) for title, means in panels]
    limit = limit or largest(means for _, means in panels)
    rows = -(-len(panels) // columns)
    height = rows * (0.7 + 0.24 * len(panels[0][1])) + 0.8
    figure, grid = subplots(rows, columns, height, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, means) in zip(grid.flat, panels, strict=False):
        drawn = draw_roles(axes, means, limit)
        axes.set_title(title)
    for axes in grid[:, 0]:
        axes.set_ylabel("token")
    draw_scale(figure, drawn, grid, f"mean {label}")
    return figure


def _in_order(roles: Iterable[str]) -> list[str]:
    found = set(roles)
    return [role for role in ROLES if role in found] + sorted(found - set(ROLES))


def _chosen(means: Mapping[str, pd.DataFrame], components: Iterable[str] | None) -> list[str]:
    """Return the components to draw, by default all in the order of a layer."""
    if components is not None:
        return list(components)
    return sorted(means, key=lambda name: [*COMPONENTS, name].index(name))


def _alt_of_roles(panels, label: str, tables: Iterable[pd.DataFrame]) -> str:
    found = [f"{title}: {extremes(means)}." for title, means in panels]
    about = f"Rows are token roles, columns layers; mean {label}{_counted(tables)}."
    return " ".join([*found, about])


def _alt_of_heads(title: str, means: pd.DataFrame, selected: Heads) -> str:
    told = f"{title}: {extremes(means)}".lstrip(": ")
    framed = [
        f"{head_name(layer, head)} ({number(means.loc[head, layer])})" for layer, head in selected
    ]
    return f"{told}; framed: {', '.join(framed)}." if framed else f"{told}."


def _name(cell: tuple) -> str:
    row, layer = cell
    return f"{row}, layer {layer}" if isinstance(row, str) else head_name(layer, row)


def _selected(table: pd.DataFrame, title: str, selected) -> list[tuple[int, int]]:
    """Return the heads to frame in one panel."""
    if isinstance(selected, Mapping):
        return list(selected.get(title, ()))
    if selected is not None:
        return list(selected)
    if "selected" not in table:
        return []
    chosen = table.loc[table["selected"].astype(bool), ["layer", "head"]].drop_duplicates()
    return list(chosen.itertuples(index=False, name=None))


def _counted(tables: Iterable[pd.DataFrame]) -> str:
    """Say " over 12 pairs" or " over 10 to 12 pairs", and nothing for tables without pairs."""
    counts = [table["pair_id"].nunique() for table in tables if "pair_id" in table]
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f" over {low}{'' if low == high else f' to {high}'} pair{'' if high == 1 else 's'}"
