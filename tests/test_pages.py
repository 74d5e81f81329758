"""What the book adds to Sphinx: names of folds, formulas, trimmed styles, pictures as files."""

import base64
import hashlib
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from docutils import nodes
from docutils.utils import new_document
from myst_nb.sphinx_ import HideCodeCellNode

from tools.pages import folds, formulas, place, weight

MATHML = "{http://www.w3.org/1998/Math/MathML}"
GENERAL = "Show code cell source"


def cell(code: str, mode: str = "input", prompt: str = GENERAL, output: bool = False):
    """A cell of a page as MyST-NB has folded it."""
    fold = HideCodeCellNode("", nodes.literal_block(code, code), prompt_show=prompt)
    found = nodes.container("", hide_mode=mode)
    found.children = [fold]  # as MyST-NB does: the fold has no parent
    if output:
        found += nodes.paragraph("seen", "seen")
    return found


def folded(*parts: nodes.Node) -> list[tuple[str, str]]:
    """The folds of a page with these parts: (name, code)."""
    document = new_document("page")
    document.extend(parts)
    folds.NameFolds(document).run()
    return [(fold["prompt_show"], fold.astext()) for fold in document.findall(HideCodeCellNode)]


def test_folds_are_named_by_what_they_hold():
    assert folded(cell("x = 1", output=True)) == [("How this was computed", "x = 1")]
    assert folded(cell("\ndef check_x(x):\n    pass"))[0][0] == "The check"
    assert folded(cell("def check_x(x): ...", mode="all"))[0][0] == "Solution and why"
    assert folded(cell("x = 1", prompt="Hint"))[0][0] == "Hint"


def test_neighbours_that_hold_the_same_are_one_fold_in_their_order():
    page = [cell("a = 1"), cell("b = 2"), cell("c = 3", output=True)]
    assert folded(*page) == [("How this was computed", "a = 1\n\nb = 2\n\nc = 3")]


@pytest.mark.parametrize(
    "page",
    [
        [cell("a = 1", output=True), cell("b = 2")],
        [cell("a = 1"), nodes.paragraph("text", "text"), cell("b = 2")],
        [cell("a = 1"), cell("def check_a(a): ...")],
        [nodes.section("", cell("a = 1")), nodes.section("", cell("b = 2"))],
    ],
    ids=["an output between", "a text between", "another kind", "another section"],
)
def test_other_neighbours_stay_apart(page):
    assert len(folded(*page)) == 2


def test_a_fold_is_named_by_its_own_text():
    translator = SimpleNamespace(body=[], encode=lambda text: text.replace("<", "&lt;"))
    fold = HideCodeCellNode(prompt_show="a < b", classes=["above-input"])
    folds.visit(translator, fold)
    folds.depart(translator, fold)
    expected = '<details class="hide above-input">\n<summary>a &lt; b</summary>\n</details>\n'
    assert "".join(translator.body) == expected


def test_a_formula_is_mathml():
    inline = ElementTree.fromstring(formulas.mathml(nodes.math("", "L^* < 0")))
    assert [one.tag.removeprefix(MATHML) for one in inline] == ["msup", "mo", "mn"]
    assert "".join(inline.itertext()).split() == ["L", "*", "<", "0"]
    block = ElementTree.fromstring(formulas.mathml(nodes.math_block("", r"\frac12")))
    assert block.get("display") == "block"
    assert [one.text for one in block.find(f"{MATHML}mfrac")] == ["1", "2"]
    (power, rest) = ElementTree.fromstring(formulas.mathml(nodes.math("", "x^12")))
    assert "".join(power.itertext()).split() == ["x", "1"] and rest.text == "2"


def test_a_formula_that_mathml_lacks_is_a_warning_with_its_text(caplog):
    assert formulas.mathml(nodes.math("", r"\nothing < 1")) == r"<code>\nothing &lt; 1</code>"
    assert r"no MathML for \nothing < 1: " in caplog.text


def test_the_place_is_a_chapters_number_and_title():
    titles = {"one": nodes.title("", "First"), "more": nodes.title("", "More")}
    numbers = {"one": {"": (1,)}, "two": {"": (2,)}, "more": {}}
    app = SimpleNamespace(env=SimpleNamespace(titles=titles, toc_secnumbers=numbers))
    found = {}
    for page in ("one", "more", "genindex"):
        found[page] = {}
        place.add_place(app, page, "page.html", found[page], None)
    assert found["one"] == {"plain_title": "First", "chapter": 1, "last_chapter": 2}
    assert found["more"] == {"plain_title": "More"} and found["genindex"] == {}


@pytest.mark.parametrize(
    ("css", "expected"),
    [
        (".on{a:b}.off{a:b}p{a:b}", ".on{a:b}p{a:b}"),
        (".off,.on p,.on.off{a:b}", ".on p{a:b}"),
        (".on:not(.off),.on:has(> .off, p){a:b}", ".on:not(.off),.on:has(> .off, p){a:b}"),
        ("@media print{.off{a:b}.on{a:b}}@media print{.off{a:b}}", "@media print{.on{a:b}}"),
        ("@supports (a:b){.off{a:b}.on{a:b}}", "@supports (a:b){.on{a:b}}"),
        ('@charset "UTF-8";.on{a:b}', '@charset "UTF-8";.on{a:b}'),
        ("@font-face{a:url(.off)}.off{a:b}", "@font-face{a:url(.off)}"),
        ("@keyframes k{0%{a:b}}.off{a:b}", "@keyframes k{0%{a:b}}"),
        ('.on{content:"}.off{"}.off{content:"{"}.on{a:b}', '.on{content:"}.off{"}.on{a:b}'),
        ('[data-x=".off"]{a:b}/* .on{ */.on{a:b}', '[data-x=".off"]{a:b}.on{a:b}'),
        ("/*! licence } */.on{a:b}", "/*! licence } */.on{a:b}"),
        (".bs-tooltip-end .on{a:b}", ".bs-tooltip-end .on{a:b}"),
        (r".px-1\.5{a:b}", r".px-1\.5{a:b}"),
    ],
)  # fmt: skip
def test_only_rules_that_a_page_can_use_are_kept(css, expected):
    assert weight.trimmed(css, {"on"}) == expected


def test_used_are_the_classes_of_pages_and_the_words_of_their_scripts(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "book").mkdir()
    (tmp_path / "_static" / "own.js").write_text('one.classList.add("is-open")')
    (tmp_path / "_static" / "unused.js").write_text('"unused"')
    (tmp_path / "_static" / "part.html").write_text('<p class="template">')
    (tmp_path / "book" / "page.html").write_text(
        '<i class="fas fa-file icon"></i><p class="a b-c">'
        '<script src="../_static/own.js?v=1"></script>'
    )
    assert weight.used_classes(tmp_path) == {
        "icon",
        "a",
        "b-c",
        "one",
        "classList",
        "add",
        "is-open",
    }


def test_pictures_become_files_and_idle_spans_and_states_of_widgets_go(tmp_path):
    picture = base64.b64encode(b"picture").decode()
    name = hashlib.sha256(b"picture").hexdigest()[:20] + ".png"
    state = SimpleNamespace(attributes={"type": weight.STATE})
    other = SimpleNamespace(attributes={})
    context = {
        "body": f'<img alt="a" src="data:image/png;base64,{picture}">'
        '<span class="n"><span class="pre">pairs</span></span>'
        '<code><span class="pre">pairs</span></code>',
        "pathto": lambda path, _: f"../{path}",
        "script_files": [state, other, "plain.js"],
    }
    weight.lighten(SimpleNamespace(outdir=tmp_path), "page", "page.html", context, None)
    assert context["body"] == (
        f'<img alt="a" src="../_images/{name}"><span class="n">pairs</span>'
        '<code><span class="pre">pairs</span></code>'
    )
    assert (tmp_path / "_images" / name).read_bytes() == b"picture"
    assert context["script_files"] == [other, "plain.js"]
