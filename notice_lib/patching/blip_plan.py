"""BLIP's patched runs without the work that is the same in all of them.

What changes when one token's activation is patched in layer l of the question encoder?

- Nothing below layer l: every run resumes there, from the base run's recorded states.
- In layer l, only the patched tokens' rows.
- Above, everything in the text, but never the keys and values that the image gives to
  cross-attention: they are computed once for each layer and serve all runs.
- The answer decoder has one query, the start token, so its key and value projections are applied on
  the query's side: the question's keys and values are never formed.

Circuits, the vision tower and the decoder resume at their lowest patched layer and run all rows.

The modules are Hugging Face's own; only the order of the calls is ours. Equal to the reference up
to rounding. Shapes: P pairs of one prompt length T, n patched runs of each, k patched tokens, H
heads of width d, hidden width D = H d.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from ..models.answers import score
from ..models.base import Inputs
from ..models.blip import Blip
from ..models.hooks import HookPoint, watch
from .jobs import NO_SCORES, Activations, Job, Outcome, given_activations, source_run
from .memory import Budget
from .resume import Entry, Writes, entry, run_tower, tower_inputs, unchanged
from .sites import PlacedSite

KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""(P, H, image tokens, d) each."""


@dataclass(frozen=True)
class LayerStates:
    """One layer of an unpatched run; (P, T, D) each.

    self_attention and cross_attention are the heads' outputs before the output projection; attended
    and crossed are the hidden states after self- and cross-attention.
    """

    input: torch.Tensor
    self_attention: torch.Tensor
    attended: torch.Tensor
    cross_attention: torch.Tensor
    crossed: torch.Tensor
    mlp: torch.Tensor
    layer_output: torch.Tensor


@dataclass(frozen=True)
class Run:
    """Unpatched runs of P jobs.

    Attributes:
        states: one a layer of the question encoder.
        image: for each layer, what the image gives to cross-attention.
        tower: the tower's inputs at the layers where patched runs start.
        activations: of all points that are patched.
    """

    states: list[LayerStates]
    image: list[KeysAndValues]
    tower: dict[Entry, torch.Tensor]
    activations: Activations


def tokens_of(model: Blip, job: Job) -> int:
    """Tokens of one job's runs that are computed at once where none of its chunks is cut."""
    together = Counter(entry(model, intervention) for intervention in job.interventions)
    return len(job.base) * max(together.values(), default=1)


@torch.no_grad()
def patch_group(model: Blip, jobs: Sequence[Job], budget: Budget) -> list[Outcome]:
    """The outcomes of jobs that have the same prompt length and the same interventions."""
    bases = [job.base for job in jobs]
    if isinstance(jobs[0].source, Inputs):
        base, source = _runs(model, jobs, bases, [source_run(job) for job in jobs])
        given, source_scores = source.activations, _end_scores(model, source, jobs)
    else:
        (base,) = _runs(model, jobs, bases)
        given = given_activations(jobs)
        source_scores = NO_SCORES.expand(len(jobs), -1)
    base_scores = _end_scores(model, base, jobs)
    interventions = jobs[0].interventions
    patched = torch.empty(len(jobs), len(interventions), 4, dtype=torch.float64)
    same = unchanged(model, interventions, base.activations, given)

    def question(chunk: Sequence[int]) -> torch.Tensor:
        return _run_chunk(model, jobs, base, given, [interventions[i] for i in chunk])

    chunks = ((chunk, budget.run(question, chunk)) for chunk in _chunks(model, jobs, same, budget))
    for chunk, hidden in _joined(chunks, budget.tokens // (len(jobs) * len(bases[0]))):

        def answer(part: Sequence[int], chunk=chunk, hidden=hidden) -> torch.Tensor:
            writes = Writes(model, [interventions[chunk[i]] for i in part], given)
            return _patched_scores(model, hidden[:, part], writes, jobs)

        patched[:, chunk] = budget.run(answer, range(len(chunk)))
    patched[:, same] = base_scores[:, None]
    return [Outcome(*outcome) for outcome in zip(base_scores, source_scores, patched, strict=True)]


def _runs(model: Blip, jobs: Sequence[Job], *runs: Sequence[Inputs]) -> list[Run]:
    """The unpatched runs, base and source; each image is encoded once, even if they share it."""
    points = {point for point in jobs[0].points if model.stack_of(point[0]) == "vision"}
    starts = tower_inputs(model, jobs[0].interventions)
    watched = {point: model.hook_point(*point) for point in points}
    watched |= {key: HookPoint(block, "input", False) for key, block in starts.items()}
    images = {_image_key(run): run for group in runs for run in group}
    rows = {key: row for row, key in enumerate(images)}
    with model.noise(list(images.values())), watch(watched) as seen:
        pixels = torch.cat([run.pixel_values for run in images.values()])
        keys_and_values = _image_layers(model, model.model.vision_model(pixel_values=pixels)[0])
    found = []
    for group in runs:
        own = [rows[_image_key(run)] for run in group]
        image = [(key[own], value[own]) for key, value in keys_and_values]
        states = _record(model, torch.cat([run.input_ids for run in group]), image)
        activations = {point: seen[point][own] for point in points}
        activations |= _text_activations(model, states, jobs[0])
        found.append(Run(states, image, {key: seen[key][own] for key in starts}, activations))
    return found


def _image_key(run: Inputs) -> tuple[int, int]:
    return id(run.pixel_values), id(run.noise)


def _image_layers(model: Blip, encoded: torch.Tensor) -> list[KeysAndValues]:
    """Cross-attention's keys and values for each layer, of image states (N, tokens, D)."""
    return [
        (_split(model, attention.key(encoded)), _split(model, attention.value(encoded)))
        for attention in (block.crossattention.self for block in _blocks(model))
    ]


def _text_activations(model: Blip, states: Sequence[LayerStates], job: Job) -> Activations:
    """Of the points in question encoder and decoder that a job interventions."""
    found = {
        (name, layer): getattr(states[layer], name)
        for name, layer in job.points
        if name in model.components
    }
    decoder = {point for point in job.points if model.stack_of(point[0]) == "decoder"}
    if decoder:
        with watch({point: model.hook_point(*point) for point in decoder}) as seen:
            _decode_plainly(model, states[-1].layer_output, job.answer.prefix)
        found |= seen
    return found


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
        hidden = run.layer_output
        states.append(LayerStates(**{name: x[:, 0] for name, x in vars(run).items()}))
    return states


def _run_layer(
    model: Blip,
    layer: int,
    x: torch.Tensor,
    image: KeysAndValues,
    write: Callable[[str, int, torch.Tensor], torch.Tensor] = lambda component, layer, x: x,
) -> LayerStates:
    """One layer for (P, n, T, D) hidden states; `write` changes a component's activation."""
    block = _blocks(model)[layer]
    own = block.attention.self
    query, key, value = (_split(model, part(x)) for part in (own.query, own.key, own.value))
    context = _join(attend(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)))
    self_attention = write("self_attention", layer, context.view(x.shape))
    attended = block.attention.output(self_attention, x)
    cross_attention = _cross_attend(model, block, attended, image)
    cross_attention = write("cross_attention", layer, cross_attention)
    crossed = block.crossattention.output(cross_attention, attended)
    mlp = write("mlp", layer, block.output.dense(block.intermediate(crossed)))
    output = write("layer_output", layer, block.output.LayerNorm(mlp + crossed))
    return LayerStates(x, self_attention, attended, cross_attention, crossed, mlp, output)


def _cross_attend(model: Blip, block, attended: torch.Tensor, image: KeysAndValues):
    """Heads' outputs (P, n, t, D). Queries do not see each other, so all runs of a pair fold into
    one long sequence of queries over one image's keys and values."""
    query = _split(model, block.crossattention.self.query(attended.flatten(1, 2)))
    return _join(attend(query, *image)).view(attended.shape)


def _chunks(
    model: Blip, jobs: Sequence[Job], same: Sequence[bool], budget: Budget
) -> Iterator[list[int]]:
    """Indices of interventions that resume together: of one entry; single sites of the question
    encoder with equally many patched tokens, since only their rows are computed there."""
    interventions, length = jobs[0].interventions, len(jobs[0].base)
    groups: dict[tuple, list[int]] = defaultdict(list)
    for i, intervention in enumerate(interventions):
        if not same[i]:
            where, first = entry(model, intervention), intervention.sites[0]
            alone = where[0] == "text" and len(intervention.sites) == 1
            groups[where, len(first.positions) if alone else None].append(i)
    for ((stack, _), _), group in groups.items():
        tokens = length + (model.grid**2 + 1 if stack == "vision" else 0)
        start = 0
        while start < len(group):
            size = max(1, budget.tokens // (len(jobs) * tokens))
            yield group[start : start + size]
            start += size


def _joined(chunks: Iterable[tuple[list[int], torch.Tensor]], runs: int):
    """Chunks (indices, hidden states) joined up to so many runs: larger products in the decoder."""
    waiting: list[tuple[list[int], torch.Tensor]] = []
    for chunk in chunks:
        if waiting and sum(len(other[0]) for other in waiting) + len(chunk[0]) > runs:
            yield _join_chunks(waiting)
            waiting = []
        waiting.append(chunk)
    if waiting:
        yield _join_chunks(waiting)


def _join_chunks(chunks: Sequence[tuple[list[int], torch.Tensor]]):
    indices, hidden = zip(*chunks, strict=True)
    return list(chain(*indices)), torch.cat(hidden, 1)


def _run_chunk(model: Blip, jobs, base: Run, source: Activations, interventions) -> torch.Tensor:
    """(P, n, T, D) last states of the question in n patched runs that resume together."""
    stack, layer = entry(model, interventions[0])
    if stack == "decoder":
        return _repeated(base.states[-1].layer_output, len(interventions))
    if stack == "vision" or len(interventions[0].sites) > 1:
        return _resume(model, jobs, base, Writes(model, interventions, source), stack, layer)
    sites = [intervention.sites[0] for intervention in interventions]
    hidden = _patched_layer(model, base, source, sites)
    for above in range(layer + 1, model.n_layers):
        hidden = _run_layer(model, above, hidden, base.image[above]).layer_output
    return hidden


def _resume(model: Blip, jobs, base: Run, writes: Writes, stack: str, layer: int) -> torch.Tensor:
    """(P, n, T, D) last hidden states of the question, resumed at a layer of tower or text."""
    n = len(writes.interventions)
    if stack == "vision":
        bases = [job.base for job in jobs]
        image = _image_layers(
            model, run_tower(model, base.tower[stack, layer], layer, writes, bases)
        )
        # Each run has an image of its own: as if it were a pair.
        hidden, layer = _repeated(base.states[0].input, n).flatten(0, 1)[:, None], 0
    else:
        image, hidden = base.image, _repeated(base.states[layer].input, n)
    for above in range(layer, model.n_layers):
        hidden = _run_layer(model, above, hidden, image[above], writes).layer_output
    return hidden.view(len(jobs), n, *hidden.shape[-2:])


def _repeated(x: torch.Tensor, n: int) -> torch.Tensor:
    """(P, T, D) -> (P, n, T, D)"""
    return x[:, None].repeat(1, n, 1, 1)


def _patched_layer(model: Blip, base: Run, source, sites: Sequence[PlacedSite]) -> torch.Tensor:
    """(P, n, T, D) output of the sites' layer: the base run's, but for the patched rows."""
    layer = sites[0].layer
    states = base.states[layer]
    hidden = _repeated(states.layer_output, len(sites))
    positions = torch.tensor([site.positions for site in sites], device=hidden.device)
    runs = torch.arange(len(sites), device=hidden.device)[:, None]
    for component in sorted({site.component for site in sites}):
        chosen = [i for i, site in enumerate(sites) if site.component == component]
        own = [sites[i] for i in chosen]
        given = source[component, layer]
        rows = _patched_rows(model, states, given, base.image[layer], own, positions[chosen])
        hidden[:, runs[chosen], positions[chosen]] = rows
    return hidden


def _patched_rows(model, base: LayerStates, source, image, sites, positions) -> torch.Tensor:
    """(P, n, k, D) rows of the layer's output at the patched tokens, for one component's sites."""
    block = _blocks(model)[sites[0].layer]
    component = sites[0].component
    if component == "layer_output":
        return source[:, positions]
    if component == "mlp":
        return block.output.LayerNorm(source[:, positions] + base.crossed[:, positions])
    own = getattr(base, component)
    context = torch.where(
        _columns(model, sites, positions.device), source[:, positions], own[:, positions]
    )
    if component == "self_attention":
        attended = block.attention.output(context, base.input[:, positions])
        context = _cross_attend(model, block, attended, image)
    else:
        attended = base.attended[:, positions]
    crossed = block.crossattention.output(context, attended)
    return block.feed_forward_chunk(crossed)


def _columns(model: Blip, sites: Sequence[PlacedSite], device) -> torch.Tensor:
    """(n, 1, D) boolean: the columns that each site covers."""
    heads = torch.tensor([-1 if site.head is None else site.head for site in sites], device=device)
    width = model.model.config.text_config.hidden_size
    of_head = torch.arange(width, device=device) // (width // model.n_heads)
    return ((heads[:, None] == of_head) | (heads[:, None] < 0))[:, None]


def _end_scores(model: Blip, run: Run, jobs: Sequence[Job]) -> torch.Tensor:
    """(P, 4) scores of unpatched runs."""
    return _scores(model, run.states[-1].layer_output[:, None], jobs)[:, 0]


def _scores(model: Blip, hidden: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    """(P, n, 4) scores from the question's last hidden states (P, n, T, D)."""
    prefix, question = jobs[0].answer.prefix, hidden.flatten(0, 1)
    weight = model.model.text_decoder.bert.encoder.layer[0].crossattention.self.key.weight
    if prefix or not weight.is_floating_point():  # 4-bit weights are packed
        logits = _decode_plainly(model, question, prefix)
    else:
        logits = _decode(model, question)
    return _score(logits.unflatten(0, hidden.shape[:2]), jobs)


def _patched_scores(model: Blip, hidden: torch.Tensor, writes: Writes, jobs) -> torch.Tensor:
    """As `_scores`, of runs whose decoder may be patched."""
    if all(model.stack_of(component) != "decoder" for component, _ in writes.points):
        return _scores(model, hidden, jobs)
    with writes.hooked("decoder"):
        logits = _decode_plainly(model, hidden.flatten(0, 1), jobs[0].answer.prefix)
    return _score(logits.unflatten(0, hidden.shape[:2]), jobs)


def _score(logits: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    """(P, n, 4) scores of logits (P, n, vocabulary)."""
    return torch.stack([score(one, job.answer) for one, job in zip(logits, jobs, strict=True)])


def _decode_plainly(model: Blip, question: torch.Tensor, prefix: tuple[int, ...]) -> torch.Tensor:
    """(N, vocabulary) logits after the start token and an answer's first tokens."""
    ids = [[model.model.decoder_start_token_id, *prefix]] * len(question)
    return model.model.text_decoder(
        input_ids=torch.tensor(ids, device=question.device),
        encoder_hidden_states=question,
        use_cache=False,
    ).logits[:, -1]


def _decode(model: Blip, question: torch.Tensor) -> torch.Tensor:
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
        query = torch.einsum("nhd,hdw->nhw", query, key) * key.shape[1] ** -0.5
        if len(query) == 1:  # The first layer's, of the start token, is the same in all runs.
            scores = (question @ query[0].T).transpose(1, 2)
        else:
            scores = query @ question.transpose(1, 2)
        weights = torch.softmax(scores, -1)
        context = torch.einsum("nhw,hdw->nhd", weights @ question, value).flatten(1)
        x = block.crossattention.output(context + cross.value.bias, x.expand(len(question), -1))
        x = block.feed_forward_chunk(x)
    return decoder.cls(x[:, None])[:, 0]
