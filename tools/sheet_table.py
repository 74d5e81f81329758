"""Write the tables in data/checkpoints/sheets/README.md: what was aimed at, and what sheets show.

    python tools/sheet_table.py

`tools/sheet.py` makes the sheets. What falls short of its aim is in bold.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from notice_lib.plotting import in_percent

SHEETS = Path(__file__).resolve().parent.parent / "data" / "checkpoints" / "sheets"
BEGIN, END = "<!-- tools/sheet_table.py -->\n", "<!-- end -->\n"
NAMES = ("blip-mini", "llava-mini")


class Sheet:
    """One sheet: the rows of a measure, by what it was measured on."""

    def __init__(self, path: Path):
        self.table = pd.read_csv(path)

    def __getitem__(self, measure: str) -> pd.DataFrame:
        return self.table[self.table["measure"] == measure].set_index("of")

    def values(self, measure: str) -> pd.Series:
        return self[measure]["value"]


def percent(share: float) -> str:
    return in_percent(share, 1).replace(".0 %", " %")


def judged(text: str, is_met: bool) -> str:
    return text if is_met else f"**{text}**"


def one_thing(sheet: Sheet) -> str:
    accuracy = sheet.values("accuracy")
    least = accuracy[accuracy.index.str.contains("one thing, ")].min()
    return judged(percent(least), least >= 0.97)


def two_things(task: str) -> Callable[[Sheet], str]:
    def found(sheet: Sheet) -> str:
        share = sheet.values("accuracy")[f"{task}, two things"]
        return judged(percent(share), share >= 0.9)

    return found


def first_on_blanks(sheet: Sheet) -> str:
    shares = sheet.values("first option on blanks")
    text = f"{percent(shares.min())} to {percent(shares.max())}"
    return judged(text, shares.between(0.4, 0.6).all())


def size_on_blanks(sheet: Sheet) -> str:
    share = sheet.values("mean |L| on blanks, of clean").max()
    return judged(percent(share), share <= 0.2)


def listed(sheet: Sheet) -> str:
    share = sheet.values("a listed option where neither is true")["all"]
    return judged(percent(share), share >= 0.95)


def largest(sheet: Sheet) -> str:
    shares = sheet.values("largest fraction recovered")
    return f"{percent(shares.max())} ({shares.idxmax()})"


def in_two_tasks(sheet: Sheet) -> str:
    """The head whose second-best task is best, with both."""
    shares = sheet.values("effect, of the total effect")
    task, head = shares.index.str.split(": ").str[0], shares.index.str.split(": ").str[1]
    by_head = pd.Series(shares.to_numpy(), [head, task]).groupby(level=0)
    name = by_head.apply(lambda own: own.nlargest(2).iloc[-1]).idxmax()
    best = by_head.get_group(name).nlargest(2)
    text = ", ".join(f"{percent(share)} in {task}" for (_, task), share in best.items())
    return judged(f"{name}: {text}", best.min() >= 0.08)


def content_share(sheet: Sheet) -> str:
    shares = sheet["content share K"]
    best = shares["low"].idxmax()  # the most certain one: a weak head's K may be anything
    row = shares.loc[best]
    text = f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}] ({best})"
    return judged(text, row["value"] >= 0.5)


def rise(sheet: Sheet) -> str:
    layers = sheet.values("layers from 10 to 90 %")
    return ", ".join(judged(f"{n:.1f} ({task})", n >= 3) for task, n in layers.items())


def suppressors(sheet: Sheet) -> str:
    seen = sheet.values("suppresses the distractor")
    names = [of.removesuffix(", yes") for of, yes in seen.items() if yes]
    return judged(", ".join(names) or "none shown", bool(names))


def outliers(sheet: Sheet) -> str:
    share = sheet.values("images with an outlier by norm").max()
    return "none" if share == 0 else f"up to {percent(share)}"


ROWS = {
    "one thing, held out: least of any task and order": ("97 %", one_thing),
    "two things, held out, svo": ("90 %", two_things("svo")),
    "two things, held out, states": ("90 %", two_things("states")),
    "first option on blank pictures": ("40 to 60 %", first_on_blanks),
    "mean size of L on blank pictures, of clean": ("at most 20 %", size_on_blanks),
    "a listed option where neither is true": ("95 %", listed),
    "largest fraction that a head recovers in a slot, on half B": ("", largest),
    "a head that recovers 8 % in two tasks": ("hoped for", in_two_tasks),
    "largest content share K of the five strongest heads": ("hoped: .5", content_share),
    "layers from 10 to 90 % of the effect": ("hoped: 3", rise),
    "a head that suppresses the distractor": ("hoped for", suppressors),
    "pictures with a patch that stands out by norm": ("", outliers),
}


def table_of(name: str) -> str:
    """One model's sheets, of seeds 0, 1, ..., beside what was aimed at, as a table of Markdown."""
    files = sorted(SHEETS.glob(f"{name}*.csv"), key=lambda file: file.stem)
    sheets = [Sheet(file) for file in files]
    seeds = " | ".join(f"seed {seed}" for seed in range(len(sheets)))
    lines = [f"| `{name}` | aim | {seeds} |", "|---" * (2 + len(sheets)) + "|"]
    for measure, (aim, found) in ROWS.items():
        lines.append(f"| {measure} | {aim} | {' | '.join(map(found, sheets))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    readme = SHEETS / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    tables = "\n".join(map(table_of, NAMES))
    readme.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
