"""The built book in a browser; at the end, how long parts and slowest files took, and what tests
measured."""

from collections import Counter
from contextlib import ExitStack

import pytest
from browsing import HTML, opened

from tools.chromium import chromium
from tools.serving import serve

_seconds = Counter()  # of each file
_BROWSER = ("tests/test_book.py", "tests/test_book_in_use.py", "tests/test_lab_browser_")
_TEACHERS = tuple(
    f"tests/test_{name}.py"
    for name in ("course", "editions", "fence", "nbgrader", "problem_sets", "teaching")
)
_SLOWEST = 10
_measured = []


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site():
    """The address of the built book, served on this machine."""
    assert (HTML / "index.html").exists(), "no built book: ./run book builds it"
    with serve(HTML) as address:
        yield address


@pytest.fixture
def open_page(browser, site):
    """Open a page of the built book for one test."""
    with ExitStack() as pages:
        yield lambda *given: pages.enter_context(opened(browser, site, *given))


def _part(file: str) -> str:
    if file.endswith(".ipynb"):
        return "notebooks"
    if file.startswith(_BROWSER):
        return "browser"
    return "what teachers use" if file in _TEACHERS else "unit tests"


def pytest_runtest_logreport(report):
    _seconds[report.nodeid.split("::")[0]] += report.duration
    if report.when == "call" and not report.nodeid.endswith(".ipynb"):
        test = report.nodeid.rpartition("::")[2]
        _measured.extend(f"{test}: {name} {value}" for name, value in report.user_properties)


def pytest_terminal_summary(terminalreporter):
    for line in _measured:
        terminalreporter.write_line(f"== {line}")
    parts = Counter()
    for file, seconds in _seconds.items():
        parts[_part(file)] += seconds
    for name, seconds in [*_seconds.most_common(_SLOWEST), *parts.items()]:
        minutes, rest = divmod(round(seconds), 60)
        terminalreporter.write_line(f"== {name}: {minutes} min {rest:02d} s")
