"""Pages of the built book in a browser, and its keyboard."""

import threading
import time
from contextlib import contextmanager
from pathlib import Path

from tools.serving import Quiet

HTML = Path(__file__).parents[1] / "_build" / "html"
AXE = Path(__file__).with_name("vendor") / "axe.min.js"
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
PATIENCE = 120_000  # ms; other tests compute at the same time


class SlowLine(Quiet):
    """All connections share a line of 1.6 Mb/s."""

    line = threading.Lock()

    def copyfile(self, source, outputfile):
        while part := source.read(8192):
            with self.line:
                time.sleep(len(part) / 200_000)
            outputfile.write(part)


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


@contextmanager
def new_page(browser, viewport=DESKTOP, scheme="light"):
    """An empty page of a browser session of its own."""
    with browser.new_context(viewport=viewport, color_scheme=scheme) as context:
        context.set_default_timeout(PATIENCE)
        yield context.new_page()


@contextmanager
def opened(browser, site, path, viewport=DESKTOP, scheme="light"):
    """A page of the book; `page.complaints` collects all that goes wrong on it."""
    with new_page(browser, viewport, scheme) as page:
        page.path, page.complaints = path, []
        page.on("pageerror", lambda error: page.complaints.append(f"error: {error}"))
        page.on("console", lambda message: _note_console(page, message))
        page.on("response", lambda response: _note_response(page, response))
        page.context.route(lambda url: not url.startswith(site), lambda route: _refuse(page, route))
        page.goto(site + path, wait_until="load")
        page.wait_for_load_state("networkidle")
        yield page


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


def open_folds(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


def serious(page, context=None):
    """What axe-core finds serious or critical: (rule, the first elements)."""
    open_folds(page)
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
