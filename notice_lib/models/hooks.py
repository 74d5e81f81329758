"""Reading and writing activations with forward hooks."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from ..errors import NoticeError

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class HookPoint:
    """Where a component's activation (1, T, width) is read and written.

    Attributes:
        module, on: the activation is this module's first input, or its output.
        per_head: whether it consists of n_heads equal slices of the width, the h-th of which is
            head h's output before the output projection.
    """

    module: torch.nn.Module
    on: Literal["input", "output"]
    per_head: bool


def hook(module: torch.nn.Module, on: str, visit):
    """Call `visit` with a module's first input or its output, a (batch, T, width) tensor.

    If `visit` returns a tensor, this replaces the activation. Of an output that is a tuple, such as
    a mixture of experts' with its router's logits, the activation is the first element.

    The hook comes before the module's other hooks. transformers registers some that keep a layer's
    output for later use (LLaVA reads its vision tower that way), and they must get what `visit`
    returns.

    Returns:
        The hook's handle, a context manager that removes it.

    Raises:
        NoticeError: when the module runs, if its activation is no such tensor.
    """

    def checked(activation):
        if isinstance(activation, tuple):
            first = checked(activation[0])
            return None if first is None else (first, *activation[1:])
        if isinstance(activation, torch.Tensor) and activation.dim() == 2:
            # A pooled (batch, width) vector, which passes the same module and is not used.
            return None
        if not isinstance(activation, torch.Tensor) or activation.dim() != 3:
            raise NoticeError(
                f"The {on} of {type(module).__name__} is a {type(activation).__name__}, not a "
                "(batch, T, width) tensor, so it cannot be patched. Patch another component."
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
    """Within this block, the last activation at each point is kept under the point's key."""
    seen: dict[Key, torch.Tensor] = {}

    def keeper(key):
        def keep(activation):
            seen[key] = activation

        return keep

    with ExitStack() as stack:
        for key, point in points.items():
            stack.enter_context(hook(point.module, point.on, keeper(key)))
        yield seen
