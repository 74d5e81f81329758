"""The proof of a decoder's layers in float64: packed suffixes against each kind of layer itself.

Half precision would hide a mistake of the engine behind rounding. So one layer of each kind is
copied to float64 and run on a few tokens in both ways.
"""

from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from ..models.decoder import DecoderOnly
from ..models.inputs import Inputs
from ..models.text_model import text_config
from .double import DoublePrecision
from .interface import failed, own_function, own_mask
from .packed import Base, OwnMask, Recorder, Suffixes, WholeRuns, attending
from .recorded import LayerRun, closed, record

TOLERANCE = 1e-9
"""The largest allowed difference of a layer's outputs in float64, as a part of its largest
value."""
TOKENS = 24
"""How many of the last tokens of the image and of the text layers are proved on."""
ROUNDING = 4
"""Two experts are nearly tied if their router logits differ by at most so many units of
rounding."""


@torch.no_grad()
def prove_layers(
    model: DecoderOnly, inputs: Inputs, seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compare the engine with the model's layers, one of each kind, in float64 on a few tokens.

    Returns:
        The kinds that were proved, and those that could not be, with the reason.

    Raises:
        NoticeError: the engine's output of a layer differs from the layer's.
    """
    run = record(model, [inputs], [])
    tokens = _few_tokens(inputs)
    kinds = {_kind(layer): layer for layer in run.layers}
    proved, unproved = [], []
    for layer in kinds.values():
        name = type(layer.module).__name__
        try:
            difference, scale = _difference(model, layer, tokens, seed)
        except OwnMask:
            raise own_mask(model, layer.attention) from None
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            unproved.append(f"{name}: {str(error).splitlines()[0]}")
            continue
        if not difference <= TOLERANCE * scale:
            raise failed(
                model,
                f"in float64, outputs of {name} differ by {difference:.2g} between packed runs and "
                f"the layer as it is (its values are up to {scale:.2g})",
            )
        proved.append(name)
    return tuple(proved), tuple(unproved)


def _few_tokens(inputs: Inputs) -> torch.Tensor:
    """The last tokens of the image and the last tokens of the text, in order."""
    image = np.flatnonzero(inputs.image_tokens)[-TOKENS // 2 :]
    text = np.flatnonzero(~np.array(inputs.image_tokens))[-TOKENS // 2 :]
    return torch.from_numpy(np.sort(np.concatenate([image, text])))


def _kind(layer: LayerRun) -> tuple:
    """What distinguishes kinds of layers: classes, simple settings of the attention, and the
    mask."""
    simple = (bool, int, float, str, type(None))
    settings = tuple(
        (name, value)
        for name, value in sorted(vars(layer.attention).items())
        if isinstance(value, simple) and name != "layer_idx"
    )
    classes = tuple(type(module).__name__ for module in layer.module.modules())
    return classes, settings, id(layer.base.mask)


def _difference(model, layer: LayerRun, tokens: torch.Tensor, seed: int) -> tuple[float, float]:
    """(largest difference, largest value) of a layer's outputs by the engine and by the layer
    itself, in runs whose input is changed from some token on."""
    names = [name for name, module in layer.module.named_modules() if module is layer.attention]
    module = deepcopy(layer.module).double()
    for part in module.modules():  # transformers' other ways to run experts have no float64.
        config: Any = getattr(part, "config", None)
        if hasattr(config, "_experts_implementation_internal"):
            config._experts_implementation_internal = "eager"
    attention = module.get_submodule(names[0])
    mask = layer.base.mask.rows(tokens).columns(tokens)
    settings = {name: _double(value) for name, value in layer.settings_of(tokens, {}).items()}
    hidden = layer.input[:1, tokens].double()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(hidden.shape, generator=generator, dtype=torch.float64).to(hidden)
    changed = hidden + hidden.std() * noise
    starts = closed(mask).nonzero().flatten().tolist()
    starts = sorted({starts[0], starts[len(starts) // 2], starts[-1]})

    def call(hidden, settings, attend, given=None):
        with attending(attention, attend):
            output = module(hidden, attention_mask=given, past_key_values=None, **settings)
        return output[0] if isinstance(output, tuple) else output

    with DoublePrecision():
        recorder = Recorder(attention, own_function(model, attention), lambda: None)
        call(hidden, settings, recorder, mask.given())
        asked = recorder.asked
        base = Base(asked.keys, asked.values, mask, torch.float64, asked.output)
        suffixes = Suffixes(starts, len(tokens))
        rows = suffixes.tokens
        of_rows = layer.settings_of(tokens[rows], {})
        of_rows = {name: _double(value) for name, value in of_rows.items()}
        packed = call(changed[:, rows], of_rows, WholeRuns(base, suffixes))
        outputs = []
        for start in starts:
            mixed = torch.cat([hidden[:, :start], changed[:, start:]], 1)
            outputs.append(call(mixed, settings, recorder, mask.given())[:, start:])
        expected = torch.cat(outputs, 1)
    return (packed - expected).abs().max().item(), expected.abs().max().item()


def _double(value):
    """An argument with its floating-point numbers in float64."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(_double, value))
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if floating else value


@torch.no_grad()
def count_near_ties(model: DecoderOnly, inputs: Inputs) -> int:
    """How many tokens' last chosen expert and first unchosen one differ by no more than rounding.

    It counts every layer of a mixture of experts, and is 0 in other models.
    """
    config = text_config(model.model.config)
    chosen = getattr(config, "num_experts_per_tok", None)
    routers = [
        part
        for mlp in model.text.mlps
        for name, part in mlp.named_modules()
        if "router" in type(part).__name__.lower() or name == "gate"
    ]
    if not chosen or not routers:
        return 0
    ties = []

    def look(module, args, output):
        logits = output[0] if isinstance(output, tuple) else output
        best = logits.flatten(0, -2).float().topk(min(chosen + 1, logits.shape[-1])).values
        scale = torch.finfo(model.dtype).eps * best.abs().amax(-1)
        if best.shape[-1] > chosen:
            ties.append(int((best[:, chosen - 1] - best[:, chosen] <= ROUNDING * scale).sum()))

    with ExitStack() as stack:
        for router in routers:
            stack.enter_context(router.register_forward_hook(look))
        model.logits(inputs)
    return sum(ties)
