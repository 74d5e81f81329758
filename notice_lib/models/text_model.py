"""How a decoder's language model is found in its module tree, whatever the family."""

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import NoticeError

PROJECTIONS = ("o_proj", "out_proj", "wo", "dense")
"""The families' names of the linear map after an attention's heads."""


@dataclass(frozen=True)
class TextModel:
    """A language model's parts. The tuples have one module for each layer.

    Attributes:
        layers: (N, T, D) -> (N, T, D).
        attentions: each layer's attention.
        projections: from the heads' outputs, side by side, to the residual stream.
        mlps: (N, T, D) -> (N, T, D).
        norm, head: from the last layer to the logits.
        n_heads: the number of query heads in every layer.
    """

    layers: tuple[torch.nn.Module, ...]
    attentions: tuple[torch.nn.Module, ...]
    projections: tuple[torch.nn.Linear, ...]
    mlps: tuple[torch.nn.Module, ...]
    norm: torch.nn.Module
    head: torch.nn.Module
    n_heads: int


def text_config(config):
    """The configuration of the language model within that of a model."""
    return config.get_text_config(decoder=True)


def find_text_model(model: Any, name: str) -> TextModel:
    """Find the language model, starting from the module that holds the token embeddings.

    Raises:
        NoticeError: a part is missing or ambiguous; names it.
    """
    config = text_config(model.config)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or getattr(model.config, "is_encoder_decoder", False):
        raise refusal(name, "it is no decoder with a language-modelling head")
    trunk = next(m for m in model.modules() if any(child is embeddings for child in m.children()))
    stacks = [
        child
        for child in trunk.children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == config.num_hidden_layers
    ]
    norms = [child for child in trunk.children() if _is_norm(child)]
    if len(stacks) != 1 or len(norms) != 1:
        raise refusal(
            name,
            f"beside its token embeddings, {type(trunk).__name__} has {len(stacks)} lists of "
            f"{config.num_hidden_layers} layers and {len(norms)} norms, and not one of each",
        )
    layers = tuple(stacks[0])
    attentions, projections, mlps = zip(*(_parts(layer, name) for layer in layers), strict=True)
    kinds = {type(attention).__name__ for attention in attentions}
    if len(kinds) > 1:
        raise refusal(name, f"its layers attend in several ways: {', '.join(sorted(kinds))}")
    heads = config.num_attention_heads
    for attention, projection in zip(attentions, projections, strict=True):
        size = getattr(attention, "head_dim", projection.in_features // heads)
        if projection.in_features != heads * size:
            raise refusal(
                name,
                f"its configuration tells of {heads} heads, which do not fit the "
                f"{projection.in_features} inputs of {type(attention).__name__}'s output",
            )
    return TextModel(layers, attentions, projections, mlps, norms[0], head, heads)


def _parts(layer: torch.nn.Module, name: str):
    """A layer's attention, the attention's output projection, and the layer's MLP."""
    children = dict(layer.named_children())
    attentions = [child for child in children.values() if "Attention" in type(child).__name__]
    others = [
        child
        for child in children.values()
        if not ("Attention" in type(child).__name__ or _is_norm(child) or _is_trivial(child))
    ]
    if len(attentions) != 1 or len(others) != 1:
        raise refusal(
            name,
            f"{type(layer).__name__} is not one attention and one MLP beside norms, but "
            + ", ".join(f"{key} ({type(child).__name__})" for key, child in children.items()),
        )
    (attention,), (mlp,) = attentions, others
    found = [getattr(attention, key) for key in PROJECTIONS if hasattr(attention, key)]
    if len(found) != 1 or not isinstance(found[0], torch.nn.Linear):
        raise refusal(
            name,
            f"{type(attention).__name__} has not one linear output projection of the names "
            f"{', '.join(PROJECTIONS)}",
        )
    return attention, found[0], mlp


def _is_norm(module: torch.nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _is_trivial(module: torch.nn.Module) -> bool:
    return isinstance(module, (torch.nn.Dropout, torch.nn.Identity))


def refusal(name: str, why: str) -> NoticeError:
    """The error for a model that the generic adapter does not understand."""
    return NoticeError(
        f"{name or 'This model'}: {why}. The generic adapter supports decoder-only models whose "
        "image becomes tokens of the sequence; the book's page on model families says how to write "
        "an adapter for others."
    )
