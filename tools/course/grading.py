"""Grade submissions: run each behind the fence, and compare its answers with the references here.

The references never enter a submission's process, nor any file. What comes back from there is a
file that the submission may have written itself.
"""

import csv
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from .asking import ANSWERS, REQUEST
from .by_hand import LIBRARY, NEEDS_THE_WHOLE_LIBRARY, write_library
from .fence import LIMITS, ROOT, Limits, check_fence, is_shown, run_fenced
from .issuing import VARIANT
from .notebooks import NotAProblemSet, submitted_cells
from .pool import Pool
from .problems import PROBLEM_SETS, Case, Problem
from .variants import graded_cases, pool_of, variant

CLIMBING = re.compile(
    r"\b(_plan|_patch_one|_flips|_donor_effects|reload|importlib|subprocess|mock|ctypes|__code__"
    r"|sys\.modules|tools\.course)\b"
)
"""Words that a submission has no use for, unless it looks for a way around what is refused."""

LONGEST = 2**20
"""How many bytes of answers are read. Right ones take a few hundred."""
UNWRITABLE = "backslashreplace"
"""What becomes of half a character, which JSON can hold and a file cannot."""


@dataclass(frozen=True)
class Run:
    """One run of a submission: which problems it is asked for, and what it sees of the project."""

    problems: tuple[str, ...]
    shown: Mapping[Path, Path]


@dataclass(frozen=True)
class Submission:
    """What came of a submission's run, or why it did not run.

    Attributes:
        answers: by problem, as of `asking.ask`.
        troubles: what went wrong, in words.
        written: the texts that a person grades, by name.
        look: words of `CLIMBING` in its code.
    """

    answers: dict[str, list[dict]] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()
    written: dict[str, str] = field(default_factory=dict)
    look: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mark:
    """The points of one problem, and what the tests say of it."""

    student: str
    problem_set: str
    problem: str
    points: float
    of: int
    said: str
    look: str = ""


def grade(
    seed: str,
    submissions: Path,
    out: Path,
    limits: Limits = LIMITS,
    secret: Sequence[Path] = (),
) -> list[Mark]:
    """Grade all notebooks in SUBMISSIONS/STUDENT/PROBLEM_SET/, and write marks into a folder.

    Args:
        limits: what one run of a submission may use.
        secret: files and folders that submissions must not read, besides each other and the marks.

    Raises:
        fence.Unfenced: submissions cannot be run safely here.
        SystemExit: there is no such folder of a problem set, the marks would lie among the
            submissions, or a submission could read what it must not.
    """
    check_fence()
    if out.resolve().is_relative_to(submissions.resolve()):
        raise SystemExit(f"{out} lies in {submissions}: take a folder outside for the marks.")
    for path in (submissions, out, *secret):
        if is_shown(path, _shown(LIBRARY)):
            raise SystemExit(f"Submissions can read {path}, with Python or the library: move it.")
    found = [
        (folder.parent.name, folder.name)
        for folder in sorted(submissions.glob("*/*"))
        if folder.name in PROBLEM_SETS
    ]
    if not found:
        names = " or ".join(PROBLEM_SETS)
        raise SystemExit(f"There is no STUDENT/{names} below {submissions}.")
    out.mkdir(parents=True, exist_ok=True)
    marks, written = [], []
    with ExitStack() as stack:
        libraries = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = {name: _runs(name, libraries / name) for name in {name for _, name in found}}
        workers = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        running = []
        for student, problem_set in found:
            cases = {
                problem.name: graded_cases(seed, student, problem_set, problem)
                for problem in PROBLEM_SETS[problem_set]
            }
            path = submissions / student / problem_set / f"{problem_set}.ipynb"
            told = variant(seed, student, problem_set)
            run = workers.submit(_run, path, told, cases, runs[problem_set], limits)
            running.append((student, problem_set, cases, run))
        for student, problem_set, cases, run in running:
            submission = run.result()
            print(f"{student}: {problem_set}", flush=True)
            marks += _marks(seed, student, problem_set, cases, submission)
            written += [
                {"student": student, "problem_set": problem_set, "name": name, "points": "",
                 "text": text}
                for name, text in submission.written.items()
            ]  # fmt: skip
    _write(out / "marks.csv", [asdict(mark) for mark in marks])
    _write(out / "written.csv", written)
    for name, text in feedback(marks):
        (out / name).write_text(text, encoding="utf-8", errors=UNWRITABLE)
    return marks


def _shown(library: Path) -> dict[Path, Path]:
    """What a submission sees of the project: nothing that draws variants or knows answers."""
    course = Path(__file__).parent
    same = (ROOT / "data", course / "__init__.py", course / "asking.py")
    return {path: path for path in same} | {LIBRARY: library}


def _runs(problem_set: str, place: Path) -> list[Run]:
    """The runs of a problem set's submissions. Writes their libraries into a new folder."""
    names = [problem.name for problem in PROBLEM_SETS[problem_set]]
    whole = tuple(name for name in names if name in NEEDS_THE_WHOLE_LIBRARY)
    by_hand = tuple(name for name in names if name not in whole)
    write_library(by_hand, place / "by_hand")
    write_library((), place / "whole")
    runs = [Run(by_hand, _shown(place / "by_hand")), Run(whole, _shown(place / "whole"))]
    return [run for run in runs if run.problems]


def _run(path: Path, told: dict, cases, runs: list[Run], limits: Limits) -> Submission:
    """Run one submission, with its student's true variant, on the tests' cases."""
    try:
        cells, written = submitted_cells(path, path.stem)
    except NotAProblemSet as error:
        return Submission(troubles=(str(error),))
    look = sorted({word for cell in cells for word in CLIMBING.findall(cell["source"])})
    answers, troubles = {}, []
    for run in runs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / VARIANT).write_text(json.dumps(told))
            request = {"cells": cells, "cases": {name: cases[name] for name in run.problems}}
            (folder / REQUEST).write_text(json.dumps(request))
            trouble = run_fenced("tools.course.asking", folder, ANSWERS.name, run.shown, limits)
            found, errors = read_answers(folder / ANSWERS)
            cells_ended = (folder / ANSWERS).stat().st_size > 0
        answers |= {name: found[name] for name in run.problems if name in found}
        troubles += [*errors, trouble] if trouble else errors
        if not cells_ended:
            break  # nor would they in the next run, which takes as long
    return Submission(answers, tuple(troubles), written, tuple(look))


def read_answers(path: Path) -> tuple[dict[str, list[dict]], list[str]]:
    """The answers and errors of a run. The submission may have written the file itself."""
    with open(path, "rb") as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        return {}, ["its answers are too long"]
    if not text:
        return {}, []
    try:
        found = json.loads(text)
        answers = {
            problem: [one if isinstance(one, dict) else {} for one in found["problems"][problem]]
            for problem in found["problems"]
        }
        return answers, [_line(error) for error in found["errors"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}, ["its answers cannot be read"]


def _line(error: object) -> str:
    """An error's text, in one line of limited length."""
    return " ".join(str(error).split())[:300]


def _marks(seed, student, problem_set, cases, submission: Submission) -> Iterator[Mark]:
    pool = pool_of(seed, student, problem_set)
    for problem in PROBLEM_SETS[problem_set]:
        answers = submission.answers.get(problem.name)
        if answers is None:
            points, said = 0.0, ["there is no answer", *submission.troubles]
        else:
            points, said = judge(problem, pool, cases[problem.name], answers)
            if points < problem.points:
                said += submission.troubles
        told = "; ".join(dict.fromkeys(said)) or "right"
        look = " ".join(submission.look)
        yield Mark(student, problem_set, problem.name, points, problem.points, told, look)


def judge(
    problem: Problem, pool: Pool, cases: list[Case], answers: list[dict]
) -> tuple[float, list[str]]:
    """The points for answers as of `asking.ask`, and what is wrong with them, in words."""
    right, said, parts = 0, [], 0
    for case, answer in zip(cases, [*answers, *[{}] * len(cases)], strict=False):
        wanted = problem.answer(pool, case)
        parts += len(wanted)
        given = _parts(answer, wanted)
        if given is None:
            said.append(_line(answer.get("error", "there is no answer")))
            continue
        for i, part in enumerate(wanted):
            if _same(given[i], part, problem.tolerance):
                right += 1
            elif np.isnan(given[i]).any():
                said.append(_line(answer.get("error", "there is no number")))
            else:
                said.append(_why(problem, pool, case, given[i], i))
    return round(problem.points * right / parts, 2), said


def _parts(answer: dict, wanted: list[tuple[float, ...]]) -> list[list[float]] | None:
    """An answer's parts as numbers, None if they are not of the form that is wanted."""
    try:
        given = [[float(number) for number in part] for part in answer["parts"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return given if [*map(len, given)] == [*map(len, wanted)] else None


def _same(given, wanted, tolerance: float) -> bool:
    """Whether all numbers agree, but for those that are not asked for (NaN)."""
    distance = np.abs(np.subtract(given, wanted))
    return bool(((distance <= tolerance) | np.isnan(wanted)).all())


def _why(problem: Problem, pool: Pool, case: Case, given: list[float], part: int) -> str:
    for why, wrong in problem.slips(pool, case).items():
        known = not np.isnan(wrong[part]).all()
        if known and _same(given, wrong[part], problem.tolerance):
            return why
    return "a number is wrong"


def feedback(marks: list[Mark]) -> Iterator[tuple[str, str]]:
    """For each student and problem set the name and the text of a file, to be handed back."""
    for student, problem_set in dict.fromkeys((m.student, m.problem_set) for m in marks):
        own = [m for m in marks if (m.student, m.problem_set) == (student, problem_set)]
        lines = [f"- {m.problem}: {m.points:g} of {m.of} points: {m.said}." for m in own]
        total = f"{sum(m.points for m in own):g} of {sum(m.of for m in own)} points by tests."
        title = f"# {problem_set.replace('_', ' ').capitalize()}, {student}"
        yield f"{student}-{problem_set}.md", "\n".join([title, "", *lines, "", total, ""])


def _write(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors=UNWRITABLE) as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
