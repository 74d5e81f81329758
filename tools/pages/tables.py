"""Tables: one header row, numbers at the right, and a caption that names them.

pandas gives the names of an index a header row of their own, and leaves its other cells empty.
"""

import re

from bs4 import BeautifulSoup, Tag
from docutils import nodes
from sphinx.application import Sphinx

TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)
CAPTION = re.compile(r"<p>(<strong>(Figure|Table) (\d+(?:\.\d+)?)\.)")
# A table, and the first caption below it, if no other table is between.
NAMED = re.compile(r'<table(?=(?:(?!<table).)*?id="(table-[\d.]+)")', re.DOTALL)
NUMBER = re.compile(r"[+\N{MINUS SIGN}-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?: ?%)?")
NOTHING = ("", "-", "\N{EN DASH}")
LONG = 40  # characters


def is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None


def text_of(cell: Tag) -> str:
    return cell.get_text().strip()


def merge_headers(table: Tag) -> None:
    """Write the names of the index into the first header row, and drop their own row."""
    rows = table.select("thead tr")
    if len(rows) != 2:
        return
    above, below = (row.find_all(["th", "td"]) for row in rows)
    names = [cell for cell in below if text_of(cell)]
    if len(above) == len(below) and len(names) < len(below):
        for cell, name in zip(above, below, strict=True):
            if text_of(name):
                cell.replace_with(name)
        rows[1].decompose()


def columns_of(table: Tag) -> list[tuple[Tag, ...]]:
    """Return the columns, header first, but not those with cells that stand for several rows."""
    rows = table.select("thead tr:last-of-type, tbody tr")
    from_right = [row.find_all(["th", "td"], recursive=False)[::-1] for row in rows]
    return list(zip(*from_right, strict=False))


def mark_columns(table: Tag) -> None:
    """Mark the columns that hold only numbers."""
    for head, *cells in columns_of(table):
        numbers = [cell for cell in cells if is_number(text_of(cell))]
        if numbers and all(cell in numbers or text_of(cell) in NOTHING for cell in cells):
            for cell in (head, *cells):
                cell["class"] = [*cell.get("class", []), "number"]


def mark_sentences(table: Tag) -> None:
    """Mark the cells of long texts, which on a phone would have a line for each word."""
    for cell in table.select("tbody :is(th, td)"):
        if len(text_of(cell)) > LONG:
            cell["class"] = [*cell.get("class", []), "sentence"]


def name_headers(table: Tag) -> None:
    """Say what each header is of; a header without a text is an ordinary cell."""
    for cell in table.select("th"):
        if not text_of(cell):
            cell.name = "td"
        else:
            cell["scope"] = "col" if cell.find_parent("thead") else "row"


def tidied(match: re.Match[str]) -> str:
    table = BeautifulSoup(match[0], "html.parser").table
    del table["border"]
    if "class" not in table.attrs:
        table["class"] = "dataframe"  # pandas' styled tables
    for row in table.select("tr[style]"):
        del row["style"]
    merge_headers(table)
    if not table.select("[colspan]"):
        mark_columns(table)
    mark_sentences(table)
    name_headers(table)
    return str(table)


def with_names(body: str) -> str:
    """Give each numbered caption an address, and name the table below by it."""
    body = CAPTION.sub(
        lambda found: f'<p class="numbered" id="{found[2].lower()}-{found[3]}">{found[1]}', body
    )
    return NAMED.sub(r'<table aria-labelledby="\1"', body)


def tidy(_app: Sphinx, _page: str, _template: str, context: dict, _tree: nodes.Node) -> None:
    if "body" in context:
        context["body"] = with_names(TABLE.sub(tidied, context["body"]))


def connect(app: Sphinx) -> None:
    app.connect("html-page-context", tidy)
