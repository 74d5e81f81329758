"""The PDF of the path: one page of its articles, and what Chromium prints of it."""

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from pypdf import PdfReader

from tools import make_pdf

ROOT = Path(__file__).parents[1]
CONFIG = "{title: A <b>, author: Us, repository: {url: 'https://github.com/us/it'}}"
TOC = """
root: book/00_start
parts:
  - {caption: The path, chapters: [{file: book/01_next}]}
  - {caption: Appendices, chapters: [{file: book/02_more}]}
"""
PAGE = """<html><head><link rel="stylesheet" href="../_static/a.css?v=1"></head><body><nav id="top">
<a href="02_more.html">all</a></nav><article class="bd-article"><section id="here">
<h1>{title}<a class="headerlink" href="#here">#</a></h1><img src="../_images/a.svg">
<details><summary>How this was computed</summary>code</details>
<details><summary>Hint</summary>hint</details>
<a href="#here">1</a><a href="01_next.html">2</a><a href="01_next.html#here">3</a>
<a href="02_more.html#pair=a&amp;b">4</a><a href="https://example.org/x">5</a>
</section></article></body></html>"""


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """The joined page of a book of three pages; the glossary and bibliography stay out."""
    monkeypatch.setattr(make_pdf, "BACK", ())
    built = tmp_path / "_build" / "html" / "book"
    built.mkdir(parents=True)
    (tmp_path / "_config.yml").write_text(CONFIG)
    (tmp_path / "_toc.yml").write_text(TOC)
    for name in ("00_start", "01_next", "02_more"):
        (built / f"{name}.html").write_text(PAGE.format(title=f"Title {name}"))
    return BeautifulSoup(make_pdf.joined(tmp_path), "html.parser")


def test_the_articles_of_the_path_follow_each_other(joined, tmp_path):
    assert joined.select_one(".title").get_text() == "A <b>"
    titles = [one.h1.get_text() for one in joined.select("article")]
    assert titles == ["Title 00_start", "Title 01_next"]
    listed = [(one["href"], one.get_text()) for one in joined.select("header li a")]
    assert listed == [("#00_start", titles[0]), ("#01_next", titles[1])]
    assert joined.select("article nav") == []
    html = tmp_path / "_build" / "html"
    assert joined.img["src"] == (html / "_images" / "a.svg").as_uri()
    assert joined.link["href"] == (html / "_static" / "a.css").as_uri()


def test_links_stay_in_the_pdf_where_they_can(joined):
    start = joined.select_one("article")
    assert [one["href"] for one in start.select("a")] == [
        "#00_start.here",
        "#01_next",
        "#01_next.here",
        "https://us.github.io/it/book/02_more.html#pair=a&b",
        "https://example.org/x",
    ]
    names = {one["id"] for one in joined.select("[id]")}
    assert names == {"00_start", "00_start.here", "01_next", "01_next.here"}


def test_folds_are_open_but_what_only_computes_is_left_out(joined):
    folds = joined.select("article:first-of-type details")
    assert [(one.summary.get_text(), one["open"]) for one in folds] == [("Hint", "")]


@pytest.fixture(scope="module")
def pdf():
    return PdfReader(make_pdf.make_pdf(ROOT))


@pytest.fixture(scope="module")
def articles():
    """The articles of the built pages that are printed."""
    built = ROOT / "_build" / "html"
    pages = [built / f"{page}.html" for page in make_pdf.printed_pages(ROOT)]
    found = [BeautifulSoup(page.read_text(), "html.parser").article for page in pages]
    for link in (link for article in found for link in article.select(".headerlink")):
        link.decompose()
    return found


def flat(bookmarks):
    for one in bookmarks:
        if isinstance(one, list):
            yield from flat(one)
        else:
            yield one


@pytest.mark.weekly
def test_the_pdf_has_a_bookmark_for_each_heading(pdf, articles):
    headings = [one for article in articles for one in article.select("h1, h2, h3, h4, h5, h6")]
    expected = [" ".join(one.get_text().split()) for one in headings]
    bookmarks = list(flat(pdf.outline))
    assert [one.title for one in bookmarks] == expected
    places = [pdf.get_destination_page_number(one) for one in bookmarks]
    assert places == sorted(places) and places[0] == 1


@pytest.mark.weekly
def test_the_pdf_has_every_number_of_a_figure_and_a_table(pdf, articles):
    pages = [page.extract_text() for page in pdf.pages]
    for article in articles:
        numbers = re.findall(r"^(?:Figure|Table) \d+\.\d+\.", article.get_text(), re.M)
        missing = [number for number in numbers if not any(number in page for page in pages)]
        assert missing == []
    assert any("Figure 8.2." in page for page in pages)
    numbered = [page.splitlines()[:2].count(str(i)) for i, page in enumerate(pages, 1)]
    assert numbered == [0] + [1] * (len(pages) - 1)  # not on the title page


@pytest.mark.weekly
def test_the_pdf_leads_to_no_file_of_this_machine(pdf):
    links = [note.get_object() for page in pdf.pages for note in page.get("/Annots", [])]
    addresses = {link["/A"]["/URI"] for link in links if "/URI" in link.get("/A", {})}
    assert addresses and all(one.startswith("https://") for one in addresses)
