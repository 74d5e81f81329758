"""Attribution patching: the effects of all sites at once, to first order.

An engine, like `reference.patch`, whose scores of patched runs are estimates:

    score(patched) = score(base) + gradient of the score at the base run
                                   . (source activation - base activation)

Two forwards and one backward serve all sites of a pair. Exact where everything behind a site is
linear; otherwise its error grows with the square of the difference between the two runs. A head's
source activation is what the head really gave, so its own softmax is not approximated; those of
later heads are. (A head's *query* as a site: `queries`.)

Source: Nanda, "Attribution Patching" (2023); Kramar et al., "AtP*" (2024).
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import reduce
from inspect import unwrap

import pandas as pd
import torch

from ..models.answers import SCORES, score
from ..models.base import VLM, AnswerTokens, Inputs
from ..models.hooks import hook
from .jobs import NO_SCORES, Activations, Job, Outcome, measures
from .metrics import effects
from .reference import Where, columns, record
from .sites import Intervention, PlacedSite
from .table import PATCHED_DTYPES, Sweep

ROW = [name for name in PATCHED_DTYPES if name not in (*SCORES, "token")]
"""What tells the rows of a sweep's table apart."""


@measures("attribution")
def patch(model: VLM, jobs: Sequence[Job], where: Where | None = None) -> list[Outcome]:
    """Every intervention of every job: `sweep(..., engine=attribution.patch)`, `ablate` likewise.

    The tables that come of it look like exact ones; their settings tell them apart.
    """
    return [_estimate(model, job, where) for job in jobs]


def _estimate(model: VLM, job: Job, where: Where | None) -> Outcome:
    if isinstance(job.source, Inputs):
        logits, there = record(model, job.source, job.points, job.answer.prefix, where)
        source = score(logits, job.answer)
    else:
        there, source = job.source, NO_SCORES
    base, here, gradients = linearise(model, job.base, job.points, job.answer, where)
    changes = {point: there[point] - here[point] for point in job.points}
    patched = base + first_order(model, job.interventions, gradients, changes)
    return Outcome(base, source, patched)


def linearise(
    model: VLM,
    inputs: Inputs,
    points: Iterable[tuple[str, int]],
    answer: AnswerTokens,
    where: Where | None = None,
) -> tuple[torch.Tensor, Activations, Activations]:
    """One run, and how its four scores change with its activations.

    Returns:
        (4,) scores; the activations (1, T, width) of the components and layers in `points`; the
        scores' gradients by them, (4, 1, T, width).
    """
    activations, probes = {}, {}
    with ExitStack() as stack:
        for point in points:

            def probe(activation, point=point):
                activations[point] = activation.detach()
                # The gradient by an added zero is the gradient by the activation, also where the
                # model's parameters are frozen and the activation would have none.
                probes[point] = torch.zeros_like(activation, requires_grad=True)
                return activation + probes[point]

            at = (where or model.hook_point)(*point)
            stack.enter_context(hook(at.module, at.on, probe))
        stack.enter_context(model.computing())
        stack.enter_context(torch.enable_grad())
        logits = unwrap(type(model).logits)(model, inputs, answer.prefix)  # without its no_grad
        scores = score(logits, answer)
        each = torch.eye(len(SCORES), dtype=scores.dtype)
        found = torch.autograd.grad(scores, list(probes.values()), each, is_grads_batched=True)
    return scores.detach(), activations, dict(zip(probes, found, strict=True))


def first_order(
    model: VLM, interventions: Sequence[Intervention], gradients: Activations, changes: Activations
) -> torch.Tensor:
    """(interventions, 4): what the scores change by, with `changes` (1, T, width) at the sites."""
    products = {point: gradients[point] * changes[point] for point in gradients}

    def change(site: PlacedSite) -> torch.Tensor:
        product = products[site.component, site.layer]
        width = columns(model, site, product.shape[-1])
        return product[:, 0, list(site.positions), width].double().sum((1, 2))

    summed = [reduce(torch.add, map(change, intervention.sites)) for intervention in interventions]
    return torch.stack(summed).cpu()


def beside(exact: Sweep, estimated: Sweep) -> pd.DataFrame:
    """The exact sweep's effects, and a column `estimate`: the logit difference by attribution.

    Rows of the exact sweep alone have NaN there; those of the estimated one alone are left out.
    """
    estimates = effects(estimated.table())[[*ROW, "effect"]]
    estimates = estimates.rename(columns={"effect": "estimate"})
    return effects(exact.table()).merge(estimates, on=ROW, how="left", validate="one_to_one")


def recall(effect: pd.Series, estimate: pd.Series, k: int, budget: int | None = None) -> float:
    """How many of the k largest effects (absolutely) are among the `budget` largest estimates.

    Args:
        effect, estimate: of the same sites, in the same order.
        budget: how many sites one would go on to patch exactly; by default k.

    Returns:
        A share of k, between 0 and 1. Chance is budget / len(effect).
    """
    largest = set(effect.abs().nlargest(k).index)
    return len(largest & set(estimate.abs().nlargest(budget or k).index)) / k
