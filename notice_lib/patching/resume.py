"""What the plans of both families share: where a patched run may start, and writing into a batch
of runs.

A patched run differs from its base run only from its lowest patched layer on: its *entry*. Shapes:
P pairs, n patched runs of each, T tokens, width W.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch

from ..models.base import VLM, Inputs
from ..models.hooks import hook
from .jobs import Activations
from .sites import Intervention

Entry = tuple[str, int]
"""(stack, layer)"""

RowOf = Callable[[int, int], int]
"""(run, token) -> the row of a batch in which a run carries a token."""


def entry(model: VLM, intervention: Intervention) -> Entry:
    """The lowest stack and layer that an intervention writes to."""
    order = list(model.stacks)
    stack, layer = min(
        (order.index(model.stack_of(site.component)), site.layer) for site in intervention.sites
    )
    return order[stack], layer


def unchanged(
    model: VLM, interventions: Sequence[Intervention], base: Activations, source: Activations
) -> list[bool]:
    """For each patch, whether it writes just what is there: then its run is the base run.

    So it is for all of LLaVA's tokens before the image when the image is corrupted, and for
    BLIP's first self-attention.
    """
    heads = {point: model.stacks[model.stack_of(point[0])].n_heads for point in source}
    same = {
        point: (base[point] == given).unflatten(-1, (heads[point], -1)).all(-1).all(0).cpu()
        for point, given in source.items()
    }  # point -> (T, H)

    def is_same(site) -> bool:
        rows = same[site.component, site.layer][list(site.positions)]
        return bool((rows if site.head is None else rows[:, site.head]).all())

    return [all(map(is_same, intervention.sites)) for intervention in interventions]


class Writes:
    """Writes n interventions into a batch of their runs, n for each of P pairs.

    Args:
        source: (P, T, W) each.
        row_of: where a run's tokens stand in batches of the text stack; by default the runs are
            whole and side by side, as they are in the other stacks.
    """

    def __init__(
        self,
        model: VLM,
        interventions: Sequence[Intervention],
        source: Activations,
        row_of: RowOf | None = None,
    ):
        self.model, self.interventions = model, interventions
        self.source, self.row_of = source, row_of
        self.points = {
            (site.component, site.layer)
            for intervention in interventions
            for site in intervention.sites
        }

    def __call__(self, component: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        """The activation with this component's and layer's sites written.

        Its dimensions but for the last are those of the P pairs' runs and tokens, in this order.
        """
        if (component, layer) not in self.points:
            return x
        given = self.source[component, layer].to(x.device)
        x = x.clone(memory_format=torch.contiguous_format)
        batch = x.view(len(given), -1, x.shape[-1])
        row_of = self.row_of if component in self.model.components else None
        if row_of is None:
            length = batch.shape[1] // len(self.interventions)
            row_of = lambda run, token: run * length + token  # noqa: E731
        rows, tokens, heads = self._cells(component, layer, row_of)
        new = given[:, tokens]
        if not all(map(all, heads)):
            written = torch.tensor(heads, device=x.device)
            written = written.repeat_interleave(x.shape[-1] // written.shape[1], 1)
            new = torch.where(written, new, batch[:, rows])
        batch[:, rows] = new
        return x

    def _cells(self, component: str, layer: int, row_of: RowOf):
        """The rows that are written, each one's token, and which of its heads (of all where the
        whole module is)."""
        n_heads = self.model.stacks[self.model.stack_of(component)].n_heads
        tokens: dict[int, int] = {}
        heads: dict[int, list[bool]] = {}
        for run, intervention in enumerate(self.interventions):
            for site in intervention.sites:
                if (site.component, site.layer) != (component, layer):
                    continue
                for token in site.positions:
                    row = row_of(run, token)
                    tokens[row] = token
                    own = heads.setdefault(row, [False] * n_heads)
                    own[slice(None) if site.head is None else slice(site.head, site.head + 1)] = [
                        True
                    ] * (n_heads if site.head is None else 1)
        return list(tokens), list(tokens.values()), list(heads.values())

    @contextmanager
    def hooked(self, stack: str) -> Iterator[None]:
        """Within this block, the modules of one stack run with their sites written."""
        with ExitStack() as hooks:
            for component, layer in self.points:
                if self.model.stack_of(component) == stack:
                    point = self.model.hook_point(component, layer)
                    hooks.enter_context(
                        hook(point.module, point.on, _bound(self, component, layer))
                    )
            yield


def _bound(writes: Writes, component: str, layer: int):
    return lambda activation: writes(component, layer, activation)


def tower_inputs(
    model: VLM, interventions: Sequence[Intervention]
) -> Mapping[Entry, torch.nn.Module]:
    """The layers of the vision tower at which runs of these interventions start."""
    entries = {entry(model, intervention) for intervention in interventions}
    return {
        (stack, layer): model.tower_layers[layer] for stack, layer in entries if stack == "vision"
    }


def run_tower(
    model: VLM, hidden: torch.Tensor, layer: int, writes: Writes, bases: Sequence[Inputs]
) -> torch.Tensor:
    """(P n, image tokens, D) image states of patched runs that start at a layer of the tower.

    Args:
        hidden: (P, class token + patches, D_v), the base runs' inputs of that layer.
    """
    n = len(writes.interventions)
    hidden = hidden.repeat_interleave(n, 0)
    with model.noise([run for run in bases for _ in range(n)]), writes.hooked("vision"):
        for block in model.tower_layers[layer:]:
            hidden = block(hidden, attention_mask=None)
        return model.image_states(hidden)
