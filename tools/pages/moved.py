"""Old addresses: a small page at each one leads to the page that has its content now."""

import csv
import html
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

TABLE = Path("book") / "moved.csv"
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Moved: {title}</title>
<link rel="canonical" href="{canonical}">
<meta http-equiv="refresh" content="0; url={address}">
</head>
<body>
<p>This page has moved: <a href="{address}">{title}</a>.</p>
</body>
</html>
"""

logger = logging.getLogger(__name__)


def read_moved(root: Path) -> dict[str, str]:
    """Return old and new names of the pages in book/, as book/moved.csv lists them."""
    if not (root / TABLE).exists():
        return {}
    with open(root / TABLE, encoding="utf-8", newline="") as file:
        return {row["old"]: row["new"] for row in csv.DictReader(file)}


def page(title: str, new: str, base: str = "") -> str:
    """Return the page that leads to a new one beside it.

    Args:
        title: title of the new page.
        new: its name without ".html".
        base: address of the book, if it is known.
    """
    address = f"{new}.html"
    canonical = f"{base.rstrip('/')}/book/{address}" if base else address
    return PAGE.format(
        title=html.escape(title), canonical=html.escape(canonical), address=html.escape(address)
    )


def write_moved(app: Sphinx, error: Exception | None) -> None:
    """Write a page at every old address; one that leads nowhere is a warning."""
    if error or app.builder.format != "html":
        return
    titles = app.env.titles
    for old, new in read_moved(Path(app.srcdir)).items():
        if f"book/{new}" not in titles or f"book/{old}" in titles:
            logger.warning(f"{TABLE}: {old} cannot lead to {new}")
            continue
        content = page(titles[f"book/{new}"].astext(), new, app.config.html_baseurl)
        (Path(app.outdir) / "book" / f"{old}.html").write_text(content, encoding="utf-8")


def connect(app: Sphinx) -> None:
    app.connect("build-finished", write_moved)
