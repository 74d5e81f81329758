"""Folded cells say what they hold, in one fold for neighbours that hold the same.

MyST-NB calls every fold "Show code cell source", and tells a screen reader "Toggle hidden content".
"""

from itertools import pairwise

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator

UNNAMED = "Show code cell "  # how MyST-NB's own names start
COMPUTED, SOLUTION = "How this was computed", "Solution and why"


def fold_of(cell: nodes.Element) -> HideCodeCellNode | None:
    """Return the fold of a cell's code, if it has one."""
    folds = [child for child in cell.children if isinstance(child, HideCodeCellNode)]
    return folds[0] if folds else None


def name_of(cell: nodes.Element, fold: HideCodeCellNode) -> str:
    """Return what a fold holds: the name in the cell's own metadata, or by its kind."""
    if not fold["prompt_show"].startswith(UNNAMED):
        return fold["prompt_show"]
    return SOLUTION if cell["hide_mode"] == "all" else COMPUTED


def merge(before: nodes.Element, cell: nodes.Element) -> None:
    """Move the code of the cell before into this cell's fold, if they hold the same.

    Between them there must be nothing to see: `before` is only a fold, and stands right before.
    """
    siblings = cell.parent.children
    adjacent = siblings.index(before) + 1 == siblings.index(cell) if before in siblings else False
    first, second = fold_of(before), fold_of(cell)
    if adjacent and before.children == [first] and first["prompt_show"] == second["prompt_show"]:
        second.insert(0, first.children)
        cell.parent.remove(before)


class NameFolds(SphinxPostTransform):
    """Name the folds that MyST-NB has made, and make neighbours that hold the same one fold."""

    default_priority = 200  # right after MyST-NB's HideInputCells
    formats = ("html",)

    def run(self, **_: object) -> None:
        cells = [cell for cell in self.document.findall(nodes.container) if fold_of(cell)]
        for cell in cells:
            fold_of(cell)["prompt_show"] = name_of(cell, fold_of(cell))
        for before, cell in pairwise(cells):
            merge(before, cell)


def visit(translator: HTML5Translator, node: HideCodeCellNode) -> None:
    classes = " ".join(node["classes"])
    name = translator.encode(node["prompt_show"])
    translator.body.append(f'<details class="hide {classes}">\n<summary>{name}</summary>\n')


def depart(translator: HTML5Translator, _: HideCodeCellNode) -> None:
    translator.body.append("</details>\n")


def connect(app: Sphinx) -> None:
    app.setup_extension("myst_nb")
    app.add_node(HideCodeCellNode, override=True, html=(visit, depart))
    app.add_post_transform(NameFolds)
