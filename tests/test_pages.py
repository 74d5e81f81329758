"""What the book adds to Sphinx: names of folds, formulas, tables, old addresses, light pages."""

import base64
import hashlib
import io
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from docutils import nodes
from docutils.utils import new_document
from myst_nb.sphinx_ import HideCodeCellNode
from PIL import Image
from sphinx import addnodes
from sphinx_external_toc.parsing import parse_toc_yaml

from tools.pages import alts, folds, formulas, moved, place, tables, weight
from tools.pages.number_style import written

ROOT = Path(__file__).parents[1]
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
    assert folded(cell("x = 1", mode="all"))[0][0] == "Solution and why"
    assert folded(cell("x = 1", prompt="Hint"))[0][0] == "Hint"


def test_neighbours_that_hold_the_same_are_one_fold_in_their_order():
    page = [cell("a = 1"), cell("b = 2"), cell("c = 3", output=True)]
    assert folded(*page) == [("How this was computed", "a = 1\n\nb = 2\n\nc = 3")]


@pytest.mark.parametrize(
    "page",
    [
        [cell("a = 1", output=True), cell("b = 2")],
        [cell("a = 1"), nodes.paragraph("text", "text"), cell("b = 2")],
        [cell("a = 1"), cell("b = 2", mode="all")],
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


def tidy(body: str) -> str:
    """The body of a page after its tables are tidied."""
    context = {"body": body}
    tables.tidy(None, "page", "page.html", context, None)
    return context["body"]


def row(*cells: str) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def test_the_names_of_an_index_stand_in_the_only_header_row():
    heads = row("<th></th>", "<th>role</th>", "<th>a</th>") + row(
        "<th>model</th>", "<th></th>", "<th></th>"
    )
    body = row('<th rowspan="2">x</th>', "<th>r</th>", "<td>-1</td>") + row(
        "<th>s</th>", "<td>2</td>"
    )
    heads = heads.replace("<tr>", '<tr style="text-align: right;">')
    found = tidy(f'<table border="1"><thead>{heads}</thead><tbody>{body}</tbody></table>')
    assert found == (
        '<table class="dataframe"><thead>'
        + row(
            '<th scope="col">model</th>',
            '<th scope="col">role</th>',
            '<th class="number" scope="col">a</th>',
        )
        + "</thead><tbody>"
        + row(
            '<th rowspan="2" scope="row">x</th>',
            '<th scope="row">r</th>',
            '<td class="number">-1</td>',
        )
        + row('<th scope="row">s</th>', '<td class="number">2</td>')
        + "</tbody></table>"
    )


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("-0.0", '<td class="number">0.0</td>'),
        ("-0.50%", '<td class="number">\u22120.50 %</td>'),
        ("+0.0 %", '<td class="number">0.0 %</td>'),
        ("1,649", '<td class="number">1,649</td>'),
        ("\u22121", '<td class="number">\u22121</td>'),
        ("1e-05", '<td class="number">1e-05</td>'),
        ("12 to 43 %", "<td>12 to 43 %</td>"),
        ("-2 % to -1 %", "<td>\u22122 % to \u22121 %</td>"),
        ("states-013", "<td>states-013</td>"),
        ("L1.H4", "<td>L1.H4</td>"),
        ("-", "<td>-</td>"),
        ("", "<td></td>"),
    ],
)
def test_numbers_have_one_form_and_stand_at_the_right(cell, expected):
    body = f"<tbody><tr><td>{cell}</td></tr></tbody>"
    found = written(tidy(f"<table><thead><tr><th></th></tr></thead>{body}</table>"))
    assert expected in found and "<th>" not in found


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>98% or -0.5 [-1, +2]</p>", "<p>98 % or \u22120.5 [\u22121, +2]</p>"),
        ("<p>-0.0 % and -0.04</p>", "<p>0.0 % and \u22120.04</p>"),
        ("<p>pair svo-150, 2410-7149</p>", "<p>pair svo-150, 2410-7149</p>"),
        ('<img alt="by -3%" src="a-3%.png"/>', '<img alt="by \u22123 %" src="a-3%.png"/>'),
        ("<pre>f(-1) <b>2%</b></pre> -1", "<pre>f(-1) <b>2%</b></pre> \u22121"),
        ("<code>-1</code><math><mn>-1</mn></math>", "<code>-1</code><math><mn>-1</mn></math>"),
    ],
)
def test_numbers_in_sentences_have_the_form_of_tables(html, expected):
    assert written(html) == expected


def test_a_column_with_words_is_no_column_of_numbers():
    def marked(*cells):
        body = "".join(row(f"<td>{cell}</td>") for cell in cells)
        head = row("<th>K</th>")
        return 'class="number"' in tidy(
            f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
        )

    assert marked("1.5", "\u2013")
    assert not marked("1.5", "undefined", "\u2013")


def test_cells_of_long_texts_are_marked_and_no_others():
    long = "Some heads matter in every task, under both corruptions"
    body = row(f"<th>{long}</th>", f"<td>{long}</td>", "<td>seen</td>")
    found = tidy(f"<table><tbody>{body}</tbody></table>")
    assert f'<th class="sentence" scope="row">{long}</th><td class="sentence">{long}</td>' in found
    assert found.count("sentence") == 2


def test_two_full_rows_of_headers_and_spans_stay():
    two = row("<th>a</th>", "<th>b</th>") + row("<th>c</th>", "<th>d</th>")
    assert tidy(f"<table><thead>{two}</thead></table>").count("<tr>") == 2
    wide = row('<th colspan="2">a</th>') + row("<td>1</td>", "<td>2</td>")
    assert "number" not in tidy(f'<table class="own"><tbody>{wide}</tbody></table>')
    assert 'class="own"' in tidy(f'<table class="own"><tbody>{wide}</tbody></table>')


def test_a_caption_has_an_address_and_names_the_table_above_it():
    caption = "<p><strong>Table 4.{}.</strong> <em>Found.</em></p>"
    two = f"<table></table>{caption.format(1)}<table></table><p>Text.</p>{caption.format(2)}"
    found = tidy(f"<p><strong>Figure 4.1.</strong> F</p><table></table>{two}<table></table>")
    assert [part[:45] for part in found.split("<table")[1:]] == [
        ' class="dataframe"></table>',
        ' aria-labelledby="table-4.1" class="dataframe',
        ' aria-labelledby="table-4.2" class="dataframe',
        ' class="dataframe"></table>',
    ]
    assert '<p class="numbered" id="figure-4.1"><strong>Figure 4.1.' in found
    assert '<p class="numbered" id="table-4.2"><strong>Table 4.2.' in found


def contents(caption: str, numbered: int, *pages: str) -> addnodes.toctree:
    """A table of contents on the first page, as a part of _toc.yml becomes one."""
    entries = [(None, page) for page in pages]
    return addnodes.toctree(caption=caption, numbered=numbered, entries=entries)


def test_the_place_is_a_chapters_number_and_title():
    root = new_document("first")
    root += contents("The path", 1, "one", "two")
    root += contents("Appendices", 1, "three")
    root += contents("Reference", 0, "more")
    titles = {"one": nodes.title("", "First"), "more": nodes.title("", "More")}
    titles["three"] = nodes.title("", "Third")
    numbers = {"one": {"": (1,)}, "two": {"": (2,)}, "three": {"": (3,), "#a": (3, 1)}, "more": {}}
    app = SimpleNamespace(
        env=SimpleNamespace(titles=titles, toc_secnumbers=numbers, get_doctree=lambda _: root),
        config=SimpleNamespace(root_doc="first"),
    )
    found = {}
    for page in ("one", "three", "more", "genindex"):
        found[page] = {}
        place.add_place(app, page, "page.html", found[page], None)
    assert found["one"] == {"plain_title": "First", "place": "Chapter 1 of 2"}
    assert found["three"] == {"plain_title": "Third", "place": "Appendix 3"}
    assert found["more"] == {"plain_title": "More"} and found["genindex"] == {}


def test_an_old_address_leads_to_the_page_that_has_its_content():
    pages = {name.removeprefix("book/") for name in parse_toc_yaml(ROOT / "_toc.yml")}
    leads = moved.read_moved(ROOT)
    assert leads["02_sip"] == "02_pairs"
    assert set(leads.values()) <= pages, "an old address leads to no page"
    assert not set(leads) & pages, "a page has an old address"


def built(folder, titles, table, monkeypatch):
    """What `moved` writes for a book with these pages, and its warnings."""
    (folder / "book").mkdir()
    (folder / moved.TABLE).write_text(table)
    app = SimpleNamespace(
        srcdir=folder,
        outdir=folder,
        builder=SimpleNamespace(format="html"),
        env=SimpleNamespace(titles={f"book/{t}": nodes.title("", t.upper()) for t in titles}),
        config=SimpleNamespace(html_baseurl=""),
    )
    warnings = []
    monkeypatch.setattr(moved.logger, "warning", warnings.append)
    moved.write_moved(app, None)
    return {path.stem: path.read_text() for path in folder.rglob("*.html")}, warnings


def test_pages_that_have_moved_are_small_and_say_where(tmp_path, monkeypatch):
    pages, warnings = built(tmp_path, ["new", "a<b"], "old,new\nold,new\nolder,a<b\n", monkeypatch)
    assert warnings == [] and set(pages) == {"old", "older"}
    assert '<link rel="canonical" href="new.html">' in pages["old"]
    assert '<meta http-equiv="refresh" content="0; url=new.html">' in pages["old"]
    assert '<a href="new.html">NEW</a>' in pages["old"]
    assert '<a href="a&lt;b.html">A&lt;B</a>' in pages["older"]
    full = moved.page("New", "new", "https://example.org/x/")
    assert 'href="https://example.org/x/book/new.html"' in full and 'url=new.html"' in full


@pytest.mark.parametrize("table", ["old,new\nold,gone\n", "old,new\nnew,other\n"])
def test_an_old_address_that_leads_nowhere_or_is_a_page_is_a_warning(table, tmp_path, monkeypatch):
    pages, warnings = built(tmp_path, ["new", "other"], table, monkeypatch)
    assert pages == {} and len(warnings) == 1


def test_a_book_needs_no_old_addresses(tmp_path):
    assert moved.read_moved(tmp_path) == {}


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
    pixels = Image.effect_noise((20, 20), 90).convert("RGB")
    pixels.save(png := io.BytesIO(), "PNG")
    with Image.open(io.BytesIO(weight.as_webp(png.getvalue()))) as same:
        assert same.tobytes() == pixels.tobytes()
    Image.effect_noise((500, 500), 90).convert("RGB").save(large := io.BytesIO(), "PNG")
    assert len(weight.as_webp(large.getvalue())) < len(large.getvalue()) / 2
    picture = base64.b64encode(png.getvalue()).decode()
    name = hashlib.sha256(weight.as_webp(png.getvalue())).hexdigest()[:20] + ".webp"
    state = SimpleNamespace(attributes={"type": weight.STATE})
    other = SimpleNamespace(attributes={})
    context = {
        "body": f'<img alt="a" src="data:image/png;base64,{picture}">'
        '<span class="n"><span class="pre">pairs</span></span>'
        '<code><span class="pre">pairs</span></code>'
        '<a title="Link to this definition">#</a><a title="Link to this heading">#</a>',
        "pathto": lambda path, _: f"../{path}",
        "script_files": [state, other, "plain.js"],
    }
    weight.lighten(SimpleNamespace(outdir=tmp_path), "page", "page.html", context, None)
    assert context["body"] == (
        f'<img alt="a" src="../_images/{name}"><span class="n">pairs</span>'
        '<code><span class="pre">pairs</span></code>'
        '<a title="Link">#</a><a title="Link to this heading">#</a>'
    )
    with Image.open(tmp_path / "_images" / name) as written:
        assert written.convert("RGB").tobytes() == pixels.tobytes()
    assert (tmp_path / "_images" / name).stat().st_size < len(png.getvalue())
    assert context["script_files"] == [other, "plain.js"]


def test_the_alt_text_of_a_figure_begins_with_its_captions_finding():
    """Also if nothing or another figure is between, and not twice."""
    caption = "<p><strong>Figure 1.{}.</strong> <em>{}</em> How to read it.</p>"
    body = (
        '<img alt="a logo"><img width="7" alt="Two maps." src="x"><p>Text.</p>'
        + caption.format(1, "The <b>last</b> &lt;layer&gt; decides.")
        + '<img alt="All heads. Dots.">'
        + caption.format(2, "All heads.")
        + caption.format(3, "Nothing above.")
    )
    found = alts.with_findings(body)
    texts = ["a logo", "The last &lt;layer&gt; decides. Two maps.", "All heads. Dots."]
    assert re.findall('alt="(.*?)"', found) == texts
    assert re.sub('alt=".*?"', "", found) == re.sub('alt=".*?"', "", body)


def test_a_figure_has_fewer_words_the_same_letters_and_its_pictures_as_webp():
    pixels = Image.effect_noise((60, 60), 90).convert("RGB")
    pixels.save(png := io.BytesIO(), "PNG")
    picture = (
        f'<image xlink:href="data:image/png;base64,\n{base64.b64encode(png.getvalue()).decode()}"/>'
    )
    letter = '<use xlink:href="#DejaVuSans-6f" transform="translate(61.035156 0)"/>'
    defined = '<path id="DejaVuSans-6f" d="M 1 2"/>'
    small = '<g transform="translate(7.2 222.487812) scale(0.015625 -0.1)">'
    svg = f"<svg>\n  <!-- a note -->\n  {defined}{small}\n   {letter}</g>\n {picture}</svg>"
    light = weight.light_svg(svg)
    (webp,) = re.findall('data:image/webp;base64,([^"]+)"', light)
    assert base64.b64decode(webp) == weight.as_webp(png.getvalue())
    assert light.startswith(
        '<svg> <path id="d6f" d="M 1 2"/>'
        '<g transform="translate(7.2 222.48) scale(0.015625 -0.1)"> '
        '<use href="#d6f" x="61.03"/></g>'
    )
    # Many pictures share the bytes that one may have, so that each is only almost the same.
    many = re.findall('base64,([^"]+)"', weight.light_svg(f"<svg>{picture * 200}</svg>"))
    almost = weight.as_webp(png.getvalue(), most=500)
    assert almost != weight.as_webp(png.getvalue())
    assert {base64.b64decode(one) for one in many} == {almost}
