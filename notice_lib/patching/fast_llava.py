"""LLaVA's patched runs without the work that is the same in all of them.

The language model is causal. So when the token at position p is patched in layer l:

- nothing below layer l changes: every run resumes there, from the base run's recorded states;
- no token before p ever changes, the image's tokens among them: their keys and values are the base
  run's, computed once and shared by all runs;
- in layer l, only the patched tokens' rows change.

Runs that start at the same position form one batch: each carries only its suffix, from p to the
last token, and attends to the shared prefix and, causally, to its own suffix. Both parts are
normalised by one softmax. (Packing suffixes of different starts into one sequence with a
block-diagonal mask is equal, but spends work on the blocks that the mask throws away.)

The modules are Hugging Face's own; only the order of the calls is ours. Equal to the plain way up
to rounding. Shapes: P pairs of one length T, n patched runs of each, suffixes of S = T - p tokens,
H heads of width d, hidden width D.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ..models.answers import score
from ..models.llava import Llava
from .jobs import Job, Outcome
from .plain import hook
from .sites import PlacedSite


@dataclass(frozen=True)
class LayerStates:
    """One layer of an unpatched run.

    input, context (the heads' outputs before the output projection), attended (the residual stream
    after attention), mlp and output are (P, T, ...); key (rotated) and value are (P, H, T, d), each
    group of query heads with its own copy.
    """

    input: torch.Tensor
    context: torch.Tensor
    attended: torch.Tensor
    mlp: torch.Tensor
    output: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


@torch.no_grad()
def patch_group(model: Llava, jobs: Sequence[Job], max_rows: int) -> list[Outcome]:
    """The outcomes of jobs that have the same prompt length and the same sites.

    Args:
        max_rows: bound on the tokens of all suffixes that are computed at once.
    """
    prefix = jobs[0].answer.prefix
    (base, base_last), (source, source_last) = (
        _record(model, [getattr(job, run) for job in jobs], prefix) for run in ("base", "source")
    )
    sites, length = jobs[0].sites, base[0].input.shape[1]
    patched = torch.empty(len(jobs), len(sites), 4, dtype=torch.float64)
    for chunk in _chunks(sites, length, max_rows // len(jobs)):
        chosen = [sites[i] for i in chunk]
        start = min(chosen[0].positions)
        rotary = _rotary(model, base[0].input, start, length)
        hidden = _patched_layer(model, base, source, chosen, start)
        for layer in range(chosen[0].layer + 1, model.n_layers):
            hidden = _run_suffix(model, layer, hidden, base[layer], start, rotary)
        patched[:, chunk] = _scores(model, hidden[:, :, -1], jobs)
    ends = [_scores(model, last[:, None], jobs)[:, 0] for last in (base_last, source_last)]
    return [Outcome(*outcome) for outcome in zip(*ends, patched, strict=True)]


def _language_model(model: Llava):
    return model.model.model.language_model


def _record(model: Llava, runs, prefix: tuple[int, ...]):
    """All layers' states of the jobs' unpatched runs, and the last layer's last row (P, D)."""
    ids = torch.cat([run.input_ids for run in runs])
    ids = torch.cat([ids, ids.new_tensor([prefix] * len(runs)).view(len(runs), -1)], 1)
    kept: dict[tuple[int, str], torch.Tensor] = {}
    blocks = _language_model(model).layers
    handles = []
    try:
        for layer, block in enumerate(blocks):
            for name, module, on in (
                ("input", block, "input"),
                ("context", block.self_attn.o_proj, "input"),
                ("attended", block.post_attention_layernorm, "input"),
                ("mlp", block.mlp, "output"),
                ("output", block, "output"),
            ):
                handles.append(hook(module, on, _keeper(kept, (layer, name))))
        cache = model.model.model(
            input_ids=ids,
            pixel_values=torch.cat([run.pixel_values for run in runs]),
            use_cache=True,
        ).past_key_values
    finally:
        for handle in handles:
            handle.remove()
    states = []
    for layer in range(model.n_layers):
        own = {
            name: kept[layer, name] for name in ("input", "context", "attended", "mlp", "output")
        }
        key, value = cache.layers[layer].keys, cache.layers[layer].values
        states.append(
            LayerStates(**own, key=_each_head(model, key), value=_each_head(model, value))
        )
    return states, states[-1].output[:, -1]


def _keeper(kept: dict, name):
    def keep(activation):
        kept[name] = activation

    return keep


def _each_head(model: Llava, x: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Grouped-query attention: repeat each key or value head for the query heads that share it."""
    return x.repeat_interleave(model.n_heads // x.shape[dim], dim)


def _rotary(model: Llava, like: torch.Tensor, start: int, length: int):
    """Rotary embeddings (cos, sin) of the positions from start to length."""
    positions = torch.arange(start, length, device=like.device)[None]
    return _language_model(model).rotary_emb(like, positions)


def _chunks(sites: Sequence[PlacedSite], length: int, max_rows: int):
    """Indices of sites that resume together: of one layer, start and number of patched tokens."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for i, site in enumerate(sites):
        key = (site.layer, min(site.positions), len(site.positions))
        groups.setdefault(key, []).append(i)
    for (_, start, _), group in groups.items():
        size = max(1, max_rows // (length - start))
        for first in range(0, len(group), size):
            yield group[first : first + size]


def _patched_layer(model, base, source, sites, start) -> torch.Tensor:
    """(P, n, S, D) suffix of the layer's output: the base run's, but for the patched rows."""
    layer = sites[0].layer
    positions = torch.tensor([site.positions for site in sites], device=base[layer].output.device)
    runs = torch.arange(len(sites), device=positions.device)[:, None]
    hidden = base[layer].output[:, None, start:].repeat(1, len(sites), 1, 1)
    for component in sorted({site.component for site in sites}):
        chosen = [i for i, site in enumerate(sites) if site.component == component]
        rows = _patched_rows(
            model, base[layer], source[layer], [sites[i] for i in chosen], positions[chosen]
        )
        hidden[:, runs[chosen], positions[chosen] - start] = rows
    return hidden


def _patched_rows(model, base, source, sites, positions) -> torch.Tensor:
    """(P, n, k, D) rows of the layer's output at the patched tokens, for one component's sites."""
    block = _language_model(model).layers[sites[0].layer]
    component = sites[0].component
    if component == "layer_output":
        return source.output[:, positions]
    if component == "mlp":
        return base.attended[:, positions] + source.mlp[:, positions]
    heads = torch.tensor(
        [-1 if site.head is None else site.head for site in sites], device=positions.device
    )
    width = base.context.shape[-1]
    of_head = torch.arange(width, device=heads.device) // (width // model.n_heads)
    columns = ((heads[:, None] == of_head) | (heads[:, None] < 0))[:, None]
    context = torch.where(columns, source.context[:, positions], base.context[:, positions])
    attended = base.input[:, positions] + block.self_attn.o_proj(context)
    return attended + block.mlp(block.post_attention_layernorm(attended))


def _run_suffix(model, layer, x, base: LayerStates, start: int, rotary) -> torch.Tensor:
    """One layer for suffixes (P, n, S, D) behind the base run's first `start` tokens."""
    block = _language_model(model).layers[layer]
    normed = block.input_layernorm(x)
    context = _suffix_attention(model, block.self_attn, normed, base, start, rotary)
    x = x + block.self_attn.o_proj(context)
    return x + block.mlp(block.post_attention_layernorm(x))


def _suffix_attention(model, attention, x, base: LayerStates, start: int, rotary) -> torch.Tensor:
    """(P, n, S, H d) heads' outputs; tokens see the prefix and their own run."""
    pairs, runs, length = x.shape[:3]
    x = x.flatten(0, 1)
    query, key, value = (
        part(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    key, value = _each_head(model, key), _each_head(model, value)
    # All runs of a pair fold into one long sequence of queries over the shared prefix.
    folded = query.unflatten(0, (pairs, runs)).transpose(1, 2).flatten(2, 3)  # P, H, n S, d
    before = folded @ base.key[:, :, :start].transpose(2, 3)  # P, H, n S, p
    before = before.unflatten(2, (runs, length)).transpose(1, 2).flatten(0, 1)  # P n, H, S, p
    own = query @ key.transpose(2, 3)
    later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    own = own.masked_fill(later, float("-inf"))
    scores = torch.cat([before, own], -1) * attention.scaling
    # As Hugging Face's kernels do: eager attention always normalises in float32.
    eager = attention.config._attn_implementation == "eager"
    precision = torch.float32 if eager else torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, -1, dtype=precision).to(value.dtype)
    seen = weights[..., :start].unflatten(0, (pairs, runs)).transpose(1, 2).flatten(2, 3)
    context = (seen @ base.value[:, :, :start]).unflatten(2, (runs, length))  # P, H, n, S, d
    context = context.permute(0, 2, 3, 1, 4).flatten(3)
    after = (weights[..., start:] @ value).transpose(1, 2).flatten(2)
    return context + after.unflatten(0, (pairs, runs))


def _scores(model: Llava, last: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    """(P, n, 4) scores from the last token's states (P, n, D)."""
    logits = model.model.lm_head(_language_model(model).norm(last))
    return torch.stack([score(one, job.answer) for one, job in zip(logits, jobs, strict=True)])
