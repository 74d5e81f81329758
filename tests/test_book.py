"""The built book in Chromium: every page, on a desktop, a phone and paper, in light and dark."""

import json
import re
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urldefrag, urlsplit

import pytest
import yaml
from browsing import DESKTOP, HTML, PHONE, SlowLine, new_page, open_folds, opened, serious
from bs4 import BeautifulSoup

from tools.pages.moved import read_moved
from tools.serving import serve

ROOT = Path(__file__).parents[1]
LAB = ROOT / "book" / "assets" / "lab" / "blip-mini" / "manifest.json"
MOVED = read_moved(ROOT)
PAGES = sorted(
    path.relative_to(HTML).as_posix()
    for path in HTML.glob("book/**/*.html")
    if path.stem not in MOVED  # these only lead to pages
    and path.stem != "slides"  # no page of the theme
)
# Pages of words and quizzes only: the gate looks at the first quiz, the weekly run at all.
ALIKE = {
    f"book/course/{name}.html"
    for name in ("worksheet_phone", "exit_quiz", "quiz_2", "quiz_3", "quiz_4", "quiz_5")
}
GATED = [pytest.param(page, marks=pytest.mark.weekly) if page in ALIKE else page for page in PAGES]
CHAPTERS = [page for page in PAGES if re.match(r"book/\d\d_", page)]
NOTEBOOKS = [*CHAPTERS, "book/course/worksheet.html"]
PATH = CHAPTERS[:9]
# Chapters and the page of the lab have all kinds of figures and folds; the weekly run looks at all.
PRINTED = [
    page
    if page in CHAPTERS or page == "book/patch_lab.html"
    else pytest.param(page, marks=pytest.mark.weekly)
    for page in PAGES
]
PAPER = {"width": 718, "height": 1000}  # A4 without its margins
FOLDS = (
    "How this was computed",
    "The check",
    "Hint",
    "Stronger hint",
    "Solution and why",
    "The table",
    "Answers",
)
MOST_BYTES = 1_500_000  # of a page with all that it loads
MOST_CODE = 0.2  # of a chapter's height; 13 % on average
# Code looks the same on every page, and has most of the elements: the weekly run looks at it.
ALL_BUT_CODE = {"exclude": ["pre"]}


@pytest.fixture(scope="module", params=GATED)
def page(browser, site, request):
    """Each page on a desktop, opened once: its tests change nothing but open its folds."""
    with opened(browser, site, request.param) as page:
        yield page


@pytest.fixture(scope="module", params=GATED)
def phone(browser, site, request):
    """Each page on a phone in the dark, opened once: its tests change nothing."""
    with opened(browser, site, request.param, PHONE, "dark") as page:
        yield page


def check_clean(page):
    """No console error, missing file or request to another host; no page wider than its window."""
    assert page.complaints == []
    whole, shown = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert whole <= shown, "it scrolls sideways"


def test_page_is_clean(page):
    check_clean(page)


def test_page_is_clean_on_a_phone_in_the_dark(phone):
    check_clean(phone)


def test_code_is_not_cut_off(page):
    open_folds(page)
    cut = page.evaluate(
        """[...document.querySelectorAll('div.cell_input pre, div.highlight pre')]
        .filter(pre => pre.scrollWidth > pre.clientWidth).map(pre => pre.innerText)"""
    )
    assert cut == []


def test_every_figure_has_alt_text(page):
    images = page.evaluate(
        "[...document.querySelectorAll('article img')].map(i => [i.getAttribute('alt'), i.src])"
    )
    for alt, source in images:
        assert alt and len(alt.split()) >= 3, f"{source} has no alt text: {alt!r}"
        assert not re.search(r"[0-9a-f]{16}", alt), f"{source}: {alt!r} is a hash"
        assert Path(unquote(urlsplit(source).path)).stem not in alt, f"{source}: a file name"


def test_headers_stand_over_their_columns(phone):
    askew = phone.evaluate(
        """[...document.querySelectorAll('article table:not(:has([colspan]))')]
        .filter(table => table.tHead && table.tBodies[0].rows.length).flatMap(table => {
            const at = cell => getComputedStyle(cell).textAlign;
            const below = [...table.tBodies[0].rows[0].cells].reverse();
            const heads = [...table.tHead.rows[0].cells].reverse();
            return heads.filter((head, i) => head.innerText && at(head) !== at(below[i]));
        }).map(head => head.innerText)"""
    )
    assert askew == []


def test_dark_mode_has_no_grey_frames(phone):
    assert phone.evaluate("document.documentElement.dataset.theme") == "dark"
    luminance = phone.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert max(luminance) < 60
    framed = phone.evaluate(
        """[...document.querySelectorAll('article img')].filter(image => {
            const style = getComputedStyle(image);
            return style.padding !== '0px' || style.filter !== 'none'
                || !['rgb(255, 255, 255)', 'rgba(0, 0, 0, 0)'].includes(style.backgroundColor);
        }).map(image => image.src)"""
    )
    assert framed == []


def test_code_leaves_most_of_a_chapter_to_what_is_read(phone):
    code, whole = phone.evaluate(
        """() => {
            const tall = one => one.getBoundingClientRect().height;
            const article = document.querySelector('article');
            const cells = [...article.querySelectorAll('.cell_input')];
            const seen = cells.filter(one => one.checkVisibility());
            return [seen.map(tall).reduce((sum, one) => sum + one, 0), tall(article)];
        }"""
    )
    assert phone.path not in CHAPTERS or code <= MOST_CODE * whole


def test_page_is_light(page):
    loaded = page.evaluate(
        """['navigation', 'resource'].flatMap(type => performance.getEntriesByType(type))
        .map(entry => [entry.encodedBodySize, entry.name])"""
    )
    assert sum(size for size, _ in loaded) <= MOST_BYTES, sorted(loaded)[-5:]


def weekly_but_the_first(pages):
    return [pages[0], *(pytest.param(page, marks=pytest.mark.weekly) for page in pages[1:])]


@pytest.mark.parametrize("page_path", weekly_but_the_first(CHAPTERS))
def test_page_is_painted_before_all_of_it_has_come(browser, page_path, record_property):
    with serve(HTML, SlowLine) as site, new_page(browser) as page:
        page.goto(site + page_path, wait_until="load")
        painted, loaded = page.evaluate(
            """[performance.getEntriesByName('first-contentful-paint')[0].startTime,
            performance.getEntriesByType('navigation')[0].loadEventStart]"""
        )
    record_property("first paint at 1.6 Mb/s", f"{painted / 1000:.1f} s")
    assert painted < loaded


def test_page_is_accessible(page):
    assert serious(page, ALL_BUT_CODE) == []


@pytest.mark.weekly
@pytest.mark.parametrize("page_path", PAGES)
@pytest.mark.parametrize(
    "mode",
    [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light")],
    ids=["light", "dark", "phone"],
)
def test_page_is_accessible_in_every_mode(open_page, page_path, mode):
    assert serious(open_page(page_path, *mode)) == []


def test_the_search_is_accessible_with_what_it_finds(open_page):
    page = open_page("search.html?q=patching")
    page.wait_for_selector("#search-results ul.search li a")
    assert serious(page) == []


@pytest.mark.parametrize("page_path", PRINTED)
def test_on_paper_folds_are_open_and_nothing_is_cut(open_page, page_path):
    page = open_page(page_path, PAPER)
    page.emulate_media(media="print")
    closed = page.evaluate(
        """[...document.querySelectorAll('article details')]
        .filter(fold => !fold.lastElementChild.getBoundingClientRect().height)
        .map(fold => fold.innerText)"""
    )
    cut = page.evaluate(
        """[...document.querySelectorAll('article *')].filter(one => one.clientWidth && (
            one.getBoundingClientRect().right > innerWidth + 1
            || one.scrollWidth > one.clientWidth + 1
            && getComputedStyle(one).overflowX !== 'visible'
        )).map(one => one.outerHTML.slice(0, 200))"""
    )
    assert closed == [] and cut == []


def article_of(page_path):
    """The article of a chapter, without the solutions of its exercises."""
    article = BeautifulSoup((HTML / page_path).read_text(), "html.parser").article
    for fold in article.select("details"):
        if fold.summary.get_text() == "Solution and why":
            fold.decompose()
    return article


@pytest.mark.parametrize("page_path", CHAPTERS)
def test_figures_and_tables_have_numbered_captions_below(page_path):
    """All but the pictures of a pair, of which Figure 1.1 says what they are, and the hero."""
    article, chapter = article_of(page_path), int(Path(page_path).name[:2])
    captions = [one["id"] for one in article.select(".numbered")]
    for kind in ("figure", "table"):
        numbers = [one for one in captions if one.startswith(kind)]
        assert numbers == [f"{kind}-{chapter}.{i}" for i in range(1, len(numbers) + 1)]
    below = []
    for one in article.select("img, table"):
        if one.get("alt", "").startswith(("The clean and the corrupt picture of", "Two runs of a")):
            continue
        caption = one.find_next(class_="numbered")
        kind = "table" if one.name == "table" else "figure"
        assert caption and caption["id"].startswith(kind), one
        below.append(caption["id"])
    assert len(set(below)) == len(below), "two of them have one caption"


@pytest.mark.parametrize("page_path", PATH)
def test_cells_of_tables_are_whole_and_numbers_short_with_a_minus(page_path):
    for cell in article_of(page_path).select("td, th"):
        text = cell.get_text().strip()
        assert not re.fullmatch(r".?\d+\.\d{5,}( ?%)?", text), text
        assert not re.fullmatch(r"-\d.*|[\u2212-]0(\.0*)?( ?%)?", text), text
        assert not text.endswith("..."), f"pandas cut it off: {text}"
        assert text or cell.name == "td", "an empty header"


def test_folds_say_what_they_hold_and_the_bar_where_the_page_stands(page):
    names = page.locator("article details > summary").all_inner_texts()
    assert set(names) <= {"Set-up for Google Colab", *FOLDS}
    assert page.locator("summary[aria-label]").count() == 0
    assert page.locator(".place").inner_text().startswith(place_of(page.path))


def place_of(page_path):
    """What the bar says first: the chapter's number, which its file has, too."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    path, appendices = ([chapter["file"] for chapter in part["chapters"]] for part in parts[:2])
    page = page_path.removesuffix(".html")
    if page in path:
        return f"Chapter {path.index(page) + 1} of {len(path)}"
    return f"Appendix {int(Path(page).name[:2])}" if page in appendices else ""


def lab_has(fragment):
    """Whether the patch lab can open what a fragment names: a pair, and a view of it."""
    named = dict(parse_qsl(fragment))
    lab = json.loads(LAB.read_text())
    views = [*lab["components"], *(f"heads:{name}" for name in lab["per_head"])]
    return named["pair"] in {scene["id"] for scene in lab["scenes"]} and named["view"] in views


def test_the_patch_lab_opens_its_own_pairs_and_views_only():
    pair = json.loads(LAB.read_text())["scenes"][0]["id"]
    assert lab_has(f"pair={pair}&view=layer_output&token=4&carry=layer_output.2.4")
    assert lab_has(f"pair={pair}&view=heads%3Across_attention")
    assert not lab_has(f"pair={pair}-of-old&view=layer_output")
    assert not lab_has(f"pair={pair}&view=heads%3Amlp")


@cache
def anchors(file):
    """What a fragment of a link to this file can name."""
    return set(re.findall(r'\s(?:id|name)="([^"]+)"', file.read_text(encoding="utf-8")))


def leads_somewhere(link, site):
    """Whether a link's file and its fragment there exist, or it leads to another host."""
    url, fragment = urldefrag(link)
    if not url.startswith(site):
        return True
    target = HTML / unquote(urlsplit(url).path).lstrip("/")
    if url.endswith("/patch_lab.html") and "=" in fragment:
        return lab_has(fragment)
    if target.is_dir():
        target /= "index.html"
    if not fragment or target.suffix != ".html":
        return target.is_file()
    return target.is_file() and unquote(fragment) in anchors(target)


def links(page):
    return page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")


def check_links(page, site):
    assert [link for link in links(page) if not leads_somewhere(link, site)] == []


def test_no_internal_link_is_broken(page, site):
    check_links(page, site)


@pytest.mark.parametrize("page_path", ["genindex.html", "search.html"])
def test_no_link_of_the_index_and_the_search_is_broken(open_page, site, page_path):
    check_links(open_page(page_path), site)


def test_the_address_itself_leads_to_the_first_page():
    assert f'url={CHAPTERS[0]}"' in (HTML / "index.html").read_text()


def test_notebooks_and_no_other_pages_have_colab_and_download_buttons(page, site):
    notebook = f"/{Path(page.path).with_suffix('.ipynb')}"
    colab = "https://colab.research.google.com/github/"
    # The welcome has two.
    buttons = list(dict.fromkeys(link for link in links(page) if link.startswith(colab)))
    downloads = [link for link in links(page) if link.startswith(site) and "ipynb" in link]
    if page.path not in NOTEBOOKS:
        assert buttons == []
        return
    assert len(buttons) == 1 and buttons[0].endswith(notebook)
    assert any(link.endswith(notebook) for link in downloads)
