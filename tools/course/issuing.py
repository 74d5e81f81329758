"""Write what students get, and what only the teacher has."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import nbformat

from notice_lib import checkpoint_dir
from notice_lib.models.load import EMBEDDED

from .notebooks import NBGRADER_CONFIG, for_nbgrader, for_students
from .problems import PROBLEM_SETS
from .variants import variant

FOR_STUDENTS, FOR_NBGRADER, VARIANT = "to_students", "nbgrader", "variant.json"


def read_seed(path: Path) -> str:
    """The private seed: the text of a file that only the teacher has.

    Raises:
        SystemExit: there is no such file, or it is so short that it can be guessed.
    """
    try:
        seed = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise SystemExit(
            f"There is no {path}. Make one, and keep it to yourself:\n"
            f'    python -c "import secrets; print(secrets.token_hex())" > {path}'
        ) from None
    if len(seed) < 16:
        raise SystemExit(f"The seed in {path} can be guessed: write at least 16 characters.")
    return seed


def read_students(path: Path) -> list[str]:
    """The names of the students, one a line, which become names of folders.

    Raises:
        SystemExit: there are none, one is there twice, or one cannot be a folder.
    """
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    odd = [name for name in names if not re.fullmatch(r"\w[\w.@-]*", name)]
    if odd:
        raise SystemExit(
            f"{path}: {odd[0]!r} cannot be the name of a folder; write one word a line."
        )
    if not names or len(set(names)) < len(names):
        raise SystemExit(f"{path} must have one name a line, each of them once.")
    return names


def issue(seed: str, students: Iterable[str], out: Path) -> None:
    """Write each student's problem sets, and nbgrader's course for the teacher.

    A checkpoint that is no part of the library's wheel is handed out with its variant.
    """
    for problem_set in PROBLEM_SETS:
        source = out / FOR_NBGRADER / "source" / problem_set
        source.mkdir(parents=True, exist_ok=True)
        nbformat.write(for_nbgrader(problem_set), source / f"{problem_set}.ipynb")
        notebook = for_students(problem_set)
        for student in students:
            folder = out / FOR_STUDENTS / student / problem_set
            folder.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, folder / f"{problem_set}.ipynb")
            told = variant(seed, student, problem_set)
            (folder / VARIANT).write_text(json.dumps(told, indent=1), encoding="utf-8")
            if told["checkpoint"] not in EMBEDDED:
                source = checkpoint_dir(told["checkpoint"])
                shutil.copytree(source, folder / "checkpoint", dirs_exist_ok=True)
    (out / FOR_NBGRADER / "nbgrader_config.py").write_text(NBGRADER_CONFIG)
