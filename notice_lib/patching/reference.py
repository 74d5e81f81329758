"""The reference: activation patching by one full forward for each patched run, with hooks.

It is slow and simple, and every faster engine must give the same numbers.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

import torch

from ..errors import NoticeError
from ..models.answers import score
from ..models.base import VLM
from ..models.hooks import HookPoint, hook, watch
from ..models.inputs import Inputs
from .jobs import NO_SCORES, Activations, Job, Outcome
from .sites import PlacedSite, check_placed

Where = Callable[[str, int], HookPoint]
"""(component, layer) -> where its activation is read and written; `VLM.hook_point` by default."""


def patch(model: VLM, jobs: Sequence[Job], where: Where | None = None) -> list[Outcome]:
    """Run every intervention of every job, with one full forward for each.

    Raises:
        NoticeError: a job's run has no place for one of its sites.
    """
    return [_patch_one(model, job, where) for job in jobs]


def _patch_one(model: VLM, job: Job, where: Where | None) -> Outcome:
    check_placed(model, job.base, job.answer, job.interventions)
    answer = job.answer
    activations, source = record_source(model, job, where)
    patched = [
        patched_logits(model, job.base, activations, intervention.sites, answer.prefix, where)
        for intervention in job.interventions
    ]
    base = score(model.logits(job.base, answer.prefix), answer)
    return Outcome(base, source, torch.stack([score(logits, answer) for logits in patched]))


def record_source(
    model: VLM, job: Job, where: Where | None = None
) -> tuple[Activations, torch.Tensor]:
    """The activations that a job copies, and the (4,) scores of the run that they come from."""
    if not isinstance(job.source, Inputs):
        return job.source, NO_SCORES
    logits, activations = record(model, job.source, job.points, job.answer.prefix, where)
    return activations, score(logits, job.answer)


@torch.no_grad()
def record(
    model: VLM,
    inputs: Inputs,
    points: Iterable[tuple[str, int]],
    prefix: tuple[int, ...] = (),
    where: Where | None = None,
) -> tuple[torch.Tensor, Activations]:
    """Run a model without patching anything.

    Returns:
        (vocabulary,) answer logits, and the activations of the components and layers in `points`.
    """
    where = where or model.hook_point
    with model.computing(), watch({at: where(*at) for at in points}) as activations:
        return model.logits(inputs, prefix), activations


@torch.no_grad()
def patched_logits(
    model: VLM,
    base: Inputs,
    source: Activations,
    sites: Sequence[PlacedSite],
    prefix: tuple[int, ...] = (),
    where: Where | None = None,
) -> torch.Tensor:
    """(vocabulary,) answer logits of the base run with the source's activation at all `sites`.

    Raises:
        NoticeError: a site's module was never called.
        IndexError: a site's position lies beyond the base run's last token.
    """
    where, fired = where or model.hook_point, set()
    with ExitStack() as stack:
        stack.enter_context(model.computing())
        for site in sites:

            def write(activation, site=site):
                fired.add(site)
                return copied(model, site, source[site.component, site.layer], activation)

            point = where(site.component, site.layer)
            stack.enter_context(hook(point.module, point.on, write))
        logits = model.logits(base, prefix)
    silent = set(sites) - fired
    if silent:
        raise NoticeError(
            f"Nothing was patched: these sites never fired: {sorted(silent, key=str)}"
        )
    return logits


def copied(model: VLM, site: PlacedSite, source: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """The base run's activation (1, T, width) with the source's at one site."""
    patched, at = base.clone(), (0, list(site.positions), columns(model, site, base.shape[-1]))
    patched[at] = source[at]
    return patched


def columns(model: VLM, site: PlacedSite, width: int) -> slice:
    """The columns of an activation that a site covers: one head's, or all."""
    if site.head is None:
        return slice(None)
    size = width // model.stacks[model.stack_of(site.component)].n_heads
    return slice(site.head * size, (site.head + 1) * size)
