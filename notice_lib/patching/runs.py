"""What is run for one pair: the clean and the corrupt run, and what activations are written."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from .. import progress
from ..corruption import GaussianNoise, noisy_runs, replace_tokens
from ..errors import NoticeError
from ..models.base import VLM, AnswerTokens, Inputs
from ..pairs import PairSet, SemanticPair
from .jobs import Activations
from .reference import record
from .sites import REGIONS, Circuit, Roles, Site, flatten_sites, stack_roles

Corruption = Literal["image", "text"] | GaussianNoise
"""What differs in the corrupt run: the image (SIP), the prompt's options (STR), or noise."""

Values = Callable[[str, int, str], torch.Tensor]
"""(component, layer, token's key) -> (width,): what an ablation writes; see `token_keys`."""


def run_inputs(
    model: VLM, pairs: PairSet, pair: SemanticPair, corruption: Corruption, seed: int = 0
) -> tuple[Inputs, Inputs, str]:
    """The clean and the corrupt run's inputs, and the corrupt run's prompt.

    Of noise, the first draw.

    Raises:
        NoticeError: the two prompts differ in their token layout; names the pair.
    """
    clean, corrupt, prompt = all_runs(model, pairs, pair, corruption, seed)
    return clean, corrupt[0], prompt


def all_runs(
    model: VLM, pairs: PairSet, pair: SemanticPair, corruption: Corruption, seed: int
) -> tuple[Inputs, list[Inputs], str]:
    """As `run_inputs`, with a corrupt run for every draw of noise."""
    clean = model.inputs(pair.image("clean"), pair.prompt)
    if corruption == "image":
        return clean, [model.inputs(pair.image("corrupt"), pair.prompt)], pair.prompt
    if isinstance(corruption, GaussianNoise):
        return clean, noisy_runs(model, clean, corruption, pair.pair_id, seed), pair.prompt
    prompt = replace_tokens(pair, pairs, model.token_layout, seed)
    corrupt = replace(model.inputs(pair.image("clean"), prompt), pixel_values=clean.pixel_values)
    check_lengths(clean, corrupt, pair.pair_id)
    return clean, [corrupt], prompt


def check_lengths(clean: Inputs, corrupt: Inputs, pair_id: str) -> None:
    """Refuse two prompts of different token lengths: their positions do not correspond."""
    if len(clean) != len(corrupt):
        raise NoticeError(
            f"Pair {pair_id}: the clean prompt has {len(clean)} tokens, the corrupt one "
            f"{len(corrupt)} ({clean.tokens} / {corrupt.tokens}). Positions are patched one by "
            "one, so use replacement words of the same number of tokens."
        )


def unrelated(model: VLM, pairs: PairSet, pair: SemanticPair, seed: int) -> SemanticPair:
    """Another scene's pair with as many tokens, if possible of the same roles; drawn with seed and
    pair id.

    Raises:
        NoticeError: the set has none; names the pair.
    """
    layout = model.token_layout(pair.prompt, pair.spans)
    rng = np.random.default_rng([seed, zlib.crc32(pair.pair_id.encode())])
    fallback = None
    for i in rng.permutation(len(pairs)):
        if pairs[i].scene_id == pair.scene_id:
            continue
        other = model.token_layout(pairs[i].prompt, pairs[i].spans)
        if other == layout:
            return pairs[i]
        if len(other) == len(layout):
            fallback = fallback or pairs[i]
    if fallback is None:
        raise NoticeError(
            f"Pair {pair.pair_id}: no other scene of the set has a prompt of {len(layout)} tokens "
            f"like {pair.prompt!r}, so it has no unrelated donor."
        )
    return fallback


def regions(
    model: VLM, pair: SemanticPair, sites: Iterable[Site | Circuit]
) -> dict[str, tuple[int, ...]]:
    """The image patches of each of `REGIONS`, by the masks of either image; {} if no site asks."""
    every = flatten_sites(sites)
    if not any(site.region for site in every):
        return {}
    masks = [pair.patch_masks(run, model.grid, model.image_size) for run in ("clean", "corrupt")]
    found = {}
    for name in REGIONS:
        here = [mask[name] for mask in masks if name in mask]
        if here:
            found[name] = tuple(np.flatnonzero(np.any(here, axis=0)).tolist())
    if "differs" in found:
        rest = set(range(model.grid**2)) - set(found["differs"])
        found["elsewhere"] = tuple(sorted(rest))
    return found


def token_keys(roles: Roles, stack: str) -> list[str]:
    """What tokens are averaged over pairs: those of one role; each patch of the image by itself.

    The options go by their place in the question: the mean over *correct* options would tell a run
    which of its options is correct.
    """
    options = [role for role in dict.fromkeys(roles[stack]) if role in ("correct", "incorrect")]
    places = {role: f"option {place}" for place, role in enumerate(options, 1)}
    patch = iter(range(len(roles[stack])))
    return [
        f"image {next(patch)}" if role == "image" else places.get(role, role)
        for role in roles[stack]
    ]


def zeros(model: VLM, pairs: Sequence[SemanticPair], points: Iterable[tuple[str, int]]) -> Values:
    """Ablation by zeros."""
    inputs = model.inputs(pairs[0].image("clean"), pairs[0].prompt)
    _, seen = record(model, inputs, points)
    blank = {point: torch.zeros_like(values[0, 0]) for point, values in seen.items()}
    return lambda component, layer, key: blank[component, layer]


def means(model: VLM, pairs: Sequence[SemanticPair], points: Iterable[tuple[str, int]]) -> Values:
    """Ablation by the mean over the pairs' clean runs, each pair's tokens of one key first."""
    points = set(points)
    sums: dict[tuple, torch.Tensor] = {}
    counts: dict[tuple, int] = {}
    for pair in progress.bar(pairs, desc="averaging clean runs", unit="pair"):
        inputs = model.inputs(pair.image("clean"), pair.prompt)
        tokens = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
        roles = stack_roles(model, inputs, pair.spans, tokens)
        _, seen = record(model, inputs, points, tokens.prefix)
        for (component, layer), values in seen.items():
            keys = token_keys(roles, model.stack_of(component))
            for key in set(keys):
                own = [i for i, other in enumerate(keys) if other == key]
                where = (component, layer, key)
                average = values[0, own].float().mean(0)
                sums[where] = sums[where] + average if where in sums else average
                counts[where] = counts.get(where, 0) + 1

    def mean(component: str, layer: int, key: str) -> torch.Tensor:
        where = (component, layer, key)
        if where not in sums:
            raise NoticeError(f"No pair that the mean is over has a token {key!r}.")
        return (sums[where] / counts[where]).to(model.dtype)

    return mean


def given(
    model: VLM, values: Values, points: Iterable[tuple[str, int]], roles: Roles
) -> Activations:
    """The activations (1, T, width) that an ablation writes in a run with these roles."""
    return {
        (component, layer): torch.stack(
            [values(component, layer, key) for key in token_keys(roles, model.stack_of(component))]
        )[None]
        for component, layer in points
    }


def answer_of(model: VLM, pair: SemanticPair) -> AnswerTokens:
    """Where a pair's answers are told apart."""
    return model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
