"""The patch lab's address in Chromium: a link opens what it says, also where the lab is open."""

import pytest
from lab_page import alone, check_whole, manifest, section, settle, start

SCENES = manifest("blip-mini")["scenes"]
LOOK = f"look={SCENES[3]['id']}&heads=1.2"


@pytest.fixture
def page(browser, tmp_path):
    with alone(browser, tmp_path) as page:
        yield page


def paste(page, state):
    """Put another fragment into the address of the open page."""
    page.goto(f"{page.address}#{state}")


def chosen(page, name):
    """The pair of a section."""
    return page.locator(f"{section(name)} label:has-text('Pair') select").input_value()


def wait_for_pair(page, name, number):
    page.wait_for_function(
        "([here, id]) => document.querySelector(here + ' .lab-wide select')?.value === id",
        arg=[section(name), SCENES[number]["id"]],
    )
    settle(page, name)


def top(page, name):
    """Where a section begins on the screen."""
    return page.locator(section(name)).evaluate("one => one.getBoundingClientRect().top")


def test_a_link_that_is_pasted_into_the_open_lab_is_opened(page):
    start(page, "carry", f"#pair={SCENES[0]['id']}")
    paste(page, f"pair={SCENES[2]['id']}&view=mlp&carry=mlp.1.2")
    wait_for_pair(page, "carry", 2)
    page.wait_for_selector(".lab-carried tbody tr")
    assert "MLP, layer 1" in page.locator(".lab-carried").inner_text()
    paste(page, f"model=llava-mini&pair={SCENES[4]['id']}")
    page.wait_for_selector("th button:text-is('the image')")
    wait_for_pair(page, "carry", 4)
    assert page.locator(".lab-carried tbody tr").count() == 0
    assert page.locator(f"{section('looks')} .lab-start").is_visible()
    check_whole(page)


def test_a_pasted_link_leaves_a_section_alone_that_it_does_not_name(page):
    start(page, "carry", f"#pair={SCENES[5]['id']}&carry=mlp.1.2")
    page.locator(f"{section('looks')} .lab-start").click()
    settle(page, "looks")
    paste(page, LOOK)
    wait_for_pair(page, "looks", 3)
    assert chosen(page, "carry") == SCENES[5]["id"]
    assert page.locator(".lab-carried tbody tr").count() == 1
    pressed = page.locator(f"{section('looks')} .lab-grid [aria-pressed=true]")
    assert "head 2, layer 1" in pressed.get_attribute("aria-label")
    check_whole(page)


@pytest.mark.parametrize(
    ("state", "name"), [(LOOK, "looks"), ("board=2", "compose"), (f"pair=x&{LOOK}", "looks")]
)
def test_a_link_into_a_section_brings_it_into_view(page, state, name):
    page.add_init_script(
        "addEventListener('DOMContentLoaded', () => document.querySelectorAll('.lab')"
        ".forEach(one => one.style.minHeight = '1500px'))"
    )
    page.goto(f"{page.address}#{state}")
    page.wait_for_function("scrollY > 0")
    assert top(page, name) == pytest.approx(0, abs=2)
    # So does one that is pasted.
    page.evaluate("scrollTo(0, 0)")
    paste(page, f"{state}&first=corrupt" if name == "compose" else f"pair=y&{LOOK}.1")
    page.wait_for_function("scrollY > 0")
    assert top(page, name) == pytest.approx(0, abs=2)
    focused = page.evaluate("document.activeElement.closest('.lab')?.dataset.section")
    assert focused == name


def test_a_link_without_choices_stays_where_the_page_begins(page):
    page.goto(page.address)
    page.wait_for_selector(f"{section('compose')} .lab-start")
    assert page.evaluate("scrollY") == 0


def test_back_from_a_heading_changes_nothing(page):
    start(page, "carry", f"#pair={SCENES[2]['id']}")
    page.locator(".lab-panel:first-child .lab-grid td button").first.evaluate(
        "one => { one.dataset.here = 'yes'; location.hash = 'what-you-see'; }"
    )
    page.go_back()
    page.wait_for_function("location.hash.includes('pair=')")
    page.wait_for_timeout(300)
    assert page.locator("[data-here=yes]").count() == 1
    check_whole(page)
