"""The report's figure: estimate, interval, threshold and verdict of each claim."""

import numpy as np
import pandas as pd

from ..errors import NoticeError
from .look import COLOURS, GREY, INK, PAPER, AltFigure, described, number, subplots

UNITS = {
    "fraction of the total effect": ("fraction recovered (%)", 100),
    "attention": ("difference in attention (%)", 100),
    "ratio": ("distance from clean pictures: noise / pair", 1),
    "heads": ("", 1),
}
"""Label of each unit's axis, and what its numbers are multiplied with."""

TEXT = 0.27  # inches of a row's line of text
RUN = 0.15  # and of each run below it
GAP = 0.06  # and to the next row
AXIS = 0.62  # inches of an axis with its label


def verdict_rows(table: pd.DataFrame, words: dict[str, str]) -> AltFigure:
    """Draw each claim as a row: dots and intervals of its runs, a tick at the minimum, the verdict.

    Args:
        table: one row per claim and run, with the columns `short`, `unit`, `minimum`, `estimate`,
            `low`, `high`, `p`, `label` and `chose` of `notice_lib.reproduction.read_verdicts`. A
            run that chose the models' recipe gets a hollow dot.
        words: what stands at the right of each claim's row, by `short`.

    Raises:
        NoticeError: the table is empty, or a claim has no words.
    """
    if table.empty:
        raise NoticeError("There are no verdicts to draw: the table is empty.")
    if missing := [short for short in table["short"].unique() if short not in words]:
        raise NoticeError(f"Give words for every claim; these have none: {', '.join(missing)}.")
    runs = list(dict.fromkeys(table["label"]))
    panels = [(unit, table[table["unit"] == unit]) for unit in UNITS]
    panels = [(unit, part) for unit, part in panels if not part.empty]
    rows = {unit: TEXT + RUN * len(runs) + GAP for unit in UNITS} | {"heads": TEXT + RUN + GAP}
    heights = [
        rows[unit] * part["short"].nunique() + (AXIS if unit != "heads" else 0.05)
        for unit, part in panels
    ]
    figure, axes = subplots(len(panels), height=sum(heights), squeeze=False, height_ratios=heights)
    told = []
    for (unit, part), on in zip(panels, axes[:, 0], strict=True):
        label, factor = UNITS[unit]
        claims = list(dict.fromkeys(part["short"]))
        on.set_ylim(len(claims), 0)
        on.set_yticks([])
        on.spines["left"].set_visible(False)
        for place, short in enumerate(claims):
            of = part[part["short"] == short]
            on.text(0, place + 0.03, short, transform=on.get_yaxis_transform(), va="top", size=9)
            on.text(
                1, place + 0.03, words[short], transform=on.get_yaxis_transform(),
                va="top", ha="right", size=9, weight="bold",
            )  # fmt: skip
            if unit == "heads":
                told.append(f"{short}: {words[short]}; {_draw_counts(on, place, of)}.")
            else:
                _draw_intervals(on, place, of, runs, unit, TEXT / rows[unit])
                told.append(f"{short}: {words[short]}; {_in_words(of, factor)}.")
        if unit == "heads":
            on.set_xticks([])
            on.spines["bottom"].set_visible(False)
        else:
            on.set_xlabel(label)
    legend = "Hollow: the seed on which the recipe was chosen. " if table["chose"].any() else ""
    return described(figure, f"Claims in rows. {legend}{' '.join(told)}")


def _draw_intervals(axes, place: int, of: pd.DataFrame, runs: list, unit: str, top: float):
    """Draw the runs of one claim below its line of text, and the minimum as a tick."""
    if of["estimate"].isna().all():
        return
    factor, colour = UNITS[unit][1], COLOURS["clean"]
    bottom = place + top + (1 - top) * 0.85
    nothing = 1 if unit == "ratio" else 0
    axes.vlines(nothing, place + top, bottom, color=GREY, linewidth=0.8, zorder=0)
    axes.vlines(of["minimum"].iloc[0] * factor, place + top, bottom, color=INK, linewidth=2)
    for one in of.dropna(subset="estimate").itertuples():
        at = place + top + (1 - top) * 0.85 * (runs.index(one.label) + 0.5) / len(runs)
        if not np.isnan(one.low):
            axes.hlines(at, one.low * factor, one.high * factor, color=colour, linewidth=1.6)
        fill = PAPER if one.chose else colour
        axes.plot(
            one.estimate * factor, at, "o", markersize=5, markeredgecolor=colour,
            markerfacecolor=fill, markeredgewidth=1.4,
        )  # fmt: skip


def _draw_counts(axes, place: int, of: pd.DataFrame) -> str:
    """Write how many heads each run found, and how often chance finds as many."""
    found = ", ".join(f"{count:.0f}" for count in of["estimate"])
    chance = ", ".join(f"{p:.1%}".replace("%", " %") for p in of["p"])
    said = f"heads found: {found}"
    if of["estimate"].any():
        said += f"; as many by chance in {chance} of draws"
    axes.text(
        0, place + 0.5, said, transform=axes.get_yaxis_transform(), va="top", size=8,
    )  # fmt: skip
    return said


def _in_words(of: pd.DataFrame, factor: float) -> str:
    """Estimates and intervals of one claim's runs."""
    sign = " %" if factor == 100 else ""
    minimum = of["minimum"].iloc[0]
    parts = [f"minimum {minimum * factor:g}{sign}"]
    for one in of.itertuples():
        if np.isnan(one.estimate):
            parts.append(f"{one.label}: no number")
        else:
            low, high = number(one.low * factor), number(one.high * factor)
            estimate = number(one.estimate * factor)
            parts.append(f"{one.label}: {estimate}{sign}, {low} to {high}")
    return ", ".join(parts)
