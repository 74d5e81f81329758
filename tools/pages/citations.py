"""The bibliography is a list to a screen reader: docutils gives its entries a retired role."""

from docutils import nodes
from sphinx.application import Sphinx


def as_list(_app: Sphinx, _page: str, _template: str, context: dict, _tree: nodes.Node) -> None:
    """Make each entry an item of the list that it stands in."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def connect(app: Sphinx) -> None:
    app.connect("html-page-context", as_list)
