"""Attention knockout: a head stops attending to some of the image's patches.

The scores of a cut are set to minus infinity before the softmax, so the attention to these patches
is zero and the rest is renormalised. Everything else is computed as in the unmodified model.
`cut_logits` is one full forward; `cut_jobs` lets an engine run the cuts of many heads at once.

Source: Geva et al., "Dissecting Recall of Factual Associations" (2023), attention knockout.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import BoundArguments, signature

import torch

from ..errors import NoticeError
from ..models.base import VLM
from ..models.inputs import AnswerTokens, Inputs
from .jobs import Job
from .paths import frozen
from .reference import record
from .sites import Intervention, PlacedSite

MASKED = ("eager", "sdpa")
"""Implementations of attention that add a mask of their own shape for each head."""


@dataclass(frozen=True)
class Cut:
    """What one head no longer attends to.

    Attributes:
        layer, head: the head, of the component that reads the image (`VLM.image_component`).
        tokens: indices of the text stack's tokens whose attention is cut.
        patches: indices of the image's patches, from 0, row by row.
    """

    layer: int
    head: int
    tokens: tuple[int, ...]
    patches: tuple[int, ...]


@torch.no_grad()
def cut_logits(
    model: VLM, inputs: Inputs, cuts: Iterable[Cut], prefix: tuple[int, ...] = ()
) -> torch.Tensor:
    """(vocabulary,) logits of the answer's next token after `prefix`, with all `cuts` at once.

    Raises:
        NoticeError: as `knockout`.
    """
    with knockout(model, inputs, cuts):
        return model.logits(inputs, prefix)


@contextmanager
def knockout(model: VLM, inputs: Inputs, cuts: Iterable[Cut]) -> Iterator[None]:
    """Within this block, full forwards of `inputs` have all `cuts`; the model is this thread's.

    A cut of no tokens or of no patches changes nothing.

    Raises:
        NoticeError: the model has no such layer, head, token or patch; its attention takes no mask
            for each head, or does not obey it; a token would be left with nothing to attend to;
            a cut was never reached.
    """
    layers: dict[int, list[Cut]] = {}
    for cut in cuts:
        _check(model, inputs, cut)
        if cut.tokens and cut.patches:
            layers.setdefault(cut.layer, []).append(cut)
    reached: set[int] = set()
    with ExitStack() as stack:
        stack.enter_context(model.computing())
        for layer, own in layers.items():
            module = model.attention_modules[layer]

            def mask(module, args, kwargs, layer=layer, own=own):
                reached.add(layer)
                return _masked(model, inputs, own, module, args, kwargs)

            def check(module, args, output, own=own):
                _check_obeyed(model, inputs, own, output)

            stack.enter_context(module.register_forward_pre_hook(mask, with_kwargs=True))
            stack.enter_context(module.register_forward_hook(check))
        yield
    if set(layers) - reached:
        raise NoticeError(
            f"Nothing was cut in layers {sorted(set(layers) - reached)}: their attention was never "
            "called. Run the model within the block."
        )


def cut_jobs(
    model: VLM,
    inputs: Inputs,
    answer: AnswerTokens,
    heads: Iterable[tuple[int, int]],
    tokens: tuple[int, ...],
    areas: Iterable[tuple[int, ...]],
) -> list[Job]:
    """For each area of patches a job whose patched runs cut it from one head each.

    What a head gives depends on its layer's input alone, and no cut reaches back to that. So one
    forward with every head cut, in which each layer still passes on what it gives uncut, says what
    each head gives when it is the only one; patching that in is the cut.

    Args:
        heads: (layer, head) of each.
        tokens, areas: as in `Cut`; none of them empty.

    Raises:
        NoticeError: as `knockout`.
    """
    heads, component = list(heads), model.image_component
    points = {(component, layer) for layer, _ in heads}
    _, uncut = record(model, inputs, points, answer.prefix)
    sites = (PlacedSite(component, *head, tokens, "") for head in heads)
    interventions = tuple(Intervention((site,)) for site in sites)
    jobs = []
    for area in areas:
        cuts = [Cut(layer, head, tokens, area) for layer, head in heads]
        with knockout(model, inputs, cuts), frozen(model, uncut) as cut:
            model.logits(inputs, answer.prefix)
        without_prefix = {at: given[:, : len(inputs)] for at, given in cut.items()}
        jobs.append(Job(inputs, without_prefix, interventions, answer))
    return jobs


def patch_keys(model: VLM, inputs: Inputs, keys: int) -> torch.Tensor:
    """(patches,) which of an attention's keys are the image's patches, in their order."""
    if any(inputs.image_tokens):
        keys = len(inputs)  # The tokens of an answer's prefix come after the run's own.
    return model.image_attention(torch.arange(keys), inputs)[0]


def _check(model: VLM, inputs: Inputs, cut: Cut) -> None:
    limits = {
        "layer": (model.n_layers, [cut.layer]),
        "head": (model.n_heads, [cut.head]),
        "token": (len(inputs), cut.tokens),
    }
    for name, (size, indices) in limits.items():
        wrong = [index for index in indices if not 0 <= index < size]
        if wrong:
            raise NoticeError(
                f"{cut}: there is no {name} {wrong[0]}; {name}s go from 0 to {size - 1}."
            )


def _masked(model: VLM, inputs: Inputs, cuts: Sequence[Cut], module, args, kwargs):
    """The arguments of one call of an attention, with the cuts in its mask."""
    call = _bound(model, module, args, kwargs)
    states, image = call.arguments["hidden_states"], call.arguments.get("encoder_hidden_states")
    name = "attention_mask" if image is None else "encoder_attention_mask"
    _check_takes(model, module, name)
    keys = (states if image is None else image).shape[1]
    mask = _explicit(model, module, call.arguments.get(name), states, keys, image is None)
    patches = patch_keys(model, inputs, keys)
    for cut in cuts:
        wrong = [patch for patch in cut.patches if not 0 <= patch < len(patches)]
        if wrong:
            raise NoticeError(
                f"{cut}: there is no patch {wrong[0]}; the image has {len(patches)} patches."
            )
        _cut_out(mask, cut, patches[list(cut.patches)].to(mask.device))
    call.arguments[name] = mask
    return call.args, call.kwargs


def _bound(model: VLM, module, args: tuple, kwargs: Mapping) -> BoundArguments:
    call = signature(module.forward).bind(*args, **kwargs)
    if "hidden_states" not in call.arguments:
        raise _refusal(model, f"{type(module).__name__} takes no hidden_states by name")
    return call


def _check_takes(model: VLM, module, name: str) -> None:
    way = _implementation(module)
    if name not in signature(module.forward).parameters:
        raise _refusal(model, f"{type(module).__name__} takes no {name}")
    if way not in MASKED:
        raise _refusal(model, f'it was loaded with attention="{way}", which takes no such mask')


def _explicit(
    model: VLM, module, mask: torch.Tensor | None, states: torch.Tensor, keys: int, is_self: bool
) -> torch.Tensor:
    """The mask of a call as a tensor (runs, heads, tokens, keys) that may be written to.

    It is added to the scores, or boolean: true where a token attends. Without a mask, sdpa lets
    self-attention see what comes before.
    """
    shape = (-1, model.n_heads, states.shape[1], keys)
    if mask is None:
        mask = states.new_ones((1, 1, *shape[2:]), dtype=torch.bool)
        if is_self and _implementation(module) == "sdpa" and getattr(module, "is_causal", True):
            mask = mask.tril()
        mask = states.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)
    if mask.dim() != 4 or mask.shape[-2:] != shape[2:]:
        raise _refusal(
            model,
            f"{type(module).__name__} was called with a mask {tuple(mask.shape)} for "
            f"{shape[2]} tokens and {keys} keys, so this is no full forward of the run",
        )
    return mask.expand(shape).clone()


def _cut_out(mask: torch.Tensor, cut: Cut, keys: torch.Tensor) -> None:
    """Write one cut into a mask.

    Raises:
        NoticeError: a token would be left with nothing to attend to.
    """
    tokens = torch.tensor(cut.tokens, device=mask.device)
    boolean = mask.dtype == torch.bool
    mask[:, cut.head, tokens[:, None], keys] = False if boolean else -torch.inf
    rows = mask[:, cut.head, tokens]
    # Hugging Face's masks hold the lowest finite number where a token does not attend.
    seen = rows if boolean else rows > torch.finfo(mask.dtype).min / 2
    if not seen.any(-1).all():
        raise NoticeError(f"{cut}: a token would be left with nothing to attend to.")


def _check_obeyed(model: VLM, inputs: Inputs, cuts: Sequence[Cut], output) -> None:
    """Where an attention returns its weights, those that were cut must be zero."""
    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if not isinstance(weights, torch.Tensor):
        return
    keys = patch_keys(model, inputs, weights.shape[-1])
    for cut in cuts:
        if weights[:, cut.head][:, list(cut.tokens)][..., keys[list(cut.patches)]].any():
            raise _refusal(model, "its attention does not obey the mask that it is given")


def _implementation(module) -> str:
    return getattr(getattr(module, "config", None), "_attn_implementation", None) or "eager"


def _refusal(model: VLM, why: str) -> NoticeError:
    return NoticeError(
        f"{model.name or model.family}: attention cannot be cut, since {why}. "
        'Load it with load_model(..., attention="eager").'
    )
