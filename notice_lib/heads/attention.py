"""Where heads look: attention from tokens of the question to the patches of the image.

Read from the unmodified model by forward hooks. BLIP's question encoder looks at the image by
cross-attention, LLaVA's language model by self-attention to its image tokens.
"""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from .. import progress
from ..errors import NoticeError
from ..models.base import ROLES, VLM, Inputs
from ..pairs import SemanticPair
from ..patching.plain import hook

COMPONENT = {"blip": "cross_attention", "llava": "self_attention", "decoder": "self_attention"}
"""Which component looks at the image, by model family."""


@dataclass(frozen=True)
class RunAttention:
    """What the tokens of one run attend to, and the patches as the vision tower leaves them.

    Attributes:
        patches: (layers, heads, tokens, patches). With `cls`, and in LLaVA with the attention to
            text, a row sums to one.
        cls: (layers, heads, tokens): attention to the tower's [CLS] token; zero in LLaVA, which
            drops that token, and in the generic family.
        norms: (patches,) Euclidean norms of the tower's output, before a final LayerNorm makes
            them alike; in the generic family, of what stands in place of the image's tokens.
    """

    patches: np.ndarray
    cls: np.ndarray
    norms: np.ndarray


@dataclass(frozen=True)
class AttentionMaps:
    """What one query attends to in the images of N pairs, by L layers of H heads on P patches.

    Attributes:
        pairs: the N pairs.
        patches: (N, L, H, P) attention to the patches, the mean over the query's tokens.
        cls: (N, L, H) attention to the tower's [CLS] token.
        norms: (N, P), as in `RunAttention`.
        component: which component looks at the image.
        query, run: as they were asked for.
        grid, image_size: of the model, in patches and pixels a side.
    """

    pairs: tuple[SemanticPair, ...]
    patches: np.ndarray
    cls: np.ndarray
    norms: np.ndarray
    component: str
    query: str
    run: str
    grid: int
    image_size: int


def attention_maps(
    model: VLM, pairs: Iterable[SemanticPair], query: str = "published", run: str = "clean"
) -> AttentionMaps:
    """Every head's attention from one query of the question to the image, for each pair.

    Args:
        query: "published" takes the token at which the published code draws its maps: the correct
            option, and for states the noun (circuit_analysis.ipynb). Or a token role: "correct",
            "incorrect", "or", "last", ... Where that is several tokens, their mean is taken (the
            published code takes the first).
        run: "clean" or "corrupt": whose image the question is asked about.

    Raises:
        NoticeError: no pairs, no such role, the prompt has no such token, or it sees no image.
    """
    if query not in ("published", *ROLES):
        raise NoticeError(f"A query is 'published' or one of {', '.join(ROLES)}, not {query!r}.")
    pairs = tuple(pairs)
    if not pairs:
        raise NoticeError("Attention of no pairs was asked for; give at least one.")
    runs = []
    for pair in progress.bar(pairs, desc=f"attention of {model.name}", unit="pair"):
        inputs = model.inputs(pair.image(run), pair.prompt)
        found = image_attention(model, inputs, _query_tokens(model, pair, inputs, query))
        if not found.patches.any((0, 1, 3)).all():
            raise NoticeError(
                f"Pair {pair.pair_id}: tokens of the query {query!r} stand before the image."
            )
        if runs and found.norms.shape != runs[0].norms.shape:
            raise NoticeError(
                f"Pair {pair.pair_id}: its image gives {len(found.norms)} tokens, the first "
                f"pair's {len(runs[0].norms)}. Give all images one size."
            )
        runs.append(found)
    return AttentionMaps(
        pairs,
        np.stack([found.patches.mean(2) for found in runs]),
        np.stack([found.cls.mean(2) for found in runs]),
        np.stack([found.norms for found in runs]),
        COMPONENT[model.family],
        query,
        run,
        model.grid,
        model.image_size,
    )


@torch.no_grad()
def image_attention(
    model: VLM, inputs: Inputs, tokens: Iterable[int] | None = None
) -> RunAttention:
    """Attention to the image in one full forward of the unmodified model.

    Args:
        tokens: indices of the queries to keep, which saves memory; by default all T.

    Raises:
        NoticeError: the model computes its attention without ever forming the weights.
    """
    rows = list(range(len(inputs)) if tokens is None else tokens)
    kept: dict[int, torch.Tensor] = {}
    norms = []
    with ExitStack() as stack:
        for layer, module in enumerate(_attention_modules(model)):

            def keep(module, args, output, layer=layer):
                kept[layer] = _rows(model, inputs, output[1], rows).float().cpu()

            stack.enter_context(module.register_forward_hook(keep))
        tower, on = _tower_output(model)
        stack.enter_context(hook(tower, on, lambda x: norms.append(x[0].float().norm(dim=-1))))
        model.logits(inputs)
    maps = torch.stack([kept[layer] for layer in range(model.n_layers)]).numpy()
    if model.family == "blip":
        return RunAttention(maps[..., 1:], maps[..., 0], norms[0][1:].cpu().numpy())
    norm = norms[0].cpu().numpy()
    norm = norm[list(inputs.image_tokens)] if model.family == "decoder" else norm
    return RunAttention(maps, np.zeros(maps.shape[:-1], maps.dtype), norm)


def shares(patches: np.ndarray) -> np.ndarray:
    """(..., P) attention to patches as shares of a head's attention to all patches: sums of one.

    So that "where in the image" is told apart from "how much of the image": otherwise a head that
    looks at [CLS] or at text is below the average everywhere. (The published figures do without.)
    """
    return patches / patches.sum(-1, keepdims=True)


def minus_average(maps: np.ndarray) -> np.ndarray:
    """D: (N, L, H, P) maps minus their average over all layers and heads of the same image.

    Of `AttentionMaps.patches` it is what the published figures draw; of their `shares`, whose D
    sums to zero over the patches, it is what roles are measured on.
    """
    return maps - maps.mean((1, 2), keepdims=True)


def _attention_modules(model: VLM) -> list[torch.nn.Module]:
    """The modules, by layer, that return (output, weights); weights are (1, H, T, keys)."""
    if model.family == "blip":
        return [block.crossattention.self for block in model.model.text_encoder.encoder.layer]
    if model.family == "decoder":
        return list(model.text.attentions)
    return [block.self_attn for block in model.model.model.language_model.layers]


def _tower_output(model: VLM) -> tuple[torch.nn.Module, str]:
    """Where the patches leave the vision tower, and on which side of that module."""
    if model.family == "blip":
        return model.model.vision_model.encoder.layers[-1], "output"
    if model.family == "decoder":  # what stands in place of the image's tokens
        return model.text.layers[0], "input"
    return model.model.model.multi_modal_projector, "input"


def _rows(model, inputs, weights, rows) -> torch.Tensor:
    """(H, len(rows), keys of the image) of one layer's weights."""
    if weights is None:
        raise NoticeError(
            f"{model.name or model.family} never forms its attention weights. "
            'Load it with load_model(..., attention="eager").'
        )
    weights = weights[0][:, rows]
    return weights if model.family == "blip" else weights[..., list(inputs.image_tokens)]


def _query_tokens(model: VLM, pair: SemanticPair, inputs: Inputs, query: str) -> list[int]:
    if query == "published" and pair.task == "states":
        noun = _noun(pair)
        found = [i for i, span in enumerate(inputs.spans) if span and _overlap(span, noun)]
    else:
        role = "correct" if query == "published" else query
        found = [i for i, name in enumerate(model.roles(inputs, pair.spans)) if name == role]
    if not found:
        raise NoticeError(f"Pair {pair.pair_id}: {pair.prompt!r} has no token for {query!r}.")
    return found


def _noun(pair: SemanticPair) -> tuple[int, int]:
    """Of "Is this bottle red or blue?" where "bottle" stands: the word before the options."""
    before = pair.prompt[: min(pair.spans.correct, pair.spans.incorrect)[0]]
    words = list(re.finditer(r"\w+", before))
    if not words:
        raise NoticeError(f"Pair {pair.pair_id}: {pair.prompt!r} has no noun before its options.")
    return words[-1].span()


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]
