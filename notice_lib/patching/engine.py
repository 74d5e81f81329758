"""The fast way: the same numbers as `plain`, without computing the same thing twice."""

import warnings
from collections import Counter
from collections.abc import Sequence

import torch

from ..models.base import VLM, Inputs
from . import fast_blip, fast_decoder, fast_llava
from .jobs import Job, Outcome
from .resume import entry

_PATCH_GROUP = {
    "blip": fast_blip.patch_group,
    "llava": fast_llava.patch_group,
    "decoder": fast_decoder.patch_group,
}

MAX_ROWS = 4096
"""Tokens of patched runs that are computed at once, unless told otherwise."""

_fits: dict[str, int] = {}  # device -> rows, where less than MAX_ROWS turned out to fit


def patch(model: VLM, jobs: Sequence[Job], max_rows: int | None = None) -> list[Outcome]:
    """Every patch of every job; the outcomes in the jobs' order.

    Jobs of the same prompt length and patches run together, which is what makes small models fast.

    Args:
        max_rows: bounds memory, whatever the number of patches and jobs; results do not depend on
            it beyond rounding. Where it does not fit it is halved, with a warning, and remembered
            for the next call. None takes `MAX_ROWS`, or what was found to fit.
    """
    device = str(model.device)
    rows = max_rows or _fits.get(device, MAX_ROWS)
    while True:
        try:
            return _patch(model, jobs, rows)
        except torch.OutOfMemoryError:
            if rows < 2:
                raise
            rows //= 2
            _fits[device] = rows
            warnings.warn(
                f"Out of memory: going on with {rows} tokens at a time. "
                "Pass max_rows to start there.",
                stacklevel=2,
            )


def _patch(model: VLM, jobs: Sequence[Job], max_rows: int) -> list[Outcome]:
    groups: dict[tuple, list[int]] = {}
    for i, job in enumerate(jobs):
        given = not isinstance(job.source, Inputs)
        groups.setdefault((len(job.base), job.answer.prefix, given, job.patches), []).append(i)
    outcomes: list[Outcome | None] = [None] * len(jobs)
    for (length, _, _, patches), group in groups.items():
        # As many pairs at once as one layer's runs leave room for: only small models gain by it.
        together = max(Counter(entry(model, patch) for patch in patches).values(), default=1)
        size = max(1, max_rows // (length * together))
        for start in range(0, len(group), size):
            chunk = group[start : start + size]
            found = _PATCH_GROUP[model.family](model, [jobs[i] for i in chunk], max_rows)
            for i, outcome in zip(chunk, found, strict=True):
                outcomes[i] = outcome
    return outcomes
