"""Where a reader is: the chapter's number and title, for the bar at the top of its page."""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

APPENDICES = "Appendices"


def parts(tree: nodes.Node) -> dict[str, list[str]]:
    """Return the pages of each numbered part of the book, whose contents the first page has."""
    return {
        toctree["caption"]: [page for _, page in toctree["entries"]]
        for toctree in tree.findall(addnodes.toctree)
        if toctree.get("numbered")
    }


def place(page: str, number: int, pages: dict[str, list[str]]) -> str:
    """Return what the bar calls a page, e.g. "Chapter 3 of 8" or "Appendix 9"."""
    (caption,) = [caption for caption, inside in pages.items() if page in inside]
    if caption == APPENDICES:
        return f"Appendix {number}"
    return f"Chapter {number} of {len(pages[caption])}"


def add_place(app: Sphinx, page: str, _template: str, context: dict, _tree: nodes.Node) -> None:
    """Give the template a page's title, and a chapter's place in the book."""
    if page in app.env.titles:
        context["plain_title"] = app.env.titles[page].astext()
    if number := app.env.toc_secnumbers.get(page, {}).get(""):
        root = app.env.get_doctree(app.config.root_doc)
        context["place"] = place(page, number[0], parts(root))


def connect(app: Sphinx) -> None:
    app.connect("html-page-context", add_place)
