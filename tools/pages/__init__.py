"""What the book adds to Sphinx.

Names of folds, formulas without JavaScript, tidy tables, quizzes, slides, light pages, and old
addresses.
"""

from sphinx.application import Sphinx

from tools.pages import citations, folds, formulas, moved, place, quiz, slides, tables, weight


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect each part; Sphinx calls this for the extension `tools.pages` in _config.yml."""
    for part in (citations, folds, formulas, moved, place, quiz, slides, tables, weight):
        part.connect(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
