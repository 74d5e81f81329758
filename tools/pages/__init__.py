"""What the book adds to Sphinx.

Names of folds, formulas without JavaScript, tidy tables and numbers, quizzes, slides, light pages,
and old addresses.
"""

from sphinx.application import Sphinx

from tools.pages import (
    alts,
    citations,
    folds,
    formulas,
    moved,
    number_style,
    place,
    quiz,
    slides,
    tables,
    weight,
)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect each part; Sphinx calls this for the extension `tools.pages` in _config.yml."""
    parts = (
        alts, citations, folds, formulas, moved, number_style, place, quiz, slides, tables, weight,
    )  # fmt: skip
    for part in parts:
        part.connect(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
