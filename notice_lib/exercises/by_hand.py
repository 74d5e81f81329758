"""Tasks that are to be done by hand: the library's own functions are refused, hooks are counted."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
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


def _refuse_itself(*_, **__):
    from notice_lib.errors import NoticeError  # It runs in the module of another function.

    raise NoticeError("this is to be worked out by hand, without the library's function for it")


@contextmanager
def without(function: Callable) -> Iterator[None]:
    """Within this block a function of the library refuses to work, whoever calls it."""
    assert isinstance(function, FunctionType)
    code = function.__code__
    function.__code__ = _refuse_itself.__code__
    try:
        yield
    finally:
        function.__code__ = code


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
