"""The graded week: variants, and what the grader makes of submissions of every kind."""

import json
import sys
import time
from itertools import count, product
from pathlib import Path

import course_submissions as submissions
import numpy as np
import pandas as pd
import pytest
import torch
from course_submissions import hand_in

from notice_lib.models.load import EMBEDDED
from tools.course import asking
from tools.course.asking import ANSWERS, REQUEST, ask, run_cells
from tools.course.by_hand import LIBRARY, REFUSED, SELF_CHECK, refusing, write_library
from tools.course.grading import LONGEST, grade, judge, read_answers
from tools.course.issuing import issue
from tools.course.notebooks import submitted_cells
from tools.course.pool import CHECKPOINTS, TASKS, Pool
from tools.course.problems import APART, PROBLEM_SETS, Problem, is_apart
from tools.course.variants import draw, generator, graded_cases, own_case, pool_of, variant

SEED = "a private seed of the tests"
FIRST, SECOND = PROBLEM_SETS
PROBLEMS = [(name, problem) for name, problems in PROBLEM_SETS.items() for problem in problems]
FULL = {
    name: {problem.name: problem.points for problem in problems}
    for name, problems in PROBLEM_SETS.items()
}
POOL = pool_of(SEED, "ada", FIRST)  # of all tests in the gate, since a pool takes seconds


def named(kind: str, *problem_sets: str) -> str:
    """A student of this kind whose variants come from the same pool as all others'."""
    names = (f"{kind}{n}" for n in count())
    return next(
        name for name in names if all(pool_of(SEED, name, one) is POOL for one in problem_sets)
    )


def points(marks, student: str) -> dict[str, float]:
    return {mark.problem: mark.points for mark in marks if mark.student == student}


def said(marks, student: str) -> dict[str, str]:
    return {mark.problem: mark.said for mark in marks if mark.student == student}


# Variants


def test_a_variant_is_decided_by_the_seed_and_the_student():
    problem = PROBLEM_SETS[FIRST][1]
    cases = [
        own_case(seed, student, FIRST, problem)
        for seed in (SEED, "another seed")
        for student in ("ada", "bob")
    ]
    assert own_case(SEED, "ada", FIRST, problem) == cases[0]
    assert all(one != other for i, one in enumerate(cases) for other in cases[:i])
    assert cases[0] not in graded_cases(SEED, "ada", FIRST, problem)


def test_a_case_whose_answer_is_a_listed_mistake_is_not_issued():
    values = {"near": 1.0, "apart": 1 + 2 * APART}
    problem = Problem(
        "made up", 1, 1.0,
        draw=lambda pool, rng: {"at": str(rng.choice(["near", "apart"]))},
        answer=lambda pool, case: [(2 * APART,), (values[case["at"]] + 3 * APART,)],
        slips=lambda pool, case: {"a mistake": [(np.nan,), (1 + 3 * APART,)]},
    )  # fmt: skip
    cases = [draw(problem, POOL, generator(SEED, n)) for n in range(20)]
    assert cases == [{"at": "apart"}] * 20
    values["apart"] = values["near"]
    with pytest.raises(RuntimeError, match="made up"):
        draw(problem, POOL, generator(SEED))


@pytest.mark.parametrize(
    "problem_set, problem", PROBLEMS, ids=[problem.name for _, problem in PROBLEMS]
)
def test_answers_lie_apart_from_zero_and_from_mistakes(problem_set, problem):
    student = named("ada", problem_set)
    cases = graded_cases(SEED, student, problem_set, problem)
    assert len(cases) == max(1, problem.hidden)
    for case in [*cases, own_case(SEED, student, problem_set, problem)]:
        right = np.concatenate(problem.answer(POOL, case))
        mistakes = [np.concatenate(one) for one in problem.slips(POOL, case).values()]
        distances = np.abs([right, *(right - one for one in mistakes)])
        assert np.nanmin(distances) >= APART * problem.tolerance


@pytest.mark.parametrize("problem_set", PROBLEM_SETS)
def test_the_right_answers_get_all_points(problem_set, tmp_path, monkeypatch):
    """As a student computes them, from the notebook and the variant alone."""
    student = named("right", problem_set)
    path = hand_in(tmp_path, student, problem_set, submissions.RIGHT[problem_set])
    told = variant(SEED, student, problem_set)
    (tmp_path / "variant.json").write_text(json.dumps(told))
    monkeypatch.chdir(tmp_path)
    cells, _ = submitted_cells(path, problem_set)
    for cell in cells:
        with refusing(cell["problem"]):
            namespace, errors = run_cells([cell], [cell["problem"]])
        assert not errors
    for problem in PROBLEM_SETS[problem_set]:
        cases = graded_cases(SEED, student, problem_set, problem)
        with refusing(problem.name):
            answers = ask(problem.name, cases, namespace)
        assert judge(problem, POOL, cases, answers) == (problem.points, [])


@pytest.mark.parametrize(
    "problem_set, problem", PROBLEMS, ids=[problem.name for _, problem in PROBLEMS]
)
def test_a_mistake_gets_nothing_and_is_named(problem_set, problem):
    (case,) = graded_cases(SEED, named("ada", problem_set), problem_set, problem)[:1]
    right = problem.answer(POOL, case)
    for why, wrong in problem.slips(POOL, case).items():
        parts = [
            np.where(np.isnan(mistake), number, mistake).tolist()
            for number, mistake in zip(right, wrong, strict=True)
        ]
        got, lines = judge(problem, POOL, [case], [{"parts": parts}])
        untouched = sum(bool(np.isnan(part).all()) for part in wrong)
        assert got == pytest.approx(problem.points * untouched / len(right), abs=0.01)
        assert set(lines) == {why}


@pytest.mark.parametrize("removal", ["much", torch.ones(2), 10**400], ids=type)
def test_an_unanswered_number_costs_its_own_part_only(removal):
    problem = PROBLEM_SETS[SECOND][0]
    (case,) = graded_cases(SEED, named("ada", SECOND), SECOND, problem)
    (content,), *_ = problem.answer(POOL, case)
    answers = ask(problem.name, [case], {"content": content, "truth": None, "removal": removal})
    said = f"truth is not answered; removal is {removal!r}, not a number"
    got, lines = judge(problem, POOL, [case], answers)
    assert (got, set(lines)) == (2, {said[:300]})


def test_flips_that_tie_with_the_observed_mean_tie_in_every_way_to_add():
    problem = PROBLEM_SETS[SECOND][1]
    for n in range(100):
        case = draw(problem, POOL, generator(SEED, n))
        means = pd.Series(case["effects"]).groupby(case["scenes"]).mean().to_numpy()
        flips = np.array(list(product([1, -1], repeat=len(means))))
        observed = abs(means.mean())
        one_by_one = [abs(sum(flip * means)) / len(means) for flip in flips]
        ((right,),) = problem.answer(POOL, case)
        for found in (abs((flips * means).mean(1)), abs(flips @ means / len(means)), one_by_one):
            assert np.mean(np.array(found) >= observed) == right


def test_issuing_writes_variant_and_checkpoint_beside_each_notebook(tmp_path):
    student = named("ada", FIRST, SECOND)
    issue(SEED, [student], tmp_path)
    for problem_set in PROBLEM_SETS:
        folder = tmp_path / "to_students" / student / problem_set
        told = variant(SEED, student, problem_set)
        checkpoint = [] if told["checkpoint"] in EMBEDDED else ["checkpoint"]
        names = [*checkpoint, f"{problem_set}.ipynb", "variant.json"]
        assert sorted(path.name for path in folder.iterdir()) == names
        assert json.loads((folder / "variant.json").read_text()) == told
    assert (tmp_path / "nbgrader" / "source" / FIRST / f"{FIRST}.ipynb").exists()


# What is refused, and what comes back


@pytest.mark.parametrize("secret", [LIBRARY / "seed", Path(sys.prefix) / "seed", Path("/usr/seed")])
def test_what_submissions_could_read_is_refused(secret, tmp_path):
    with pytest.raises(SystemExit, match=f"can read {secret}"):
        grade(SEED, tmp_path / "submitted", tmp_path / "marks", secret=[secret])


@pytest.mark.parametrize(
    "text, said",
    [
        ("", []),
        ("no JSON", ["its answers cannot be read"]),
        (b"\xff", ["its answers cannot be read"]),
        ("[" * 10**5, ["its answers cannot be read"]),
        ("1" * 5000, ["its answers cannot be read"]),
        ("[]", ["its answers cannot be read"]),
        ('{"problems": {"p_value": 3}, "errors": []}', ["its answers cannot be read"]),
        ('{"problems": {}, "errors": 3}', ["its answers cannot be read"]),
        (" " * (LONGEST + 1), ["its answers are too long"]),
        ('{"problems": {}, "errors": ["two\\nlines", 3]}', ["two lines", "3"]),
    ],
)
def test_answers_that_cannot_be_read_are_none(text, said, tmp_path):
    path = tmp_path / "answers.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_answers(path) == ({}, said)


@pytest.mark.parametrize(
    "parts",
    ["NaN", "Infinity", "-Infinity", "1e999", "1" + 400 * "0", "null", '"x"', "[]", "{}", "[0, 0]"],
)
def test_an_answer_that_is_no_number_gets_nothing(parts, tmp_path):
    problem = PROBLEM_SETS[SECOND][1]
    cases = graded_cases(SEED, named("ada", SECOND), SECOND, problem)
    for form in (parts, f"[{parts}]", f"[[{parts}]]", f'{{"parts": [[{parts}]]}}'):
        text = f'{{"problems": {{"p_value": [{form}, {{"parts": {form}}}]}}, "errors": []}}'
        (tmp_path / "answers.json").write_text(text)
        answers, errors = read_answers(tmp_path / "answers.json")
        found, said = judge(problem, POOL, cases, answers["p_value"])
        assert (found, errors) == (0, []) and said


# By hand


def test_the_library_behind_the_fence_has_lost_what_is_to_be_done_by_hand(tmp_path):
    """Whatever a submission imports or restores, under whatever name."""
    for problem, modules in REFUSED.items():
        write_library([problem], tmp_path / problem)
        changed = {
            "notice_lib." + ".".join(path.relative_to(LIBRARY).with_suffix("").parts)
            for path in LIBRARY.rglob("*.py")
            if (copy := tmp_path / problem / path.relative_to(LIBRARY)).exists()
            and copy.read_bytes() != path.read_bytes()
        }
        assert changed == {*modules, SELF_CHECK}
        assert not (tmp_path / problem / "exercises").exists()
    patches = (tmp_path / "patched_difference/patching/engine.py").read_text()
    assert "MAX_TOKENS = 4096" in patches and "check_placed(" not in patches
    statistics = (tmp_path / "p_value/heads/statistics.py").read_text()
    assert "signs @ both" not in statistics and "np.quantile" in statistics


# Submissions


def test_cells_that_came_to_their_end_say_so_before_a_case_is_put(tmp_path, monkeypatch):
    """A function that never returns costs its own problem. Cells that do not end run only once."""
    monkeypatch.chdir(tmp_path)
    source = "def percent_recovered(*_):\n    raise KeyboardInterrupt"
    request = {
        "cells": [{"source": source, "problem": "percent_recovered"}],
        "cases": {"percent_recovered": [{"L": 1.0}]},
    }
    REQUEST.write_text(json.dumps(request))
    with pytest.raises(KeyboardInterrupt):
        asking.main()
    assert json.loads(ANSWERS.read_text()) == {"errors": [], "problems": {}}


SAID = {
    FIRST: {
        "lazy": {
            "patched_difference": ["nothing is written into the run"],
            "percent_recovered": ["no function percent_recovered", "SyntaxError"],
            "enough_needed": ["NameError"],
        },
        "cheating": {
            "patched_difference": ["to be done by hand"],
            "enough_needed": ["cannot be read"],
        },
    },
    SECOND: {
        "lazy": {
            "three_parts": ["a number is wrong"],
            "p_value": ["ZeroDivisionError"],
            "looks_matters_missed": ["looks is not answered", "SyntaxError"],
        },
        "cheating": {
            "three_parts": ["to be done by hand"],
            "p_value": ["to be done by hand"],
            "looks_matters_missed": ["a number is wrong"],
        },
    },
}
"""Words that the grader finds for what is wrong with a submission."""


@pytest.mark.parametrize("problem_set", PROBLEM_SETS)
def test_submissions_of_every_kind(problem_set, tmp_path):
    """Slow ones are graded weekly."""
    inbox, out = tmp_path / "submitted", tmp_path / "marks"
    kinds = {
        "right": submissions.RIGHT,
        "lazy": submissions.LAZY_AND_BROKEN,
        "cheating": submissions.CHEATING,
    }
    names = {kind: named(kind, problem_set) for kind in [*kinds, "empty"]}
    for kind, sources in kinds.items():
        hand_in(inbox, names[kind], problem_set, sources[problem_set])
    (inbox / names["empty"] / problem_set).mkdir(parents=True)
    marks = grade(SEED, inbox, out)

    assert points(marks, names["right"]) == FULL[problem_set]
    for kind in ("lazy", "cheating", "empty"):
        assert sum(points(marks, names[kind]).values()) == 0, said(marks, names[kind])
    for kind, problems in SAID[problem_set].items():
        for problem, words in problems.items():
            assert all(one in said(marks, names[kind])[problem] for one in words), (kind, problem)
    looks = {mark.look for mark in marks if mark.student == names["cheating"]}
    assert looks == {"importlib sys.modules"}
    missing = f"there is no {problem_set}.ipynb"
    assert all(missing in text for text in said(marks, names["empty"]).values())

    assert len(pd.read_csv(out / "marks.csv")) == len(marks) == 4 * len(PROBLEM_SETS[problem_set])
    written = {text for name, text in submissions.RIGHT[problem_set].items() if "written" in name}
    assert written <= set(pd.read_csv(out / "written.csv").text)
    assert "20 of 20 points" in (out / f"{names['right']}-{problem_set}.md").read_text()


@pytest.mark.weekly
def test_a_class_is_graded_in_ten_minutes(tmp_path, record_property):
    """35 students with variants of their own, as they come in. On two cores."""
    inbox, out = tmp_path / "submitted", tmp_path / "marks"
    kinds = {
        "right": submissions.RIGHT[FIRST],
        "lazy": submissions.LAZY[FIRST],
        "cheating": submissions.CHEATING[FIRST],
        "broken": submissions.BROKEN[FIRST],
        "slow": submissions.SLOW[FIRST],
    }
    students = ["right"] * 18 + ["lazy"] * 6 + ["cheating"] * 4 + ["broken"] * 4 + ["slow"]
    names = [f"{kind}{n}" for n, kind in enumerate(students)]
    for name, kind in zip(names, students, strict=True):
        hand_in(inbox, name, FIRST, kinds[kind])
    for name in ("empty1", "empty2"):
        (inbox / name / FIRST).mkdir(parents=True)
    started = time.monotonic()
    marks = grade(SEED, inbox, out)
    minutes = (time.monotonic() - started) / 60
    record_property("minutes for 35 submissions", f"{minutes:.1f}")
    assert len(marks) == 35 * len(PROBLEM_SETS[FIRST])
    for name in (*names, "empty1", "empty2"):
        wanted = FULL[FIRST] if name.startswith("right") else dict.fromkeys(FULL[FIRST], 0)
        assert points(marks, name) == wanted, said(marks, name)
    slow = said(marks, names[students.index("slow")])
    assert "120 seconds of computing" in slow["enough_needed"]
    assert minutes < 10


@pytest.mark.weekly
def test_the_second_set_of_the_lazy_the_broken_and_the_slow(tmp_path):
    """With variants from pools of their own. The class above has such submissions of the first."""
    inbox = tmp_path / "submitted"
    kinds = {"lazy": submissions.LAZY, "broken": submissions.BROKEN, "slow": submissions.SLOW}
    for kind, sources in kinds.items():
        hand_in(inbox, kind, SECOND, sources[SECOND])
    marks = grade(SEED, inbox, tmp_path / "marks")
    for kind in kinds:
        assert points(marks, kind) == dict.fromkeys(FULL[SECOND], 0), said(marks, kind)
    broken = said(marks, "broken")
    assert "NameError" in broken["three_parts"] and "ZeroDivisionError" in broken["p_value"]
    assert "SyntaxError" in broken["looks_matters_missed"]
    assert all("120 seconds of computing" in text for text in said(marks, "slow").values())


@pytest.mark.weekly
@pytest.mark.parametrize("checkpoint, task", product(CHECKPOINTS, TASKS))
def test_every_problem_can_be_drawn_from_every_pool(checkpoint, task):
    """`draw` stops where no case is apart from zero and from mistakes, in somebody's own week."""
    for seed in (SEED, "another private seed"):
        pool = Pool(checkpoint, task, int(generator(seed, checkpoint, task).integers(2**31)))
        for _, problem in PROBLEMS:
            case = draw(problem, pool, generator(seed, checkpoint, task, problem.name))
            assert is_apart(problem, pool, case)
