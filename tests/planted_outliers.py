"""A small random BLIP whose vision tower has planted outliers, and what it was made from."""

import copy
from functools import cache
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch

from tools.training import loops, models, outliers, pool

AXIS = 5


@cache
def data():
    """The scenes by which the outliers are planted."""
    with TemporaryDirectory() as folder:
        return pool.load_pool(24, 23, models.BLIP_GRID, folder)


@cache
def pixels():
    return loops.to_tensor(torch.from_numpy(np.asarray(data().pixels)))


@cache
def processor():
    return models.build_blip_processor(pool.words())


@cache
def free():
    """A random model with a free axis, whose answers depend on what it reads."""
    torch.manual_seed(0)
    model = models.build_blip(processor().tokenizer).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name:
                parameter.mul_(5)
    outliers.free_axis(model.vision_model, AXIS)
    return model


@cache
def twin():
    """The model with planted outliers, its rule, and where they are: bool (n, 1 + patches)."""
    model = copy.deepcopy(free())
    states, given = outliers.read_last_layer(model.vision_model, pixels())
    weights = torch.zeros(models.HIDDEN, outliers.UNITS)
    weights[:, 0] = torch.randn(models.HIDDEN, generator=torch.Generator().manual_seed(30))
    ordered = (states.float() @ weights[:, 0]).flatten().sort().values
    # A threshold in the widest gap that leaves about four patches a picture above it.
    high = ordered[-5 * len(pixels()) : -3 * len(pixels())]
    gap = int(high.diff().argmax())
    middle, width = (high[gap] + high[gap + 1]) / 2, high[gap + 1] - high[gap]
    bias = torch.full((outliers.UNITS,), -1e3)
    bias[0] = -middle / width
    rule = outliers.Rule(weights / width, bias)
    outliers.plant(model.vision_model, AXIS, rule, states, given)
    return SimpleNamespace(model=model, rule=rule, fires=rule.score(states.float()) > 0)
