"""The built book in Chromium: every page, at desktop and phone width, in light and dark."""

import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from browsing import chromium, serve

HTML = Path(__file__).parents[1] / "_build" / "html"
PAGES = sorted(path.relative_to(HTML).as_posix() for path in HTML.rglob("book/*.html"))
CHAPTERS = [page for page in PAGES if re.match(r"book/\d\d_", page)]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site():
    """The address of the built book, served on this machine."""
    assert CHAPTERS, "no built book: ./run book builds it"
    with serve(HTML) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, site):
    """Open a page of the book; `page.complaints` collects all that goes wrong on it."""
    contexts = []

    def open_page(path, viewport=DESKTOP, scheme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(f"error: {error}"))
        page.on("console", lambda message: _note_console(page, message))
        page.on("response", lambda response: _note_response(page, response))
        context.route(lambda url: not url.startswith(site), lambda route: _refuse(page, route))
        page.goto(site + path, wait_until="load")
        page.evaluate("async () => { await window.MathJax?.startup?.promise; }")
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()


def _note_console(page, message):
    if message.type == "error":
        page.complaints.append(f"console: {message.text}")


def _note_response(page, response):
    if response.status >= 400:
        page.complaints.append(f"{response.status}: {response.url}")


def _refuse(page, route):
    url = route.request.url
    if url.startswith(("data:", "blob:")):
        route.continue_()
    else:
        page.complaints.append(f"request to another host: {url}")
        route.abort()


@pytest.mark.parametrize("page_path", PAGES)
def test_page_is_clean(open_page, page_path):
    """No console error, missing file or request to another host; no page wider than its window."""
    for viewport in (DESKTOP, PHONE):
        page = open_page(page_path, viewport)
        assert page.complaints == []
        root = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert root[0] <= root[1], f"{page_path} scrolls sideways at {viewport['width']} px"


@pytest.mark.parametrize("page_path", PAGES)
def test_code_is_not_cut_off(open_page, page_path):
    page = open_page(page_path)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    cut = page.evaluate(
        """[...document.querySelectorAll('div.cell_input pre, div.highlight pre')]
        .filter(pre => pre.scrollWidth > pre.clientWidth).map(pre => pre.innerText)"""
    )
    assert cut == []


@pytest.mark.parametrize("page_path", PAGES)
def test_every_figure_has_alt_text(open_page, page_path):
    page = open_page(page_path)
    images = page.evaluate(
        "[...document.querySelectorAll('article img')].map(i => [i.getAttribute('alt'), i.src])"
    )
    for alt, source in images:
        assert alt and len(alt.split()) >= 3, f"{source} has no alt text: {alt!r}"
        assert not re.search(r"[0-9a-f]{16}", alt), f"{source}: {alt!r} is a hash"
        assert Path(unquote(urlsplit(source).path)).stem not in alt, f"{source}: a file name"


@pytest.mark.parametrize("page_path", PAGES)
def test_dark_mode_has_no_grey_frames(open_page, page_path):
    page = open_page(page_path, scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    luminance = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert max(luminance) < 60
    framed = page.evaluate(
        """[...document.querySelectorAll('article img')].filter(image => {
            const style = getComputedStyle(image);
            return style.padding !== '0px' || style.filter !== 'none'
                || !['rgb(255, 255, 255)', 'rgba(0, 0, 0, 0)'].includes(style.backgroundColor);
        }).map(image => image.src)"""
    )
    assert framed == []


def test_no_internal_link_is_broken(open_page, site):
    """Every link and fragment within the book leads somewhere; also from the search and index."""
    links, anchors = set(), {}
    for path in [*PAGES, "genindex.html", "search.html"]:
        page = open_page(path)
        anchors[site + path] = set(
            page.evaluate(
                "[...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name)"
            )
        )
        targets = page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")
        links |= {(path, urljoin(site + path, target)) for target in targets}
    broken = []
    for origin, link in sorted(links):
        url, fragment = urldefrag(link)
        if not url.startswith(site):
            continue
        target = HTML / unquote(urlsplit(url).path).lstrip("/")
        known = not fragment or unquote(fragment) in anchors.get(url, {unquote(fragment)})
        if not known or not (target.is_file() or (target / "index.html").is_file()):
            broken.append((origin, link))
    assert broken == []


def test_the_address_itself_leads_to_the_first_page():
    assert f'url={CHAPTERS[0]}"' in (HTML / "index.html").read_text()


@pytest.mark.parametrize("page_path", CHAPTERS)
def test_chapter_has_colab_and_download_buttons(open_page, site, page_path):
    page = open_page(page_path)
    stem = Path(page_path).stem
    links = page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")
    colab = [link for link in links if link.startswith("https://colab.research.google.com/github/")]
    assert len(colab) == 1
    assert colab[0].endswith(f"/book/{stem}.ipynb")
    downloads = [link for link in links if link.startswith(site) and link.endswith(".ipynb")]
    assert downloads, "no button downloads the notebook"
    assert all((HTML / urlsplit(link).path.lstrip("/")).is_file() for link in downloads)


def test_search_finds_a_word(open_page):
    page = open_page(CHAPTERS[0])
    page.locator("button.search-button-field:visible, button.search-button:visible").first.click()
    page.locator("input[type=search]:visible").fill("patching")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results ul.search li a")
    found = page.locator("#search-results ul.search li a").evaluate_all(
        "all => all.map(a => a.href)"
    )
    assert any("book/" in link for link in found)
    assert page.complaints == []


def test_a_reader_can_switch_to_dark(open_page):
    page = open_page(CHAPTERS[0])
    button = page.locator("button.theme-switch-button:visible").first
    for _ in range(3):
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        button.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.complaints == []
