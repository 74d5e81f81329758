"""Patched runs of any decoder-only model without the work that is the same in all of them.

When the patched tokens are p and later ones, and its lowest layer is l:

- nothing below layer l changes: every run resumes there, from the base run's recorded states;
- no token before p changes, the image's among them: their keys and values are the base run's,
  computed once and shared by all runs (`recorded` says where that is exact);
- in layer l, only the patched tokens' rows change;
- in the last layer, only the last token's row is read.

The suffixes of all runs of a layer, each from its p to the last token, lie one behind the other in
one sequence of rows, so that every projection and MLP is one large product (`packed`). The layers
are Hugging Face's own, called with the arguments with which the model itself called them in the
base run, indexed by the rows' tokens: norms, rotary embeddings, multipliers, soft caps and mixtures
of experts need no code here.

Circuits resume at their lowest layer and first token, the vision tower at its patched layer and
then at the image's first token; they run all rows from there. Equal to the reference up to
rounding. Shapes: P pairs of one layout, n patched runs of each, T tokens, R rows, width D.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import torch

from ..errors import NoticeError
from ..models.answers import score
from ..models.base import Inputs
from ..models.decoder import DecoderOnly
from ..models.hooks import watch
from .jobs import NO_SCORES, Activations, Job, Outcome, given_activations, source_run
from .memory import Budget
from .packed import (
    KeysAndValues,
    OwnMask,
    PatchedRows,
    Suffixes,
    WholeRuns,
    attending,
    only_keys_and_values,
)
from .recorded import LayerRun, Run, check_calls, not_heads, own_mask, record
from .resume import Entry, Writes, entry, run_tower, tower_inputs, unchanged
from .sites import Intervention, PlacedSite

ROWS_OF_LOGITS = 256
"""Runs whose logits, each as long as the vocabulary, are formed at once."""


def tokens_of(model: DecoderOnly, job: Job) -> int:
    """Tokens of one job's runs that are computed at once where none of its chunks is cut.

    An estimate: that runs start at their first patched token, and that those which write nothing
    new are not run.
    """
    length, different = len(job.base), _first_difference(model, job)
    together: Counter[Entry] = Counter()
    for intervention in job.interventions:
        stack, layer = entry(model, intervention)
        if stack == "vision" or max(_tokens(intervention)) >= different:
            needed = length - _first_token(model, job, intervention) + _tower_tokens(model, stack)
            together[stack, layer] += needed
    return max([length, *together.values()])


def _first_difference(model: DecoderOnly, job: Job) -> int:
    """The first token at which the two runs of a job can differ; causal models' runs at least."""
    if not isinstance(job.source, Inputs):
        return 0
    differs = job.base.input_ids[0] != job.source.input_ids[0]
    if not _same_image(job.base, job.source):
        differs = differs | (job.base.input_ids[0] == model.image_token_id)
    return int(differs.nonzero()[0]) if differs.any() else len(job.base)


@torch.no_grad()
def patch_group(model: DecoderOnly, jobs: Sequence[Job], budget: Budget) -> list[Outcome]:
    """The outcomes of jobs of one layout, with the same interventions."""
    first = jobs[0]
    base = record(
        model,
        [job.base for job in jobs],
        first.points,
        first.answer.prefix,
        tower_inputs(model, first.interventions),
    )
    _check_heads(model, first, base)
    given, source_scores = _source(model, jobs, base)
    base_scores = _score(base.logits, jobs)
    patched = base_scores[:, None].repeat(1, len(first.interventions), 1)
    same = unchanged(model, first.interventions, base.activations, given)

    def run(chunk: Sequence[int]) -> torch.Tensor:
        return _run_chunk(model, jobs, base, given, [first.interventions[i] for i in chunk])

    for chunk in _chunks(model, jobs, base, same, budget):
        patched[:, chunk] = budget.run(run, chunk)
    return [Outcome(*outcome) for outcome in zip(base_scores, source_scores, patched, strict=True)]


def _check_heads(model, job: Job, base: Run) -> None:
    """Refuse to patch single heads where the output projection reads something else."""
    for layer in {
        site.layer for intervention in job.interventions for site in intervention.sites
        if site.component == "self_attention" and site.head is not None
    }:  # fmt: skip
        heads = base.layers[layer].base.output.flatten(2)
        entering = base.activations["self_attention", layer]
        if heads.shape != entering.shape or not torch.equal(heads, entering):
            raise NoticeError(f"{model.name or 'This model'}: {not_heads(model, layer)}")


def _source(model, jobs: Sequence[Job], base: Run) -> tuple[Activations, torch.Tensor]:
    """The activations that are copied, and the (P, 4) scores of the runs that they come from."""
    first = jobs[0]
    if not isinstance(first.source, Inputs):
        return given_activations(jobs), NO_SCORES.expand(len(jobs), -1)
    runs = [source_run(job) for job in jobs]
    same_images = all(map(_same_image, (job.base for job in jobs), runs))
    if same_images and not base.tower and _is_embedding(model, jobs, base):
        return _source_behind(model, jobs, base)
    source = record(model, runs, first.points, first.answer.prefix)
    return source.activations, _score(source.logits, jobs)


def _same_image(base: Inputs, source: Inputs) -> bool:
    return source.pixel_values is base.pixel_values and source.noise is base.noise


def _is_embedding(model, jobs: Sequence[Job], base: Run) -> bool:
    """Whether the text's tokens enter the first layer just as they are embedded."""
    ids = _ids(jobs, "base")
    text = ids != model.image_token_id
    embedded = model.model.get_input_embeddings()(ids[text])
    entering = base.layers[0].input[text]
    return torch.equal(embedded.to(entering.device), entering)


def _ids(jobs: Sequence[Job], run: str) -> torch.Tensor:
    """(P, T) with the answers' prefix."""
    ids = torch.cat([getattr(job, run).input_ids for job in jobs])
    prefix = ids.new_tensor([jobs[0].answer.prefix] * len(jobs)).view(len(jobs), -1)
    return torch.cat([ids, prefix], 1).long()


def _source_behind(model, jobs: Sequence[Job], base: Run) -> tuple[Activations, torch.Tensor]:
    """As `_source`, where base and source runs differ in their text alone: up to the first token
    that differs they are one run."""
    ids = _ids(jobs, "source")
    differs = (ids != _ids(jobs, "base")).any(0).nonzero()
    start = base.starts[0][int(differs[0]) if len(differs) else base.length - 1]
    hidden = base.layers[0].input[:, start:].clone()
    text = (ids != model.image_token_id)[:, start:]
    hidden[text] = model.model.get_input_embeddings()(ids[:, start:][text]).to(hidden)
    suffixes = Suffixes([start], base.length)
    points = {point: model.hook_point(*point) for point in jobs[0].points}
    activations = dict(base.activations)
    known: dict = {}
    with watch(points) as seen:
        for layer in base.layers:
            hidden = _run_layer(model, layer, hidden, suffixes, known)
    for point, activation in seen.items():
        before = base.activations[point][:, :start]
        activations[point] = torch.cat([before, activation.to(before.device)], 1)
    return activations, _scores(base, hidden[:, -1:], jobs)[:, 0]


def _first_token(model, job: Job, intervention: Intervention) -> int:
    """The first token that a run changes; every token of the image hears of its tower."""
    if entry(model, intervention)[0] == "vision":
        text = [site for site in intervention.sites if site.component in model.components]
        image = job.base.image_tokens.index(True)
        return min([image, *_tokens(Intervention(tuple(text)))])
    return min(_tokens(intervention))


def _tokens(intervention: Intervention) -> list[int]:
    """The tokens that are patched, each of its own stack."""
    return [token for site in intervention.sites for token in site.positions]


def _start(model, job: Job, base: Run, intervention: Intervention) -> int:
    """The token at which a patch's run starts."""
    stack, layer = entry(model, intervention)
    return base.starts[0 if stack == "vision" else layer][_first_token(model, job, intervention)]


def _tower_tokens(model, stack: str) -> int:
    """Tokens of the vision tower in a run that enters in a stack."""
    return model.grid**2 + model.class_tokens if stack == "vision" else 0


def _chunks(
    model, jobs: Sequence[Job], base: Run, same: Sequence[bool], budget: Budget
) -> Iterator[list[int]]:
    """Indices of interventions that resume together, by their starts: of one entry; single sites of
    the language model with equally many patched tokens, since only their rows are computed there.
    """
    job = jobs[0]
    groups: dict[tuple, list[int]] = defaultdict(list)
    starts = [0 if done else _start(model, job, base, intervention)
              for intervention, done in zip(job.interventions, same, strict=True)]  # fmt: skip
    for i, intervention in enumerate(job.interventions):
        if not same[i]:
            where = entry(model, intervention)
            alone = _is_alone(model, intervention)
            groups[where, len(_tokens(intervention)) if alone else 0].append(i)
    for ((stack, _), _), group in groups.items():
        tower = _tower_tokens(model, stack)
        chunk: list[int] = []
        used = 0
        for i in sorted(group, key=starts.__getitem__):
            needed = base.length - starts[i] + tower
            if chunk and (used + needed) * len(jobs) > budget.tokens:
                yield chunk
                chunk, used = [], 0
            chunk.append(i)
            used += needed
        yield chunk


def _is_alone(model, intervention: Intervention) -> bool:
    """A single site of the language model."""
    return len(intervention.sites) == 1 and entry(model, intervention)[0] == "text"


def _run_chunk(model, jobs, base: Run, given: Activations, interventions) -> torch.Tensor:
    """(P, n, 4) scores of n interventions that resume together, in the order of their starts."""
    stack, layer = entry(model, interventions[0])
    starts = [_start(model, jobs[0], base, intervention) for intervention in interventions]
    suffixes = Suffixes(starts, base.length)
    first = suffixes.first
    writes = Writes(model, interventions, given, lambda run, token: first[run] + token)
    if _is_alone(model, interventions[0]):
        hidden = _patched_layer(model, base.layers[layer], given, interventions, suffixes)
        return _scores(base, _run_rest(model, base, layer + 1, hidden, suffixes), jobs)
    if stack == "text":
        hidden = base.layers[layer].input[:, suffixes.tokens]
    else:
        image = run_tower(model, base.tower[stack, layer], layer, writes, [j.base for j in jobs])
        hidden = base.layers[0].input[:, suffixes.tokens]
        tokens = [i for i, is_image in enumerate(jobs[0].base.image_tokens) if is_image]
        rows = torch.tensor(first)[:, None] + torch.tensor(tokens)
        hidden[:, rows.flatten()] = image.unflatten(0, (len(jobs), -1)).flatten(1, 2).to(hidden)
        layer = 0
    in_last = ("text", len(base.layers) - 1) in {
        (model.stack_of(component), at) for component, at in writes.points
    }
    with writes.hooked("text"):
        hidden = _run_rest(model, base, layer, hidden, suffixes, all_of_the_last=in_last)
    return _scores(base, hidden, jobs)


def _patched_layer(
    model,
    layer: LayerRun,
    given: Activations,
    interventions: Sequence[Intervention],
    suffixes: Suffixes,
) -> torch.Tensor:
    """(P, R, D) suffixes of the layer's output: the base run's, but for the patched tokens' rows.

    Each intervention is one site, of this layer, with the same number of tokens.
    """
    sites: list[PlacedSite] = [intervention.sites[0] for intervention in interventions]
    places = torch.tensor([site.positions for site in sites])
    index = [{token: at for at, token in enumerate(site.positions)} for site in sites]
    width = places.shape[1]
    writes = Writes(model, interventions, given, lambda run, token: run * width + index[run][token])
    tokens = places.flatten()
    with writes.hooked("text"):
        attend = PatchedRows(layer.base, tokens)
        rows = _call(model, layer, layer.input[:, tokens], tokens, attend, {})
    hidden = layer.output[:, suffixes.tokens]
    hidden[:, (torch.tensor(suffixes.first)[:, None] + places).flatten()] = rows
    return hidden


def _run_rest(
    model, base: Run, layer: int, hidden, suffixes: Suffixes, all_of_the_last: bool = False
) -> torch.Tensor:
    """(P, n, D) the runs' last tokens at the end, of suffixes (P, R, D) that enter a layer.

    Args:
        all_of_the_last: whether all rows of the last layer must be run, since it is patched.
    """
    known: dict = {}
    for above in base.layers[layer:-1]:
        hidden = _run_layer(model, above, hidden, suffixes, known)
    if layer == len(base.layers):
        return hidden[:, suffixes.last]
    final = base.layers[-1]
    if all_of_the_last:
        return _run_layer(model, final, hidden, suffixes, known)[:, suffixes.last]
    return _last_rows(model, final, hidden, suffixes, known)


def _run_layer(model, layer: LayerRun, hidden, suffixes: Suffixes, known: dict) -> torch.Tensor:
    """(P, R, D) -> (P, R, D): one layer for all rows."""
    attend = WholeRuns(layer.base, suffixes)
    return _call(model, layer, hidden, suffixes.tokens, attend, known)


def _last_rows(model, layer: LayerRun, hidden, suffixes: Suffixes, known: dict) -> torch.Tensor:
    """(P, n, D): the last layer's output at the runs' last tokens, for suffixes (P, R, D).

    Of the other rows no more than keys and values are computed.
    """
    own = None
    if len(suffixes.last) < len(suffixes.tokens):
        try:
            _call(model, layer, hidden, suffixes.tokens, only_keys_and_values, known)
        except KeysAndValues as found:
            own = found.key, found.value
    attend = WholeRuns(layer.base, suffixes, each=1, own=own)
    tokens = suffixes.tokens[suffixes.last]
    return _call(model, layer, hidden[:, suffixes.last], tokens, attend, {})


def _call(
    model, layer: LayerRun, hidden: torch.Tensor, tokens: torch.Tensor, attend, known: dict
) -> torch.Tensor:
    """Hugging Face's own layer on rows (P, R, D) that carry these tokens, with our attention.

    Raises:
        NoticeError: the layer's attention is not asked just once, or in a way that is not known.
    """
    with attending(layer.attention, attend) as task:
        try:
            output = layer.module(
                hidden.to(layer.input.device),
                attention_mask=None,
                past_key_values=None,
                **layer.settings_of(tokens, known),
            )
        except OwnMask:
            raise own_mask(model, layer.attention) from None
    check_calls(model, layer.attention, task.calls)
    return output[0] if isinstance(output, tuple) else output


def _scores(base: Run, last: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    """(P, n, 4) scores from the last tokens' states (P, n, D)."""
    parts = last.split(max(1, ROWS_OF_LOGITS // len(jobs)), 1)
    return torch.cat([_score(base.unembed(part), jobs) for part in parts], 1)


def _score(logits: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    """(P, ..., 4) scores of logits (P, ..., vocabulary)."""
    return torch.stack([score(one, job.answer) for one, job in zip(logits, jobs, strict=True)])
