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
from ..models.hooks import watch
from ..pairs import SemanticPair


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
    runs: list[RunAttention] = []
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
        model.image_component,
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


def _weights(model: VLM, output: tuple) -> torch.Tensor:
    """An attention's weights (1, H, T, keys), from what it returns."""
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
