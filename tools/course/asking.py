"""Run a submission's cells and put the tests' cases to it. Nothing here knows an answer.

    python -m tools.course.asking    (in a folder with request.json; writes answers.json)

It runs behind the fence (`fence.py`), in a process of the submission's own. Where a problem is to
be done by hand, the library that it finds there cannot do it (`by_hand.py`).
"""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from notice_lib import load_pairs

REQUEST, ANSWERS = Path("request.json"), Path("answers.json")
VALUES = {
    "enough_needed": ("enough", "needed"),
    "three_parts": ("content", "truth", "removal"),
    "looks_matters_missed": ("looks", "matters", "missed"),
}
"""Names of the numbers that a problem asks for. The other problems ask for a function."""


def ask(problem: str, cases: list[dict], namespace: dict) -> list[dict]:
    """What the names that a notebook defined answer to a problem's cases.

    Returns:
        For each case {"parts": lists of numbers}, or {"error": what went wrong, in words}, or both:
        then the parts that are no numbers are NaN.
    """
    if problem in VALUES:
        return [_values(VALUES[problem], namespace) for _ in cases]
    found = []
    for case in cases:
        try:
            found.append({"parts": _answer(problem, case, namespace)})
        except NotANumber as error:
            found.append({"error": str(error)})
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"})
    return found


class NotANumber(Exception):
    """An answer is missing, or is no number."""


def _values(names: Collection[str], namespace: dict) -> dict:
    parts, errors = [], []
    for name in names:
        try:
            parts.append([_number(namespace.get(name), name)])
        except NotANumber as error:
            parts.append([math.nan])
            errors.append(str(error))
    return {"parts": parts} | ({"error": "; ".join(errors)} if errors else {})


def _answer(problem: str, case: dict, namespace: dict) -> list[list[float]]:
    if problem not in namespace:
        raise NotANumber(f"there is no function {problem}")
    function = namespace[problem]
    if problem == "patched_difference":
        return [_patches(function, case, namespace["vlm"], namespace["variant"]["task"])]
    given = [np.array(values) for values in case.values()]
    return [[_number(function(*given), f"what {problem} returns")]]


def _patches(function, case: dict, vlm, task: str) -> list[float]:
    """L' of denoising, of noising, and of a patch that must change nothing."""
    (pair,) = load_pairs(task).filter(lambda pair: pair.pair_id in case["pairs"])
    site = case["layer"], case["head"], case["role"]
    before, found = _hooks(vlm), []
    for base, source in (("corrupt", "clean"), ("clean", "corrupt"), ("clean", "clean")):
        found.append(
            _number(function(pair, base, source, *site), "what patched_difference returns")
        )
    if _hooks(vlm) != before:
        raise RuntimeError("hooks are left on the model after the call")
    return found


def _hooks(vlm) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in vlm.model.modules()
    )


def _number(value: Any, what: str) -> float:
    if value is None or value is ...:
        raise NotANumber(f"{what} is not answered")
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except Exception:  # of any kind: a tensor of two numbers raises a RuntimeError
        number = math.nan
    if not math.isfinite(number):
        raise NotANumber(f"{what} is {value!r}, not a number")
    return number


def run_cells(cells: list[dict], asked: Collection[str]) -> tuple[dict, list[str]]:
    """Run cells {"source", "problem": whose answer it is, or None} as a notebook would.

    Returns:
        The names that they define, and the errors, one line a cell that stopped with one. Those of
        answers that are not asked for are left out.
    """
    from IPython.core.interactiveshell import InteractiveShell

    shell, errors = InteractiveShell.instance(), []
    for number, cell in enumerate(cells, 1):
        result = shell.run_cell(cell["source"], store_history=False)
        error = result.error_before_exec or result.error_in_exec
        if error is not None and cell["problem"] in (None, *asked):
            errors.append(f"code cell {number} stops with {type(error).__name__}: {error}")
    return shell.user_ns, errors


def main() -> None:
    request = json.loads(REQUEST.read_text())
    namespace, errors = run_cells(request["cells"], request["cases"])
    answers = {"errors": errors, "problems": {}}
    ANSWERS.write_text(json.dumps(answers))  # It says that the cells came to their end.
    for problem, cases in request["cases"].items():
        answers["problems"][problem] = ask(problem, cases, namespace)
        ANSWERS.write_text(json.dumps(answers))  # Whoever is stopped later keeps this.


if __name__ == "__main__":
    main()
