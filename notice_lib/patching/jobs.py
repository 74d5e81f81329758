"""What an engine is given, and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..errors import NoticeError
from ..models.answers import score
from ..models.base import VLM
from ..models.inputs import AnswerTokens, Inputs
from .sites import Intervention

Activations = Mapping[tuple[str, int], torch.Tensor]
"""(component, layer) -> (runs, T, width)."""


@dataclass(frozen=True)
class Job:
    """One pair's patched runs: each copies the activations at its sites into the base run.

    Attributes:
        base: the run that is patched.
        source: the run that activations come from; or, for an ablation, the activations themselves.
        interventions: one for each patched run.
        answer: the tokens by which the two answers are told apart.

    Raises:
        NoticeError: the two runs' tokens do not correspond.
    """

    base: Inputs
    source: Inputs | Activations
    interventions: tuple[Intervention, ...]
    answer: AnswerTokens

    def __post_init__(self):
        if isinstance(self.source, Inputs) and self.source.layout != self.base.layout:
            parts, others = dict(self.base.layout), dict(self.source.layout)
            names = [name for name in parts | others if parts.get(name) != others.get(name)]
            raise NoticeError(
                f"The two runs' tokens do not correspond: one has {_described(self.base)}; the "
                f"other has {_described(self.source)}. They differ in {', '.join(names)}. Some "
                "models lay out an image's tokens by its size: give both images the same size. "
                "Prompts need the same number of tokens."
            )

    @property
    def points(self) -> set[tuple[str, int]]:
        """The components and layers whose activations are copied."""
        return set().union(*(intervention.points for intervention in self.interventions))


@dataclass(frozen=True)
class Outcome:
    """Scores (`notice_lib.models.answers.SCORES`) of one job's runs.

    Attributes:
        base, source: (4,) of the unpatched runs; source is NaN where activations were given.
        patched: (interventions, 4) of the patched runs.
    """

    base: torch.Tensor
    source: torch.Tensor
    patched: torch.Tensor


Engine = Callable[[VLM, Sequence[Job]], list[Outcome]]
"""A function that runs jobs and gives their outcomes in the same order."""

NO_SCORES = torch.full((4,), float("nan"), dtype=torch.float64)
"""The source's scores where activations were given."""


def measures(name: str):
    """Mark an engine whose numbers are something else than those of patched runs, such as
    estimates.

    The name becomes one of a sweep's settings, so tables of two kinds cannot end up in one folder.
    """

    def mark(engine):
        engine.measures = name
        return engine

    return mark


def source_run(job: Job) -> Inputs:
    """The run that a job's activations come from.

    Raises:
        NoticeError: the job has activations instead of a run.
    """
    if isinstance(job.source, Inputs):
        return job.source
    raise NoticeError("Activations were given, but this engine needs the run that they come from.")


def given_activations(jobs: Sequence[Job]) -> Activations:
    """The activations that several jobs were given, at the points of the first."""
    given = [job.source for job in jobs if not isinstance(job.source, Inputs)]
    return {point: torch.cat([one[point] for one in given]) for point in given[0]}


def scores_of(jobs: Sequence[Job], logits: torch.Tensor) -> torch.Tensor:
    """(P, ..., 4) scores of P jobs' logits (P, ..., vocabulary)."""
    return torch.stack([score(one, job.answer) for one, job in zip(logits, jobs, strict=True)])


def _described(run: Inputs) -> str:
    """A run's layout in words."""
    small = {
        name: value.flatten().tolist()
        for name, value in run.extra.items()
        if value.numel() <= 8 and not value.is_floating_point()
    }
    counts = f"{len(run)} tokens, {sum(run.image_tokens)} of them the image's"
    return counts + "".join(f", {name} {values}" for name, values in small.items())
