"""The patch lab in Chromium: it computes what `sweep` computes, and works by keyboard alone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from browsing import chromium, serve

from notice_lib import Circuit, Site, load_model, load_pairs, sweep
from notice_lib.pairs import PairSet
from tools.lab.scenes import TASKS

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "book" / "assets"
PAGE = ROOT / "book" / "patch_lab.md"
MANIFEST = json.loads((ASSETS / "lab" / "blip-mini" / "manifest.json").read_text(encoding="utf-8"))
DIRECTIONS = ("denoise", "noise")
INTERVENTIONS = 200
CLOSE = 1e-4  # logits
MINUS, PRIME = "\N{MINUS SIGN}", "\N{PRIME}"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def random_site(rng, n_tokens):
    """Any component and layer; a single head of an attention, or the whole; one token or all."""
    component = str(rng.choice(MANIFEST["components"]))
    head = rng.integers(MANIFEST["shape"]["heads"]) if rng.random() < 0.5 else None
    if component not in MANIFEST["per_head"]:
        head = None
    position = "all" if rng.random() < 0.1 else rng.integers(n_tokens)
    return Site(component, rng.integers(MANIFEST["shape"]["layers"]), head, position)


def random_patches():
    """[(scene, direction, patches)], of one to six sites each."""
    rng, cases = np.random.default_rng(0), []
    kinds = [(scene, direction) for scene in MANIFEST["scenes"] for direction in DIRECTIONS]
    for part, (scene, direction) in zip(
        np.array_split(range(INTERVENTIONS), len(kinds)), kinds, strict=True
    ):
        patches = [
            list({random_site(rng, len(scene["ids"])) for _ in range(rng.integers(1, 7))})
            for _ in part
        ]
        cases.append((scene, direction, patches))
    return cases


def as_javascript(patch, n_tokens):
    """A patch in the form of model.js, where each site has one token."""
    return [
        {"component": site.component, "layer": site.layer, "token": token, "head": site.head}
        for site in patch
        for token in (range(n_tokens) if site.position == "all" else [site.position])
    ]


def by_the_library(model, pair, direction, patches):
    """(patches, 2) logits of the correct and the incorrect answer."""
    circuits = [Circuit(str(number), tuple(patch)) for number, patch in enumerate(patches)]
    table = sweep(model, PairSet((pair,)), circuits, direction=direction).table()
    assert list(table["circuit"]) == [circuit.name for circuit in circuits]
    return table[["logit_correct", "logit_incorrect"]].to_numpy()


IN_THE_BROWSER = """async ([address, cases]) => {
    const { load } = await import(address + "lab/model.js");
    const model = await load(address + "lab/blip-mini/manifest.json");
    const found = [];
    for (const [scene, direction, patches] of cases) {
        const scores = await model.patch(scene, direction, patches);
        found.push(scores.map((score) => [score.correct, score.incorrect]));
    }
    return found;
}"""


def test_the_browser_computes_what_sweep_computes(browser):
    """On random interventions of every kind, in both directions, on every scene."""
    cases = random_patches()
    with serve(ASSETS) as address:
        page = browser.new_page()
        page.goto(address + "favicon.svg")
        given = [
            (scene["id"], direction, [as_javascript(patch, len(scene["ids"])) for patch in patches])
            for scene, direction, patches in cases
        ]
        found = page.evaluate(IN_THE_BROWSER, [address, given])
        page.close()
    model = load_model("blip-mini")
    pairs = {pair.pair_id: pair for task in TASKS for pair in load_pairs(task)}
    moved = 0
    for (scene, direction, patches), here in zip(cases, found, strict=True):
        wanted = by_the_library(model, pairs[scene["id"]], direction, patches)
        assert np.abs(wanted - np.array(here)).max() <= CLOSE, (scene["id"], direction)
        base = scene["L"]["corrupt" if direction == "denoise" else "clean"]
        moved += np.sum(np.abs(wanted[:, 0] - wanted[:, 1] - base) > 100 * CLOSE)
    assert moved > INTERVENTIONS / 4  # Many sites are silent; those of the options are not.


@pytest.fixture
def page(browser, tmp_path):
    """The lab alone, as the book's page has it, in a folder like the built book."""
    markup = re.search(r"```{raw} html\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "_static").symlink_to(ASSETS)
    (tmp_path / "book").mkdir()
    html = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Lab</title>{markup}'
    (tmp_path / "book" / "patch_lab.html").write_text(html, encoding="utf-8")
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.folder, page.complaints = tmp_path, []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    with serve(tmp_path) as address:
        page.address = address + "book/patch_lab.html"
        yield page
    context.close()


def press(page, *keys):
    """Press keys one after the other."""
    for key in keys:
        page.keyboard.press(key)


def tab_to(page, selector):
    """Press Tab until an element has the focus."""
    for _ in range(40):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {selector}")


def choose(page, label):
    """Choose an option of the focused list by typing its beginning, and wait for its results."""
    page.keyboard.type(label)
    settle(page)


def settle(page):
    """Wait until the page shows the results of the last change."""
    page.wait_for_selector('.lab[aria-busy="false"]')


def results(page):
    return page.locator(".lab-result").all_inner_texts()


def carried(page):
    return page.locator(".lab-carried button").all_inner_texts()


def start(page, state=""):
    page.goto(page.address + state)
    tab_to(page, ".lab-start")
    press(page, "Enter")
    settle(page)


def test_every_interaction_works_by_keyboard_alone(page):
    start(page)
    nothing = results(page)
    assert all("Nothing is carried" in text for text in nothing)
    # The first grid: one cell takes the focus, arrows move it, the space bar carries it.
    tokens, layers = MANIFEST["scenes"][0]["tokens"], MANIFEST["shape"]["layers"]
    tab_to(page, ".lab-panel:first-child .lab-grid button")
    press(page, "PageDown", "End", "ArrowUp", "ArrowLeft", "Space")
    settle(page)
    assert f"layer {layers - 2}, at “{tokens[-2]}”" in carried(page)[0]
    press(page, "ArrowDown", "ArrowRight", "Space")
    settle(page)
    assert f"layer {layers - 1}, at “{tokens[-1]}”" in carried(page)[1]
    # The second grid follows, and takes both cells away.
    tab_to(page, ".lab-panel:last-child .lab-grid button")
    press(page, "Enter", "ArrowUp", "ArrowLeft", "Enter")
    settle(page)
    assert carried(page) == []
    assert results(page) == nothing
    # Carry the correct option's row in both grids.
    row = MANIFEST["scenes"][0]["roles"].index("correct")
    press(page, "PageUp", "Home", *["ArrowDown"] * row, "End", "Space")
    settle(page)
    assert results(page) != nothing
    tab_to(page, ".lab-carried button")
    press(page, "Enter")
    settle(page)
    assert carried(page) == []
    # Lists and buttons.
    press(page, *["Shift+Tab"] * 20)
    tab_to(page, ".lab-controls label:nth-child(2) select")
    choose(page, "Single heads of cross")
    tab_to(page, ".lab-controls label:nth-child(3) select")
    choose(page, tokens[1])
    assert "token=1" in page.url
    tab_to(page, ".lab-controls button")
    press(page, "Enter")
    page.wait_for_function(
        "document.querySelector('.lab-status').textContent.includes('patched runs in')"
    )
    cells = page.locator(".lab-grid button").all_inner_texts()
    heads = MANIFEST["shape"]["heads"]
    assert len(cells) == 2 * layers * heads
    assert all(re.fullmatch(rf"0|[+{MINUS}]\d+", cell) for cell in cells)
    tab_to(page, ".lab-grid button")
    press(page, "Space")
    settle(page)
    press(page, *["Shift+Tab"] * 20)
    tab_to(page, ".lab-controls button:nth-of-type(2)")
    press(page, "Enter")
    settle(page)
    assert carried(page) == []
    press(page, "Shift+Tab", "Shift+Tab", "Shift+Tab", "Shift+Tab")
    tab_to(page, ".lab-controls label:first-child select")
    press(page, "ArrowDown")
    settle(page)
    assert MANIFEST["scenes"][1]["id"] in page.url
    assert page.complaints == []


def test_the_page_shows_the_models_numbers_and_keeps_them_in_its_address(page):
    """All outputs of the last layer give the other run, which the page says is no finding."""
    scene = MANIFEST["scenes"][2]
    last = MANIFEST["shape"]["layers"] - 1
    keys = [f"layer_output.{last}.{token}" for token in range(len(scene["ids"]))]
    start(page, f"#pair={scene['id']}&carry={'+'.join([*keys, 'mlp.99.0', 'nothing'])}")
    enough, needed = results(page)
    clean, corrupt = (f"{abs(scene['L'][run]):.2f}" for run in ("clean", "corrupt"))
    assert f"L{PRIME} is +{clean}, moved by +100 %" in enough
    assert f"L{PRIME} is {MINUS}{corrupt}, moved by {MINUS}100 %" in needed
    assert scene["options"][0] in enough and scene["options"][1] in needed
    assert "by construction" in page.locator(".lab-status").inner_text()
    assert page.locator(".lab-line").first.get_attribute("aria-label") == (
        f"L* {MINUS}{corrupt}, L{PRIME} +{clean}, L +{clean} logits"
    )
    assert page.url.endswith("carry=" + "+".join(keys))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.complaints == []


def test_nothing_large_is_loaded_before_start(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page.address)
    page.wait_for_selector(".lab-start")
    assert not [url for url in asked if url.endswith((".onnx", ".gz", ".png", "ort.wasm.min.mjs"))]
    size = sum(file["bytes"] for file in MANIFEST["files"].values()) / 1e6
    assert f"{size:.1f} MB" in page.locator(".lab-start").inner_text()


def test_without_a_server_or_webassembly_a_sentence_stands_there(page):
    sentence = "The lab needs a browser with JavaScript and WebAssembly"
    page.goto((page.folder / "book" / "patch_lab.html").as_uri())
    page.wait_for_timeout(300)
    assert sentence in page.locator(".lab").inner_text()
    page.complaints.clear()  # Chromium itself complains of a module from a file.
    page.add_init_script("delete window.WebAssembly")
    page.goto(page.address)
    page.wait_for_timeout(300)
    assert sentence in page.locator(".lab").inner_text()
    assert page.complaints == []


def test_the_page_shows_the_still_picture_with_its_numbers():
    alt = re.search(r"!\[(.*?)\]\(assets/lab/blip-mini/still.png\)", PAGE.read_text("utf-8"))[1]
    assert alt == MANIFEST["still"]["alt"]
