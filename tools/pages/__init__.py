"""What the book adds to Sphinx: named folds, formulas without JavaScript, and light pages."""

from sphinx.application import Sphinx

from tools.pages import citations, folds, formulas, place, weight


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect each part; Sphinx calls this for the extension `tools.pages` in _config.yml."""
    for part in (citations, folds, formulas, place, weight):
        part.connect(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
