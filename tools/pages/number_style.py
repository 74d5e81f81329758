"""Numbers of a page in one form: with a minus, a space before %, and no "-0.0" or "+0.0".

Tables, sentences and alt texts that code writes have Python's hyphens and its "98%".
"""

import re

from docutils import nodes
from sphinx.application import Sphinx

KEPT = "pre|code|dt|math|script|style|svg"  # dt: signatures
TAG = re.compile(rf"(<(?P<kept>{KEPT})\b.*?</(?P=kept)>|<[^>]*>)", re.DOTALL)
ALT = re.compile(r'(?<=\balt=")[^"]*')
PERCENT = re.compile(r"(?<=\d)%(?!\w)")
NEGATIVE = re.compile(r"(?<![\w.)-])-(?=\d)")
ZERO = re.compile(r"[+\N{MINUS SIGN}](?=0(?:\.0+)?(?![.\d]))")


def in_words(text: str) -> str:
    """Return a text without tags, its numbers as the book writes them."""
    return ZERO.sub("", NEGATIVE.sub("\N{MINUS SIGN}", PERCENT.sub(" %", text)))


def written(body: str) -> str:
    """Return a page's HTML with its numbers as the book writes them; code stays as it is."""
    parts, at = [], 0
    for tag in TAG.finditer(body):
        parts.append(in_words(body[at : tag.start()]))
        parts.append(tag[0] if tag["kept"] else ALT.sub(lambda alt: in_words(alt[0]), tag[0]))
        at = tag.end()
    return "".join([*parts, in_words(body[at:])])


def rewrite(_app: Sphinx, _page: str, _template: str, context: dict, _tree: nodes.Node) -> None:
    if "body" in context:
        context["body"] = written(context["body"])


def connect(app: Sphinx) -> None:
    app.connect("html-page-context", rewrite)
