"""Problem sets for a class: hand out variants, and grade what comes back.

    ./run problem-sets --seed FILE --students FILE OUT
    ./run grade --seed FILE SUBMISSIONS OUT

The seed is a file that only the teacher has. With it, all variants and hidden tests can be made
again; without it, none can. `judge` is what nbgrader's hidden tests ask, in JSON.
"""

import argparse
import json
import sys
from pathlib import Path

from .fence import LIMITS, Limits, Unfenced
from .grading import grade, judge
from .issuing import FOR_NBGRADER, FOR_STUDENTS, issue, read_seed, read_students
from .problems import PROBLEM_SETS
from .variants import graded_cases, pool_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.course", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    seed = argparse.ArgumentParser(add_help=False)
    seed.add_argument("--seed", type=Path, required=True, help="file with the private seed")
    one = commands.add_parser("issue", parents=[seed], help="write each student's problem sets")
    one.add_argument("--students", type=Path, required=True, help="file with one name a line")
    one.add_argument(
        "out", type=Path, help="folder to write: to_students, and nbgrader, yours only"
    )
    one = commands.add_parser("grade", parents=[seed], help="grade submissions")
    one.add_argument(
        "--seconds",
        type=int,
        default=LIMITS.seconds,
        help="seconds of computing that a run may use (%(default)s)",
    )
    one.add_argument("submissions", type=Path, help="has STUDENT/PROBLEM_SET/PROBLEM_SET.ipynb")
    one.add_argument(
        "out", type=Path, help="folder for marks.csv, written.csv and texts to hand back"
    )
    commands.add_parser("judge", parents=[seed], help="one problem's cases, or points, as JSON")
    args = parser.parse_args()
    {"issue": _issue, "grade": _grade, "judge": _judge}[args.command](args)


def _issue(args: argparse.Namespace) -> None:
    students = read_students(args.students)
    issue(read_seed(args.seed), students, args.out)
    print(f"For {len(students)} students: {args.out / FOR_STUDENTS}")
    print(f"For nbgrader, and for nobody else: {args.out / FOR_NBGRADER}")


def _grade(args: argparse.Namespace) -> None:
    try:
        seed = read_seed(args.seed)
        marks = grade(
            seed, args.submissions, args.out, Limits(args.seconds, 5 * args.seconds), [args.seed]
        )
    except Unfenced as error:
        raise SystemExit(str(error)) from None
    print(f"Marks of {len({mark.student for mark in marks})} students: {args.out / 'marks.csv'}")
    print(f"Texts to read and grade: {args.out / 'written.csv'}")


def _judge(args: argparse.Namespace) -> None:
    asked, seed = json.load(sys.stdin), read_seed(args.seed)
    student, problem_set = asked["student"], asked["problem_set"]
    (problem,) = (
        problem for problem in PROBLEM_SETS[problem_set] if problem.name == asked["problem"]
    )
    cases = graded_cases(seed, student, problem_set, problem)
    if "answers" not in asked:
        print(json.dumps({"cases": cases}))
        return
    points, said = judge(problem, pool_of(seed, student, problem_set), cases, asked["answers"])
    print(json.dumps({"points": points, "said": list(dict.fromkeys(said))}))


if __name__ == "__main__":
    main()
