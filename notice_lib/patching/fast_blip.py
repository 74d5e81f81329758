"""BLIP's patched runs without the work that is the same in all of them.

What changes when one token's activation is patched in layer l of the question encoder?

- Nothing below layer l: every run resumes there, from the base run's recorded states.
- In layer l, only the patched tokens' rows.
- Above, everything in the text, but never the keys and values that the image gives to
  cross-attention: they are computed once for each layer and serve all runs.
- The answer decoder has one query, the start token, so its key and value projections are applied on
  the query's side: the question's keys and values are never formed.

The modules are Hugging Face's own; only the order of the calls is ours. Equal to the plain way up
to rounding. Shapes: P pairs of one prompt length T, n patched runs of each, k patched tokens, H
heads of width d, hidden width D = H d.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from ..models.answers import score
from ..models.blip import Blip
from .jobs import Job, Outcome
from .sites import PlacedSite

KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""(P, H, image tokens, d) each."""


@dataclass(frozen=True)
class LayerStates:
    """One layer of an unpatched run; (P, T, D) each.

    self_context and cross_context are the heads' outputs before the output projection; attended
    and crossed are the hidden states after self- and cross-attention.
    """

    input: torch.Tensor
    self_context: torch.Tensor
    attended: torch.Tensor
    cross_context: torch.Tensor
    crossed: torch.Tensor
    mlp: torch.Tensor
    output: torch.Tensor


@torch.no_grad()
def patch_group(model: Blip, jobs: Sequence[Job], max_rows: int) -> list[Outcome]:
    """The outcomes of jobs that have the same prompt length and the same sites.

    Args:
        max_rows: bound on the text tokens of all runs that are computed at once.
    """
    base_image, source_image = _images(model, jobs)
    base = _record(model, torch.cat([job.base.input_ids for job in jobs]), base_image)
    source = _record(model, torch.cat([job.source.input_ids for job in jobs]), source_image)
    sites = jobs[0].sites
    patched = torch.empty(len(jobs), len(sites), 4, dtype=torch.float64)
    for chunk in _chunks(sites, max(1, max_rows // (len(jobs) * len(jobs[0].base)))):
        hidden = _patched_layer(model, base, source, base_image, [sites[i] for i in chunk])
        for layer in range(sites[chunk[0]].layer + 1, model.n_layers):
            hidden = _run_layer(model, layer, hidden, base_image[layer]).output
        patched[:, chunk] = _scores(model, hidden, jobs)
    ends = [_scores(model, run[-1].output[:, None], jobs)[:, 0] for run in (base, source)]
    return [Outcome(*outcome) for outcome in zip(*ends, patched, strict=True)]


def _images(model: Blip, jobs: Sequence[Job]) -> tuple[list[KeysAndValues], list[KeysAndValues]]:
    """Cross-attention's keys and values for each layer: of the jobs' base and source images.

    Each image is encoded once, even if runs or jobs share it.
    """
    images = {
        id(run.pixel_values): run.pixel_values for job in jobs for run in (job.base, job.source)
    }
    row = {image: i for i, image in enumerate(images)}
    encoded = model.model.vision_model(pixel_values=torch.cat(list(images.values())))[0]
    layers = [
        (_split(model, attention.key(encoded)), _split(model, attention.value(encoded)))
        for attention in (block.crossattention.self for block in _blocks(model))
    ]
    base = [row[id(job.base.pixel_values)] for job in jobs]
    source = [row[id(job.source.pixel_values)] for job in jobs]
    return tuple([(key[of], value[of]) for key, value in layers] for of in (base, source))


def _blocks(model: Blip):
    return model.model.text_encoder.encoder.layer


def _split(model: Blip, x: torch.Tensor) -> torch.Tensor:
    """(..., T, D) -> (..., H, T, d)"""
    return x.unflatten(-1, (model.n_heads, -1)).transpose(-2, -3)


def _join(x: torch.Tensor) -> torch.Tensor:
    """(..., H, T, d) -> (..., T, D)"""
    return x.transpose(-2, -3).flatten(-2)


def _record(model: Blip, ids: torch.Tensor, images: list[KeysAndValues]):
    """All layers' states of an unpatched run; ids are (P, T)."""
    hidden = model.model.text_encoder.embeddings(ids)[:, None]
    states = []
    for layer in range(model.n_layers):
        run = _run_layer(model, layer, hidden, images[layer])
        hidden = run.output
        states.append(LayerStates(**{name: x[:, 0] for name, x in vars(run).items()}))
    return states


def _run_layer(model: Blip, layer: int, x: torch.Tensor, image: KeysAndValues) -> LayerStates:
    """One layer for (P, n, T, D) hidden states."""
    block = _blocks(model)[layer]
    own = block.attention.self
    query, key, value = (_split(model, part(x)) for part in (own.query, own.key, own.value))
    self_context = _join(_attend(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)))
    self_context = self_context.view(x.shape)
    attended = block.attention.output(self_context, x)
    cross_context = _cross_attend(model, block, attended, image)
    crossed = block.crossattention.output(cross_context, attended)
    mlp = block.output.dense(block.intermediate(crossed))
    output = block.output.LayerNorm(mlp + crossed)
    return LayerStates(x, self_context, attended, cross_context, crossed, mlp, output)


def _cross_attend(model: Blip, block, attended: torch.Tensor, image: KeysAndValues):
    """Heads' outputs (P, n, t, D). Queries do not see each other, so all runs of a pair fold into
    one long sequence of queries over one image's keys and values."""
    query = _split(model, block.crossattention.self.query(attended.flatten(1, 2)))
    return _join(_attend(query, *image)).view(attended.shape)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(query, key, value)


def _chunks(sites: Sequence[PlacedSite], size: int):
    """Indices of sites that resume together: of one layer, with equally many patched tokens."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, site in enumerate(sites):
        groups.setdefault((site.layer, len(site.positions)), []).append(i)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _patched_layer(model, base, source, images, sites) -> torch.Tensor:
    """(P, n, T, D) output of the sites' layer: the base run's, but for the patched rows."""
    layer = sites[0].layer
    states = base[layer]
    positions = torch.tensor([site.positions for site in sites], device=states.output.device)
    runs = torch.arange(len(sites), device=positions.device)[:, None]
    hidden = states.output[:, None].repeat(1, len(sites), 1, 1)
    for component in sorted({site.component for site in sites}):
        chosen = [i for i, site in enumerate(sites) if site.component == component]
        rows = _patched_rows(
            model,
            states,
            source[layer],
            images[layer],
            [sites[i] for i in chosen],
            positions[chosen],
        )
        hidden[:, runs[chosen], positions[chosen]] = rows
    return hidden


def _patched_rows(model, base, source, image, sites, positions) -> torch.Tensor:
    """(P, n, k, D) rows of the layer's output at the patched tokens, for one component's sites."""
    block = _blocks(model)[sites[0].layer]
    component = sites[0].component
    if component == "layer_output":
        return source.output[:, positions]
    if component == "mlp":
        return block.output.LayerNorm(source.mlp[:, positions] + base.crossed[:, positions])
    columns = _columns(model, sites, positions.device)
    if component == "self_attention":
        context = torch.where(
            columns, source.self_context[:, positions], base.self_context[:, positions]
        )
        attended = block.attention.output(context, base.input[:, positions])
        cross_context = _cross_attend(model, block, attended, image)
    else:
        attended = base.attended[:, positions]
        cross_context = torch.where(
            columns, source.cross_context[:, positions], base.cross_context[:, positions]
        )
    crossed = block.crossattention.output(cross_context, attended)
    return block.feed_forward_chunk(crossed)


def _columns(model: Blip, sites: Sequence[PlacedSite], device) -> torch.Tensor:
    """(n, 1, D) boolean: the columns that each site covers."""
    heads = torch.tensor([-1 if site.head is None else site.head for site in sites], device=device)
    width = model.model.config.text_config.hidden_size
    of_head = torch.arange(width, device=device) // (width // model.n_heads)
    return ((heads[:, None] == of_head) | (heads[:, None] < 0))[:, None]


def _scores(model: Blip, hidden: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    """(P, n, 4) scores from the question's last hidden states (P, n, T, D)."""
    prefix = jobs[0].answer.prefix
    decode = _decode_behind_prefix if prefix else _decode
    logits = decode(model, hidden.flatten(0, 1), prefix).unflatten(0, hidden.shape[:2])
    return torch.stack([score(one, job.answer) for one, job in zip(logits, jobs, strict=True)])


def _decode_behind_prefix(model: Blip, question: torch.Tensor, prefix: tuple[int, ...]):
    """(N, vocabulary) logits after the start token and an answer's first tokens."""
    ids = [[model.model.decoder_start_token_id, *prefix]] * len(question)
    return model.model.text_decoder(
        input_ids=torch.tensor(ids, device=question.device),
        encoder_hidden_states=question,
        use_cache=False,
    ).logits[:, -1]


def _decode(model: Blip, question: torch.Tensor, prefix: tuple[int, ...]) -> torch.Tensor:
    """(N, vocabulary) logits after the start token alone, for question states (N, T, D).

    With q the query and x the question's states, the scores q (W x + b) are (W^T q) x plus a
    constant that the softmax does not see; and the values' projection comes after their average.
    """
    decoder = model.model.text_decoder
    start = torch.tensor([[decoder.config.bos_token_id]], device=question.device)
    x = decoder.bert.embeddings(input_ids=start)[0]
    for block in decoder.bert.encoder.layer:
        # Attention to a single token is that token's value.
        x = block.attention.output(block.attention.self.value(x), x)
        cross = block.crossattention.self
        heads = cross.num_attention_heads
        query = cross.query(x).view(len(x), heads, -1)
        key = cross.key.weight.unflatten(0, (heads, -1))
        value = cross.value.weight.unflatten(0, (heads, -1))
        query = torch.einsum("nhd,hdw->nhw", query, key).expand(len(question), -1, -1)
        scale = key.shape[1] ** -0.5
        weights = torch.softmax(query @ question.transpose(1, 2) * scale, -1)
        context = torch.einsum("nhw,hdw->nhd", weights @ question, value).flatten(1)
        x = block.crossattention.output(context + cross.value.bias, x.expand(len(question), -1))
        x = block.feed_forward_chunk(x)
    return decoder.cls(x[:, None])[:, 0]
