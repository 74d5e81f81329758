"""The patch lab on the built page: with all sections in use, axe-core finds nothing serious."""

import pytest
from browsing import DESKTOP, PHONE, serious
from lab_page import section, settle


def use_all(page):
    """Start every section, carry a layer, reveal what heads move, and map a composed pair."""
    for name in ("carry", "looks", "compose"):
        page.locator(f"{section(name)} .lab-start").click()
        settle(page, name)
    page.locator(".lab-panel:first-child .lab-grid thead button").first.click()
    settle(page, "carry")
    for number in range(3):
        page.locator(".lab-looks .lab-grid button").nth(number).click()
    page.locator("button:text('Reveal')").click()
    page.wait_for_selector(".lab-off .lab-table")
    settle(page, "looks")
    page.locator("button:text('Map the layer outputs')").click()
    page.wait_for_selector(f"{section('compose')} .lab-grid")


@pytest.mark.parametrize(
    "mode",
    [
        (DESKTOP, "light"),
        pytest.param((DESKTOP, "dark"), marks=pytest.mark.weekly),
        pytest.param((PHONE, "light"), marks=pytest.mark.weekly),
    ],
    ids=["light", "dark", "phone"],
)
def test_all_sections_in_use_are_accessible(open_page, mode):
    page = open_page("book/patch_lab.html", *mode)
    use_all(page)
    assert serious(page) == []
    assert page.complaints == []
