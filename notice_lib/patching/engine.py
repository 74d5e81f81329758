"""The fast way: the same numbers as `plain`, without computing the same thing twice."""

import warnings
from collections import Counter
from collections.abc import Sequence

import torch

from ..models.base import VLM
from . import fast_blip, fast_llava
from .jobs import Job, Outcome

_PATCH_GROUP = {"blip": fast_blip.patch_group, "llava": fast_llava.patch_group}

MAX_ROWS = 4096
"""Text tokens of patched runs that are computed at once, unless told otherwise."""


def patch(model: VLM, jobs: Sequence[Job], max_rows: int = MAX_ROWS) -> list[Outcome]:
    """Every site of every job; the outcomes in the jobs' order.

    Jobs of the same prompt length and sites run together, which is what makes small models fast.

    Args:
        max_rows: bounds memory, whatever the number of sites and jobs; results do not depend on it
            beyond rounding. Where it does not fit, it is halved, with a warning.
    """
    while True:
        try:
            return _patch(model, jobs, max_rows)
        except torch.OutOfMemoryError:
            if max_rows < 2:
                raise
            max_rows //= 2
            warnings.warn(
                f"Out of memory: going on with {max_rows} tokens at a time. "
                "Pass max_rows to start there.",
                stacklevel=2,
            )


def _patch(model: VLM, jobs: Sequence[Job], max_rows: int) -> list[Outcome]:
    groups: dict[tuple, list[int]] = {}
    for i, job in enumerate(jobs):
        groups.setdefault((len(job.base), job.answer.prefix, job.sites), []).append(i)
    outcomes: list[Outcome | None] = [None] * len(jobs)
    for (length, _, sites), group in groups.items():
        # As many pairs at once as one layer's sites leave room for: only small models gain by it.
        size = max(1, max_rows // (length * max(Counter(site.layer for site in sites).values())))
        for start in range(0, len(group), size):
            chunk = group[start : start + size]
            found = _PATCH_GROUP[model.family](model, [jobs[i] for i in chunk], max_rows)
            for i, outcome in zip(chunk, found, strict=True):
                outcomes[i] = outcome
    return outcomes
