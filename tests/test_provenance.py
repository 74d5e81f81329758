"""What is quoted from the paper: every number has a place and a source, every page the mark."""

import re
from pathlib import Path

import pandas as pd
import pytest

from notice_lib import data_dir

BOOK = Path(__file__).parents[1] / "book"
MARK = "{ref}`note, unchecked <note-unchecked>`"
SOURCES = {"code", "note, unchecked", "note, unchecked; code: the name alone"}
PLACE = re.compile(r"(Fig|Table|Appendix)s?\.? ((?:\d+|[A-Z]\b)(?:(?:, | and )\d+)*)")
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]_*.md"))


def places(text: str) -> set[str]:
    """The places in the paper that a text names: "Figs. 8 and 9" is {"Fig 8", "Fig 9"}."""
    named = PLACE.findall(" ".join(text.split()))
    return {f"{kind} {one}" for kind, some in named for one in re.findall(r"\d+|[A-Z]", some)}


def places_of_the_table() -> set[str]:
    """The places in the first column of the table on the provenance page."""
    rows = re.findall(r"^\| (.+?) \|", (BOOK / "provenance.md").read_text(), re.MULTILINE)
    return places("; ".join(rows))


def test_every_reported_number_has_a_source_and_a_place():
    reported = pd.read_csv(data_dir() / "paper" / "reported.csv")
    assert set(reported["source"]) <= SOURCES
    assert reported["where"].notna().all()
    from_code = reported["source"] == "code"
    assert reported["where"][from_code].str.match(r"\w+/\w+\.(ipynb|py)$").all()
    named = places("; ".join(reported["where"]))
    assert named and named <= places_of_the_table()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_that_names_a_place_in_the_paper_carries_the_mark(path):
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    prose = re.sub(r"(Table|Figure) \d+\.\d+", "", prose)  # the page's own
    named = places(prose)
    assert named <= places_of_the_table()
    assert MARK in prose or not named
