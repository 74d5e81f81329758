"""Where a reader is: the chapter's number and title, for the bar at the top of its page."""

from docutils import nodes
from sphinx.application import Sphinx


def add_place(app: Sphinx, page: str, _template: str, context: dict, _tree: nodes.Node) -> None:
    """Give the template a page's title, the number of a chapter and that of the last one."""
    numbers = {name: found[""][0] for name, found in app.env.toc_secnumbers.items() if found}
    if page in app.env.titles:
        context["plain_title"] = app.env.titles[page].astext()
    if page in numbers:
        context["chapter"], context["last_chapter"] = numbers[page], max(numbers.values())


def connect(app: Sphinx) -> None:
    app.connect("html-page-context", add_place)
