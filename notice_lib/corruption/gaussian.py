"""Gaussian noise on the image: the corruption that semantic pairs are compared with."""

import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import brentq

from ..choices import NoisePlace, check_choice
from ..errors import NoticeError
from ..models.base import VLM
from ..models.hooks import watch
from ..models.inputs import ImageNoise, Inputs
from ..pairs import PairSet

STRONGEST = 64.0
"""Standard deviations beyond which `match_strength` does not look."""


@dataclass(frozen=True)
class GaussianNoise:
    """White noise that is added to an image's activations.

    Attributes:
        at: "patch_embeddings": what enters the vision tower's first layer (the class token gets
            none), or "tower_output": what the text reads.
        strength: in standard deviations of the clean image's values there, over tokens and columns.
        draws: how many independent draws each pair gets; the corrupt and the patched runs of a draw
            share it.

    Source: Meng et al. (2022), section 2.1, who add 3 standard deviations to the embeddings of the
    subject's tokens.
    """

    at: NoisePlace = "patch_embeddings"
    strength: float = 3.0
    draws: int = 10

    def __post_init__(self):
        check_choice("at", self.at, NoisePlace)
        if not self.strength >= 0 or self.draws < 1:
            raise NoticeError(
                f"Noise needs a strength of at least 0 and 1 draw, not {self.strength} and "
                f"{self.draws}."
            )


def noisy_runs(
    model: VLM, clean: Inputs, noise: GaussianNoise, pair_id: str, seed: int = 0
) -> list[Inputs]:
    """The clean run with each draw of noise; the draws depend on seed and pair id alone.

    The same pair and seed give the same directions at every strength.
    """
    embedding = _embedding(model, clean, noise.at)
    scale = noise.strength * embedding.double().std()
    runs = []
    for draw in range(noise.draws):
        rng = np.random.default_rng([seed, zlib.crc32(pair_id.encode()), draw])
        values = torch.from_numpy(rng.standard_normal(embedding.shape))
        if noise.at == "patch_embeddings":
            values[:, : model.class_tokens] = 0
        values = (values.to(model.device) * scale).to(model.dtype)
        runs.append(replace(clean, noise=ImageNoise(noise.at, values)))
    return runs


def match_strength(
    model: VLM,
    pairs: PairSet,
    at: NoisePlace,
    gap: float,
    draws: int = 2,
    seed: int = 0,
) -> float:
    """The strength at which the mean logit difference of noisy runs, L*, is `gap`; to 0.01.

    The answer flips where the image is replaced by another, while noise can do no more than take
    the image away: the mean L* of semantic image pairs (mostly negative) may be out of reach.

    Args:
        gap: in logits, e.g. the mean of `logit_difference(table, "corrupt")` of another sweep.

    Raises:
        NoticeError: no strength up to `STRONGEST` gives this mean; says what can be reached.
    """
    prepared = []
    for pair in pairs:
        tokens = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
        prepared.append((pair, model.inputs(pair.image("clean"), pair.prompt), tokens))

    def mean_gap(strength: float) -> float:
        noise = GaussianNoise(at, strength, draws)
        gaps = [
            _gap(model, run, tokens)
            for pair, clean, tokens in prepared
            for run in noisy_runs(model, clean, noise, pair.pair_id, seed)
        ]
        return float(np.mean(gaps))

    high, low = 1.0, mean_gap(0.0)
    if low < gap:
        raise NoticeError(f"Without noise the mean is {low:.2f}, below {gap:.2f} already.")
    while (low := mean_gap(high)) > gap:
        high *= 2
        if high > STRONGEST:
            raise NoticeError(
                f"No noise up to {STRONGEST:g} standard deviations gives a mean logit difference "
                f"of {gap:.2f}; the last mean was {low:.2f}."
            )
    return float(brentq(lambda strength: mean_gap(strength) - gap, 0.0, high, xtol=0.01))


def _gap(model: VLM, run: Inputs, tokens) -> float:
    logits = model.logits(run, tokens.prefix)
    return float(logits[tokens.correct] - logits[tokens.incorrect])


@torch.no_grad()
def _embedding(model: VLM, clean: Inputs, at: NoisePlace) -> torch.Tensor:
    """(1, tokens, width) activation at a place, without noise."""
    with watch({at: model.noise_point(at)}) as seen:
        model.logits(replace(clean, noise=None))
    return seen[at]
