"""The lab's still picture: what every layer's output of one pair does, carried both ways."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from notice_lib import effects, plotting, site_grid, sweep
from notice_lib.models.base import VLM
from notice_lib.pairs import PairSet, SemanticPair
from notice_lib.patching.metrics import logit_difference
from notice_lib.plotting.look import COLOURS

DIRECTIONS = {"denoise": "Enough here?", "noise": "Needed here?"}
PAPERS = {"still.png": ("black", "#FFFFFF"), "still-dark.png": ("white", "#121212")}
"""The ink of each file's picture, and the page that shows through where nothing moves."""
INKED = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")


def draw(model: VLM, pair: SemanticPair, folder: Path) -> str:
    """Draw tokens by layers for one pair in both directions, for light and dark pages.

    Returns:
        The pictures' alt text.
    """
    tables = {direction: shares(model, pair, direction) for direction in DIRECTIONS}
    maps = {direction: table.to_numpy() for direction, table in tables.items()}
    all_tokens = model.inputs(pair.image("clean"), pair.prompt).tokens
    tokens = [name(all_tokens[position]) for position in tables["denoise"].index]
    for file, (ink, page) in PAPERS.items():
        with mpl.rc_context(dict.fromkeys(INKED, ink)):
            figure = drawn(maps, tokens, page)
            figure.savefig(folder / file, dpi=288, transparent=True)
    best = maps["denoise"]
    row, column = np.unravel_index(best.argmax(), best.shape)
    return (
        f"Carried from the clean run into the corrupt one, the output of layer {column} at "
        f"{tokens[row]!r} moves the answer most, {best[row, column]:.0f} % of the way to the clean "
        f"one; carried the other way, the same cell moves it {-maps['noise'][row, column]:.0f} % "
        f"away. Two maps of tokens by layers, for the question {pair.prompt!r}"
    )


def drawn(maps: dict[str, np.ndarray], tokens: list[str], page: str) -> Figure:
    """A figure of both maps, in percent."""
    towards = LinearSegmentedColormap.from_list("", [COLOURS["corrupt"], page, COLOURS["clean"]])
    figure, axes = plotting.subplots(1, 2, height=0.9 + 0.26 * len(tokens), sharey=True)
    for axis, (direction, values) in zip(axes, maps.items(), strict=True):
        axis.pcolormesh(values, cmap=towards, vmin=-100, vmax=100)
        for (row, column), value in np.ndenumerate(values):
            if abs(value) >= 0.5:
                axis.text(
                    column + 0.5, row + 0.5, f"{value:.0f}".replace("-", "\N{MINUS SIGN}"),
                    ha="center", va="center", fontsize=7,
                    color=readable(towards(value / 200 + 0.5)),
                )  # fmt: skip
        axis.set_title(DIRECTIONS[direction], fontsize=9)
        axis.set_xticks(np.arange(values.shape[1]) + 0.5, range(values.shape[1]))
        axis.set_xlabel("layer")
        axis.tick_params(length=0)
        axis.spines[:].set(visible=True, color="#888888")
    axes[0].set_yticks(np.arange(len(tokens)) + 0.5, tokens)
    axes[0].invert_yaxis()
    return figure


def readable(ground: tuple[float, ...]) -> str:
    """Black or white, whichever has more contrast on a colour."""
    red, green, blue, _ = (part**2.2 for part in ground)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def name(token: str) -> str:
    """A token as the page names it: no mark of a word's beginning, and a visible new line."""
    return (token.removeprefix("▁") or token).replace("\n", "↵")


def shares(model: VLM, pair: SemanticPair, direction: str) -> pd.DataFrame:
    """What each layer's output at each text token moves in percent of L - L*, towards clean."""
    sites = site_grid(model, ["layer_output"])
    table = effects(sweep(model, PairSet((pair,)), sites, direction=direction).table())
    total = logit_difference(table, "clean") - logit_difference(table, "corrupt")
    percent = table.assign(share=100 * table["effect"] / total)
    return percent.pivot(index="position", columns="layer", values="share")
