"""What the plans of BLIP and of decoder-only models share: where patched runs resume, which of them
run together, and how activations are written into a batch of runs.

A patched run differs from its base run only from its lowest patched layer on. That layer is its
*entry*, where the run resumes from the base run's recorded states. Shapes: P pairs, n patched runs
of each, T tokens, width W.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch

from ..models.base import VLM
from ..models.hooks import hook
from ..models.inputs import Inputs
from .jobs import Activations, Job
from .memory import Budget
from .sites import Intervention

Entry = tuple[str, int]
"""(stack, layer)"""

RowOf = Callable[[int, int], int]
"""(run, token) -> the row of a batch in which a run carries a token."""


def entry(model: VLM, intervention: Intervention) -> Entry:
    """The lowest stack and layer that an intervention writes to."""
    order = list(model.stacks)
    stack, layer = min(
        (order.index(model.stack_of(component)), layer) for component, layer in intervention.points
    )
    return order[stack], layer


def is_single(model: VLM, intervention: Intervention) -> bool:
    """Whether it is a single site of the text stack: in its layer only patched tokens change."""
    return len(intervention.sites) == 1 and entry(model, intervention)[0] == "text"


def tower_tokens(model: VLM, intervention: Intervention) -> int:
    """How many tokens of the vision tower a patched run computes."""
    in_tower = entry(model, intervention)[0] == "vision"
    return model.grid**2 + model.class_tokens if in_tower else 0


def tokens_together(model: VLM, job: Job, tokens: Sequence[int]) -> int:
    """Tokens of one job's patched runs that are computed at once if memory allows.

    Args:
        tokens: of each intervention's run.
    """
    together: Counter[Entry] = Counter()
    for intervention, needed in zip(job.interventions, tokens, strict=True):
        together[entry(model, intervention)] += needed
    return max([len(job.base), *together.values()])


def chunks(
    model: VLM, jobs: Sequence[Job], same: Sequence[bool], tokens: Sequence[int], budget: Budget
) -> Iterator[list[int]]:
    """Indices of the interventions that resume together, as many as the budget allows.

    They have one entry. Single sites of the text stack also have equally many patched tokens, and
    only those tokens are computed in the patched layer.

    Args:
        same: interventions that change nothing and are not run (`unchanged`).
        tokens: of each intervention's run in one pair; the longest runs come first.
    """
    groups: dict[tuple, list[int]] = defaultdict(list)
    for i, intervention in enumerate(jobs[0].interventions):
        if not same[i]:
            single = is_single(model, intervention)
            patched = len(intervention.sites[0].positions) if single else None
            groups[entry(model, intervention), patched].append(i)
    for group in groups.values():
        chunk: list[int] = []
        used = 0
        for i in sorted(group, key=lambda i: -tokens[i]):
            if chunk and (used + tokens[i]) * len(jobs) > budget.tokens:
                yield chunk
                chunk, used = [], 0
            chunk.append(i)
            used += tokens[i]
        yield chunk


def unchanged(
    model: VLM, interventions: Sequence[Intervention], base: Activations, source: Activations
) -> list[bool]:
    """For each intervention, whether it writes what the base run has already.

    Then its run is the base run. That is so at all of LLaVA's tokens before the image when the
    image is corrupted, and for BLIP's first self-attention.
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
    """Writes n interventions into a batch of P pairs' n patched runs.

    Args:
        source: the activations that are copied, (P, T, W) each.
        row_of: where a run's tokens stand in batches of the text stack. By default whole runs stand
            side by side there, as they do in the other stacks.
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
        self.points = set().union(*(intervention.points for intervention in interventions))

    @classmethod
    def at_patched_tokens(
        cls, model: VLM, interventions: Sequence[Intervention], source: Activations
    ) -> "Writes":
        """Into batches that hold the patched tokens of each run and no others.

        Args:
            interventions: single sites of the text stack, each with the same number of tokens.
        """
        sites = [intervention.sites[0] for intervention in interventions]
        width = len(sites[0].positions)
        place = [{token: at for at, token in enumerate(site.positions)} for site in sites]
        return cls(model, interventions, source, lambda run, token: run * width + place[run][token])

    def __call__(self, component: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        """The activation with the sites of this component and layer written into it.

        Args:
            x: (P, ..., W); the dimensions between are those of the pair's runs and their tokens.
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
        """The rows that are written, and for each row its token and which heads are written."""
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
                    written = heads.setdefault(row, [False] * n_heads)
                    for head in range(n_heads) if site.head is None else (site.head,):
                        written[head] = True
        return list(tokens), list(tokens.values()), list(heads.values())

    @contextmanager
    def hooked(self, stack: str) -> Iterator[None]:
        """Within this block, one stack's modules give the patched activations."""
        with ExitStack() as hooks:
            for component, layer in self.points:
                if self.model.stack_of(component) == stack:
                    point = self.model.hook_point(component, layer)
                    write = partial(self, component, layer)
                    hooks.enter_context(hook(point.module, point.on, write))
            yield


def tower_inputs(
    model: VLM, interventions: Sequence[Intervention]
) -> Mapping[Entry, torch.nn.Module]:
    """The layers of the vision tower at which runs with these interventions resume."""
    entries = {entry(model, intervention) for intervention in interventions}
    return {
        (stack, layer): model.tower_layers[layer] for stack, layer in entries if stack == "vision"
    }


def run_tower(
    model: VLM, hidden: torch.Tensor, layer: int, writes: Writes, bases: Sequence[Inputs]
) -> torch.Tensor:
    """(P n, image tokens, D) image states of patched runs that resume at a layer of the tower.

    Args:
        hidden: (P, class token + patches, D_v), the base runs' inputs of that layer.
    """
    n = len(writes.interventions)
    hidden = hidden.repeat_interleave(n, 0)
    with model.noise([run for run in bases for _ in range(n)]), writes.hooked("vision"):
        for block in model.tower_layers[layer:]:
            hidden = block(hidden, attention_mask=None)
        return model.image_states(hidden)
