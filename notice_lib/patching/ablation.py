"""What an ablation writes in place of activations: zeros, or means over other runs."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import torch

from .. import progress
from ..errors import NoticeError
from ..models.base import VLM
from ..models.inputs import Inputs
from ..pairs import SemanticPair
from .jobs import Activations
from .reference import record
from .runs import answer_of
from .sites import Intervention, Roles, stack_roles

Key = tuple[str, Hashable]
"""A token's key (`token_keys`), and the layout of its image if it is an image patch."""

Values = Callable[[str, int, Key], torch.Tensor]
"""(component, layer, token's key) -> (width,) the activation that is written."""


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
    """The mean over the pairs' clean runs; in each run, over the tokens of one key first.

    An image patch is averaged over images of one layout: the tenth of 6 x 8 is not that of 8 x 6.
    """
    points = set(points)
    sums: dict[tuple, torch.Tensor] = {}
    counts: dict[tuple, int] = {}
    for pair in progress.bar(pairs, desc="averaging clean runs", unit="pair"):
        inputs, answer = model.inputs(pair.image("clean"), pair.prompt), answer_of(model, pair)
        roles = stack_roles(model, inputs, pair.spans, answer)
        _, seen = record(model, inputs, points, answer.prefix)
        for (component, layer), values in seen.items():
            keys = _keys(inputs, roles, model.stack_of(component))
            for key in set(keys):
                tokens = [i for i, other in enumerate(keys) if other == key]
                where = (component, layer, key)
                average = values[0, tokens].float().mean(0)
                sums[where] = sums[where] + average if where in sums else average
                counts[where] = counts.get(where, 0) + 1

    def mean(component: str, layer: int, key: Key) -> torch.Tensor:
        where = (component, layer, key)
        if where not in sums:
            raise NoticeError(
                f"None of the pairs that the mean is taken over has a token like {key[0]!r} here, "
                "or none has an image laid out like this one. Take the mean over more pairs, with "
                "prompts and images like this pair's."
            )
        return (sums[where] / counts[where]).to(model.dtype)

    return mean


def written(
    model: VLM,
    values: Values,
    inputs: Inputs,
    roles: Roles,
    interventions: Sequence[Intervention],
) -> Activations:
    """The activations (1, T, width) that an ablation writes in one run.

    They are zero at tokens that no intervention writes to.
    """
    tokens: dict[tuple[str, int], set[int]] = defaultdict(set)
    for intervention in interventions:
        for site in intervention.sites:
            tokens[site.component, site.layer] |= set(site.positions)
    activations = {}
    for (component, layer), written_to in tokens.items():
        keys = _keys(inputs, roles, model.stack_of(component))
        rows = {i: values(component, layer, keys[i]) for i in written_to}
        blank = torch.zeros_like(next(iter(rows.values())))
        activations[component, layer] = torch.stack([rows.get(i, blank) for i in range(len(keys))])[
            None
        ]
    return activations


def _keys(inputs: Inputs, roles: Roles, stack: str) -> list[Key]:
    """Each token's key; those of image patches with the layout of their image."""
    return [
        (key, inputs.image_layout if key.startswith("image ") else ())
        for key in token_keys(roles, stack)
    ]
