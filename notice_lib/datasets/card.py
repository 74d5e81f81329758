"""The card of a built set: what was done, what each step left, and whose images they are."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.ticker import MaxNLocator

from .. import fingerprint
from ..choices import Criterion
from ..models.base import VLM
from ..pairs import ORDERS, PairSet
from ..pairs.files import refuse_used
from ..plotting.look import SERIES, AltFigure, described, subplots
from ..provenance import versions
from .build import Built, Source, Steps, select
from .image_files import short

UNITS = ("rows", "images", "scenes", "pairs")
"""What a step may count; its name begins with it, e.g. "images: that decode"."""


def write_set(
    folder: str | Path,
    built: Built,
    model: VLM | None = None,
    preset: str | None = None,
    n: int | None = None,
    seed: int = 0,
    command: str = "",
    by: Criterion = "generated",
) -> PairSet:
    """Draw a balanced sample (`build.select`), write it as a folder, and its card beside it.

    Args:
        folder: for `PairSet.load` and `load_pairs`; it must hold no set yet.
        built: of one of the loaders.
        model, preset, n, seed, by: see `build.select`.
        command: how to build it again; in the card.

    Raises:
        NoticeError: the folder holds a set already, or as `build.select`. Nothing is written then.
    """
    folder = Path(folder)
    refuse_used(folder)
    sample, steps = select(built.pairs, model, preset, n, seed, by)
    sample.save(folder)
    write_card(folder, sample, [*built.steps, *steps], built.source, seed, command, built.left_out)
    return sample


def write_card(
    folder: str | Path,
    pairs: PairSet,
    steps: Steps,
    source: Source,
    seed: int,
    command: str = "",
    left_out: Mapping[Path | str, str] | None = None,
) -> None:
    """Write README.md, steps.csv, steps.png and, where files were left out, left_out.csv.

    Args:
        folder: of the set, which exists.
        pairs: what was written there.
        left_out: {file, or address of what is not at hand: why it is in no pair}.
    """
    folder, left_out = Path(folder), dict(left_out or {})
    table = pd.DataFrame(steps, columns=["step", "left"])
    table.to_csv(folder / "steps.csv", index=False)
    figure = funnel(steps)
    figure.savefig(folder / "steps.png")
    parts = [
        _heading(pairs, source),
        _what(pairs),
        f"## What was done\n\n{_markdown(table)}\n\n![{figure.alt}](steps.png)",
        _left_out(left_out),
        _licence(source),
        _again(pairs, seed, command),
    ]
    if left_out:
        named = sorted((short(file), reason) for file, reason in left_out.items())
        rows = pd.DataFrame(named, columns=["file", "reason"])
        rows.to_csv(folder / "left_out.csv", index=False)
    text = "\n\n".join(part for part in parts if part)
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")


def funnel(steps: Steps) -> AltFigure:
    """A bar for each step: how many rows, images, scenes or pairs were left after it."""
    figure, axes = subplots(height=0.5 + 0.46 * len(steps))
    most = max((left for _, left in steps), default=0) or 1
    for row, (step, left) in enumerate(steps):
        unit = step.split(":")[0]
        colour = SERIES[UNITS.index(unit) if unit in UNITS else -1][0]
        axes.barh(row + 0.3, left, 0.36, color=colour)
        axes.text(0, row - 0.05, step, va="center", fontsize=10)
        axes.text(left + most / 80, row + 0.3, f"{left:,}", va="center", fontsize=10)
    axes.set(ylim=(len(steps) - 0.4, -0.4), xlim=(0, most * 1.16), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("left after the step")
    told = "; ".join(f"{step}, {left:,}" for step, left in steps)
    return described(figure, f"A bar for each step, how many were left: {told}.")


def _heading(pairs: PairSet, source: Source) -> str:
    scenes = len({pair.scene_id for pair in pairs})
    return (
        f"# Pairs from {source.title}\n\n{len(pairs)} pairs of {scenes} scenes, as "
        "`notice_lib.load_pairs` reads them. A scene is two images that answer one question "
        "differently; pairs of one scene are not independent."
    )


def _what(pairs: PairSet) -> str:
    """Pairs by slot and answer order."""
    counts = Counter((pair.slot, pair.order) for pair in pairs)
    slots = sorted({slot for slot, _ in counts})
    rows = [[slot, *(counts[slot, order] for order in ORDERS)] for slot in slots]
    return _markdown(pd.DataFrame(rows, columns=["slot", *ORDERS]))


def _left_out(left_out: Mapping[Path | str, str]) -> str:
    if not left_out:
        return ""
    return f"Files left out: {len(left_out)}. `left_out.csv` says which, and why."


def _licence(source: Source) -> str:
    """Whom to cite and what is allowed."""
    lines = [source.citation, source.url and f"<{source.url}>", source.licence]
    return "## Source and licence\n\n" + "\n\n".join(line for line in lines if line)


def _again(pairs: PairSet, seed: int, command: str) -> str:
    """What builds the same set, and how to tell that it is the same."""
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    block = f"```bash\n{command}\n```\n\n" if command else ""
    return (
        f"## To build it again\n\n{block}Seed {seed}. Fingerprint of the pairs and their images: "
        f"{fingerprint.of_pairs(pairs)}. Versions: {used}."
    )


def _markdown(table: pd.DataFrame) -> str:
    """A small table in Markdown; a bar in a cell is escaped."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    lines = (
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    )
    return "\n".join(lines)
