"""The slides of the course: book/course/slides.md becomes a page of reveal.js.

A line `---` separates slides, and what follows a line `Note:` is for the speaker. Pictures and
links are written as on any page, relative to the file.
"""

import re
from html import escape
from pathlib import Path

from docutils import nodes
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from sphinx.application import Sphinx

from tools.pages.formulas import mathml

SLIDES = Path("book/course/slides.md")
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="../../_static/favicon.svg">
<link rel="stylesheet" href="../../_static/vendor/reveal/reveal.css">
<link rel="stylesheet" href="../../_static/slides.css">
</head>
<body>
<main class="reveal"><div class="slides">
{slides}</div></main>
<script src="../../_static/vendor/reveal/reveal.js"></script>
<script src="../../_static/vendor/reveal/notes.js"></script>
<script src="../../_static/slides.js"></script>
</body>
</html>
"""


def formula(text: str, settings: dict) -> str:
    """Draw a formula as on the book's other pages."""
    kind = nodes.math_block if settings["display_mode"] else nodes.math
    return mathml(kind(text, text))


def renderer() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"highlight": None}).enable("table")
    return markdown.use(dollarmath_plugin, renderer=formula)


def moved(html: str) -> str:
    """Point links at the built pages, and pictures at where Sphinx puts the assets."""
    html = re.sub(r'href="([^":]*)\.md(#[^"]*)?"', r'href="\1.html\2"', html)
    return html.replace('src="../assets/', 'src="../../_static/')


def slide(text: str, markdown: MarkdownIt) -> str:
    """Write one slide, with its notes if it has some."""
    shown, _, notes = text.partition("\nNote:\n")
    aside = f'<aside class="notes">\n{markdown.render(notes)}</aside>\n' if notes else ""
    return f"<section>\n{markdown.render(shown)}{aside}</section>\n"


def page(text: str) -> str:
    """Write the page of a text of slides; its first heading is the title."""
    markdown = renderer()
    slides = moved("".join(slide(one, markdown) for one in re.split(r"^---$", text, flags=re.M)))
    title = re.search(r"^# (.*)$", text, re.M)[1]
    return PAGE.format(title=escape(title), slides=slides)


def write_slides(app: Sphinx, exception: Exception | None) -> None:
    source = Path(app.srcdir) / SLIDES
    if exception or app.builder.format != "html" or not source.exists():
        return
    target = (Path(app.outdir) / SLIDES).with_suffix(".html")
    target.write_text(page(source.read_text(encoding="utf-8")), encoding="utf-8")


def connect(app: Sphinx) -> None:
    app.connect("build-finished", write_slides)
