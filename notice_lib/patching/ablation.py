"""What an ablation writes in place of activations: zeros, or means over other runs."""

from collections.abc import Callable, Iterable, Sequence

import torch

from .. import progress
from ..errors import NoticeError
from ..models.base import VLM
from ..pairs import SemanticPair
from .jobs import Activations
from .reference import record
from .runs import answer_of
from .sites import Roles, stack_roles

Values = Callable[[str, int, str], torch.Tensor]
"""(component, layer, token's key) -> (width,) the activation that is written; see `token_keys`."""


def token_keys(roles: Roles, stack: str) -> list[str]:
    """For each token of a stack, the key of the tokens that it is averaged with over pairs.

    Tokens of one role have one key; each image patch has its own. The options' keys are their
    places in the question, since the mean over *correct* options would tell a run which of its
    options is correct.
    """
    options = [role for role in dict.fromkeys(roles[stack]) if role in ("correct", "incorrect")]
    places = {role: f"option {place}" for place, role in enumerate(options, 1)}
    patch = iter(range(len(roles[stack])))
    return [
        f"image {next(patch)}" if role == "image" else places.get(role, role)
        for role in roles[stack]
    ]


def zeros(model: VLM, pairs: Sequence[SemanticPair], points: Iterable[tuple[str, int]]) -> Values:
    """Zeros as wide as the activations at these components and layers."""
    inputs = model.inputs(pairs[0].image("clean"), pairs[0].prompt)
    _, seen = record(model, inputs, points)
    blank = {point: torch.zeros_like(values[0, 0]) for point, values in seen.items()}
    return lambda component, layer, key: blank[component, layer]


def means(model: VLM, pairs: Sequence[SemanticPair], points: Iterable[tuple[str, int]]) -> Values:
    """The mean over the pairs' clean runs; in each run, over the tokens of one key first."""
    points = set(points)
    sums: dict[tuple, torch.Tensor] = {}
    counts: dict[tuple, int] = {}
    for pair in progress.bar(pairs, desc="averaging clean runs", unit="pair"):
        inputs, answer = model.inputs(pair.image("clean"), pair.prompt), answer_of(model, pair)
        roles = stack_roles(model, inputs, pair.spans, answer)
        _, seen = record(model, inputs, points, answer.prefix)
        for (component, layer), values in seen.items():
            keys = token_keys(roles, model.stack_of(component))
            for key in set(keys):
                tokens = [i for i, other in enumerate(keys) if other == key]
                where = (component, layer, key)
                average = values[0, tokens].float().mean(0)
                sums[where] = sums[where] + average if where in sums else average
                counts[where] = counts.get(where, 0) + 1

    def mean(component: str, layer: int, key: str) -> torch.Tensor:
        where = (component, layer, key)
        if where not in sums:
            raise NoticeError(
                f"None of the pairs that the mean is taken over has a token with the key {key!r}. "
                "Take it over more pairs, or over pairs with prompts like this one's."
            )
        return (sums[where] / counts[where]).to(model.dtype)

    return mean


def written(
    model: VLM, values: Values, points: Iterable[tuple[str, int]], roles: Roles
) -> Activations:
    """The activations (1, T, width) that an ablation writes in a run whose tokens have these
    roles."""
    return {
        (component, layer): torch.stack(
            [values(component, layer, key) for key in token_keys(roles, model.stack_of(component))]
        )[None]
        for component, layer in points
    }
