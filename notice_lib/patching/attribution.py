"""Attribution patching: the effects of all sites at once, to first order.

An engine, like `reference.patch`, whose scores of patched runs are estimates:

    score(patched) = score(base) + gradient of the score at the base run
                                   . (source activation - base activation)

Two forwards and one backward serve all sites of a pair. The estimate is exact if everything after
a site is linear; otherwise its error grows with the square of the difference between the two runs.
A head's source activation is its real output in the source run, so the softmax of this head is not
approximated, but those of later heads are. (For a head's *query* as a site, see `queries`.)

Source: Nanda, "Attribution Patching" (2023); Kramar et al., "AtP*" (2024).
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import reduce
from inspect import unwrap

import pandas as pd
import torch

from ..models.answers import SCORES, score
from ..models.base import VLM
from ..models.hooks import hook
from ..models.inputs import AnswerTokens, Inputs
from .jobs import Activations, Job, Outcome, measures
from .metrics import effects
from .reference import Where, columns, record_source
from .sites import Intervention, PlacedSite
from .table import PATCHED_DTYPES, Sweep

ROW = [name for name in PATCHED_DTYPES if name not in (*SCORES, "token")]
"""The columns that identify a row of a sweep's table."""


@measures("attribution")
def patch(model: VLM, jobs: Sequence[Job], where: Where | None = None) -> list[Outcome]:
    """Estimate every intervention of every job, for `sweep(..., engine=attribution.patch)` and
    `ablate`.

    The resulting tables look like exact ones; their settings tell them apart.
    """
    return [_estimate(model, job, where) for job in jobs]


def _estimate(model: VLM, job: Job, where: Where | None) -> Outcome:
    there, source = record_source(model, job, where)
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
    """Run a model once, and take its four scores' gradients by its activations.

    Returns:
        (4,) scores; the activations (1, T, width) of the components and layers in `points`; the
        scores' gradients by them, (4, 1, T, width).
    """
    activations, probes = {}, {}
    with ExitStack() as stack:
        for point in points:

            def probe(activation, point=point):
                activations[point] = activation.detach()
                # The gradient by an added zero is the gradient by the activation. It exists even
                # if the model's parameters are frozen and the activation itself has none.
                probes[point] = torch.zeros_like(activation, requires_grad=True)
                return activation + probes[point]

            at = (where or model.hook_point)(*point)
            stack.enter_context(hook(at.module, at.on, probe))
        stack.enter_context(model.computing())
        stack.enter_context(torch.enable_grad())
        logits = unwrap(type(model).logits)(model, inputs, answer.prefix)  # Without its no_grad.
        scores = score(logits, answer)
        each = torch.eye(len(SCORES), dtype=scores.dtype)
        gradients = torch.autograd.grad(scores, list(probes.values()), each, is_grads_batched=True)
    return scores.detach(), activations, dict(zip(probes, gradients, strict=True))


def first_order(
    model: VLM, interventions: Sequence[Intervention], gradients: Activations, changes: Activations
) -> torch.Tensor:
    """(interventions, 4) changes of the scores, to first order.

    Args:
        gradients: of the four scores by each point's activation, (4, 1, T, width).
        changes: of each point's activation, (1, T, width); an intervention takes those at its
            sites.
    """
    products = {point: gradients[point] * changes[point] for point in gradients}

    def change(site: PlacedSite) -> torch.Tensor:
        product = products[site.component, site.layer]
        width = columns(model, site, product.shape[-1])
        return product[:, 0, list(site.positions), width].double().sum((1, 2))

    summed = [reduce(torch.add, map(change, intervention.sites)) for intervention in interventions]
    return torch.stack(summed).cpu()


def beside(exact: Sweep, estimated: Sweep) -> pd.DataFrame:
    """The exact sweep's `effects`, with the estimated effects in a further column, `estimate`.

    The estimate is NaN in rows that only the exact sweep has. Rows that only the estimated sweep
    has are left out.
    """
    estimates = effects(estimated.table())[[*ROW, "effect"]]
    estimates = estimates.rename(columns={"effect": "estimate"})
    return effects(exact.table()).merge(estimates, on=ROW, how="left", validate="one_to_one")


def recall(effect: pd.Series, estimate: pd.Series, k: int, budget: int | None = None) -> float:
    """The share of the k largest effects that is among the `budget` largest estimates, all by size.

    Args:
        effect, estimate: values of the same sites, in the same order.
        budget: how many sites one would go on to patch exactly; by default k.

    Returns:
        A share of k, between 0 and 1. By chance it is budget / len(effect).
    """
    largest = set(effect.abs().nlargest(k).index)
    return len(largest & set(estimate.abs().nlargest(budget or k).index)) / k
