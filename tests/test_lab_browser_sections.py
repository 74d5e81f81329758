"""The lab's sections on composed pairs and on looks in Chromium, by keyboard alone."""

import re

import numpy as np
import pytest
from browsing import press, tab_to
from lab_page import (
    MINUS,
    MODELS,
    alone,
    check_whole,
    manifest,
    model,
    pairs,
    patched,
    read,
    section,
    settle,
    start,
    switched_off,
)
from PIL import Image

from notice_lib import Circuit, Site
from notice_lib.models.answers import score
from tools import scenes
from tools.lab import boards, looks

SHAPE = manifest("blip-mini")["shape"]


@pytest.fixture
def page(browser, tmp_path):
    with alone(browser, tmp_path) as page:
        yield page


def test_compose_by_keyboard_alone(page):
    start(page, "compose")
    here = section("compose")
    verdict = page.locator(".lab-verdict")
    assert "A pair: one field differs (state)" in verdict.inner_text()
    question = page.locator(".lab-question").inner_text()
    assert question == "Is this bell red or blue?"
    said = page.locator(f"{here} .lab-panel strong + *, {here} .lab-run strong").all_inner_texts()
    assert said[:2] == ["red", "blue"]
    # Another thing in the corrupt picture, too: two fields differ.
    tab_to(page, f"{here} fieldset:nth-of-type(2) label:nth-of-type(1) select")
    press(page, "v")
    settle(page, "compose")
    assert "No pair: 2 fields differ (thing, state)" in verdict.inner_text()
    assert page.locator(f"{here} button:text('Map the layer outputs')").is_hidden()
    # The same state: what differs is not asked for.
    press(page, "Tab", "r")
    settle(page, "compose")
    assert "no question asks for what differs (thing)" in verdict.inner_text()
    press(page, "Shift+Tab", "b")
    settle(page, "compose")
    assert "the pictures are the same" in verdict.inner_text()
    press(page, "Tab", "y")
    settle(page, "compose")
    # The other answer first, and the map.
    press(page, "Tab", "Tab", "ArrowDown")
    settle(page, "compose")
    assert page.locator(".lab-question").inner_text() == "Is this bell yellow or red?"
    tab_to(page, f"{here} button")
    press(page, "Enter")
    page.wait_for_selector(f"{here} .lab-grid")
    tab_to(page, f"{here} .lab-grid button")
    press(page, "ArrowDown", "Space")
    assert "layer 0, at “is”" in page.locator(f"{here} .lab-result").inner_text()
    state = page.url.split("#")[1]
    assert {"board=0", "clean=0.0.0", "corrupt=0.2.0", "first=corrupt"} <= set(state.split("&"))
    start(page, "compose", f"#{state}")
    assert page.locator(".lab-question").inner_text() == "Is this bell yellow or red?"
    check_whole(page)


def test_compose_asks_the_other_model_the_same(page):
    """It spells the words otherwise, and its image is one row of the map."""
    start(page, "compose", "#model=llava-mini&board=2")
    here = section("compose")
    assert page.locator(f"{here} select").first.input_value() == "llava-mini"
    assert "A pair: one field differs (subject)" in page.locator(".lab-verdict").inner_text()
    said = page.locator(f"{here} .lab-run strong").all_inner_texts()
    assert said[:2] == ["dog", "turtle"]
    likeliest = page.locator(f"{here} .lab-words").first.inner_text()
    assert "dog" in likeliest and "▁" not in likeliest
    words = page.locator(".lab-own details p").text_content().split(", ")
    assert {"bell", "is"} <= set(words) and not {"user", "▁bell"} & set(words)
    check_whole(page)


def test_a_wrong_answer_makes_no_pair(page):
    """The first of two things whose state the model gets wrong is found, and the page says so."""
    wrong = a_wrong_pair()
    start(page, "compose", f"#board=1&clean={wrong[0]}&corrupt={wrong[1]}")
    assert "picture is wrong" in page.locator(".lab-verdict").inner_text()


def a_wrong_pair():
    """Two pictures of two things that differ in one state, of which the library gets one wrong."""
    board = boards.BOARDS[1]
    fields, states = list(board.fields), board.fields["state"]
    for numbers, scene in board.combinations():
        for other, word in enumerate(states):
            if word == scene.state:
                continue
            question = scenes.question(scene, "state", scene.state, word)
            inputs = model("blip-mini").inputs(Image.fromarray(scenes.render(scene)[0]), question)
            answer = model("blip-mini").answer_tokens(question, scene.state, word)
            scores = score(model("blip-mini").logits(inputs), answer)
            if scores[0] < scores[1]:
                changed = list(numbers)
                changed[fields.index("state")] = other
                return ".".join(map(str, numbers)), ".".join(map(str, changed))
    raise AssertionError("blip-mini answers all scenes of this board")


def test_an_own_picture_and_question(page, tmp_path):
    start(page, "compose")
    own = page.locator(".lab-own")
    status = own.locator(".lab-status")
    assert "out of its distribution" in own.inner_text()
    assert "otherwise than Pillow" in own.inner_text()
    tab_to(page, ".lab-own input[type=text]")
    for question, answer in (
        ("Is this zebra red or plaid?", "knows no “zebra” or “plaid”"),
        ("What is this?", "Name two different options"),
        ("Is this bell red or blue?", "Choose a picture first"),
    ):
        press(page, "ControlOrMeta+a")
        page.keyboard.type(question)
        press(page, "Enter")
        page.wait_for_function(
            "text => document.querySelector('.lab-own .lab-status').textContent.includes(text)",
            arg=answer,
        )
    picture = Image.fromarray(boards.pixels(model("blip-mini"), boards.BOARDS[0].scene))
    picture.save(tmp_path / "mine.png")
    own.locator("input[type=file]").set_input_files(tmp_path / "mine.png")
    press(page, "Enter")
    page.wait_for_selector(".lab-own .lab-panel")
    assert "Out of distribution" in status.inner_text()
    mine = own.locator(".lab-run").first.inner_text()
    assert "The model says red" in mine and "Likeliest words: red" in mine
    (tmp_path / "mine.png").write_bytes(b"no picture")
    own.locator("input[type=file]").set_input_files(tmp_path / "mine.png")
    press(page, "Enter")
    page.wait_for_function(
        "document.querySelector('.lab-own .lab-status').textContent.includes('is no picture')"
    )
    assert page.complaints == []


def test_looks_by_keyboard_alone(page):
    start(page, "looks")
    here = section("looks")
    said = page.locator(f"{here} .lab-controls + .lab-result")
    assert "3 more to pick" in said.inner_text()
    tab_to(page, f"{here} .lab-grid button")
    press(page, "Space", "ArrowDown", "Space", "ArrowRight", "ArrowRight", "Space")
    assert said.inner_text() == "Your order, the strongest first: 1. L0.H0, 2. L0.H1, 3. L2.H1."
    assert "Layer 2, head 1" in page.locator(f"{here} .lab-detail").inner_text()
    press(page, "ArrowDown", "Space")
    assert "Take one back" in said.inner_text()
    assert "heads=0.0+0.1+2.1" in page.url
    tab_to(page, f"{here} .lab-controls button")
    press(page, "Enter")
    page.wait_for_selector(f"{here} .lab-table")
    settle(page, "looks")
    assert re.search(
        r"You picked L0\.H0 .*rank \d+(\.5)? of 48; L0\.H1 .*; L2\.H1", said.inner_text()
    )
    assert "rank correlation" in page.locator(f"{here} .lab-scatter").get_attribute("aria-label")
    cells = page.locator(f"{here} .lab-grid button").all_inner_texts()
    assert len(cells) == SHAPE["layers"] * SHAPE["heads"] and all(cells)
    rows = page.locator(f"{here} .lab-table tbody tr").all_inner_texts()
    assert len(rows) == 4 and "out of distribution" in rows[-1]
    tab_to(page, f"{here} .lab-off select")
    press(page, "ArrowDown")
    page.wait_for_function(
        "old => document.querySelector('.lab-off tbody').innerText !== old",
        arg=page.evaluate("document.querySelector('.lab-off tbody').innerText"),
    )
    assert "off=" in page.url
    rows, state = page.locator(f"{here} .lab-off td").all_inner_texts(), page.url.split("#")[1]
    start(page, "looks", f"#{state}")
    assert page.locator(f"{here} .lab-off td").all_inner_texts() == rows
    tab_to(page, f"{here} .lab-again")
    press(page, "Enter")
    page.wait_for_function("!document.querySelector('.lab-off')")
    assert "3 more to pick" in said.inner_text()
    assert not {"heads", "reveal", "off"} & set(re.findall(r"(\w+)=", page.url))
    check_whole(page)


def numbered(page):
    """{number: what a screen reader is told} of the picks, which show their numbers."""
    picks = page.locator(f"{section('looks')} .lab-grid button[data-pick]")
    shown = """all => all.map(one => [getComputedStyle(one, "::before").content.slice(1, -1),
        one.getAttribute("aria-label")])"""
    return dict(picks.evaluate_all(shown))


@pytest.mark.parametrize("name", MODELS)
def test_picks_are_ranked_in_their_order_and_compared_with_the_true_one(page, name):
    """By keyboard: the weakest of three heads first; one taken back, the later ones move up."""
    pair, index = manifest(name)["scenes"][0], read(f"{name}/looks.json")
    heads = [(0, 0), (0, 1), (3, 1)]
    sites = [Site(index["component"], *head, index["role"]) for head in heads]
    circuits = [Circuit(str(i), (site,)) for i, site in enumerate(sites)]
    logits = patched(name, pairs()[pair["id"]], "denoise", circuits)
    moved = (logits[:, 0] - logits[:, 1]).tolist()
    start(page, "looks", f"#model={name}")
    tab_to(page, f"{section('looks')} .lab-grid button")
    press(page, "ArrowRight", "Space", "ArrowLeft", "Space")
    assert [label[-6:] for _, label in sorted(numbered(page).items())] == ["pick 1", "pick 2"]
    press(page, "ArrowRight", "Space", "ArrowLeft", "ArrowDown", "Space")
    press(page, "ArrowRight", "ArrowRight", "ArrowRight", "Space")
    told = [re.search(r"head (\d), layer (\d)", label).groups() for label in by_number(page)]
    assert [(int(layer), int(head)) for head, layer in told] == heads
    tab_to(page, f"{section('looks')} .lab-controls button")
    press(page, "Enter")
    page.wait_for_selector(f"{section('looks')} .lab-off .lab-table")
    text = page.locator(f"{section('looks')} .lab-controls + .lab-result").inner_text()
    order = sorted(range(3), key=lambda i: -moved[i])
    right = sum(moved[i] >= moved[j] for i, j in ((0, 1), (0, 2), (1, 2)))
    if right == 3:
        assert "Your order is that of what they move." in text
    else:
        assert f"the order of your picks is {', '.join(str(i + 1) for i in order)}: " in text
        assert f"of their 3 pairs, {right} stand" in text
    assert set(numbered(page)) == {"1", "2", "3"}
    check_whole(page)


def by_number(page):
    return [label for _, label in sorted(numbered(page).items())]


def test_a_square_that_is_pointed_at_is_shown_and_not_picked(page):
    start(page, "looks")
    page.locator(f"{section('looks')} .lab-grid td button").nth(SHAPE["layers"] + 2).hover()
    detail = page.locator(f"{section('looks')} .lab-detail")
    assert detail.inner_text().startswith("Layer 2, head 1 gives")
    assert "heads=" not in page.url
    lit = """canvas => new Set(canvas.getContext("2d").getImageData(0, 0, 288, 288).data).size"""
    assert detail.locator("canvas").evaluate(lit) > 50
    check_whole(page)


def test_looks_of_the_other_model_are_guessed_anew(page):
    """Its heads look from the last token; what was revealed of the first model stays there."""
    scene = manifest("blip-mini")["scenes"][9]
    start(page, "looks", f"#look={scene['id']}&heads=0.0+0.1+2.1&reveal=1&off=1.4+3.0")
    here = section("looks")
    tab_to(page, f"{here} .lab-controls label:first-child select")
    page.keyboard.type("llava")
    page.wait_for_selector(f"{here} p:has-text('head of self-attention')")
    settle(page, "looks")
    task = page.locator(f"{here} .lab-controls + p").first.inner_text()
    assert task.startswith(f"“{scene['question']}”") and "from “:”, the last token," in task
    said = page.locator(f"{here} .lab-controls + .lab-result")
    assert said.inner_text() == "3 more to pick."
    assert "model=llava-mini" in page.url
    assert not {"heads", "reveal", "off"} & set(re.findall(r"(\w+)=", page.url))
    # A head that looks at words alone has no shares of the picture.
    entry = read("llava-mini/looks.json")["scenes"][scene["id"]]
    blind = next(head for head, share in enumerate(entry["picture"][0]) if 0 < share < 0.005)
    tab_to(page, f"{here} .lab-grid button")
    press(page, *["ArrowDown"] * blind)
    detail = page.locator(f"{here} .lab-detail").inner_text().replace("\N{NO-BREAK SPACE}", " ")
    assert detail == f"Layer 0, head {blind} gives under 1 % of its attention to the picture."
    # Reveal: one number for each head, in the words of the other model.
    press(page, "Space", "ArrowRight", "Space", "ArrowRight", "Space")
    tab_to(page, f"{here} .lab-controls button")
    press(page, "Enter")
    page.wait_for_selector(f"{here} .lab-table")
    settle(page, "looks")
    assert f"You picked L0.H{blind} " in said.inner_text()
    assert f"heads=0.{blind}+1.{blind}+2.{blind}" in page.url
    check_whole(page)


@pytest.mark.parametrize("name", MODELS)
def test_the_heads_that_look_most_have_most_of_all_their_attention_there(page, name):
    scene, index = manifest(name)["scenes"][0], read(f"{name}/looks.json")
    start(page, "looks", f"#model={name}&reveal=1")
    said = page.locator(f"{section('looks')} .lab-controls + .lab-result").inner_text()
    named = re.search(r"look most at what is asked about are (.*)\. Over", said)[1]
    entry = index["scenes"][scene["id"]]
    there = np.array(entry["picture"]) * np.array(entry["on_own"])
    found = [there[int(layer), int(head)] for layer, head in re.findall(r"L(\d)\.H(\d)", named)]
    assert found == sorted(there.ravel())[:-4:-1]


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_switching_off_is_the_librarys(page, name):
    """The mean, the means over the donors' runs of either kind, and zero; of A, B, both."""
    scene = manifest(name)["scenes"][9]
    start(page, "looks", f"#model={name}&look={scene['id']}&reveal=1&off=1.4+3.0")
    rows = page.locator(f"{section('looks')} .lab-off tbody tr").all_inner_texts()
    found = [re.findall(rf"([+{MINUS}]?\d+\.\d)\s%", row) for row in rows]
    found = [[float(n.replace(MINUS, "-")) for n in row] for row in found]
    index = read(f"{name}/looks.json")
    site_a, site_b = (Site(index["component"], *head, index["role"]) for head in ((1, 4), (3, 0)))
    circuits = [Circuit("A", (site_a,)), Circuit("B", (site_b,)), Circuit("both", (site_a, site_b))]
    donors = index["scenes"][scene["id"]]["donors"]
    gaps = np.array(list(switched_off(name, pairs()[scene["id"]], donors, circuits)))
    lost = 100 * (gaps - scene["L"]["clean"]) / (scene["L"]["clean"] - scene["L"]["corrupt"])
    n = looks.DONORS
    a, b, both = np.array(
        [lost[0], lost[1 : 1 + n].mean(0), lost[1 + n : 1 + 2 * n].mean(0), lost[-1]]
    ).T
    assert np.array(found) == pytest.approx(np.array([a, b, a + b, both]).T, abs=0.06)
    check_whole(page)
