"""A head's query as a site: it decides where the head looks, but not what the head reads there.

There are three engines for heads of the text stack, whose sites are queries instead of outputs.
Keys and values stay the base run's:

- `patch`: exact, by one full forward per site;
- `first_order`: attribution patching, which treats the softmax as linear, too. A saturated softmax
  has almost no gradient, so a query that moves all of a head's attention can seem to have no
  effect;
- `corrected`: with AtP*'s correction. The head's attention with the source run's query is computed
  exactly, and only what comes after the head is treated as linear. One more forward serves all
  sites.

Source: Kramar et al., "AtP*" (2024), the QK fix (there it is used for keys as well).
"""

from collections.abc import Sequence
from contextlib import ExitStack

from ..models.answers import score
from ..models.base import VLM
from ..models.hooks import hook
from . import attribution, reference
from .jobs import Activations, Job, Outcome, measures, source_run
from .paths import frozen, frozen_points
from .reference import record


@measures("queries")
def patch(model: VLM, jobs: Sequence[Job]) -> list[Outcome]:
    """The exact effects: `sweep(..., engine=queries.patch)`."""
    return reference.patch(model, jobs, model.query_point)


@measures("attribution of queries")
def first_order(model: VLM, jobs: Sequence[Job]) -> list[Outcome]:
    """Estimates of the effects by attribution patching."""
    return attribution.patch(model, jobs, model.query_point)


@measures("corrected attribution of queries")
def corrected(model: VLM, jobs: Sequence[Job]) -> list[Outcome]:
    """Estimates of the effects with AtP*'s correction."""
    return [_corrected(model, job) for job in jobs]


def _corrected(model: VLM, job: Job) -> Outcome:
    prefix = job.answer.prefix
    source, queries = record(model, source_run(job), job.points, prefix, model.query_point)
    base, outputs, gradients = attribution.linearise(model, job.base, job.points, job.answer)
    _, here = record(model, job.base, frozen_points(model), prefix)
    # With everything else frozen, a head's output at a token depends on no other token's query, so
    # one run with all of the source's queries serves all sites.
    with frozen(model, here) as moved, _queries_from(model, queries):
        model.logits(job.base, prefix)
    changes = {at: moved[at] - outputs[at] for at in job.points}
    patched = base + attribution.first_order(model, job.interventions, gradients, changes)
    return Outcome(base, score(source, job.answer), patched)


def _queries_from(model: VLM, activations: Activations) -> ExitStack:
    """A block within which attentions use these queries."""
    stack = ExitStack()
    for at, activation in activations.items():
        where = model.query_point(*at)
        stack.enter_context(hook(where.module, where.on, lambda _, new=activation: new))
    return stack
