"""What is run for one pair: the clean run, its corrupt runs, and which tokens they patch."""

import zlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..choices import CorruptionName, SemanticCorruption, check_choice
from ..corruption import GaussianNoise, noisy_runs, replace_tokens
from ..errors import NoticeError
from ..models.base import VLM
from ..models.inputs import AnswerTokens, Inputs
from ..pairs import PairSet, SemanticPair
from .sites import REGIONS, Circuit, Site, flatten_sites

Corruption = SemanticCorruption | GaussianNoise
"""What differs in the corrupt run: the image (SIP), the prompt's options (STR), or noise."""


def name_of(corruption: Corruption) -> CorruptionName:
    """What tables call a corruption.

    Raises:
        NoticeError: it is no corruption.
    """
    if isinstance(corruption, GaussianNoise):
        return "noise"
    check_choice("corruption", corruption, SemanticCorruption, otherwise="a GaussianNoise")
    return corruption


def run_inputs(
    model: VLM, pairs: PairSet, pair: SemanticPair, corruption: Corruption, seed: int = 0
) -> tuple[Inputs, Inputs, str]:
    """The inputs of a pair's clean and corrupt run, and the corrupt run's prompt.

    Of noise, the corrupt run is the first draw.

    Raises:
        NoticeError: the two prompts differ in their token layout; names the pair.
    """
    clean, corrupt, prompt = all_runs(model, pairs, pair, corruption, seed)
    return clean, corrupt[0], prompt


def all_runs(
    model: VLM, pairs: PairSet, pair: SemanticPair, corruption: Corruption, seed: int
) -> tuple[Inputs, list[Inputs], str]:
    """As `run_inputs`, with one corrupt run for each draw of noise."""
    clean = model.inputs(pair.image("clean"), pair.prompt)
    if isinstance(corruption, GaussianNoise):
        return clean, noisy_runs(model, clean, corruption, pair.pair_id, seed), pair.prompt
    if corruption == "image":
        return clean, [model.inputs(pair.image("corrupt"), pair.prompt)], pair.prompt
    prompt = replace_tokens(pair, pairs, model.token_layout, seed)
    # The same tensor, so an engine knows that the two runs share their image.
    corrupt = replace(model.inputs(pair.image("clean"), prompt), pixel_values=clean.pixel_values)
    check_lengths(clean, corrupt, pair.pair_id)
    return clean, [corrupt], prompt


def check_lengths(clean: Inputs, corrupt: Inputs, pair_id: str) -> None:
    """Refuse two prompts of different token lengths, whose positions do not correspond.

    Raises:
        NoticeError: names the pair and shows the tokens.
    """
    if len(clean) != len(corrupt):
        raise NoticeError(
            f"Pair {pair_id}: the clean prompt has {len(clean)} tokens, the corrupt one "
            f"{len(corrupt)} ({clean.tokens} / {corrupt.tokens}). Positions are patched one by "
            "one, so use replacement words with the same number of tokens."
        )


def answer_of(model: VLM, pair: SemanticPair) -> AnswerTokens:
    """The tokens by which a pair's two answers are told apart."""
    return model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)


def unrelated(model: VLM, pairs: PairSet, pair: SemanticPair, seed: int) -> SemanticPair:
    """A pair of another scene with as many tokens, if possible of the same roles.

    It is drawn at random, depending on the seed and the pair's id alone.

    Raises:
        NoticeError: the set has no such pair; names the pair that needs one.
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
    """The image patches of each of `REGIONS`, from the masks of either image.

    It is empty if no site names a region.

    Raises:
        NoticeError: the model does not see all of an image; names the pair.
    """
    if not any(site.region for site in flatten_sites(sites)):
        return {}
    for run in ("clean", "corrupt"):
        size = pair.image(run).size
        if not model.shows_all(size):
            raise NoticeError(
                f"Pair {pair.pair_id}: the processor of {model} does not resize the whole {run} "
                f"image ({size[0]} x {size[1]} pixels) to one square, so it is unknown which image "
                'patches a mask reaches. Use square images, or position="image".'
            )
    masks = [pair.patch_masks(run, model.grid, model.image_size) for run in ("clean", "corrupt")]
    patches = {}
    for name in REGIONS:
        here = [mask[name] for mask in masks if name in mask]
        if here:
            patches[name] = tuple(np.flatnonzero(np.any(here, axis=0)).tolist())
    if "differs" in patches:
        rest = set(range(model.grid**2)) - set(patches["differs"])
        patches["elsewhere"] = tuple(sorted(rest))
    return patches
