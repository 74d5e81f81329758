"""float64 in every step, to compare two ways of computing the same thing."""

import torch
from torch.overrides import TorchFunctionMode


class DoublePrecision(TorchFunctionMode):
    """Within this block, calls that ask torch for float32 get float64.

    Hugging Face's norms, rotary embeddings and eager softmaxes cast to float32 even in a float64
    model, and there a difference in the last bit of float64 can become one of 1e-7. Without these
    casts, two equal ways of computing agree to 1e-10. Only the thread that enters the block is
    concerned.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.float:
            return torch.Tensor.double(*args, **kwargs)
        args = tuple(map(_doubled, args))
        return function(*args, **{name: _doubled(value) for name, value in kwargs.items()})


def _doubled(argument):
    return torch.float64 if argument is torch.float32 else argument
