"""Exercises: what their checks accept and refuse, and the form that all of them have."""

import ast
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest
from exercise_answers import CASES, REFUSED

from notice_lib import exercises
from notice_lib.exercises.verdict import Verdict, check
from tools.exercises import LETTERS, ROOT, all_exercises, is_solution, notes, objectives, page

for path in Path(__file__).parent.glob("answers_*.py"):
    importlib.import_module(path.stem)  # fills CASES


def checks():
    """All checks of the package by name, such as "welcome.check_chance"."""
    found = {}
    for name in exercises.__all__:
        module = importlib.import_module(f"notice_lib.exercises.{name}")
        for other, thing in inspect.getmembers(module, inspect.isfunction):
            if other.startswith("check_") and thing.__module__ == module.__name__:
                found[f"{name}.{other}"] = thing
    return found


CHECKS = checks()
EXERCISES = all_exercises()
HINTS = ("Hint", "Stronger hint")
COUNTS = {
    "noise.check_needed",
    "selection.check_plan",
    "selection.check_repeated",
    "selection.check_scenes",
}
"""Their answers are whole numbers, which may come as floats or as NumPy's integers."""
WITHOUT_NUMBERS = {
    "circuits.check_smallest",
    "engine.check_idle",
    "engine.check_overnight",
    "first_patch.check_flips",
    "modules_heads.check_exchange",
    "modules_heads.check_statements",
    "modules_heads.check_whole",
    "noise.check_oracle",
    "own.check_drawn",
    "own.check_row",
    "pairs.check_spoiled",
    "pairs.check_tokens_of",
    "primer.check_kept",
    "primer.check_prediction",
    "report.check_review",
    "report.check_verdict",
    "selection.check_fooled",  # an array whose means must be zero to the last digit
    "welcome.check_question",
    "what_heads_do.check_looker",
    "what_heads_do.check_sources",
}
"""Their answers have nothing that a reader would round. All others are tried with a rounded one."""


def test_every_check_is_tried_with_every_kind_of_answer():
    assert set(CASES) == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_accepts_what_is_right_and_says_what_is_wrong(name):
    check, case = CHECKS[name], CASES[name]()
    assert set(case.refused) >= REFUSED
    assert (case.rounded is None) == (name in COUNTS | WITHOUT_NUMBERS)
    assert bool(case.forms) == (name in COUNTS)

    def said(answer):
        verdict = check(answer, *case.given)
        assert isinstance(verdict, Verdict)
        return verdict

    assert said(case.right).is_right, said(case.right)
    for other in case.forms if case.rounded is None else (case.rounded, *case.forms):
        assert said(other).is_right, said(other)
    for kind, (answer, words) in case.refused.items():
        verdict = said(answer)
        assert verdict.startswith("Not yet: ") and words in verdict, (kind, verdict)
    assert said(None).startswith("Nothing to check yet: ")
    for constant, value in vars(inspect.getmodule(check)).items():
        if constant.isupper():
            assert not said(value).is_right, f"{constant} gives the answer away"


def test_a_function_that_stops_is_said_and_one_that_returns_nothing_is_not_begun():
    from notice_lib.exercises.welcome import check_chance

    assert check_chance(lambda hits, n: 1 / 0) == (
        "Not yet: it stops with ZeroDivisionError: division by zero"
    )
    assert check_chance(lambda hits, n: ...).startswith("Nothing to check yet: ")


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"unit": "pair"}, "independent"),
        ({"null": "pair signs"}, "show the same pictures"),
        ({"null": "head names"}, "just as many"),
        ({"null": "none"}, "one of"),
        ({"null": ["scene signs"]}, "one of"),
    ],
)
def test_a_plan_keeps_the_pairs_of_a_scene_together(entry, words):
    case = CASES["selection.check_plan"]()
    plan, effects = case.given
    verdict = CHECKS["selection.check_plan"](case.right, plan | entry, effects)
    assert verdict.startswith("Not yet: ") and words in verdict


@pytest.mark.parametrize(
    "why, words",
    [
        (None, "Nothing to check yet: write why"),
        (3, "Not yet: say in a sentence"),
        ("By chance.", "Not yet: say in a sentence"),
        ("why " * 20, "Not yet: say in a sentence"),
    ],
)
def test_the_list_that_is_made_twice_and_the_hook_without_clone_are_explained(why, words):
    case = CASES["selection.check_repeated"]()
    expected, _, arrays = case.given
    verdict = CHECKS["selection.check_repeated"](case.right, expected, why, arrays)
    assert verdict.startswith(words)
    verdict = CHECKS["primer.check_kept"](CASES["primer.check_kept"]().right, why)
    assert verdict.startswith(words.replace("write why", "write what"))


def test_students_read_the_runs_of_the_other_trainings_themselves():
    """The question asks about them, so no solution may be the only place that knows them."""
    (*own, solution) = next(one.cells for one in EXERCISES if one.number == "5.5")
    (at,) = (i for i, cell in enumerate(own) if "universal.csv" in cell.source)
    assert "exercises.check_repeated" in own[at - 1].source
    assert "universal.csv" not in solution.source


def test_the_question_of_the_review_has_the_rubric():
    (text,) = (one.cells[0].source for one in EXERCISES if one.title == "Referee this page")
    points = re.findall(r"^- \*\*(.+?)\*\* \(2 points\):", text, re.MULTILINE)
    assert tuple(map(str.lower, points)) == exercises.report.RUBRIC


def test_a_verdict_is_shown_as_a_sentence():
    verdict = check(lambda answer: "It is 2.")(2)
    assert verdict == "Right. It is 2." and verdict._repr_markdown_() == verdict


@pytest.mark.parametrize("one", EXERCISES, ids=lambda one: one.number)
def test_an_exercise_has_hints_an_empty_cell_that_calls_its_check_and_a_solution(one):
    text, *between, last = one.cells
    assert tuple(re.findall(r"<summary>(.+?)</summary>", text.source)) == HINTS
    assert text.source.count("<details>") == text.source.count("</details>") == len(HINTS)
    calls = [cell.source for cell in between if "exercises.check_" in cell.source]
    (check,) = set(re.findall(r"exercises\.(check_\w+)", "\n".join(calls)))
    module = re.sub(r"^\d\d_", "", one.chapter)
    assert f"{module}.{check}" in CHECKS
    assert is_solution(last) and check in last.source
    assert re.search(r"\bWhy\b", last.source), "the solution says why"


def test_exercises_are_numbered_by_their_chapter_and_in_order():
    seen = Counter()
    for one in EXERCISES:
        chapter = int(one.chapter[:2])
        seen[chapter] += 1
        assert one.number == f"{chapter}.{seen[chapter]}"


def test_every_check_belongs_to_an_exercise_and_its_docstring_has_the_number():
    used = {}
    for one in EXERCISES:
        (name,) = set(re.findall(r"exercises\.(check_\w+)", one.cells[-1].source))
        used[f"{one.chapter[3:]}.{name}"] = one.number
    assert set(used) == {name for name in CHECKS if not name.startswith("worksheet.")}
    for name, number in used.items():
        assert CHECKS[name].__doc__.startswith(f"{number}: "), name


def test_no_chapter_defines_a_check():
    for path in (ROOT / "book").glob("[0-9][0-9]_*.md"):
        assert "def check_" not in path.read_text(), path.name


def test_marks_are_in_range_and_many_exercises_are_open():
    for one in EXERCISES:
        assert 1 <= one.difficulty <= 5 and 1 <= one.importance <= 5 and one.minutes <= 30
    assert sum(one.kind == "create" for one in EXERCISES) >= 8


def test_every_exercise_practises_an_objective_and_every_objective_is_practised_twice():
    practised = notes()
    assert list(practised) == [one.number for one in EXERCISES]
    count = Counter(key for keys, _ in practised.values() for key in keys)
    assert set(count) == set(objectives()) and len(count) == len(LETTERS)
    assert min(count.values()) >= 2
    assert all(note.endswith((".", "?")) for _, note in practised.values())


def test_the_list_of_exercises_is_in_sync():
    text = (ROOT / "book" / "exercises.md").read_text()
    assert text == page(), "./run pairs brings it up to date; commit it"


@pytest.mark.parametrize("name", exercises.__all__)
def test_a_check_reads_no_file_of_the_book(name):
    """Students may have the library alone."""
    source = inspect.getsource(importlib.import_module(f"notice_lib.exercises.{name}"))
    strings = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    assert not any(isinstance(one, str) and "book/" in one for one in strings)
