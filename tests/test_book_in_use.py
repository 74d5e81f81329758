"""What readers do with the built book in Chromium: search, point at maps, take quizzes, print."""

import json
from urllib.parse import quote_plus

import pytest
from browsing import DESKTOP, HTML, PHONE, new_page, open_folds, serious

from tools.pages.moved import read_moved

MOVED = read_moved(HTML.parents[1])
SLIDES = "book/course/slides.html"
WELCOME, FIRST_PATCH, MODULES, BLIP_LLAVA = (
    f"book/{name}.html"
    for name in ("00_welcome", "03_first_patch", "04_modules_heads", "07_blip_llava")
)


def test_what_scrolls_takes_the_focus(open_page):
    page = open_page(FIRST_PATCH, PHONE)
    open_folds(page)
    page.wait_for_function(
        """[...document.querySelectorAll('article :is(pre, table)')]
        .every(one => (one.tabIndex === 0) === (one.scrollWidth > one.clientWidth))"""
    )
    assert page.locator("article pre[tabindex='0']").count() > 5


@pytest.mark.parametrize("tag", ["a", "button", "summary", "select", "textarea"])
def test_what_takes_the_focus_by_keyboard_shows_it(open_page, tag):
    """Lists and fields of text are rare, so the page gets one."""
    page = open_page(FIRST_PATCH)
    page.evaluate(
        """tag => {
            const article = document.querySelector('article');
            if (['select', 'textarea'].includes(tag)) article.prepend(document.createElement(tag));
            const one = [...article.querySelectorAll(tag)].find(one => one.checkVisibility());
            const before = document.createElement('span');
            before.tabIndex = -1;
            (one.closest('details') ?? one).before(before);
            before.focus();
        }""",
        tag,
    )
    page.keyboard.press("Tab")
    focused = page.evaluate(
        """() => {
            const one = document.activeElement, style = getComputedStyle(one);
            const primary = document.createElement('i');
            primary.style.color = 'var(--pst-color-primary)';
            document.querySelector('article').append(primary);
            document.getAnimations().forEach(animation => animation.finish());
            const own = style.outlineColor === getComputedStyle(primary).color;
            return [one.localName, style.outlineStyle, style.outlineWidth, own];
        }"""
    )
    assert focused[:3] == [tag, "solid", "3px"]
    # The colour is the book's; the button that copies code keeps that of the theme.
    assert focused[3] or tag == "button"


@pytest.mark.parametrize("old", MOVED)
def test_an_old_address_leads_on_without_a_server(browser, old):
    with new_page(browser) as page:
        page.goto((HTML / "book" / f"{old}.html").as_uri(), wait_until="commit")
        page.wait_for_url((HTML / "book" / f"{MOVED[old]}.html").as_uri())
        assert page.locator("article h1").count() == 1


def test_search_finds_a_word(open_page):
    page = open_page(WELCOME)
    page.locator("button.search-button-field:visible, button.search-button:visible").first.click()
    page.locator("input[type=search]:visible").fill("patching")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results ul.search li a")
    found = page.locator("#search-results ul.search li a").evaluate_all(
        "all => all.map(a => a.href)"
    )
    assert any("book/" in link for link in found)
    assert page.complaints == []


def test_search_answers_how_do_i(open_page):
    page = open_page("search.html")
    for asked in (
        "use my own images", "install", "cite", "GPU", "Colab", "my own checkpoint", "teach from it"
    ):  # fmt: skip
        page.goto(page.url.partition("?")[0] + f"?q={quote_plus(asked)}")
        page.wait_for_selector("#search-results ul.search li a")
        page.wait_for_selector("#search-results p.search-summary:not(:empty)")
        found = page.locator("#search-results ul.search li > a").evaluate_all(
            "all => all.slice(0, 5).map(a => a.pathname)"
        )
        assert "/book/how_do_i.html" in found, (asked, found)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("page_path", [FIRST_PATCH, MODULES, BLIP_LLAVA])
def test_a_map_says_what_a_cell_holds(open_page, page_path, viewport):
    """By keyboard and by a click; on paper only the figure is left."""
    page = open_page(page_path, viewport)
    place = page.locator(".clickable").first
    data = json.loads(place.locator("script").text_content())
    cells = [cell[4] for panel in data["panels"] for cell in panel["cells"]]
    buttons, told = place.locator(".map-cell"), place.locator(".map-told p").first
    buttons.first.focus()
    assert told.inner_text() == cells[0]
    page.keyboard.press("ArrowRight")
    assert told.inner_text() == cells[1]
    page.keyboard.press("ArrowDown")
    row = len({cell[0] for cell in data["panels"][0]["cells"]})
    assert told.inner_text() == cells[row + 1]
    for _ in range(row):  # into the next panel
        page.keyboard.press("ArrowRight")
    assert told.inner_text() == data["panels"][1]["cells"][row + 1][4]
    buttons.last.click()
    assert told.inner_text() == cells[-1]
    shown = place.locator("canvas").is_visible()
    assert shown == ("picture" in data["panels"][-1])
    assert place.locator("img").count() == 1 and page.complaints == []
    page.emulate_media(media="print")
    assert place.locator("img").is_visible() and not told.is_visible()


def test_a_reader_can_switch_to_dark(open_page):
    page = open_page(WELCOME)
    button = page.locator("button.theme-switch-button:visible").first
    for _ in range(3):
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        button.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.complaints == []


def said(page):
    """What a quiz has said so far: a line for each question, and the score."""
    return [" ".join(text.split()) for text in page.locator("[role=status]").all_text_contents()]


def test_a_quiz_is_taken_by_keyboard_and_says_why(open_page):
    page = open_page("book/course/exit_quiz.html")
    question = page.locator(".quiz fieldset").first
    assert said(page) == [""] * 6
    question.locator("button").press("Enter")
    assert said(page)[0] == "Choose an option first."
    reasons = page.locator(".answers > li").first.locator("li").all_text_contents()
    question.locator("input").first.focus()
    for at, reason in enumerate(reasons):
        page.keyboard.press("ArrowDown" if at else "Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert said(page)[0] == " ".join(reason.split())
        right = reason.startswith("Right.")
        assert question.get_attribute("data-verdict") == ("right" if right else "wrong")
        page.keyboard.press("Shift+Tab")
    first = int(reasons[0].startswith("Right."))
    assert said(page)[-1] == f"Right at the first try: {first} of 1 answered, of 5 questions."
    assert page.complaints == []


def test_a_printed_quiz_has_its_answers_on_a_sheet_of_their_own(open_page):
    page = open_page("book/course/exit_quiz.html")
    page.emulate_media(media="print")
    assert page.locator(".quiz button:visible").count() == 0
    assert page.locator(".answers > li > ol > li:visible").count() == 15
    assert (
        page.locator(".quiz details").evaluate("one => getComputedStyle(one).breakBefore") == "page"
    )


def test_slides_fit_their_screen_and_print_one_a_sheet(open_page):
    page = open_page(SLIDES, {"width": 1280, "height": 720})
    slides = page.locator("section").count()
    for _ in range(slides):
        box = page.locator("section.present").bounding_box()
        heading = page.locator("section.present :is(h1, h2)").inner_text()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 720, heading
        page.keyboard.press("ArrowRight")
    assert page.evaluate("Reveal.isLastSlide()")
    assert serious(page) == [] and page.complaints == []
    page = open_page(f"{SLIDES}?print-pdf&notes")
    page.wait_for_selector(".pdf-page")
    assert page.locator(".pdf-page").count() == slides
    assert page.locator(".speaker-notes-pdf").count() == slides
