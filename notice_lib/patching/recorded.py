"""The unpatched runs of a decoder-only model, kept so that patched runs can resume in them.

A base run is the model's own forward, with hooks: what each layer was given, its keys and values,
and what it gave. A patched run resumes at its lowest patched layer, at the first patched token p or
before it: at a token of which no earlier one sees anything, in this layer and all above, so that
none of them ever changes. Where that is so is read from the attention masks that the base run
really had. Causal models share everything before p; where a block of tokens sees itself in both
directions (PaliGemma's prefix, Gemma 3's image), runs start at its first token or behind it.

What the engine does not know is refused by name. Shapes: P pairs of one layout, T tokens, width D.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature, unwrap
from itertools import pairwise

import torch
from torch.overrides import TorchFunctionMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import NoticeError
from ..models.base import Inputs
from ..models.decoder import DecoderOnly
from ..models.hooks import HookPoint, hook, watch
from .jobs import Activations
from .packed import Asked, Base, Mask, Recorder, attending, unknown_arguments
from .resume import Entry

TOKEN_DIMENSION = {"position_embeddings": -2, "position_ids": -1, "cache_position": -1}
"""The tokens' dimension in each argument of a layer that tells something of every token."""


@dataclass(frozen=True)
class LayerRun:
    """One layer in the base runs.

    Attributes:
        module, attention: the layer, and its attention.
        input, output: (P, T, D)
        settings: the keyword arguments without mask and cache.
        base: what its attention takes from the base runs.
    """

    module: torch.nn.Module
    attention: torch.nn.Module
    input: torch.Tensor
    output: torch.Tensor
    settings: dict
    base: Base

    def settings_of(self, tokens: torch.Tensor, known: dict) -> dict:
        """The keyword arguments for rows that carry these tokens.

        Args:
            known: what was cut for them before: layers share most of their arguments.
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
        starts: for each layer and token, the last token up to it at which runs from that layer may
            start.
        tower: the vision tower's inputs at the layers where patched runs start.
        activations: of all points that are patched.
        logits: (P, vocabulary)
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
        """T"""
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
        points: whose activations are kept.
        tower: modules of the vision tower whose inputs are kept.

    Raises:
        NoticeError: the model does something between, in or behind its layers that this engine
            does not know.
    """
    layers, tower = model.text.layers, tower or {}
    _refuse_compiled(model)
    calls, outputs, recorders = {}, {}, {}
    counting = _Counting()
    with ExitStack() as stack:
        for index, (layer, attention) in enumerate(zip(layers, model.text.attentions, strict=True)):

            def listen(module, args, kwargs, index=index):
                names = signature(module.forward).parameters
                calls[index] = dict(zip(names, args, strict=False)) | kwargs

            def keep(output, index=index):
                outputs[index] = output

            def begin(module, args):
                counting.within = module

            stack.enter_context(layer.register_forward_pre_hook(listen, with_kwargs=True))
            stack.enter_context(hook(layer, "output", keep))
            stack.enter_context(attention.register_forward_pre_hook(begin))
            recorder = Recorder(attention, own_function(model, attention), counting.end)
            recorders[index] = recorder, stack.enter_context(attending(attention, recorder))
        seen = stack.enter_context(
            watch(
                {point: model.hook_point(*point) for point in points}
                | {key: HookPoint(module, "input", False) for key, module in tower.items()}
                | ({"tower": HookPoint(model.tower_layers[-1], "output", False)} if tower else {})
            )
        )
        with counting:
            logits = model.batch_logits(runs, prefix)
    if counting.found:
        raise unknown(
            model,
            f"{counting.found} counts the rows it is given (torch.arange), and packed rows are not "
            "tokens in order",
        )
    masks: dict[Hashable, Mask] = {}  # Layers of one kind are given the same mask.
    found = []
    for index, (recorder, task) in recorders.items():
        check_calls(model, recorder.attention, task.calls)
        eager = implementation(recorder.attention) == "eager"
        base = _base(model, recorder, eager, masks)
        settings = _settings(model, index, calls[index])
        hidden = settings.pop(next(iter(signature(layers[index].forward).parameters)))
        found.append(
            LayerRun(layers[index], recorder.attention, hidden, outputs[index], settings, base)
        )
    _check_path(model, found)
    unembed = model.unembedding(found[-1].output[:, -1], logits)
    if unembed is None:
        raise unknown(
            model,
            "its logits are not those of its last layer's output through the final norm and head, "
            "scaled or capped as its configuration says",
        )
    if tower:
        _check_image(model, runs, seen["tower"], found[0].input)
    activations = {point: seen[point] for point in points}
    states = {key: seen[key] for key in tower}
    return Run(found, _starts(model, found), states, activations, logits, unembed)


def unknown(model: DecoderOnly, why: str) -> NoticeError:
    """Of a model that this engine does not understand."""
    return NoticeError(
        f"{model.name or 'This model'} cannot be run by parts: {why}. Load it with "
        'load_model(..., engine="reference"), which runs one full forward for each site; it is '
        "exact, and slower."
    )


def own_mask(model, attention: torch.nn.Module) -> NoticeError:
    """Of an attention that makes a mask where it is given none."""
    return unknown(model, f"{type(attention).__name__} makes an attention mask of its own")


def _refuse_compiled(model) -> None:
    """Compiled code is called without the hooks and attention functions that are exchanged here."""
    modules = (model.model, *model.text.layers, *model.text.attentions)
    if any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in modules
    ):
        raise unknown(model, "it is compiled (torch.compile)")


def not_heads(model, layer: int) -> str:
    """Why the heads of a layer cannot be patched one by one."""
    return (
        f"what enters the output projection of {type(model.text.attentions[layer]).__name__} is "
        f"not its {model.n_heads} heads side by side, so heads cannot be patched one by one."
    )


def implementation(attention: torch.nn.Module) -> str | None:
    """The name of the attention function that a module runs with."""
    return getattr(getattr(attention, "config", None), "_attn_implementation", None)


def own_function(model, attention: torch.nn.Module) -> Callable:
    """The attention function of transformers that a module calls.

    Eager ones are no part of transformers' interface: each model's file has its own.
    """
    name, kind = implementation(attention), type(attention).__name__
    forward = unwrap(type(attention).forward)
    if name == "sdpa":
        return forward.__globals__.get("ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)["sdpa"]
    if name != "eager":
        raise unknown(model, f"{kind} runs with {name or 'no'} attention, not with eager or sdpa")
    named = [used for used in forward.__code__.co_names if used.startswith("eager_")]
    if len(named) != 1:
        raise unknown(model, f"{kind} does not use transformers' attention interface")
    return forward.__globals__[named[0]]


def check_calls(model, attention: torch.nn.Module, calls: int) -> None:
    """Refuse a layer whose attention did not go through its function just once."""
    if calls != 1:
        raise unknown(
            model,
            f"{type(attention).__name__} called transformers' attention interface {calls} times "
            "in one layer, and not once",
        )


def _base(model, recorder: Recorder, eager: bool, masks: dict[Hashable, Mask]) -> Base:
    """What a layer's attention was given, if it is all known."""
    asked, attention = recorder.asked, recorder.attention
    unknown_ones = unknown_arguments(asked.arguments)
    if unknown_ones:
        raise unknown(
            model,
            f"{type(attention).__name__} gives its attention {', '.join(unknown_ones)}, which this "
            "engine does not know",
        )
    # What sdpa does without a mask: what the call says, else the module, else causal.
    causal = asked.arguments.get("is_causal")
    causal = getattr(attention, "is_causal", True) if causal is None else causal
    key = id(asked.mask) if asked.mask is not None else ("none", not eager and causal)
    if key not in masks:
        masks[key] = _mask(model, asked, causal=not eager and causal)
    states = asked.keys
    precision = torch.float32 if eager else torch.promote_types(states.dtype, torch.float32)
    return Base(states, asked.values, masks[key], precision, asked.output)


def _mask(model, asked: Asked, causal: bool) -> Mask:
    mask, length = asked.mask, asked.keys.shape[2]
    if mask is None:
        shape, device = (1, 1, length, length), asked.keys.device
        everything = torch.ones(shape, dtype=torch.bool, device=device)
        return Mask(everything.triu(1) if causal else ~everything)
    if not isinstance(mask, torch.Tensor) or mask.dim() != 4 or mask.shape[-2:] != (length, length):
        found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise unknown(
            model, f"a layer needs a {length} x {length} attention mask and gets one of {found}"
        )
    return Mask.of(mask)


def _settings(model, index: int, call: dict) -> dict:
    """A layer's arguments, if of all of them any tokens' part can be taken."""
    hidden = next(iter(call.values()))
    settings = {
        name: value
        for name, value in call.items()
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
            f"layer {index} is given {', '.join(strange)}, of which is not known how they belong "
            "to tokens",
        )
    return settings


def _parts(value) -> Sequence[torch.Tensor]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _is_plain(value) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_known(name: str, value, length: int) -> bool:
    """Whether an argument says nothing of tokens, or is known to say something of each."""
    return _is_plain(value) or (
        name in TOKEN_DIMENSION
        and all(
            isinstance(part, torch.Tensor) and part.shape[TOKEN_DIMENSION[name]] == length
            for part in _parts(value)
        )
    )


def _rows(name: str, value, tokens: torch.Tensor):
    """An argument for rows that carry these tokens."""
    if _is_plain(value):
        return value
    parts = [
        part.index_select(part.dim() + TOKEN_DIMENSION[name], tokens.to(part.device))
        for part in _parts(value)
    ]
    return type(value)(parts) if isinstance(value, (tuple, list)) else parts[0]


def _check_path(model: DecoderOnly, layers: Sequence[LayerRun]) -> None:
    """Refuse a model that is more than its layers, one after the other."""
    for index, (layer, above) in enumerate(pairwise(layers)):
        if not torch.equal(layer.output.to(above.input.device), above.input):
            raise unknown(model, f"its hidden states change between layers {index} and {index + 1}")


def _check_image(model, runs: Sequence[Inputs], tower: torch.Tensor, first: torch.Tensor) -> None:
    """Refuse to patch the tower of a model that does more to its states than `image_states`.

    Args:
        tower: (P, class token + patches, D_v) the output of its last layer.
        first: (P, T, D) what enters the text's first layer.
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
    """Notes which attention module makes a tensor of positions before it attends.

    Attributes:
        within: the module that runs, from its start to its attention function.
        found: the class of one that counted.
    """

    within: torch.nn.Module | None = None
    found: str = ""

    def end(self) -> None:
        """The module has come to its attention function."""
        self.within = None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.arange and self.within is not None:
            self.found = type(self.within).__name__
        return function(*args, **(kwargs or {}))


def _starts(model: DecoderOnly, layers: Sequence[LayerRun]) -> list[list[int]]:
    """For each layer and token, the last token up to it at which runs may start: of which no token
    before it sees anything, in this layer and all above."""
    allowed, starts, known = None, [], {}
    for layer in reversed(layers):
        mask = layer.base.mask
        if id(mask) not in known:
            if mask.hidden.all(-1).any():
                raise unknown(model, "some of its tokens see no token at all")
            known[id(mask)] = closed(mask)
        own = known[id(mask)]
        allowed = own if allowed is None else allowed & own
        tokens = torch.arange(len(allowed))
        starts.append(torch.where(allowed, tokens, 0).cummax(0).values.tolist())
    return starts[::-1]


def closed(mask: Mask) -> torch.Tensor:
    """(T,): whether the tokens before each see only one another."""
    seen = (~mask.hidden).flatten(0, 1).any(0).cpu()
    tokens = torch.arange(len(seen))
    reach = torch.where(seen, tokens + 1, 0).amax(1).cummax(0).values
    return torch.cat([torch.zeros(1, dtype=reach.dtype), reach[:-1]]) <= tokens
