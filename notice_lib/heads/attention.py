"""Where heads look: the attention from tokens of the question to the patches of the image.

Forward hooks read the attention weights from the unmodified model. BLIP's question encoder attends
to the image by cross-attention, LLaVA's language model by self-attention to its image tokens.
"""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from .. import progress
from ..errors import NoticeError
from ..models.base import ROLES, VLM
from ..models.hooks import watch
from ..models.inputs import Inputs
from ..pairs import SemanticPair


@dataclass(frozen=True)
class RunAttention:
    """The attention of one run's tokens to the image, and the norms of the image's patches.

    Attributes:
        patches: attention to the patches, (layers, heads, tokens, patches). A row sums to one
            together with `cls` and, in LLaVA, with the attention to text.
        cls: attention to the vision tower's [CLS] token, (layers, heads, tokens). It is zero in
            LLaVA, which drops that token, and in the generic family.
        norms: Euclidean norms of the vision tower's output, (patches,), taken before a final
            LayerNorm equalises them. In the generic family they are the norms of the embeddings
            that replace the image tokens.
    """

    patches: np.ndarray
    cls: np.ndarray
    norms: np.ndarray


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of one query to the images of N pairs, in L layers of H heads, on P patches.

    Attributes:
        pairs: the N pairs.
        patches: attention to the patches, (N, L, H, P), averaged over the query's tokens.
        cls: attention to the vision tower's [CLS] token, (N, L, H).
        norms: norms of the patches, (N, P), as in `RunAttention`.
        component: the component that attends to the image.
        query, run: the arguments given to `attention_maps`.
        grid: the number of patches along each side of the model's image; 0 if the patches do not
            show all of each image as one square.
        image_size: the number of pixels along each side of the model's image.
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
    """Record every head's attention from one query in the question to the image, for each pair.

    Args:
        model: the model whose attention is recorded.
        pairs: the pairs to run.
        query: a token role ("correct", "incorrect", "or", "last", ...) or "published". The latter
            is the token for which the published code draws its maps: the noun in states, and the
            correct option elsewhere (circuit_analysis.ipynb). If a query has several tokens, their
            mean is taken (the published code takes the first).
        run: the run whose image the question is asked about, "clean" or "corrupt".

    Raises:
        NoticeError: there are no pairs, `query` is not a token role, a prompt has no such token,
            the token stands before the image, or images have different numbers of tokens.
    """
    if query not in ("published", *ROLES):
        raise NoticeError(
            f"The query must be 'published' or one of {', '.join(ROLES)}, not {query!r}."
        )
    pairs = tuple(pairs)
    if not pairs:
        raise NoticeError("There are no pairs to read attention from; give at least one.")
    runs: list[RunAttention] = []
    grid = model.grid
    for pair in progress.bar(pairs, desc=f"attention of {model.name}", unit="pair"):
        image = pair.image(run)
        if not model.shows_all(image.size):
            grid = 0
        inputs = model.inputs(image, pair.prompt)
        found = image_attention(model, inputs, _query_tokens(model, pair, inputs, query))
        if not found.patches.any((0, 1, 3)).all():
            raise NoticeError(
                f"Pair {pair.pair_id}: tokens of the query {query!r} stand before the image and "
                "cannot attend to it. Choose a query after the image."
            )
        if runs and found.norms.shape != runs[0].norms.shape:
            raise NoticeError(
                f"Pair {pair.pair_id}: its image becomes {len(found.norms)} tokens, but the first "
                f"pair's image becomes {len(runs[0].norms)}. Use images of one size."
            )
        runs.append(found)
    return AttentionMaps(
        pairs,
        np.stack([found.patches.mean(2) for found in runs]),
        np.stack([found.cls.mean(2) for found in runs]),
        np.stack([found.norms for found in runs]),
        model.image_component,
        query,
        run,
        grid,
        model.image_size,
    )


@torch.no_grad()
def image_attention(
    model: VLM, inputs: Inputs, tokens: Iterable[int] | None = None
) -> RunAttention:
    """Record the attention to the image in one full forward pass of the unmodified model.

    Args:
        model: the model to run.
        inputs: the run's inputs.
        tokens: indices of the query tokens to keep, by default all of them. Keeping a few saves
            memory.

    Raises:
        NoticeError: the model's attention implementation never forms the attention weights.
    """
    rows = list(range(len(inputs)) if tokens is None else tokens)
    maps: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with ExitStack() as stack:
        stack.enter_context(model.computing())
        for layer, module in enumerate(model.attention_modules):

            def keep(module, args, output, layer=layer):
                found = model.image_attention(_weights(model, output)[0][:, rows], inputs)
                maps[layer] = tuple(part.float().cpu() for part in found)

            stack.enter_context(module.register_forward_hook(keep))
        seen = stack.enter_context(watch({"patches": model.patches_point}))
        model.logits(inputs)
    patches, cls = (
        torch.stack([maps[layer][part] for layer in range(model.n_layers)]).numpy()
        for part in (0, 1)
    )
    states = model.patch_states(seen["patches"][0], inputs)
    return RunAttention(patches, cls, states.float().norm(dim=-1).cpu().numpy())


def shares(patches: np.ndarray) -> np.ndarray:
    """Normalise attention to patches, (..., P), so that it sums to one over the patches.

    Shares separate where in the image a head looks from how much it looks at the image. Without
    them, a head that attends to [CLS] or to text is below the average on every patch. (The
    published figures do not normalise.)
    """
    return patches / patches.sum(-1, keepdims=True)


def minus_average(maps: np.ndarray) -> np.ndarray:
    """Subtract from maps (N, L, H, P) their average over all layers and heads of the same image.

    The difference is called D. The published figures draw the D of `AttentionMaps.patches`. Roles
    are measured on the D of their `shares`, which sums to zero over the patches.
    """
    return maps - maps.mean((1, 2), keepdims=True)


def _weights(model: VLM, output: tuple) -> torch.Tensor:
    """The attention weights (1, H, T, keys) in the output of an attention module."""
    if output[1] is None:
        raise NoticeError(
            f"{model} never forms its attention weights. "
            'Load it with load_model(..., attention="eager").'
        )
    return output[1]


def _query_tokens(model: VLM, pair: SemanticPair, inputs: Inputs, query: str) -> list[int]:
    if query == "published" and pair.task == "states":
        noun = _noun(pair)
        found = [i for i, span in enumerate(inputs.spans) if span and _overlap(span, noun)]
    else:
        role = "correct" if query == "published" else query
        found = [i for i, name in enumerate(model.roles(inputs, pair.spans)) if name == role]
    if not found:
        raise NoticeError(
            f"Pair {pair.pair_id}: {pair.prompt!r} has no token for {query!r}. Choose another "
            "query or leave the pair out."
        )
    return found


def _noun(pair: SemanticPair) -> tuple[int, int]:
    """The span of the word before the options: "bottle" in "Is this bottle red or blue?"."""
    before = pair.prompt[: min(pair.spans.correct, pair.spans.incorrect)[0]]
    words = list(re.finditer(r"\w+", before))
    if not words:
        raise NoticeError(f"Pair {pair.pair_id}: {pair.prompt!r} has no noun before its options.")
    return words[-1].span()


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]
