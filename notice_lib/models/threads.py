"""How many threads a model computes on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 20_000_000
"""Parameters up to which a model is small: one of its layers takes less time than waking another
thread, and on a busy machine threads that wait for each other take 20 to 40 times as long."""


@contextmanager
def threads_for(model: torch.nn.Module) -> Iterator[None]:
    """Within this block, a small model on the CPU computes on one thread.

    The number of threads is this Python thread's, as `torch.set_num_threads` has it, and is put
    back afterwards. Large models and models on a GPU keep it as it is.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not _is_small(model):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_small(model: torch.nn.Module) -> bool:
    total = 0
    for parameter in model.parameters():
        total += parameter.numel()
        if total > SMALL or parameter.device.type != "cpu":
            return False
    return True
