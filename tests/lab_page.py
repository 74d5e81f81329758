"""The patch lab in Chromium, its modules and its page alone, and its numbers by the library."""

import json
import re
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from browsing import PHONE, new_page, press, tab_to

from notice_lib import ablate, load_model, load_pairs, sweep
from notice_lib.pairs import PairSet
from notice_lib.patching import Job, answer_of, engine
from notice_lib.patching.sites import place, stack_roles
from tools.lab.scenes import TASKS
from tools.serving import Quiet, serve

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "book" / "assets"
LAB = ASSETS / "lab"
PAGE = ROOT / "book" / "patch_lab.md"
MODELS = ("blip-mini", "llava-mini")
DIRECTIONS = ("denoise", "noise")
CLOSE = 1e-4  # logits
MINUS = "\N{MINUS SIGN}"
HEAD = (
    '<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>Lab</title>'
    '<link rel="stylesheet" href="../_static/book.css"><article class="bd-article">'
)


@cache
def read(path):
    """A JSON file of the lab."""
    return json.loads((LAB / path).read_text(encoding="utf-8"))


def manifest(name):
    return read(f"{name}/manifest.json")


@cache
def model(name):
    return load_model(name)


@cache
def pairs():
    return {pair.pair_id: pair for task in TASKS for pair in load_pairs(task)}


# ---- by the library


def patched(name, pair, direction, circuits):
    """(circuits, 2) logits of the correct and the incorrect answer."""
    table = sweep(model(name), PairSet((pair,)), circuits, direction=direction).table()
    assert list(table["circuit"]) == [circuit.name for circuit in circuits]
    return table[["logit_correct", "logit_incorrect"]].to_numpy()


def switched_off(name, pair, donors, circuits):
    """[L of each circuit] by the mean, by the donors' clean and corrupt runs, and by zero."""
    held = load_pairs(pair.task).filter(
        lambda other: other.slot == pair.slot and other.split == "heldout"
    )
    vlm, one = model(name), PairSet((pair,))
    inputs = vlm.inputs(pair.image("clean"), pair.prompt)
    answer = answer_of(vlm, pair)
    placed = tuple(place(vlm, circuits, stack_roles(vlm, inputs, pair.spans, answer)))

    def gaps(table):
        return (table["logit_correct"] - table["logit_incorrect"]).tolist()

    yield gaps(ablate(vlm, one, circuits, reference=held).table())
    for run in ("clean", "corrupt"):
        for donor in (pairs()[donor] for donor in donors):
            source = vlm.inputs(donor.image(run), donor.prompt)
            (outcome,) = engine.patch(vlm, [Job(inputs, source, placed, answer)])
            yield (outcome.patched[:, 0] - outcome.patched[:, 1]).tolist()
    yield gaps(ablate(vlm, one, circuits, "zero").table())


# ---- in the browser


def in_the_browser(browser, name, code, given):
    """What an asynchronous function returns, in which `model` is loaded, for some values."""
    loaded = """async ([address, name, given]) => {
        const { load } = await import(address + "lab/model.js");
        const { asked } = await import(address + "lab/question.js");
        const { fetchPng } = await import(address + "lab/png.js");
        const model = await load(`${address}lab/${name}/manifest.json`);
        return (%s)(given);
    }"""
    with serve(ASSETS) as address, new_page(browser) as page:
        page.goto(address + "favicon.svg")
        return page.evaluate(loaded % code, [address, name, given])


class OldServer(Quiet):
    """Like many web servers, it takes JavaScript for what it is only in files that end in .js."""

    extensions_map = Quiet.extensions_map | {".mjs": "application/octet-stream"}


@contextmanager
def alone(browser, folder):
    """The lab's sections in the book's style, without the rest of their page, on a phone."""
    blocks = re.findall(r"```{raw} html\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "_static").symlink_to(ASSETS)
    (folder / "book").mkdir()
    (folder / "book" / "patch_lab.html").write_text(HEAD + "".join(blocks), encoding="utf-8")
    with serve(folder, OldServer) as address, new_page(browser, PHONE) as page:
        page.folder, page.complaints = folder, []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.address = address + "book/patch_lab.html"
        yield page


def section(name):
    return f'.lab[data-section="{name}"]'


def start(page, name, state=""):
    """Start a section by keyboard, with what the address says of it."""
    page.goto("about:blank")  # An address that differs in its fragment alone loads nothing.
    page.goto(page.address + state)
    page.wait_for_selector(f"{section(name)} .lab-start")
    tab_to(page, f"{section(name)} .lab-start")
    press(page, "Enter")
    settle(page, name)


def settle(page, name):
    """Wait until a section shows the results of the last change."""
    page.wait_for_selector(f'{section(name)}[aria-busy="false"]')


def guess_by_keyboard(page, row, layer, flips):
    """Fill the form that asks for a guess, send it, and wait for what the map says of it."""
    for number, text in enumerate((row, layer, flips), start=2):
        tab_to(page, f".lab-guess :nth-child({number}) :is(select, input)")
        page.keyboard.type(text)
    press(page, "Enter")
    page.wait_for_selector("text=patched runs in")


def check_whole(page):
    """Nothing has failed. A phone does not cut the page, nor a grid its numbers and names."""
    assert page.complaints == [], page.complaints
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    cut = page.locator(".lab-grid button").evaluate_all(
        """all => all.filter((one) => one.scrollWidth > one.clientWidth
        || one.offsetWidth < 0.9 * one.parentElement.offsetWidth).map((one) => one.title)"""
    )
    assert cut == []
