"""Alt texts begin with what the figure shows, which its caption says in italics."""

import html
import re

from docutils import nodes
from sphinx.application import Sphinx

CAPTION = re.compile(r"<strong>Figure \d+(?:\.\d+)?\.</strong>\s*<em>(.*?)</em>", re.DOTALL)
ALT = re.compile(r'<img\b[^>]*?\balt="([^"]*)"')
TAG = re.compile(r"<[^>]*>")


def with_findings(body: str) -> str:
    """Return a page's HTML with each caption's finding in the alt text of the figure above it."""
    parts, at = [], 0
    for caption in CAPTION.finditer(body):
        image = body.rfind("<img", at, caption.start())
        alt = ALT.match(body, image) if image >= 0 else None
        if alt is None:
            continue
        finding = html.escape(html.unescape(TAG.sub("", caption[1])))
        said = "" if finding in alt[1] else f"{finding} "
        parts += [body[at : alt.start(1)], said]
        at = alt.start(1)
    return "".join([*parts, body[at:]])


def lead(_app: Sphinx, _page: str, _template: str, context: dict, _tree: nodes.Node) -> None:
    if "body" in context:
        context["body"] = with_findings(context["body"])


def connect(app: Sphinx) -> None:
    app.connect("html-page-context", lead)
