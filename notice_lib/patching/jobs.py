"""What an engine is given, and what it gives back."""

from dataclasses import dataclass

import torch

from ..models.base import AnswerTokens, Inputs
from .sites import PlacedSite


@dataclass(frozen=True)
class Job:
    """One pair's patched runs: copy each site's activation, one at a time, from source to base."""

    base: Inputs
    source: Inputs
    sites: tuple[PlacedSite, ...]
    answer: AnswerTokens


@dataclass(frozen=True)
class Outcome:
    """Scores (`notice_lib.models.answers.SCORES`) of one job's runs.

    Attributes:
        base, source: (4,) of the unpatched runs.
        patched: (sites, 4) of the patched runs.
    """

    base: torch.Tensor
    source: torch.Tensor
    patched: torch.Tensor
