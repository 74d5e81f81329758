"""Figures of the book: pairs, masks, patches and heat maps, in one look.

Every function returns a matplotlib Figure that stands on its own and is closed for pyplot, so that
a notebook shows it once, as the value of its cell. Sizes are chosen for a page of 5 inches that a
phone shrinks to half of that.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .models.base import ROLES
from .pairs import SemanticPair

WIDTH = 5.0
"""Width of all figures in inches, so that their letters have one size on the page."""

COLOURS = {"clean": "#0072B2", "corrupt": "#D55E00", "blank": "#777777", "text": "#009E73"}
"""Okabe and Ito's, which colour-blind readers tell apart."""

COMPONENTS = {
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "layer_output": "layer output",
    "mlp": "MLP",
}
"""What a component is called in a figure."""

UNIT = "logit difference (logits)"
RUNS = ("clean", "corrupt")


def style() -> AbstractContextManager:
    """The book's look, for a `with` block round one's own figure."""
    return plt.rc_context(
        {
            "figure.dpi": 144,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 11,
            "figure.titlesize": 11,
            "font.size": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.frameon": False,
        }
    )


def show_pair(pair: SemanticPair) -> Figure:
    """The clean and the corrupt image of a pair side by side, with their answers and the prompt."""
    return show_pairs([pair], columns=1)


def show_pairs(pairs: Iterable[SemanticPair], columns: int = 2) -> Figure:
    """Pairs in a grid, each with its prompt over its two images and an answer under each image."""
    pairs = list(pairs)
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    with style():
        figure = plt.figure(figsize=(WIDTH, rows * (WIDTH / columns / 2 + 0.75)))
        cells = np.atleast_1d(figure.subfigures(rows, columns, hspace=0.06)).ravel()
        for cell, pair in zip(cells, pairs, strict=False):
            cell.suptitle(fill(pair.prompt, 60 // columns))
            answers = {"clean": pair.correct, "corrupt": pair.incorrect}
            for axes, run in zip(cell.subplots(1, 2), RUNS, strict=True):
                _picture(axes, pair.image(run))
                name = f"{run}: {answers[run]}" if columns == 1 else answers[run]
                axes.set_xlabel(name, color=COLOURS[run])
    return _closed(figure)


def show_masks(pair: SemanticPair) -> Figure:
    """Both images of a pair, once for each of their masks: what lies outside the mask is faded."""
    masks = {run: pair.masks(run) for run in RUNS}
    names = [name for name in ("differs", "subject", "object", "distractor") if name in
             masks["clean"].keys() | masks["corrupt"].keys()]  # fmt: skip
    with style():
        size = WIDTH / max(len(names), 2)
        figure, grid = plt.subplots(
            2, len(names), figsize=(size * len(names), 2 * size + 0.5), squeeze=False
        )
        for run, row in zip(RUNS, grid, strict=True):
            image = np.asarray(pair.image(run)) / 255
            row[0].set_ylabel(run, color=COLOURS[run])
            for name, axes in zip(names, row, strict=True):
                mask = masks[run].get(name, np.zeros(image.shape[:2], bool))
                _picture(axes, np.where(mask[..., None], image, 0.15 * image + 0.85))
                if run == "clean":
                    axes.set_title(name)
    return _closed(figure)


def show_patches(
    image: Image.Image, values: np.ndarray, label: str = "share of attention"
) -> Figure:
    """The model's patch grid over an image.

    Args:
        values: (grid, grid). Booleans tint the patches that are true; numbers colour all of
            them, from 0 to the largest.
        label: what the numbers are, with their unit.
    """
    values = np.asarray(values)
    with style():
        figure, axes = plt.subplots(figsize=(WIDTH * 0.7, WIDTH * 0.7 - 0.3))
        _picture(axes, image)
        height, width = image.height, image.width
        place = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5), "interpolation": "nearest"}
        if values.dtype == bool:
            axes.imshow(np.where(values, 1.0, np.nan), cmap="Oranges", vmin=0, vmax=1.4,
                        alpha=0.65, **place)  # fmt: skip
        else:
            drawn = axes.imshow(values, cmap="viridis", vmin=0, alpha=0.65, **place)
            figure.colorbar(drawn, label=label)
        for edge in np.linspace(0, 1, values.shape[0] + 1)[1:-1]:
            axes.axhline(edge * height - 0.5, color="white", linewidth=0.6)
            axes.axvline(edge * width - 0.5, color="white", linewidth=0.6)
    return _closed(figure)


def strips(
    groups: Mapping[str, Sequence[float]], label: str, colours: Sequence[str] | None = None
) -> Figure:
    """One row of dots for each group of values, a bar at its mean, and a line at zero.

    Args:
        groups: {name: values}; NaNs are left out.
        label: what the values are, with their unit.
        colours: one a group; by default all are the colour of clean runs.
    """
    colours = colours or [COLOURS["clean"]] * len(groups)
    rng = np.random.default_rng(0)
    with style():
        figure, axes = plt.subplots(figsize=(WIDTH, 0.75 + 0.55 * len(groups)))
        axes.axvline(0, color="#444444", linewidth=1)
        for row, (values, colour) in enumerate(zip(groups.values(), colours, strict=True)):
            values = np.asarray(values, float)
            values = values[~np.isnan(values)]
            jitter = rng.uniform(-0.2, 0.2, len(values))
            axes.plot(values, row + jitter, "o", color=colour, alpha=0.5, markersize=5)
            if len(values):
                axes.plot([values.mean()] * 2, [row - 0.36, row + 0.36], color="black", lw=2.5)
        axes.set_yticks(range(len(groups)), list(groups))
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(label)
    return _closed(figure)


def role_means(table: pd.DataFrame, value: str = "logit_difference") -> dict[str, pd.DataFrame]:
    """{component: (roles x layers) means of a column}: of each pair's tokens, then of the pairs.

    Every pair weighs the same, however many of its tokens share a role. Roles are in the order of
    `notice_lib.models.ROLES`; those without a row in the table are left out.
    """
    keys = ["component", "role", "layer"]
    by_pair = table.astype({"component": str, "role": str}).groupby([*keys, "pair_id"])[value]
    means = by_pair.mean().groupby(keys).mean().unstack("layer")
    roles = [role for role in ROLES if role in set(means.index.get_level_values("role"))]
    return {
        component: means.loc[component].reindex(roles)
        for component in dict.fromkeys(means.index.get_level_values("component"))
    }


def heat_map(
    table: pd.DataFrame,
    value: str = "logit_difference",
    components: Iterable[str] | None = None,
    label: str = UNIT,
    limit: float | None = None,
) -> Figure:
    """Token role by layer, a panel for each component: the mean of `value` (see `role_means`).

    Red is positive, blue negative, white zero.

    Args:
        table: of `effects(sweep.table())`.
        components: which, in which order; by default all in the table.
        limit: the colours' range is from -limit to limit; by default the largest mean.
    """
    means = role_means(table, value)
    chosen = [name for name in components or COMPONENTS if components or name in means]
    arrays = [means[name] for name in chosen]
    limit = limit or max(np.nanmax(np.abs(array.to_numpy())) for array in arrays) or 1.0
    columns = min(2, len(chosen))
    rows = -(-len(chosen) // columns)
    with style():
        figure, grid = plt.subplots(
            rows, columns, squeeze=False, sharey=True,
            figsize=(WIDTH, rows * (0.7 + 0.24 * len(arrays[0])) + 0.8),
        )  # fmt: skip
        for axes in grid.ravel()[len(chosen) :]:
            axes.set_visible(False)
        for axes, name, array in zip(grid.flat, chosen, arrays, strict=False):
            drawn = axes.imshow(array, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
            axes.set_title(COMPONENTS.get(name, name))
            layers = list(array.columns)
            step = -(-len(layers) // 8)
            axes.set_xticks(range(0, len(layers), step), layers[::step])
            axes.set_yticks(range(len(array)), array.index)
            axes.spines[:].set_visible(False)
            axes.set_xlabel("layer")
        for axes in grid[:, 0]:
            axes.set_ylabel("token")
        figure.colorbar(
            drawn, ax=grid, label=label, orientation="horizontal", shrink=0.8, aspect=30,
            ticks=MaxNLocator(5),
        )  # fmt: skip
    return _closed(figure)


def _picture(axes, image) -> None:
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _closed(figure: Figure) -> Figure:
    """Out of pyplot's hands: it would show the figure a second time."""
    plt.close(figure)
    return figure
