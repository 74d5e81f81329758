"""The built book in Chromium: every page, on a desktop, a phone and paper, in light and dark."""

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
FOLDS = ("How this was computed", "The check", "Hint", "Solution and why")
MOST_BYTES = 1_500_000  # of a page with all that it loads
SLOW_LINE = {
    "offline": False,
    "latency": 0,
    "downloadThroughput": 1.6e6 / 8,
    "uploadThroughput": 1.6e6 / 8,
}
AXE = Path(__file__).with_name("vendor") / "axe.min.js"
# The parts of a line of code have the same few colours on every page: the weekly run looks at all.
MOST_OF_A_PAGE = {"exclude": ["pre *"]}


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


@pytest.mark.parametrize("page_path", PAGES)
def test_page_is_light(open_page, page_path):
    page = open_page(page_path)
    loaded = page.evaluate(
        """['navigation', 'resource'].flatMap(type => performance.getEntriesByType(type))
        .map(entry => [entry.encodedBodySize, entry.name])"""
    )
    assert sum(size for size, _ in loaded) <= MOST_BYTES, sorted(loaded)[-5:]


def weekly_but_the_first(pages):
    return [pages[0], *(pytest.param(page, marks=pytest.mark.weekly) for page in pages[1:])]


@pytest.mark.parametrize("page_path", weekly_but_the_first(CHAPTERS))
def test_page_is_painted_before_all_of_it_has_come(browser, site, page_path, record_property):
    page = browser.new_page(viewport=DESKTOP)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", SLOW_LINE)
    page.goto(site + page_path, wait_until="load")
    painted, loaded = page.evaluate(
        """[performance.getEntriesByName('first-contentful-paint')[0].startTime,
        performance.getEntriesByType('navigation')[0].loadEventStart]"""
    )
    page.close()
    record_property("first paint at 1.6 Mb/s", f"{painted / 1000:.1f} s")
    assert painted < loaded


def serious(page, context=None):
    """What axe-core finds serious or critical: (rule, the first elements)."""
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    # A fold fades in: halfway there, its text is too pale.
    page.evaluate("document.getAnimations().forEach(animation => animation.finish())")
    page.add_script_tag(path=AXE)
    found = page.evaluate(
        """async context => {
            const found = await axe.run(context || document, {resultTypes: ['violations']});
            return found.violations;
        }""",
        context,
    )
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("page_path", PAGES)
def test_page_is_accessible(open_page, page_path):
    assert serious(open_page(page_path), MOST_OF_A_PAGE) == []


@pytest.mark.weekly
@pytest.mark.parametrize("page_path", PAGES)
@pytest.mark.parametrize(
    "mode",
    [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light")],
    ids=["light", "dark", "phone"],
)
def test_page_is_accessible_in_every_mode(open_page, page_path, mode):
    assert serious(open_page(page_path, *mode)) == []


@pytest.mark.parametrize("page_path", CHAPTERS)
def test_on_paper_folds_are_open_and_nothing_is_cut(open_page, page_path):
    page = open_page(page_path, viewport={"width": 718, "height": 1000})  # A4 without its margins
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


def test_what_scrolls_takes_the_focus(open_page):
    page = open_page("book/04_first_patch.html", PHONE)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_function(
        """[...document.querySelectorAll('article :is(pre, table)')]
        .every(one => (one.tabIndex === 0) === (one.scrollWidth > one.clientWidth))"""
    )
    assert page.locator("article pre[tabindex='0']").count() > 5


@pytest.mark.parametrize("page_path", CHAPTERS)
def test_folds_say_what_they_hold(open_page, page_path):
    page = open_page(page_path)
    names = page.locator("article details > summary").all_inner_texts()
    assert set(names) <= {"Set-up for Google Colab", *FOLDS}
    assert page.locator("summary[aria-label]").count() == 0
    assert page.locator(".place").inner_text().startswith(place_of(page_path))


def place_of(page_path):
    """What the bar says first: the chapter's number, which its file has, too."""
    number = CHAPTERS.index(page_path)
    return f"Chapter {number} of {len(CHAPTERS) - 1}" if number else ""


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
