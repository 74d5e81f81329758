"""Tasks that are to be done by hand: the library's own functions are refused, hooks are counted."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from ..errors import NoticeError

_WAYS_TO_PATCH = (
    "notice_lib.patching.reference._patch_one",
    "notice_lib.patching.engine._plan",
)
_REGISTERS = ("register_forward_pre_hook", "register_forward_hook")


def _refuse(*_, **__):
    raise NoticeError("this is to be written by hand, with hooks, without the library's patches")


def _refuse_formula(*_, **__):
    raise NoticeError("this is to be worked out by hand, without the library's function for it")


@contextmanager
def without_fewest_scenes() -> Iterator[None]:
    """Within this block `heads.fewest_scenes` refuses, by whatever name it is called.

    It looks its logarithm up in its module, and nothing else does.
    """
    with patch("notice_lib.heads.decision.log2", _refuse_formula):
        yield


@contextmanager
def louder(module: torch.nn.Module) -> Iterator[None]:
    """Within this block a linear map writes more, so that what was stored before is wrong.

    What it reads stays the same, so an activation that was kept before is still right.
    """
    weight = module.get_parameter("weight")
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.5)
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


STORED = "with other weights this function gives another number than a sweep; patch at each call."


@contextmanager
def by_hand() -> Iterator[list[torch.nn.Module]]:
    """Within this block nothing patches but hooks; the list gets every module that is hooked."""
    hooked: list[torch.nn.Module] = []

    def noting(register):
        def noted(module, *given, **named):
            hooked.append(module)
            return register(module, *given, **named)

        return noted

    with ExitStack() as stack:
        for way in _WAYS_TO_PATCH:
            stack.enter_context(patch(way, _refuse))
        for name in _REGISTERS:
            register = noting(getattr(torch.nn.Module, name))
            stack.enter_context(patch.object(torch.nn.Module, name, register))
        yield hooked
