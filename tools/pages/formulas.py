"""Formulas as MathML, which browsers draw and read aloud without a script."""

import re
from html import escape

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger
from sphinx.writers.html5 import HTML5Translator

LOGGER = getLogger(__name__)
# LaTeX takes one digit as an argument, as in \frac12 and x^12; docutils would take both.
DIGIT = re.compile(r"(\\frac(?:\{\d\})?|[\^_])(\d)")


def mathml(node: nodes.math | nodes.math_block) -> str:
    """Return a formula as MathML, or as LaTeX after a warning, which fails the build."""
    text = DIGIT.sub(r"\1{\2}", DIGIT.sub(r"\1{\2}", node.astext()))  # \frac has two arguments
    try:
        return tex2mathml(text, as_block=isinstance(node, nodes.math_block))
    except MathError as error:
        LOGGER.warning("no MathML for %s: %s", node.astext(), error, location=node)
        return f"<code>{escape(node.astext())}</code>"


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(mathml(node))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    start = translator.starttag(node, "div", CLASS="formula")
    translator.body.append(f"{start}{mathml(node)}</div>\n")
    raise nodes.SkipNode


def connect(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
