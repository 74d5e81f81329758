"""Carry a patch in Chromium: Start, the grids, the pointer, the address and the other model."""

import re
from pathlib import Path

import numpy as np
import pytest
from browsing import press, tab_to
from lab_page import (
    MINUS,
    PAGE,
    alone,
    check_whole,
    guess_by_keyboard,
    manifest,
    section,
    settle,
    start,
)

MANIFEST = manifest("blip-mini")
PRIME = "\N{PRIME}"
HERE = section("carry")


@pytest.fixture
def page(browser, tmp_path):
    with alone(browser, tmp_path) as page:
        yield page


def choose(page, label):
    """Choose an option of the focused list by typing its beginning, and wait for its results."""
    page.keyboard.type(label)
    settle(page, "carry")


def results(page):
    return page.locator(".lab-result").all_inner_texts()


def carried(page):
    return page.locator(".lab-carried button").all_inner_texts()


def test_every_interaction_works_by_keyboard_alone(page):
    start(page, "carry")
    nothing = results(page)
    assert all("Nothing is carried" in text for text in nothing)
    # The first grid: one cell takes the focus, arrows move it, the space bar carries it.
    tokens, layers = MANIFEST["scenes"][0]["tokens"], MANIFEST["shape"]["layers"]
    tab_to(page, ".lab-panel:first-child .lab-grid button")
    press(page, "PageDown", "End", "ArrowUp", "ArrowLeft", "Space")
    settle(page, "carry")
    assert f"layer {layers - 2}, at “{tokens[-2]}”" in carried(page)[0]
    press(page, "ArrowDown", "ArrowRight", "Space")
    settle(page, "carry")
    assert f"layer {layers - 1}, at “{tokens[-1]}”" in carried(page)[1]
    # The second grid follows, and takes both cells away.
    tab_to(page, ".lab-panel:last-child .lab-grid button")
    press(page, "Enter", "ArrowUp", "ArrowLeft", "Enter")
    settle(page, "carry")
    assert carried(page) == []
    assert results(page) == nothing
    # Carry the correct option's row in both grids.
    row = MANIFEST["scenes"][0]["roles"].index("correct")
    press(page, "PageUp", "Home", *["ArrowDown"] * row, "End", "Space")
    settle(page, "carry")
    assert results(page) != nothing
    tab_to(page, ".lab-carried button")
    press(page, "Enter")
    settle(page, "carry")
    assert carried(page) == []
    # Lists, the guess and buttons.
    press(page, *["Shift+Tab"] * 20)
    tab_to(page, ".lab-controls label:nth-child(3) select")
    choose(page, "Single heads of cross")
    tab_to(page, ".lab-controls label:nth-child(4) select")
    choose(page, tokens[1])
    assert "token=1" in page.url
    guess_by_keyboard(page, row="H3", layer="layer 2", flips="4")
    cells = page.locator(".lab-grid td button").all_inner_texts()
    heads = MANIFEST["shape"]["heads"]
    assert len(cells) == 2 * layers * heads
    assert all(re.fullmatch(rf"0|[+{MINUS}]\d+", cell) for cell in cells)
    tab_to(page, ".lab-grid button")
    press(page, "Space")
    settle(page, "carry")
    press(page, *["Shift+Tab"] * 20)
    tab_to(page, ".lab > .lab-controls button")
    press(page, "Enter")
    settle(page, "carry")
    assert carried(page) == []
    press(page, "Shift+Tab", "Shift+Tab", "Shift+Tab", "Shift+Tab")
    tab_to(page, ".lab-controls label:nth-child(2) select")
    press(page, "ArrowDown")
    settle(page, "carry")
    assert MANIFEST["scenes"][1]["id"] in page.url
    check_whole(page)


def grid(page, part=""):
    """The first grid, or what a selector finds in it."""
    return page.locator(f".lab-panel:first-child .lab-grid {part}")


def test_a_header_carries_all_its_cells(page):
    scene, layers = MANIFEST["scenes"][0], MANIFEST["shape"]["layers"]
    tokens = scene["tokens"]
    start(page, "carry")
    tab_to(page, ".lab-panel:first-child .lab-grid button")
    press(page, "ArrowRight", "ArrowRight", "ArrowUp", "Space")
    settle(page, "carry")
    assert [text[: len("layer output, layer 2")] for text in carried(page)] == [
        "layer output, layer 2"
    ] * len(tokens)
    layer = grid(page, "thead button").nth(2)
    assert layer.get_attribute("aria-label") == f"layer 2, all {len(tokens)} cells"
    assert layer.evaluate("header => header === document.activeElement")
    token = grid(page, "tbody th button").nth(1)
    assert token.get_attribute("aria-label") == f"{tokens[1]}, all {layers} cells"
    assert [one.get_attribute("aria-pressed") for one in (layer, token)] == ["true", "mixed"]
    # The corner has no button; a token's name completes its row, and then takes it away.
    press(page, "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowDown", "ArrowLeft", "ArrowUp")
    press(page, "ArrowDown", "Space")
    settle(page, "carry")
    assert len(carried(page)) == len(tokens) + layers - 1
    assert [one.get_attribute("aria-pressed") for one in (layer, token)] == ["true", "true"]
    token.click()
    settle(page, "carry")
    assert len(carried(page)) == len(tokens) - 1
    assert [one.get_attribute("aria-pressed") for one in (layer, token)] == ["mixed", "false"]
    check_whole(page)


def middles(page, *places):
    """Where the cells of rows and layers are on the screen."""
    grid(page).scroll_into_view_if_needed()
    boxes = [grid(page, f"tbody tr:nth-child({i + 1}) td >> nth={j}") for i, j in places]
    boxes = [box.bounding_box() for box in boxes]
    return [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]


def picked(page):
    settle(page, "carry")
    return re.findall(r"carry=([^&]*)", page.url)


def test_a_press_that_moves_over_cells_takes_them(page):
    start(page, "carry")
    first, second, third = middles(page, (1, 0), (1, 1), (1, 2))
    row = [f"layer_output.{layer}.1" for layer in range(3)]

    def drag(*places):
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        page.mouse.up()

    drag(first, second, third)
    assert picked(page) == ["+".join(row)]
    drag(first, second)
    assert picked(page) == [row[2]]
    # Back where it began, the press is a click too, which does nothing; the next one counts.
    drag(second, first, second)
    assert picked(page) == ["+".join([row[2], row[1], row[0]])]
    page.mouse.click(*second)
    assert picked(page) == ["+".join([row[2], row[0]])]
    # So does the next key. Arrows go on from where the press began.
    drag(second, third, second)
    press(page, "ArrowRight", "Space")
    assert picked(page) == ["+".join([row[0], row[1]])]
    assert page.locator(".lab-over").count() == 0
    check_whole(page)


def test_a_finger_picks_sideways_and_scrolls_up_and_down(page):
    start(page, "carry")
    first, second, below = middles(page, (1, 0), (1, 1), (4, 0))
    finger = page.context.new_cdp_session(page)

    def touch(kind, *places):
        points = [{"x": x, "y": y} for x, y in places]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def swipe(start, end):
        touch("touchStart", start)
        for part in np.linspace(0, 1, 11)[1:]:
            touch("touchMove", tuple(np.add(start, part * np.subtract(end, start)).tolist()))
        touch("touchEnd")
        page.wait_for_timeout(100)

    top = page.evaluate("scrollY")
    swipe(first, second)
    assert picked(page) == ["layer_output.0.1+layer_output.1.1"]
    assert page.evaluate("scrollY") == top
    swipe(below, first)
    assert picked(page) == ["layer_output.0.1+layer_output.1.1"]
    assert page.evaluate("scrollY") > top
    assert page.locator(".lab-over").count() == 0
    check_whole(page)


def test_the_page_shows_the_models_numbers_and_keeps_them_in_its_address(page):
    """All outputs of the last layer give the other run, which the page says is no finding."""
    scene = MANIFEST["scenes"][2]
    last = MANIFEST["shape"]["layers"] - 1
    keys = [f"layer_output.{last}.{token}" for token in range(len(scene["ids"]))]
    start(page, "carry", f"#pair={scene['id']}&carry={'+'.join([*keys, 'mlp.99.0', 'nothing'])}")
    enough, needed = results(page)
    clean, corrupt = (f"{abs(scene['L'][run]):.2f}" for run in ("clean", "corrupt"))
    assert f"L{PRIME} is +{clean}, moved by +100\N{NO-BREAK SPACE}%" in enough
    assert f"L{PRIME} is {MINUS}{corrupt}, moved by {MINUS}100\N{NO-BREAK SPACE}%" in needed
    assert scene["options"][0] in enough and scene["options"][1] in needed
    assert "by construction" in page.locator(".lab-status").inner_text()
    assert page.locator(".lab-line").first.get_attribute("aria-label") == (
        f"L* {MINUS}{corrupt}, L{PRIME} +{clean}, L +{clean} logits"
    )
    assert page.url.endswith("carry=" + "+".join(keys))
    check_whole(page)


def test_nothing_large_is_loaded_before_start(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page.address)
    offer = page.wait_for_selector(f"{HERE} .lab-start")
    assert not [url for url in asked if url.endswith((".onnx", ".gz", ".png", ".mjs.js"))]
    size = sum(file["bytes"] for file in MANIFEST["files"].values()) / 1e6
    assert f"{size:.1f} MB" in offer.inner_text()
    offer.click()
    settle(page, "carry")
    assert set(page.locator(".lab-start").all_inner_texts()) == {"Start the lab"}


def test_the_lab_starts_where_the_server_does_not_know_mjs(page):
    (page.folder / "module.mjs").touch()
    served = page.request.get(page.address.replace("book/patch_lab.html", "module.mjs"))
    assert served.headers["content-type"] == "application/octet-stream"
    start(page, "carry")
    assert results(page)
    check_whole(page)


def sentences(page):
    """What stands in the sections of a page that cannot start."""
    page.wait_for_timeout(300)
    return [page.locator(section(name)).inner_text() for name in ("carry", "looks", "compose")]


def test_without_a_server_webassembly_or_javascript_a_sentence_stands_there(page):
    sentence = "The lab needs a browser with JavaScript and WebAssembly"
    page.goto((page.folder / "book" / "patch_lab.html").as_uri())
    assert all(sentence in text for text in sentences(page))
    page.complaints.clear()  # Chromium itself complains of a module from a file.
    page.add_init_script("delete window.WebAssembly")
    page.goto(page.address)
    assert all(sentence in text for text in sentences(page))
    assert page.complaints == []
    with page.context.browser.new_context(java_script_enabled=False) as context:
        plain = context.new_page()
        plain.goto(page.address)
        assert all(sentence in text for text in sentences(plain))
        links = plain.locator(".lab a").evaluate_all("links => links.map(one => one.pathname)")
    assert len(links) == 2
    pages = [PAGE.with_name(Path(link).name).with_suffix(".md") for link in links]
    assert all(page.exists() for page in pages)


def test_the_other_model_opens_in_the_same_place(page):
    start(page, "carry")
    tab_to(page, ".lab-controls label:first-child select")
    page.keyboard.type("llava")
    page.wait_for_selector("th button:text-is('the image')")
    settle(page, "carry")
    assert "model=llava-mini" in page.url
    scene = manifest("llava-mini")["scenes"][0]
    assert f"L* {MINUS}{abs(scene['L']['corrupt']):.2f}" in (
        page.locator(".lab-line").first.get_attribute("aria-label")
    )
    # Its likeliest words are the options, whose tokens have a mark of a word's beginning.
    tab_to(page, ".lab-grid button")
    press(page, "Space")
    settle(page, "carry")
    assert all("The model still says" in text for text in results(page))
    assert "likeliest" not in "".join(results(page))
    check_whole(page)


def test_what_cannot_be_loaded_is_said_and_the_section_goes_on(page):
    start(page, "carry", f"#carry={'+'.join(f'layer_output.4.{token}' for token in (0, 4, 5, 6))}")
    page.route("**/unseen/*", lambda route: route.fulfill(status=404))
    page.route("**/scenes/*", lambda route: route.fulfill(status=404))
    score = page.locator(".lab-challenge button")
    tab_to(page, ".lab-challenge button")
    press(page, "Enter")
    page.wait_for_selector(".lab-challenge :text('cannot be loaded (404)')")
    assert score.is_enabled()
    page.unroute("**/unseen/*")
    tab_to(page, ".lab-controls label:nth-child(2) select")
    press(page, "ArrowDown")
    page.wait_for_selector(".lab-status:has-text('cannot be loaded (404)')")
    settle(page, "carry")
    page.unroute("**/scenes/*")
    press(page, "ArrowUp")
    settle(page, "carry")
    assert len(carried(page)) == 0 and results(page)
    assert page.complaints == []
