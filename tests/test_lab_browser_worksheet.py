"""The worksheet for phones: the patch lab understands its links, and does what it says of them."""

import html
import re
from urllib.parse import parse_qs

import pytest
from lab_page import DIRECTIONS, MINUS, ROOT, alone, check_whole, manifest, pairs, patched, start

from notice_lib import Circuit, Site

TEXT = (ROOT / "book" / "course" / "worksheet_phone.md").read_text(encoding="utf-8")
WORDS = " ".join(TEXT.replace("> ", "").split())
LINKS = {
    " ".join(text.split()): html.unescape(address)
    for address, text in re.findall(r'<a href="([^"]*)">(.*?)</a>', TEXT, re.DOTALL)
}
BELL, *LAYERS = LINKS
MANIFEST = manifest("blip-mini")
(SCENE,) = (one for one in MANIFEST["scenes"] if one["id"] == "states-013-ba-correct")
TOKENS, LAST = range(len(SCENE["ids"])), MANIFEST["shape"]["layers"] - 1
PRIME = "\N{PRIME}"


@pytest.fixture
def page(browser, tmp_path):
    with alone(browser, tmp_path) as page:
        yield page


def choices(link):
    """What a link asks for, as the lab reads it."""
    address, fragment = LINKS[link].split("#")
    assert address == "../patch_lab.html"
    return parse_qs(fragment, strict_parsing=True)


def follow(page, link):
    """Start the lab with a link. In its own address it keeps what it has understood."""
    start(page, "carry", "#" + LINKS[link].split("#")[1])
    assert parse_qs(page.url.split("#")[1]) == choices(link)


def layer_of(link):
    return int(re.match(r"all of layer (\d)", link)[1])


def gap(layer, direction):
    """The logit difference, by the library, with a layer's outputs carried at all tokens."""
    sites = tuple(Site("layer_output", layer, position=token) for token in TOKENS)
    pair = pairs()[SCENE["id"]]
    ((correct, incorrect),) = patched("blip-mini", pair, direction, [Circuit("all", sites)])
    return correct - incorrect


def test_the_first_link_opens_the_bell_in_a_lab_that_has_what_the_worksheet_names(page):
    page.goto(page.address)
    offered = page.locator(".lab-start").first.inner_text()
    megabytes = float(re.search(r"loads ([\d.]+) MB", offered)[1])
    assert f"about {megabytes:.0f} MB once" in WORDS
    follow(page, BELL)
    for result, word in zip(page.locator(".lab-result").all(), SCENE["options"][::-1], strict=True):
        assert result.inner_text() == f"Nothing is carried. The model says “{word}”."
    line = page.locator(".lab-line").first.get_attribute("aria-label")
    assert re.match(rf"L\* {MINUS}\d", line) and re.search(r"L \+\d", line)
    for name in ("Enough here?", "Needed here?", "Carry nothing"):
        assert f"*{name}*" in WORDS
        assert page.locator(f".lab :is(strong, button):text-is('{name}')").count() == 1
    assert "heads of cross-attention in *Carry*" in WORDS
    views = page.locator(".lab-controls label:has-text('Carry') option").all_inner_texts()
    assert "Single heads of cross-attention" in views
    check_whole(page)


@pytest.mark.parametrize("link", LAYERS)
def test_a_link_carries_a_layer_at_all_tokens_and_only_the_last_must_flip(page, link):
    layer = layer_of(link)
    keys = [f"layer_output.{layer}.{token}" for token in TOKENS]
    assert choices(link)["carry"] == [" ".join(keys)]
    follow(page, link)
    said = page.locator(".lab-result").all_inner_texts()
    for direction, sentence in zip(DIRECTIONS, said, strict=True):
        moved = gap(layer, direction)
        assert f"L{PRIME} is {moved:+.2f},".replace("-", MINUS) in sentence
        assert ("flips" in sentence) == ((moved > 0) == (direction == "denoise"))
    must_flip = "Restores by construction" in page.locator(".lab-status").inner_text()
    assert must_flip == ("the last" in link) == (layer == LAST)
    check_whole(page)


def test_below_the_last_layer_one_link_flips_the_answer_and_one_does_not():
    below = [gap(layer_of(link), "denoise") > 0 for link in LAYERS if layer_of(link) < LAST]
    assert sorted(below) == [False, True]
