"""The engine: the same numbers as the reference, without computing the same thing twice."""

from collections.abc import Hashable, Sequence

import torch

from ..errors import NoticeError
from ..models.base import VLM, Inputs
from ..models.blip import Blip
from ..models.decoder import DecoderOnly
from . import blip_plan, decoder_plan, reference
from .jobs import Job, Outcome
from .memory import Budget

_PLANS = {Blip: blip_plan, DecoderOnly: decoder_plan}

MAX_TOKENS = 4096
"""Tokens of patched runs that are computed at once, unless told otherwise."""


def patch(model: VLM, jobs: Sequence[Job], max_tokens: int | None = None) -> list[Outcome]:
    """Every intervention of every job; the outcomes in the jobs' order.

    Jobs of one layout with the same interventions run together, which is what makes small models
    fast. A model that was loaded with engine="reference" is patched by the reference.

    Args:
        max_tokens: bounds memory, whatever the number of interventions and jobs; results do not
            depend on it beyond rounding. A chunk that does not fit is halved, with a warning, and
            what did fit is remembered for the next call. None takes `MAX_TOKENS`, or what was found
            to fit.

    Raises:
        NoticeError: the model's class has no plan, or does something that its plan does not know.
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
            # As many pairs at once as leave room for one layer's runs: small models gain by it.
            size = max(1, budget.tokens // plan.tokens_of(model, jobs[group[0]]))
            for start in range(0, len(group), size):
                chunk = group[start : start + size]
                found = _patch_group(plan, model, [jobs[i] for i in chunk], budget)
                outcomes.update(zip(chunk, found, strict=True))
    if budget.tokens < asked:
        model.fitting_tokens = budget.tokens
    return [outcomes[i] for i in range(len(jobs))]


def tokens_of(model: VLM, job: Job) -> int:
    """Tokens of one job's patched runs that are computed at once."""
    return _plan(model).tokens_of(model, job)


def _kind(job: Job) -> Hashable:
    """What jobs must share to run together."""
    given = not isinstance(job.source, Inputs)
    return job.base.layout, job.answer.prefix, given, job.interventions


def _patch_group(plan, model: VLM, jobs: Sequence[Job], budget: Budget) -> list[Outcome]:
    """The outcomes of jobs of one kind, in halves where all of them do not fit."""
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
        f"{type(model).__name__} has no plan for the fast engine. Patch it by the reference: set "
        'its attribute engine to "reference".'
    )
