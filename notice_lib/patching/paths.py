"""Path patching: on which path does a site act on the answer?

When a site is patched, everything downstream reacts, so its effect is the sum over all paths to the
answer. While one path is followed, the text stack's other components (self-attention,
cross-attention, MLP, at every token and layer) are **frozen**: they give what they gave in the base
run, whatever they read. The residual stream with its normalisations is not frozen, and neither is
what turns its end into the answer: LLaVA's last norm and unembedding, BLIP's answer decoder.

- **Direct**: the base run with the sender's activation from the source run, everything else frozen.
- **Through a receiver**: in that frozen run, note what the receiver would have given. Then patch
  the base run with this at the receiver, with nothing frozen: from the receiver on, all paths
  count.

In a linear model the direct effect and the effects through all later components add up to the
sender's effect. In a real model, their interaction is the rest.

Source: Wang et al. (2023), who freeze attention heads only and let MLPs react; Goldowsky-Dill et
al., "Localizing Model Behavior with Path Patching" (2023), who define paths for any choice of
components.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from ..choices import Direction
from ..errors import NoticeError
from ..models.answers import score
from ..models.base import VLM
from ..models.hooks import hook
from ..pairs import PairSet
from .jobs import Activations, Job, Outcome, measures, source_run
from .reference import copied, patched_logits, record
from .runs import Corruption
from .sites import Circuit, Intervention, Site, flatten_sites
from .sweeps import sweep
from .table import Sweep

FROZEN = ("self_attention", "cross_attention", "mlp")


def path_patching(
    model: VLM,
    pairs: PairSet,
    sender: Site | Circuit,
    receivers: Iterable[Site | Circuit],
    corruption: Corruption = "image",
    direction: Direction = "denoise",
    seed: int = 0,
) -> Sweep:
    """One sender's effect on its direct path, and through each receiver.

    Args:
        sender: a site or circuit of the text stack whose position is not "each".
        receivers: components that are frozen otherwise, as a whole or by single heads. A receiver
            before the sender gets nothing from it.
        corruption, direction, seed: as in `sweep`.

    Returns:
        A sweep with one row for each pair and receiver: the scores of the run in which only this
        path is patched. The row of the sender itself is its direct path; `settings["sender"]` names
        it.

    Raises:
        NoticeError: the sender's position is "each", a receiver is none of `FROZEN`, or as `sweep`.
    """
    receivers = list(receivers)
    _check(sender, receivers)
    result = sweep(
        model,
        pairs,
        [sender, *receivers],
        corruption=corruption,
        direction=direction,
        seed=seed,
        engine=_from_the_first,
    )
    return replace(result, settings={**result.settings, "sender": str(sender)})


@measures("direct paths")
def direct(model: VLM, jobs: Sequence[Job]) -> list[Outcome]:
    """The engine of direct effects, for `sweep(..., engine=paths.direct)`.

    Each site is the sender in turn. The resulting tables look like those of whole effects; their
    settings tell them apart.
    """
    return [_direct(model, job) for job in jobs]


def _direct(model: VLM, job: Job) -> Outcome:
    base, source, here, there = _both_runs(model, job)
    patched = []
    for sender in job.interventions:
        with frozen(model, _mixed(model, here, there, sender)):
            patched.append(model.logits(job.base, job.answer.prefix))
    return _outcome(job, base, source, patched)


@measures("paths")
def _from_the_first(model: VLM, jobs: Sequence[Job]) -> list[Outcome]:
    """The engine of `path_patching`. A job's first intervention is the sender."""
    return [_through(model, job) for job in jobs]


def _through(model: VLM, job: Job) -> Outcome:
    prefix = job.answer.prefix
    sender, *receivers = job.interventions
    base, source, here, there = _both_runs(model, job)
    with frozen(model, _mixed(model, here, there, sender)) as computed:
        straight = model.logits(job.base, prefix)
    patched = [
        patched_logits(model, job.base, computed, receiver.sites, prefix) for receiver in receivers
    ]
    return _outcome(job, base, source, [straight, *patched])


def _both_runs(model: VLM, job: Job):
    """(base, source, here, there): the base and the source run's answer logits, and their
    activations."""
    points = job.points.union(frozen_points(model))
    base, here = record(model, job.base, points, job.answer.prefix)
    source, there = record(model, source_run(job), job.points, job.answer.prefix)
    return base, source, here, there


def _mixed(model: VLM, here: Activations, there: Activations, sender: Intervention) -> Activations:
    """The activations while a sender's path is followed: the base run's, frozen, and the sender's
    from the source run."""
    mixed = {point: here[point] for point in frozen_points(model)}
    for site in sender.sites:
        point = site.component, site.layer
        mixed[point] = copied(model, site, there[point], mixed.get(point, here[point]))
    return mixed


@contextmanager
def frozen(model: VLM, activations: Activations) -> Iterator[Activations]:
    """Within this block components give these activations, whatever they read.

    Yields:
        For each component, the activation that it would have given in the last run.
    """
    computed: dict[tuple[str, int], torch.Tensor] = {}
    with ExitStack() as stack:
        for at, activation in activations.items():

            def freeze(now, at=at, activation=activation):
                computed[at] = now
                return activation

            where = model.hook_point(*at)
            stack.enter_context(hook(where.module, where.on, freeze))
        yield computed


def frozen_points(model: VLM) -> list[tuple[str, int]]:
    """Every (component, layer) that is frozen."""
    return [
        (component, layer)
        for component in FROZEN
        if component in model.components
        for layer in range(model.n_layers)
    ]


def _check(sender: Site | Circuit, receivers: Sequence[Site | Circuit]) -> None:
    if isinstance(sender, Site) and sender.position == "each":
        raise NoticeError(
            f"{sender}: a sender is patched in one run, but 'each' asks for a run for every token. "
            "Use 'all', a role or an index as the position."
        )
    for site in flatten_sites(receivers):
        if site.component not in FROZEN:
            raise NoticeError(f"{site}: a receiver is one of {', '.join(FROZEN)}.")


def _outcome(job: Job, base, source, patched: list[torch.Tensor]) -> Outcome:
    return Outcome(*(score(logits, job.answer) for logits in (base, source, torch.stack(patched))))
