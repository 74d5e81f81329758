"""Says at the end how long each part of the tests took, and what tests measured."""

from collections import Counter

_seconds = Counter()
_BROWSER = ("tests/test_book.py", "tests/test_lab_browser.py")
_measured = []


def _part(nodeid: str) -> str:
    if nodeid.split("::")[0].endswith(".ipynb"):
        return "notebooks"
    return "browser" if nodeid.startswith(_BROWSER) else "unit tests"


def pytest_runtest_logreport(report):
    _seconds[_part(report.nodeid)] += report.duration
    if report.when == "call" and not report.nodeid.endswith(".ipynb"):
        test = report.nodeid.rpartition("::")[2]
        _measured.extend(f"{test}: {name} {value}" for name, value in report.user_properties)


def pytest_terminal_summary(terminalreporter):
    for line in _measured:
        terminalreporter.write_line(f"== {line}")
    for part, seconds in _seconds.items():
        minutes, rest = divmod(round(seconds), 60)
        terminalreporter.write_line(f"== {part}: {minutes} min {rest:02d} s")
