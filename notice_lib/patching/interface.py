"""What the engine asks of the code of Hugging Face's layers, and how a model is refused.

A layer must call transformers' attention interface exactly once, so another function can take the
place of its attention.
"""

from collections.abc import Callable
from inspect import unwrap

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import NoticeError
from ..models.base import VLM
from ..models.decoder import DecoderOnly

INSTEAD = (
    'Load it with load_model(..., engine="reference"), which runs one full forward for each site. '
    "That is exact, but slower."
)
"""What to do with a model that the fast engine cannot run."""


def unknown(model: DecoderOnly, why: str) -> NoticeError:
    """The error for a model that this engine does not know how to run by parts."""
    return NoticeError(f"{model} cannot be run by parts: {why}. {INSTEAD}")


def failed(model: VLM, why: str) -> NoticeError:
    """The error for a model whose engine and reference differ."""
    return NoticeError(f"{model} failed its self-check: {why}. {INSTEAD}")


def own_mask(model, attention: torch.nn.Module) -> NoticeError:
    """The error for an attention that makes a mask although it is given none."""
    return unknown(model, f"{type(attention).__name__} makes an attention mask of its own")


def refuse_compiled(model) -> None:
    """Refuse compiled code, which runs without the hooks and attention functions set here."""
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

    Eager attention is no part of transformers' interface: each model's file defines its own
    function.
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
    """Refuse a layer that did not call transformers' attention interface exactly once."""
    if calls != 1:
        raise unknown(
            model,
            f"{type(attention).__name__} called transformers' attention interface {calls} times "
            "in one layer instead of once",
        )
