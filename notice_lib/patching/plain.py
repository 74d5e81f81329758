"""Activation patching the plain way: one full forward per site, with hooks.

Slow and obvious: the oracle that any faster engine must equal.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch

from ..errors import NoticeError
from ..models.answers import score
from ..models.base import VLM, Inputs
from .jobs import Job, Outcome
from .sites import PlacedSite

Activations = dict[tuple[str, int], torch.Tensor]
"""(component, layer) -> (1, T, width)."""


def patch(model: VLM, jobs: Sequence[Job]) -> list[Outcome]:
    """Every site of every job, one full forward each."""
    return [_patch_one(model, job) for job in jobs]


def _patch_one(model: VLM, job: Job) -> Outcome:
    answer = job.answer
    points = {(site.component, site.layer) for site in job.sites}
    source, activations = record(model, job.source, points, answer.prefix)
    patched = [
        score(patched_logits(model, job.base, activations, [site], answer.prefix), answer)
        for site in job.sites
    ]
    base = model.logits(job.base, answer.prefix)
    return Outcome(score(base, answer), score(source, answer), torch.stack(patched))


@torch.no_grad()
def record(
    model: VLM, inputs: Inputs, points: Iterable[tuple[str, int]], prefix: tuple[int, ...] = ()
) -> tuple[torch.Tensor, Activations]:
    """One unpatched run.

    Returns:
        (vocabulary,) answer logits, and the activations of the components and layers in `points`.
    """
    activations: Activations = {}
    with ExitStack() as stack:
        for point in set(points):

            def keep(activation, point=point):
                activations[point] = activation.clone()

            where = model.hook_point(*point)
            stack.enter_context(hook(where.module, where.on, keep))
        return model.logits(inputs, prefix), activations


@torch.no_grad()
def patched_logits(
    model: VLM,
    base: Inputs,
    source: Activations,
    sites: Sequence[PlacedSite],
    prefix: tuple[int, ...] = (),
) -> torch.Tensor:
    """(vocabulary,) answer logits of the base run with the source run's activation at all `sites`.

    Raises:
        NoticeError: a site never fired.
        IndexError: a site's position lies beyond the base run's last token.
    """
    fired = set()
    with ExitStack() as stack:
        for site in sites:

            def write(activation, site=site):
                activation = activation.clone()
                width = _columns(model, site, activation.shape[-1])
                positions = list(site.positions)
                activation[0, positions, width] = source[site.component, site.layer][
                    0, positions, width
                ]
                fired.add(site)
                return activation

            where = model.hook_point(site.component, site.layer)
            stack.enter_context(hook(where.module, where.on, write))
        logits = model.logits(base, prefix)
    silent = set(sites) - fired
    if silent:
        raise NoticeError(
            f"Nothing was patched: these sites never fired: {sorted(silent, key=str)}"
        )
    return logits


def _columns(model: VLM, site: PlacedSite, width: int) -> slice:
    """The columns of an activation that a site covers: one head's, or all."""
    if site.head is None:
        return slice(None)
    size = width // model.n_heads
    return slice(site.head * size, (site.head + 1) * size)


def hook(module: torch.nn.Module, on: str, visit):
    """Call `visit` with a module's first input or its output; what it returns, if anything,
    replaces it.

    Returns:
        The handle, a context manager that removes the hook.
    """

    def checked(activation):
        if not isinstance(activation, torch.Tensor) or activation.dim() != 3:
            raise NoticeError(
                f"{type(module).__name__} gave {type(activation).__name__}, not a (batch, T, "
                "width) tensor: this version of transformers is not supported."
            )
        return visit(activation)

    if on == "input":

        def before(module, args):
            changed = checked(args[0])
            return None if changed is None else (changed, *args[1:])

        return module.register_forward_pre_hook(before)
    return module.register_forward_hook(lambda module, args, output: checked(output))
