"""The lab's still picture: what every layer's output of one pair does, carried both ways."""

from pathlib import Path

import numpy as np
import pandas as pd

from notice_lib import effects, plotting, site_grid, sweep
from notice_lib.models.base import VLM
from notice_lib.pairs import PairSet, SemanticPair
from notice_lib.patching.metrics import logit_difference

DIRECTIONS = {"denoise": "Enough here?", "noise": "Needed here?"}


def draw(model: VLM, pair: SemanticPair, file: Path) -> str:
    """Draw tokens by layers for one pair in both directions.

    Returns:
        The picture's alt text.
    """
    tables = {direction: shares(model, pair, direction) for direction in DIRECTIONS}
    maps = {direction: table.to_numpy() for direction, table in tables.items()}
    all_tokens = model.inputs(pair.image("clean"), pair.prompt).tokens
    tokens = [name(all_tokens[position]) for position in tables["denoise"].index]
    file.write_text(drawn(maps, tokens).svg(), encoding="utf-8")
    best = maps["denoise"]
    row, column = np.unravel_index(best.argmax(), best.shape)
    return (
        f"Carried from the clean run into the corrupt one, the output of layer {column} at "
        f"{tokens[row]!r} moves the answer most, {best[row, column]:.0f} % of the way to the clean "
        f"one; carried the other way, the same cell moves it {-maps['noise'][row, column]:.0f} % "
        f"away. Two maps of tokens by layers, for the question {pair.prompt!r}"
    )


def drawn(maps: dict[str, np.ndarray], tokens: list[str]) -> plotting.AltFigure:
    """A figure of both maps, in percent."""
    figure, axes = plotting.subplots(1, 2, height=0.9 + 0.26 * len(tokens), sharey=True)
    for axis, (direction, values) in zip(axes, maps.items(), strict=True):
        axis.imshow(values, cmap=plotting.TOWARDS, vmin=-100, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if abs(value) >= 0.5:
                axis.text(
                    column, row, f"{value:.0f}".replace("-", "\N{MINUS SIGN}"), ha="center",
                    va="center", fontsize=9, color="white" if value > 90 else plotting.ON_MAP,
                )  # fmt: skip
        axis.set_title(DIRECTIONS[direction])
        axis.set_xticks(range(values.shape[1]))
        axis.set_xlabel("layer")
        axis.tick_params(length=0)
        axis.spines[:].set(visible=True, color=plotting.GREY)
    axes[0].set_yticks(range(len(tokens)), tokens)
    return figure


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
