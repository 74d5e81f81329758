"""The fast engine: the same numbers as the reference, without computing anything twice."""

from collections.abc import Hashable, Sequence

import torch

from ..errors import NoticeError
from ..models.base import VLM
from ..models.blip import Blip
from ..models.decoder import DecoderOnly
from ..models.inputs import Inputs
from . import blip_plan, decoder_plan, reference
from .jobs import Job, Outcome
from .memory import Budget
from .sites import check_placed

_PLANS = {Blip: blip_plan, DecoderOnly: decoder_plan}

MAX_TOKENS = 4096
"""How many tokens of patched runs are computed at once by default."""


def patch(model: VLM, jobs: Sequence[Job], max_tokens: int | None = None) -> list[Outcome]:
    """Run every intervention of every job; the outcomes are in the jobs' order.

    Jobs of one layout with the same interventions run together, which makes small models fast. A
    model that was loaded with engine="reference" is patched by the reference.

    Args:
        max_tokens: how many tokens of patched runs are computed at once, which bounds memory
            whatever the number of interventions and jobs. Results depend on it by no more than
            rounding. A chunk that does not fit is halved, with a warning, and the size that fitted
            is kept for the next call. None takes `MAX_TOKENS`, or that size.

    Raises:
        NoticeError: the model's class has no plan, the model does something that its plan does not
            know, or a job's run has no place for one of its sites.
    """
    if model.engine == "reference":
        return reference.patch(model, jobs)
    budget = Budget(max_tokens or model.fitting_tokens or MAX_TOKENS)
    asked, plan = budget.tokens, _plan(model)
    groups: dict[Hashable, list[int]] = {}
    for i, job in enumerate(jobs):
        groups.setdefault(_kind(job), []).append(i)
    outcomes: dict[int, Outcome] = {}
    with model.computing():
        for group in groups.values():
            first = jobs[group[0]]
            check_placed(model, first.base, first.answer, first.interventions)
            # As many pairs at once as leave room for one layer's runs, which makes small models
            # fast.
            size = max(1, budget.tokens // plan.tokens_of(model, first))
            for start in range(0, len(group), size):
                chunk = group[start : start + size]
                results = _patch_group(plan, model, [jobs[i] for i in chunk], budget)
                outcomes.update(zip(chunk, results, strict=True))
    if budget.tokens < asked:
        model.fitting_tokens = budget.tokens
    return [outcomes[i] for i in range(len(jobs))]


def tokens_of(model: VLM, job: Job) -> int:
    """How many tokens of one job's patched runs are computed at once if memory allows."""
    return _plan(model).tokens_of(model, job)


def _kind(job: Job) -> Hashable:
    """What jobs must have in common to run together."""
    given = not isinstance(job.source, Inputs)
    return job.base.layout, job.answer.prefix, given, job.interventions


def _patch_group(plan, model: VLM, jobs: Sequence[Job], budget: Budget) -> list[Outcome]:
    """The outcomes of jobs of one kind, computed in halves if they do not fit together."""
    try:
        return plan.patch_group(model, jobs, budget)
    except torch.OutOfMemoryError:
        if len(jobs) < 2:
            raise
    budget.halve()
    middle = len(jobs) // 2
    return [
        outcome
        for half in (jobs[:middle], jobs[middle:])
        for outcome in _patch_group(plan, model, half, budget)
    ]


def _plan(model: VLM):
    for adapter, plan in _PLANS.items():
        if isinstance(model, adapter):
            return plan
    raise NoticeError(
        f"The adapter {type(model).__name__} has no plan for the fast engine. Set the model's "
        'attribute engine to "reference" to patch it by full forwards.'
    )
