"""BLIP's patched runs without the work that is the same in all of them.

What changes when one token's activation is patched in layer l of the question encoder?

- Nothing changes below layer l, so every run resumes there from the base run's recorded states.
- In layer l, only the patched tokens' rows change.
- Above layer l, all of the text changes, but not the keys and values that the image gives to
  cross-attention. They are computed once for each layer and serve all runs.
- The answer decoder has one query, the start token. Its key and value projections are applied on
  the query's side, so the question's keys and values are never formed.

Circuits and runs that enter in the vision tower or the decoder resume at their lowest patched layer
and compute all rows from there.

The modules are Hugging Face's; only the order of the calls is ours. The results equal the
reference's up to rounding. Shapes: P pairs of one prompt length T, n patched runs of each, k
patched tokens, H heads of width d, hidden width D = H d.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from ..models.blip import Blip
from ..models.hooks import HookPoint, watch
from ..models.inputs import Inputs
from .jobs import NO_SCORES, Activations, Job, Outcome, given_activations, scores_of, source_run
from .memory import Budget
from .resume import (
    Entry,
    Writes,
    chunks,
    entry,
    is_single,
    run_tower,
    tokens_together,
    tower_inputs,
    tower_tokens,
    unchanged,
)
from .sites import Intervention

KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""Cross-attention's keys and values of the image, (P, H, image tokens, d) each."""


@dataclass(frozen=True)
class LayerStates:
    """One layer's activations, (..., T, D) each.

    Attributes:
        input: the hidden states that enter the layer.
        self_attention, cross_attention: the heads' outputs before the output projection.
        attended, crossed: the hidden states after self-attention and after cross-attention.
        mlp, layer_output: as the components of these names.
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
        states: of each layer of the question encoder.
        image: for each layer, what the image gives to cross-attention.
        tower: the inputs of those of the tower's layers at which patched runs resume.
        activations: at all points that are patched.
    """

    states: list[LayerStates]
    image: list[KeysAndValues]
    tower: dict[Entry, torch.Tensor]
    activations: Activations


def tokens_of(model: Blip, job: Job) -> int:
    """Tokens of one job's patched runs that are computed at once if memory allows."""
    return tokens_together(model, job, _run_tokens(model, job))


def _run_tokens(model: Blip, job: Job) -> list[int]:
    """Tokens that each intervention's run computes."""
    return [len(job.base) + tower_tokens(model, intervention) for intervention in job.interventions]


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

    together = chunks(model, jobs, same, _run_tokens(model, jobs[0]), budget)
    questions = ((chunk, budget.run(question, chunk)) for chunk in together)
    for chunk, hidden in _joined(questions, budget.tokens // (len(jobs) * len(bases[0]))):

        def answer(part: Sequence[int], chunk=chunk, hidden=hidden) -> torch.Tensor:
            writes = Writes(model, [interventions[chunk[i]] for i in part], given)
            return _patched_scores(model, hidden[:, part], writes, jobs)

        patched[:, chunk] = budget.run(answer, range(len(chunk)))
    patched[:, same] = base_scores[:, None]
    return [Outcome(*outcome) for outcome in zip(base_scores, source_scores, patched, strict=True)]


def _runs(model: Blip, jobs: Sequence[Job], *runs: Sequence[Inputs]) -> list[Run]:
    """Groups of P unpatched runs: base and source. Each image is encoded once, also a shared
    one."""
    points = {point for point in jobs[0].points if model.stack_of(point[0]) == "vision"}
    starts = tower_inputs(model, jobs[0].interventions)
    watched = {point: model.hook_point(*point) for point in points}
    watched |= {key: HookPoint(block, "input", False) for key, block in starts.items()}
    images = {_image_key(run): run for group in runs for run in group}
    rows = {key: row for row, key in enumerate(images)}
    with model.noise(list(images.values())), watch(watched) as seen:
        pixels = torch.cat([run.pixel_values for run in images.values()])
        keys_and_values = _image_layers(model, model.model.vision_model(pixel_values=pixels)[0])
    groups = []
    for group in runs:
        its = [rows[_image_key(run)] for run in group]
        image = [(key[its], value[its]) for key, value in keys_and_values]
        states = _record(model, torch.cat([run.input_ids for run in group]), image)
        activations = {point: seen[point][its] for point in points}
        activations |= _text_activations(model, states, jobs[0])
        groups.append(Run(states, image, {key: seen[key][its] for key in starts}, activations))
    return groups


def _image_key(run: Inputs) -> tuple[int, int]:
    return id(run.pixel_values), id(run.noise)


def _image_layers(model: Blip, encoded: torch.Tensor) -> list[KeysAndValues]:
    """For each layer, cross-attention's keys and values of image states (N, tokens, D)."""
    return [
        (_split(model, attention.key(encoded)), _split(model, attention.value(encoded)))
        for attention in (block.crossattention.self for block in _blocks(model))
    ]


def _text_activations(model: Blip, states: Sequence[LayerStates], job: Job) -> Activations:
    """The activations at those of a job's points that lie in the question encoder or decoder."""
    activations = {
        (name, layer): getattr(states[layer], name)
        for name, layer in job.points
        if name in model.components
    }
    decoder = {point for point in job.points if model.stack_of(point[0]) == "decoder"}
    if decoder:
        with watch({point: model.hook_point(*point) for point in decoder}) as seen:
            _decode_as_usual(model, states[-1].layer_output, job.answer.prefix)
        activations |= seen
    return activations


def _blocks(model: Blip):
    return model.model.text_encoder.encoder.layer


def _split(model: Blip, x: torch.Tensor) -> torch.Tensor:
    """(..., T, D) -> (..., H, T, d)"""
    return x.unflatten(-1, (model.n_heads, -1)).transpose(-2, -3)


def _join(x: torch.Tensor) -> torch.Tensor:
    """(..., H, T, d) -> (..., T, D)"""
    return x.transpose(-2, -3).flatten(-2)


def _record(model: Blip, ids: torch.Tensor, images: list[KeysAndValues]) -> list[LayerStates]:
    """Each layer's states (P, T, D) in unpatched runs of prompts (P, T)."""
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
    attention = block.attention.self
    projections = attention.query, attention.key, attention.value
    query, key, value = (_split(model, project(x)) for project in projections)
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
    """The heads' outputs (P, n, t, D) of cross-attention.

    Queries do not see each other, so all runs of a pair become one long sequence of queries over
    the keys and values of one image.
    """
    query = _split(model, block.crossattention.self.query(attended.flatten(1, 2)))
    return _join(attend(query, *image)).view(attended.shape)


def _joined(chunks: Iterable[tuple[list[int], torch.Tensor]], runs: int):
    """Chunks (indices, hidden states), joined up to a number of runs for larger matrix products in
    the decoder."""
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
    """(P, n, T, D) last hidden states of the question in n patched runs that resume together."""
    stack, layer = entry(model, interventions[0])
    if stack == "decoder":
        return _repeated(base.states[-1].layer_output, len(interventions))
    if not is_single(model, interventions[0]):
        return _resume(model, jobs, base, Writes(model, interventions, source), stack, layer)
    hidden = _patched_layer(model, base, source, interventions)
    for above in range(layer + 1, model.n_layers):
        hidden = _run_layer(model, above, hidden, base.image[above]).layer_output
    return hidden


def _resume(model: Blip, jobs, base: Run, writes: Writes, stack: str, layer: int) -> torch.Tensor:
    """(P, n, T, D) last hidden states of the question in runs that resume at a layer of the tower
    or the text."""
    n = len(writes.interventions)
    if stack == "vision":
        bases = [job.base for job in jobs]
        image = _image_layers(
            model, run_tower(model, base.tower[stack, layer], layer, writes, bases)
        )
        # Each run has its own image, so it is run as if it were a pair.
        hidden, layer = _repeated(base.states[0].input, n).flatten(0, 1)[:, None], 0
    else:
        image, hidden = base.image, _repeated(base.states[layer].input, n)
    for above in range(layer, model.n_layers):
        hidden = _run_layer(model, above, hidden, image[above], writes).layer_output
    return hidden.view(len(jobs), n, *hidden.shape[-2:])


def _repeated(x: torch.Tensor, n: int) -> torch.Tensor:
    """(P, T, D) -> (P, n, T, D)"""
    return x[:, None].repeat(1, n, 1, 1)


def _patched_layer(
    model: Blip, base: Run, source: Activations, interventions: Sequence[Intervention]
) -> torch.Tensor:
    """(P, n, T, D) outputs of the patched layer: the base run's, except in the patched rows.

    Args:
        interventions: single sites of one layer, each with the same number of tokens.
    """
    sites = [intervention.sites[0] for intervention in interventions]
    states, image = base.states[sites[0].layer], base.image[sites[0].layer]
    hidden = _repeated(states.layer_output, len(sites))
    positions = torch.tensor([site.positions for site in sites], device=hidden.device)
    runs = torch.arange(len(sites), device=hidden.device)[:, None]
    by_component: dict[str, list[int]] = defaultdict(list)
    for run, site in enumerate(sites):
        by_component[site.component].append(run)
    for component, some in by_component.items():
        writes = Writes.at_patched_tokens(model, [interventions[run] for run in some], source)
        at = positions[some]
        context = writes(component, sites[0].layer, getattr(states, component)[:, at])
        block = _blocks(model)[sites[0].layer]
        hidden[:, runs[some], at] = _patched_rows(
            model, block, component, context, states, image, at
        )
    return hidden


def _patched_rows(
    model: Blip, block, component: str, patched: torch.Tensor, base: LayerStates, image, at
) -> torch.Tensor:
    """(P, n, k, D) rows of a layer's output, from a component's patched activation there.

    Args:
        at: (n, k) the rows' tokens.
    """
    if component == "layer_output":
        return patched
    if component == "mlp":
        return block.output.LayerNorm(patched + base.crossed[:, at])
    if component == "self_attention":
        attended = block.attention.output(patched, base.input[:, at])
        crossing = _cross_attend(model, block, attended, image)
    else:
        attended, crossing = base.attended[:, at], patched
    return block.feed_forward_chunk(block.crossattention.output(crossing, attended))


def _end_scores(model: Blip, run: Run, jobs: Sequence[Job]) -> torch.Tensor:
    """(P, 4) scores of unpatched runs."""
    return _scores(model, run.states[-1].layer_output[:, None], jobs)[:, 0]


def _scores(model: Blip, hidden: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    """(P, n, 4) scores from the question's last hidden states (P, n, T, D)."""
    prefix, question = jobs[0].answer.prefix, hidden.flatten(0, 1)
    weight = model.model.text_decoder.bert.encoder.layer[0].crossattention.self.key.weight
    if prefix or not weight.is_floating_point():  # 4-bit weights are packed
        logits = _decode_as_usual(model, question, prefix)
    else:
        logits = _decode(model, question)
    return scores_of(jobs, logits.unflatten(0, hidden.shape[:2]))


def _patched_scores(model: Blip, hidden: torch.Tensor, writes: Writes, jobs) -> torch.Tensor:
    """As `_scores`, for runs whose decoder may be patched."""
    if all(model.stack_of(component) != "decoder" for component, _ in writes.points):
        return _scores(model, hidden, jobs)
    with writes.hooked("decoder"):
        logits = _decode_as_usual(model, hidden.flatten(0, 1), jobs[0].answer.prefix)
    return scores_of(jobs, logits.unflatten(0, hidden.shape[:2]))


def _decode_as_usual(model: Blip, question: torch.Tensor, prefix: tuple[int, ...]) -> torch.Tensor:
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
    constant that does not change the softmax. The values are averaged first and projected then.
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
        if len(query) == 1:  # The first layer's query is that of the start token in all runs.
            scores = (question @ query[0].T).transpose(1, 2)
        else:
            scores = query @ question.transpose(1, 2)
        weights = torch.softmax(scores, -1)
        context = torch.einsum("nhw,hdw->nhd", weights @ question, value).flatten(1)
        x = block.crossattention.output(context + cross.value.bias, x.expand(len(question), -1))
        x = block.feed_forward_chunk(x)
    return decoder.cls(x[:, None])[:, 0]
