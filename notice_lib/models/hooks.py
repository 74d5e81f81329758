"""Reading and writing activations by forward hooks."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from ..errors import NoticeError

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class HookPoint:
    """Where a component's activation is read and written: a module's input or output.

    The activation is (1, T, width). Where `per_head`, head h holds the h-th of n_heads equal
    slices of the width: its output before the output projection.
    """

    module: torch.nn.Module
    on: Literal["input", "output"]
    per_head: bool


def hook(module: torch.nn.Module, on: str, visit):
    """Call `visit` with a module's first input or its output, a (batch, T, width) tensor; what it
    returns, if anything, replaces it.

    It comes before the module's other hooks: transformers registers some that keep a layer's output
    for later use (LLaVA reads its vision tower so), and they must get what `visit` returns. Of an
    output that is a tuple, such as a mixture of experts' with its router's logits, it is the first.

    Returns:
        The handle, a context manager that removes the hook.
    """

    def checked(activation):
        if isinstance(activation, tuple):
            first = checked(activation[0])
            return None if first is None else (first, *activation[1:])
        if isinstance(activation, torch.Tensor) and activation.dim() == 2:
            # A pooled (batch, width) vector through the same module, which no one reads.
            return None
        if not isinstance(activation, torch.Tensor) or activation.dim() != 3:
            raise NoticeError(
                f"{type(module).__name__} gave {type(activation).__name__}, not a (batch, T, "
                "width) tensor, so its activation cannot be patched."
            )
        return visit(activation)

    if on == "input":

        def before(module, args):
            changed = checked(args[0])
            return None if changed is None else (changed, *args[1:])

        return module.register_forward_pre_hook(before, prepend=True)
    return module.register_forward_hook(lambda module, args, output: checked(output), prepend=True)


@contextmanager
def watch(points: Mapping[Key, HookPoint]) -> Iterator[dict[Key, torch.Tensor]]:
    """Within this block, the activation at each point of each forward is kept under its key."""
    seen: dict[Key, torch.Tensor] = {}

    def keeper(key):
        def keep(activation):
            seen[key] = activation

        return keep

    with ExitStack() as stack:
        for key, point in points.items():
            stack.enter_context(hook(point.module, point.on, keeper(key)))
        yield seen
