"""What the library refuses where a problem is to be done by hand.

Behind the fence there is a copy of the library in which the refused functions have lost their
code (`write_library`). Nothing that a submission imports, saves or restores brings them back.
"""

import ast
import shutil
from collections.abc import Iterable, Iterator
from compileall import compile_dir
from contextlib import ExitStack, contextmanager
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from unittest.mock import patch

from notice_lib import NoticeError

from .fence import ROOT

LIBRARY = ROOT / "notice_lib"
ALL = ()
"""Stands for all functions of a module, instead of their names."""
REFUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "patched_difference": {
        "notice_lib.patching.reference": ("patch", "_patch_one", "patched_logits", "copied"),
        "notice_lib.patching.engine": ALL,
        "notice_lib.patching.blip_plan": ALL,
        "notice_lib.patching.decoder_plan": ALL,
        "notice_lib.patching.resume": ALL,
        "notice_lib.patching.recorded": ALL,
        "notice_lib.patching.attribution": ALL,
        "notice_lib.patching.queries": ALL,
        "notice_lib.patching.paths": ALL,
    },
    "three_parts": {"notice_lib.heads.content": ALL},
    "p_value": {
        "notice_lib.heads.statistics": ("sign_flip_test", "max_t_test", "_flips", "_signs"),
    },
}
"""By problem and module, the functions that do what the problem asks for."""
NEEDS_THE_WHOLE_LIBRARY = ("enough_needed",)
"""Problems that may use what another problem of their set must do without. Their answers come from
a second run of the notebook, and those of the others from the first."""
REFUSAL = "This problem is to be done by hand, without the library's function for it."
REFUSING = f"from notice_lib import NoticeError\nraise NoticeError({REFUSAL!r})"
SELF_CHECK = "notice_lib.patching.self_check"
PROVED = "model.checked = True\nreturn Check(0, 0.0, 0.0, 0.0, 0)"
"""A model proves itself by patches when it is loaded. Tests have proved the book's checkpoints."""


def write_library(problems: Iterable[str], place: Path) -> None:
    """Copy the library, without the code of what it refuses for these problems.

    The checks of the book's exercises are left out, since they compute what exercises ask for, and
    models are not checked when they are loaded, which takes seconds.
    """
    leave_out = shutil.ignore_patterns("__pycache__", "exercises")
    shutil.copytree(LIBRARY, place, ignore=leave_out)
    _rewrite(place, SELF_CHECK, ("verify",), PROVED)
    for problem in problems:
        for module, names in REFUSED.get(problem, {}).items():
            _rewrite(place, module, names, REFUSING)
    compile_dir(place, quiet=1)  # Submissions cannot keep what Python compiles behind the fence.


def _rewrite(place: Path, module: str, names: tuple[str, ...], body: str) -> None:
    """Give these functions of a module, or all with their methods, another body."""
    path = place.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (names == ALL or node.name in names):
            node.body = ast.parse(body).body
    path.write_text(ast.unparse(tree), encoding="utf-8")


@contextmanager
def refusing(problem: str | None) -> Iterator[None]:
    """Within this block the library of this process refuses what the problem is about.

    It is a closed door and not a wall: whoever saved a function before still has it.
    """
    with ExitStack() as stack:
        for name, names in REFUSED.get(problem, {}).items():
            module = import_module(name)
            for own in names or _functions(module):
                stack.enter_context(patch.object(module, own, _refuse))
        yield


def _functions(module) -> list[str]:
    return [
        name
        for name, one in vars(module).items()
        if isfunction(one) and one.__module__ == module.__name__
    ]


def _refuse(*_, **__):
    raise NoticeError(REFUSAL)
