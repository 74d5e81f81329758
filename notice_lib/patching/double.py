"""float64 throughout, to compare two ways of computing the same thing."""

import torch
from torch.overrides import TorchFunctionMode


class DoublePrecision(TorchFunctionMode):
    """Within this block, what asks torch for float32 gets float64.

    Hugging Face's norms, rotary embeddings and eager softmaxes compute in float32 on the way, also
    in a float64 model; a difference in the last bit of float64 now and then becomes one of 1e-7
    there. Without these casts, equal ways of computing agree to 1e-10. It concerns the thread that
    enters it alone.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.float:
            return torch.Tensor.double(*args, **kwargs)
        args = tuple(map(_doubled, args))
        return function(*args, **{name: _doubled(value) for name, value in kwargs.items()})


def _doubled(argument):
    return torch.float64 if argument is torch.float32 else argument
