"""The unpatched runs of a decoder-only model, kept so that patched runs can resume in them.

A base run is the model's usual forward. Hooks keep what each layer was given, its keys and values,
and what it gave. A patched run resumes at its lowest patched layer, and at the last token up to the
first patched one where no earlier token sees this token or a later one, in this layer and all
above. Then no earlier token ever changes. Which tokens these are is read from the attention masks
that the base run really had. In causal models a run starts at its first patched token. If a block
of tokens sees itself in both directions (PaliGemma's prefix, Gemma 3's image), runs start at the
block's first token or after the block.

A model that does something the engine does not know is refused, and the message names it. Shapes: P
pairs of one layout, T tokens, width D.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..models.decoder import DecoderOnly
from ..models.hooks import HookPoint, hook, watch
from ..models.inputs import Inputs
from .interface import check_calls, implementation, own_function, refuse_compiled, unknown
from .jobs import Activations
from .packed import Asked, Base, Mask, Recorder, attending, unknown_arguments
from .resume import Entry

TOKEN_DIMENSION = {"position_embeddings": -2, "position_ids": -1, "cache_position": -1}
"""Arguments of a layer that have a value for each token, and the dimension of the tokens."""


@dataclass(frozen=True)
class LayerRun:
    """One layer in the base runs.

    Attributes:
        module, attention: the layer and its attention.
        input, output: the hidden states before and after it, (P, T, D).
        settings: its further arguments, without the mask and the cache.
        base: what attention in patched runs takes from the base runs.
    """

    module: torch.nn.Module
    attention: torch.nn.Module
    input: torch.Tensor
    output: torch.Tensor
    settings: dict
    base: Base

    def settings_of(self, tokens: torch.Tensor, known: dict) -> dict:
        """The further arguments for rows that carry these tokens.

        Args:
            known: those that were made for these rows before, since layers share most of them.
        """
        for name, value in self.settings.items():
            if id(value) not in known:
                known[id(value)] = _rows(name, value, tokens)
        return {name: known[id(value)] for name, value in self.settings.items()}


@dataclass(frozen=True)
class Run:
    """Unpatched runs of P pairs.

    Attributes:
        layers: of the text stack.
        starts: for each layer and token, the last token up to this one at which a run that resumes
            in this layer may start.
        tower: the inputs of those of the tower's layers at which patched runs resume.
        activations: at all points that are patched.
        logits: of the answer's next token, (P, vocabulary).
        unembed: from the last layer's outputs (..., D) to logits (..., vocabulary).
    """

    layers: list[LayerRun]
    starts: list[list[int]]
    tower: dict[Entry, torch.Tensor]
    activations: Activations
    logits: torch.Tensor
    unembed: Callable[[torch.Tensor], torch.Tensor]

    @property
    def length(self) -> int:
        """The number of tokens, T."""
        return self.layers[0].input.shape[1]


def record(
    model: DecoderOnly,
    runs: Sequence[Inputs],
    points: Iterable[tuple[str, int]],
    prefix: tuple[int, ...] = (),
    tower: Mapping[Entry, torch.nn.Module] | None = None,
) -> Run:
    """Unpatched runs of one layout, in one forward.

    Args:
        points: components and layers whose activations are kept.
        tower: modules of the vision tower whose inputs are kept.

    Raises:
        NoticeError: the model does something between, in or after its layers that this engine
            does not know.
    """
    refuse_compiled(model)
    points, tower = list(points), tower or {}
    watched: dict[Any, HookPoint] = {point: model.hook_point(*point) for point in points}
    watched |= {key: HookPoint(module, "input", False) for key, module in tower.items()}
    if tower:
        watched["tower"] = HookPoint(model.tower_layers[-1], "output", False)
    counting = _Counting()
    with _calls(model, counting) as calls, watch(watched) as seen, counting:
        logits = model.batch_logits(runs, prefix)
    if counting.found:
        raise unknown(
            model,
            f"{counting.found} counts the rows it is given (torch.arange), and packed rows are not "
            "tokens in order",
        )
    masks: dict[Hashable, Mask] = {}  # Layers of one kind are given the same mask.
    layers = [_layer_run(model, call, masks) for call in calls]
    _check_path(model, layers)
    unembed = model.unembedding(layers[-1].output[:, -1], logits)
    if unembed is None:
        raise unknown(
            model,
            "its logits are not those of its last layer's output through the final norm and head, "
            "scaled or capped as its configuration says",
        )
    if tower:
        _check_image(model, runs, seen["tower"], layers[0].input)
    states = {key: seen[key] for key in tower}
    activations = {point: seen[point] for point in points}
    return Run(layers, _starts(model, layers), states, activations, logits, unembed)


class _Call:
    """What one layer was given in the base runs, and what it gave.

    Attributes:
        arguments: of the layer, by name; the first are its hidden states.
        output: (P, T, D)
        recorder: what its attention was given.
        attention_calls: how often transformers' attention interface was called.
    """

    arguments: dict
    output: torch.Tensor
    attention_calls: int

    def __init__(self, index: int, layer: torch.nn.Module, recorder: Recorder):
        self.index, self.layer, self.recorder = index, layer, recorder

    def listen(self, module, args, kwargs) -> None:
        names = signature(module.forward).parameters
        self.arguments = dict(zip(names, args, strict=False)) | kwargs

    def keep(self, output) -> None:
        self.output = output


@contextmanager
def _calls(model: DecoderOnly, counting: "_Counting") -> Iterator[list[_Call]]:
    """Within this block, what each layer of the text stack is given and gives is kept."""
    calls, tasks = [], []
    with ExitStack() as stack:
        for index, layer in enumerate(model.text.layers):
            attention = model.text.attentions[index]
            recorder = Recorder(attention, own_function(model, attention), counting.end)
            call = _Call(index, layer, recorder)
            stack.enter_context(layer.register_forward_pre_hook(call.listen, with_kwargs=True))
            stack.enter_context(hook(layer, "output", call.keep))
            stack.enter_context(attention.register_forward_pre_hook(counting.begin))
            tasks.append(stack.enter_context(attending(attention, recorder)))
            calls.append(call)
        yield calls
    for call, task in zip(calls, tasks, strict=True):
        call.attention_calls = task.calls


def _layer_run(model: DecoderOnly, call: _Call, masks: dict[Hashable, Mask]) -> LayerRun:
    """One layer's run, if this engine knows all that it was given."""
    attention = call.recorder.attention
    check_calls(model, attention, call.attention_calls)
    base = _base(model, call.recorder, masks)
    settings = _settings(model, call)
    hidden = settings.pop(next(iter(signature(call.layer.forward).parameters)))
    return LayerRun(call.layer, attention, hidden, call.output, settings, base)


def are_heads_side_by_side(run: Run, layer: int) -> bool:
    """Whether a layer's output projection reads just the heads' outputs, one beside the other.

    The run's activations must include the layer's "self_attention".
    """
    heads = run.layers[layer].base.output.flatten(2)
    entering = run.activations["self_attention", layer]
    return heads.shape == entering.shape and torch.equal(heads, entering)


def _base(model, recorder: Recorder, masks: dict[Hashable, Mask]) -> Base:
    """What patched runs take from a layer's attention, if all that it was given is known."""
    asked, attention = recorder.asked, recorder.attention
    eager = implementation(attention) == "eager"
    unknown_ones = unknown_arguments(asked.arguments)
    if unknown_ones:
        raise unknown(
            model,
            f"{type(attention).__name__} gives its attention {', '.join(unknown_ones)}, which this "
            "engine does not know",
        )
    # Without a mask, sdpa is causal if the call says so, else if the module does, else always.
    causal = asked.arguments.get("is_causal")
    causal = getattr(attention, "is_causal", True) if causal is None else causal
    key = id(asked.mask) if asked.mask is not None else ("none", not eager and causal)
    if key not in masks:
        masks[key] = _mask(model, asked, causal=not eager and causal)
    dtype = asked.keys.dtype
    precision = torch.float32 if eager else torch.promote_types(dtype, torch.float32)
    return Base(asked.keys, asked.values, masks[key], precision, asked.output)


def _mask(model, asked: Asked, causal: bool) -> Mask:
    mask, length = asked.mask, asked.keys.shape[2]
    if mask is None:
        shape, device = (1, 1, length, length), asked.keys.device
        everything = torch.ones(shape, dtype=torch.bool, device=device)
        return Mask(everything.triu(1) if causal else ~everything)
    if not isinstance(mask, torch.Tensor) or mask.dim() != 4 or mask.shape[-2:] != (length, length):
        given = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise unknown(
            model, f"a layer needs a {length} x {length} attention mask and gets one of {given}"
        )
    return Mask.of(mask)


def _settings(model, call: _Call) -> dict:
    """A layer's arguments, if each can be cut to some of the tokens."""
    hidden = next(iter(call.arguments.values()))
    settings = {
        name: value
        for name, value in call.arguments.items()
        if name not in ("attention_mask", "past_key_values")
    }
    strange = [
        name
        for name, value in settings.items()
        if value is not hidden and not _is_known(name, value, hidden.shape[1])
    ]
    if strange:
        raise unknown(
            model,
            f"layer {call.index} is given {', '.join(strange)}, and how its values belong to "
            "tokens is unknown",
        )
    return settings


def _parts(value) -> Sequence[torch.Tensor]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _is_plain(value) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_known(name: str, value, length: int) -> bool:
    """Whether an argument does not depend on tokens, or is known to have a value for each."""
    return _is_plain(value) or (
        name in TOKEN_DIMENSION
        and all(
            isinstance(part, torch.Tensor) and part.shape[TOKEN_DIMENSION[name]] == length
            for part in _parts(value)
        )
    )


def _rows(name: str, value, tokens: torch.Tensor):
    """A layer's argument for rows that carry these tokens."""
    if _is_plain(value):
        return value
    parts = [
        part.index_select(part.dim() + TOKEN_DIMENSION[name], tokens.to(part.device))
        for part in _parts(value)
    ]
    return type(value)(parts) if isinstance(value, (tuple, list)) else parts[0]


def _check_path(model: DecoderOnly, layers: Sequence[LayerRun]) -> None:
    """Refuse a model that changes the hidden states between its layers."""
    for index, (layer, above) in enumerate(pairwise(layers)):
        if not torch.equal(layer.output.to(above.input.device), above.input):
            raise unknown(model, f"its hidden states change between layers {index} and {index + 1}")


def _check_image(model, runs: Sequence[Inputs], tower: torch.Tensor, first: torch.Tensor) -> None:
    """Refuse to patch the tower of a model that does more to its states than `image_states`.

    Args:
        tower: the output of its last layer, (P, class token + patches, D_v).
        first: the input of the text's first layer, (P, T, D).
    """
    with model.noise(runs):
        expected = model.image_states(tower).to(first)
    image = first[:, : len(runs[0])][:, list(runs[0].image_tokens)]
    if not torch.allclose(image, expected, rtol=0.01, atol=1e-4):
        raise unknown(
            model,
            "the image's states are changed between its projector and its first layer, so its "
            "vision tower cannot be patched",
        )


class _Counting(TorchFunctionMode):
    """Notes an attention module that makes a tensor of positions before it attends.

    Attributes:
        within: the attention module that runs but has not reached its attention function yet.
        found: the class of a module that made such a tensor; empty if none did.
    """

    within: torch.nn.Module | None = None
    found: str = ""

    def begin(self, module, args) -> None:
        """To be called when an attention module is entered."""
        self.within = module

    def end(self) -> None:
        """To be called when it has reached its attention function."""
        self.within = None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.arange and self.within is not None:
            self.found = type(self.within).__name__
        return function(*args, **(kwargs or {}))


def _starts(model: DecoderOnly, layers: Sequence[LayerRun]) -> list[list[int]]:
    """As `Run.starts`: at such a token, no earlier one sees it or a later one, in this layer and
    all above."""
    allowed, starts, known = None, [], {}
    for layer in reversed(layers):
        mask = layer.base.mask
        if id(mask) not in known:
            if mask.hidden.all(-1).any():
                raise unknown(model, "some of its tokens see no token at all")
            known[id(mask)] = closed(mask)
        here = known[id(mask)]
        allowed = here if allowed is None else allowed & here
        tokens = torch.arange(len(allowed))
        starts.append(torch.where(allowed, tokens, 0).cummax(0).values.tolist())
    return starts[::-1]


def closed(mask: Mask) -> torch.Tensor:
    """(T,) booleans: whether the tokens before each token see only one another."""
    seen = (~mask.hidden).flatten(0, 1).any(0).cpu()
    tokens = torch.arange(len(seen))
    reach = torch.where(seen, tokens + 1, 0).amax(1).cummax(0).values
    return torch.cat([torch.zeros(1, dtype=reach.dtype), reach[:-1]]) <= tokens
