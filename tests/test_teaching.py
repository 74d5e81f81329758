"""Quizzes, slides and plans: their form, and the facts that are on more than one page."""

import re
from itertools import pairwise
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tools.pages import slides
from tools.pages.quiz import Option, Question, read_questions

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "book" / "course"
SLIDES = (COURSE / "slides.md").read_text()
SIZES = {f"quiz_{n}": 10 for n in range(1, 6)} | {"exit_quiz": 5}
GOOD = """
- ask: Purple or blue?
  options:
  - {right: Purple., why: So it is.}
  - {wrong: Blue., why: Look again.}
"""


def test_a_quiz_is_read():
    options = [Option("Purple.", "So it is.", True), Option("Blue.", "Look again.", False)]
    assert read_questions(GOOD) == [Question("Purple or blue?", options)]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("wrong: Blue.", "right: Blue.", "question 1 needs one right option"),
        ("right: Purple.", "wrong: Purple.", "question 1 needs one right option"),
        (", why: So it is.", "", "an option has `right` or `wrong`, and `why`, not"),
        ("Blue.", "80.", "not {'wrong': 80.0"),
        ("ask:", "question:", "question 1 has `ask` and `options`"),
        ("}", "", "no YAML"),
        (GOOD, "", "a list of questions"),
    ],
)
def test_a_quiz_that_is_none_is_refused_with_its_place(old, new, words):
    with pytest.raises(ValueError) as refused:
        read_questions(GOOD.replace(old, new))
    assert words in str(refused.value)


def questions_of(name):
    text = (COURSE / f"{name}.md").read_text()
    return read_questions(re.search(r"```{quiz}\n(.*?)```", text, re.DOTALL)[1])


@pytest.mark.parametrize("name", [name for name in SIZES if name != "exit_quiz"])
def test_a_quiz_is_named_where_readers_and_teachers_look(name):
    assert f"- file: book/course/{name}\n" in (ROOT / "_toc.yml").read_text()
    assert f"<course/{name}>" in (ROOT / "book" / "teaching.md").read_text()
    link = f"**Test yourself:** {{doc}}`course/{name}`"
    assert sum(link in page.read_text() for page in ROOT.glob("book/[0-9][0-9]_*.md")) == 1


@pytest.mark.parametrize("name", SIZES)
def test_the_place_of_the_right_option_tells_nothing(name):
    questions = questions_of(name)
    places = [[one.right for one in question.options].index(True) for question in questions]
    assert len(questions) == SIZES[name]
    assert all(len(question.options) == 3 for question in questions)
    assert max(map(places.count, range(3))) <= len(places) // 3 + 1
    whys = [option.why for question in questions for option in question.options]
    assert len(set(whys)) == len(whys)


@pytest.mark.parametrize("name", SIZES)
def test_the_length_of_the_right_option_tells_little(name):
    questions = questions_of(name)
    longest = []
    for place, question in enumerate(questions, 1):
        right = next(len(one.text) for one in question.options if one.right)
        if all(len(one.text) < right for one in question.options if not one.right):
            longest.append(place)
    assert len(longest) <= ceil(len(questions) / 3), f"right and longest: {longest}"


def test_a_slide_has_its_notes_formulas_links_and_pictures():
    page = slides.page(
        "# First\n\n$L^*$ and [a page](../03.md#x) ![A bell.](../assets/a/b.png)\n\n"
        "Note:\nMinute *0*.\n\n---\n\n## Second < third\n"
    )
    assert page.count("<section>") == 2 and "<title>First</title>" in page
    assert '<aside class="notes">\n<p>Minute <em>0</em>.</p>\n</aside>' in page
    assert "<msup>" in page and '<a href="../03.html#x">' in page
    assert 'src="../../_static/a/b.png" alt="A bell."' in page
    assert "<h2>Second &lt; third</h2>" in page


def test_slides_are_written_with_the_pages_only(tmp_path):
    (tmp_path / "book" / "course").mkdir(parents=True)
    (tmp_path / slides.SLIDES).write_text("# Title")
    app = SimpleNamespace(srcdir=tmp_path, outdir=tmp_path, builder=SimpleNamespace(format="html"))
    slides.write_slides(app, ValueError("the build failed"))
    assert not list(tmp_path.rglob("*.html"))
    slides.write_slides(app, None)
    assert "<h1>Title</h1>" in (tmp_path / "book" / "course" / "slides.html").read_text()


def minutes_of_slides():
    return [int(minute) for minute in re.findall(r"^Note:\nMinute (\d+)\.", SLIDES, re.MULTILINE)]


def test_the_plan_and_the_slides_agree_on_the_minutes():
    starts = minutes_of_slides()
    assert len(starts) == len(re.split(r"^---$", SLIDES, flags=re.MULTILINE)) == 15
    assert starts == sorted(starts)
    plan = (ROOT / "book" / "teaching.md").read_text()
    rows = re.findall(r"^\| (\d+)\W(\d+) \|[^|]*\| (\d[^|]*) \|", plan, re.MULTILINE)
    assert rows[0][0] == "0" and rows[-1][1] == "90"
    assert all(row[1] == following[0] for row, following in pairwise(rows))
    shown = []
    for start, end, named in rows:
        numbers = [int(number) for number in re.findall(r"\d+", named)]
        first, last = numbers[0], numbers[-1]
        shown += range(first, last + 1)
        assert int(start) <= starts[first - 1] and starts[last - 1] < int(end), named
    assert shown == list(range(1, 16))


def test_what_a_student_needs_of_a_hub_is_what_was_measured():
    measured = pd.read_csv(ROOT / "benchmarks" / "results" / "hub.csv").set_index("process")
    server, kernel = measured.loc["server"], measured.loc["kernel, after the worksheet"]
    started = measured.loc["kernel, when it has started", "core-seconds"]
    text = " ".join((ROOT / "book" / "teaching.md").read_text().split())
    peak, own = (server[name] + kernel[name] for name in ("peak MiB", "own MiB"))
    for fact in (
        f"server takes {server['peak MiB']:.0f} MiB and the kernel {kernel['peak MiB']:.0f} MiB",
        f"together {peak:.0f} MiB, of which {own:.0f} MiB are shared with nobody",
        f"for {kernel['core-seconds']:.0f} core-seconds, of which {started:.0f} are the start",
        f"take at most {ceil(35 * peak / 1024)} GiB",
    ):
        assert fact in text


def test_the_worksheets_tasks_fill_its_thirty_minutes():
    for name in ("worksheet", "worksheet_phone"):
        tasks = re.findall(
            r"^## \d\. .*\((\d+) minutes", (COURSE / f"{name}.md").read_text(), re.MULTILINE
        )
        assert sum(map(int, tasks)) == 30 and len(tasks) == 6, name


def test_the_slide_of_noise_shows_what_its_notes_say():
    effects = np.abs(np.random.default_rng(1).normal(size=(20, 48))).mean(axis=0)
    assert "numpy.random.default_rng(1).normal(size=(20, 48))" in SLIDES
    rows = re.findall(r"^\| \*\*L\d\*\* \| (.*) \|$", SLIDES, re.MULTILINE)
    assert [row.split(" | ") for row in rows] == [
        [f"{effect:.2f}" for effect in layer] for layer in effects.reshape(6, 8)
    ]
    threshold = effects.mean() + 2 * effects.std()
    named = [f"L{at // 8}.H{at % 8}" for at in np.flatnonzero(effects >= threshold)]
    assert f"here {threshold:.2f}." in SLIDES and f"name {' and '.join(named)}," in SLIDES


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", SLIDES))
def test_what_the_slides_name_is_there(target):
    assert (COURSE / target).exists()


def test_every_objective_is_graded_twice_by_something_with_points():
    """Of the quizzes, only the questions whose reasons are handed in have points."""
    text = (COURSE / "graded_week.md").read_text()
    rows = re.search(r"\| a student can .*?\n\n", text, re.DOTALL)[0].splitlines()[2:]
    objectives = (ROOT / "book" / "objectives.csv").read_text().splitlines()[1:]
    assert len(rows[:-1]) == len(objectives)
    (reasons,) = re.findall(r"One point each for ([^.]*)\.", text)
    graded = {
        (quiz, number)
        for quiz, numbers in re.findall(r"quiz (\d), questions? ([\d, and\n]+)", reasons)
        for number in re.findall(r"\d+", numbers)
    }
    assert len(graded) == 10  # as many as the quizzes have points
    project = re.findall(r"\| \*\*(.*?)\*\* \|", (COURSE / "project.md").read_text())
    for row in rows[:-1]:
        first, again = (cell.strip() for cell in row.split("|")[2:4])
        assert first != again
        for cell in (first, again):
            kind, _, rest = cell.partition(", ")
            if kind.startswith("quiz"):
                assert (kind[-1], rest.removeprefix("question ")) in graded, row
            elif kind == "project":
                assert rest.capitalize() in project, row
            else:
                assert re.fullmatch(r"set [12], problem [123]", cell), row


def headings(page):
    text = (ROOT / "book" / f"{page}.md").read_text()
    return re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)


@pytest.mark.parametrize("name", ["teaching", "course/four_days"])
def test_the_sections_that_plans_name_are_there(name):
    """A section is named behind its page, such as {doc}`01_primer`, "A head is a slice"."""
    text = (ROOT / "book" / f"{name}.md").read_text()
    form = r"""\{doc\}`([^`<]+)`(?:, | up to )("[^"]+"|'[^']+')"""
    named = re.findall(form, text)
    assert len(named) >= (10 if name == "teaching" else 2)
    lost = [one for one in named if one[1][1:-1] not in headings(one[0].removeprefix("../"))]
    assert not lost


def test_the_minutes_of_each_of_the_four_days_follow_one_another_to_ninety():
    text = (COURSE / "four_days.md").read_text()
    days = re.split(r"^## Day \d", text, flags=re.MULTILINE)[1:]
    assert len(days) == 4
    for day in days:
        rows = [
            tuple(map(int, row)) for row in re.findall(r"^\| (\d+)-(\d+) \|", day, re.MULTILINE)
        ]
        assert rows[0][0] == 0 and rows[-1][1] == 90
        assert all(start < end for start, end in rows)
        assert all(row[1] == following[0] for row, following in pairwise(rows))
