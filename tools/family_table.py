"""Write the table of model families into the book's page, from the outcomes that tests check.

Usage: python tools/family_table.py
"""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "book" / "family.md"
TABLE = ROOT / "tests" / "reference" / "families.csv"
BEGIN, END = "<!-- families: written by ./run pairs -->\n", "<!-- end of families -->\n"
SAID = {
    "exact": "loads, exact",
    "reference": 'loads with `engine="reference"`',
    "refused": "refused",
}


def table() -> str:
    """Return the table of families in Markdown."""
    rows = pd.read_csv(TABLE, keep_default_na=False).itertuples(index=False)
    lines = ["| model | outcome | why, or what is refused of it |", "|---|---|---|"]
    lines += [f"| {row.name} | {SAID[row.outcome]} | {row.why} |" for row in rows]
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the page with the current table."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
