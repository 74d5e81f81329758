"""Patched runs of any decoder-only model without the work that is the same in all of them.

When the first patched token is p and the lowest patched layer is l:

- Nothing below layer l changes, so every run resumes there from the base run's recorded states.
- No token before p changes. The keys and values of these tokens, often all of the image's, are
  computed once in the base run and shared by all runs (`recorded` says where that is exact).
- In layer l, only the patched tokens' rows change.
- In the last layer, only the last token's row is read.

The suffixes of all runs of a layer, each from its p to the last token, lie one after the other in
one sequence of rows, so every projection and MLP is one large matrix product (`packed`). The layers
are Hugging Face's, called with the arguments that the model itself gave them in the base run,
indexed by the rows' tokens. Norms, rotary embeddings, multipliers, soft caps and mixtures of
experts therefore need no code here.

Circuits resume at their lowest layer and first token. Runs that enter in the vision tower resume at
its patched layer, and in the text at the image's first token. Both compute all rows from there. The
results equal the reference's up to rounding. Shapes: P pairs of one layout, n patched runs of each,
T tokens, R rows, width D.
"""

from collections.abc import Sequence

import torch

from ..errors import NoticeError
from ..models.decoder import DecoderOnly
from ..models.hooks import watch
from ..models.inputs import Inputs
from .interface import check_calls, not_heads, own_mask
from .jobs import NO_SCORES, Activations, Job, Outcome, given_activations, scores_of, source_run
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
from .recorded import LayerRun, Run, are_heads_side_by_side, record
from .resume import (
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
from .sites import Intervention, PlacedSite

ROWS_OF_LOGITS = 256
"""How many runs' logits, each as long as the vocabulary, are formed at once."""


def tokens_of(model: DecoderOnly, job: Job) -> int:
    """Tokens of one job's patched runs that are computed at once if memory allows.

    An estimate, made before anything is run. It assumes that runs start at their first patched
    token and that those which change nothing are the ones at tokens before the first difference.
    """
    length, different = len(job.base), _first_difference(model, job)

    def estimate(intervention: Intervention) -> int:
        tower = tower_tokens(model, intervention)
        if not tower and max(_tokens(intervention)) < different:
            return 0
        return length - _first_token(model, job, intervention) + tower

    return tokens_together(model, job, [estimate(one) for one in job.interventions])


def _first_difference(model: DecoderOnly, job: Job) -> int:
    """The first token at which the two runs of a job differ, if the model is causal."""
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
    base_scores = scores_of(jobs, base.logits)
    patched = base_scores[:, None].repeat(1, len(first.interventions), 1)
    same = unchanged(model, first.interventions, base.activations, given)

    def run(chunk: Sequence[int]) -> torch.Tensor:
        return _run_chunk(model, jobs, base, given, [first.interventions[i] for i in chunk])

    tokens = [
        base.length - _start(model, first, base, intervention) + tower_tokens(model, intervention)
        for intervention in first.interventions
    ]
    for chunk in chunks(model, jobs, same, tokens, budget):
        patched[:, chunk] = budget.run(run, chunk)
    return [Outcome(*outcome) for outcome in zip(base_scores, source_scores, patched, strict=True)]


def _check_heads(model, job: Job, base: Run) -> None:
    """Refuse to patch single heads if the output projection reads something else."""
    sites = {site for intervention in job.interventions for site in intervention.sites}
    for layer in {site.layer for site in sites if _is_head(site)}:
        if not are_heads_side_by_side(base, layer):
            raise NoticeError(f"{model}: {not_heads(model, layer)}")


def _is_head(site: PlacedSite) -> bool:
    return site.component == "self_attention" and site.head is not None


def _source(model, jobs: Sequence[Job], base: Run) -> tuple[Activations, torch.Tensor]:
    """The activations that are copied, and the (P, 4) scores of the runs that they come from."""
    first = jobs[0]
    if not isinstance(first.source, Inputs):
        return given_activations(jobs), NO_SCORES.expand(len(jobs), -1)
    runs = [source_run(job) for job in jobs]
    same_images = all(map(_same_image, (job.base for job in jobs), runs))
    if same_images and not base.tower and _is_embedding(model, jobs, base):
        return _source_after(model, jobs, base)
    source = record(model, runs, first.points, first.answer.prefix)
    return source.activations, scores_of(jobs, source.logits)


def _same_image(base: Inputs, source: Inputs) -> bool:
    return source.pixel_values is base.pixel_values and source.noise is base.noise


def _is_embedding(model, jobs: Sequence[Job], base: Run) -> bool:
    """Whether the text's tokens enter the first layer as their embeddings, unchanged."""
    ids = _ids(jobs, "base")
    text = ids != model.image_token_id
    embedded = model.model.get_input_embeddings()(ids[text])
    entering = base.layers[0].input[text]
    return torch.equal(embedded.to(entering.device), entering)


def _ids(jobs: Sequence[Job], run: str) -> torch.Tensor:
    """(P, T) token ids of the jobs' base or source runs, with the tokens that both answers begin
    with."""
    ids = torch.cat([getattr(job, run).input_ids for job in jobs])
    prefix = ids.new_tensor([jobs[0].answer.prefix] * len(jobs)).view(len(jobs), -1)
    return torch.cat([ids, prefix], 1).long()


def _source_after(model, jobs: Sequence[Job], base: Run) -> tuple[Activations, torch.Tensor]:
    """As `_source`, for source runs that differ from their base runs in the text alone.

    Up to the first token that differs, each is the base run, so only the rest is computed.
    """
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
    """The first token that a run changes. A change in the tower reaches every token of the
    image."""
    if entry(model, intervention)[0] == "vision":
        text = [site for site in intervention.sites if site.component in model.components]
        image = job.base.image_tokens.index(True)
        return min([image, *_tokens(Intervention(tuple(text)))])
    return min(_tokens(intervention))


def _tokens(intervention: Intervention) -> list[int]:
    """The indices of the patched tokens, each in its own stack."""
    return [token for site in intervention.sites for token in site.positions]


def _start(model, job: Job, base: Run, intervention: Intervention) -> int:
    """The token from which an intervention's run is computed."""
    stack, layer = entry(model, intervention)
    return base.starts[0 if stack == "vision" else layer][_first_token(model, job, intervention)]


def _run_chunk(model, jobs, base: Run, given: Activations, interventions) -> torch.Tensor:
    """(P, n, 4) scores of n interventions that resume together and are ordered by their starts."""
    stack, layer = entry(model, interventions[0])
    starts = [_start(model, jobs[0], base, intervention) for intervention in interventions]
    suffixes = Suffixes(starts, base.length)
    first = suffixes.first
    writes = Writes(model, interventions, given, lambda run, token: first[run] + token)
    if is_single(model, interventions[0]):
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
    """(P, R, D) suffixes of the layer's output: the base run's, except in the patched tokens' rows.

    Args:
        interventions: single sites of this layer, each with the same number of tokens.
    """
    places = torch.tensor([intervention.sites[0].positions for intervention in interventions])
    writes = Writes.at_patched_tokens(model, interventions, given)
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
    """(P, n, D) last states of the runs' last tokens, from suffixes (P, R, D) that enter a layer.

    Args:
        all_of_the_last: whether all rows of the last layer must be computed, because it is patched.
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
    """One layer for all rows, (P, R, D) -> (P, R, D)."""
    attend = WholeRuns(layer.base, suffixes)
    return _call(model, layer, hidden, suffixes.tokens, attend, known)


def _last_rows(model, layer: LayerRun, hidden, suffixes: Suffixes, known: dict) -> torch.Tensor:
    """(P, n, D) outputs of the last layer at the runs' last tokens, for suffixes (P, R, D).

    In the other rows, only keys and values are computed.
    """
    of_rows = None
    if len(suffixes.last) < len(suffixes.tokens):
        try:
            _call(model, layer, hidden, suffixes.tokens, only_keys_and_values, known)
        except KeysAndValues as reached:
            of_rows = reached.key, reached.value
    attend = WholeRuns(layer.base, suffixes, each=1, of_rows=of_rows)
    tokens = suffixes.tokens[suffixes.last]
    return _call(model, layer, hidden[:, suffixes.last], tokens, attend, {})


def _call(
    model, layer: LayerRun, hidden: torch.Tensor, tokens: torch.Tensor, attend, known: dict
) -> torch.Tensor:
    """Hugging Face's layer on rows (P, R, D) that carry these tokens, with another attention.

    Raises:
        NoticeError: the layer does not call its attention exactly once, or makes its own mask.
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
    return torch.cat([scores_of(jobs, base.unembed(part)) for part in parts], 1)
