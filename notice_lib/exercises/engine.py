"""Exercises of the chapter on the engine."""

from collections.abc import Callable, Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import NoticeError
from ..models import VLM
from ..patching import Job
from ..patching.engine import patch
from .verdict import NotYet, check, members, tried

WIDTH, PREFIX, SUFFIX = 7, 5, 3


class _Watched(TorchDispatchMode):
    """Notices a tensor that holds keys or values of all tokens."""

    glued = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and {WIDTH, PREFIX + SUFFIX} <= set(made.shape):
            self.glued = True
        return made


@check
def check_attend(attend: Callable) -> None:
    """9.1: attention over a prefix and a suffix whose keys and values are not glued together."""
    rng = torch.Generator().manual_seed(0)
    shapes = (WIDTH,), (PREFIX, WIDTH), (PREFIX, WIDTH), (SUFFIX, WIDTH), (SUFFIX, WIDTH)
    draw = [torch.randn(*shape, generator=rng, dtype=torch.float64) * 2 for shape in shapes]
    with _Watched() as watched:
        found = tried(attend, *draw)
    if not isinstance(found, torch.Tensor):
        raise NotYet("that is no tensor.")
    query, key, value, own_key, own_value = draw

    def usual(keys: torch.Tensor, values: torch.Tensor, scale: float = WIDTH**-0.5):
        return torch.softmax(keys @ query * scale, 0) @ values

    if found.shape != query.shape:
        raise NotYet(f"{tuple(found.shape)} is not the shape of a value.")
    if watched.glued:
        raise NotYet("the keys or the values are glued together.")
    both = torch.cat([key, own_key]), torch.cat([value, own_value])
    found = found.double()
    if torch.allclose(found, usual(*both), rtol=0.01, atol=0.006):
        return
    two = usual(key, value) + usual(own_key, own_value)
    if torch.allclose(found, two) or torch.allclose(found, two / 2):
        raise NotYet("each part has a softmax of its own.")
    if torch.allclose(found, usual(*both, scale=1)):
        raise NotYet("divide the scores by the square root of d.")
    raise NotYet("these are other numbers. Which scores go into the softmax?")


@check
def check_idle(answer: set[tuple[str, int]], vlm: VLM, job: Job) -> None:
    """9.2: the (component, layer) whose patches change no answer under image corruption."""
    given = members(answer, '{("mlp", 3)}')
    (outcome,) = patch(vlm, [job])
    moved = (outcome.patched - outcome.base).abs()[:, :2].amax(-1)
    most: dict[tuple[str, int], float] = {}
    for intervention, effect in zip(job.interventions, moved.tolist(), strict=True):
        (site,) = intervention.sites
        key = site.component, site.layer
        most[key] = max(most.get(key, 0), effect)
    for key in given:
        if key not in most:
            raise NotYet(f"{key} is no (component, layer) of this model.")
        if most[key] > 1e-10:
            raise NotYet(f"{key} moves a logit by {most[key]:.0e} here.")
    missing = sum(effect <= 1e-10 for effect in most.values()) - len(given)
    if missing:
        raise NotYet(f"{missing} missing.")


@check
def check_overnight(answer: set[str], attempts: Mapping[str, Callable[[], object]]) -> None:
    """9.3: what may change before a sweep goes on in the same folder.

    Args:
        attempts: {what changes: goes on with the change, or raises `NoticeError`}.
    """
    given = members(answer, '{"seed", "pairs"}')
    if unknown := given - set(attempts):
        raise NotYet(f"{unknown.pop()!r} is none of {', '.join(attempts)}.")
    accepted = {name for name, attempt in attempts.items() if _is_accepted(attempt)}
    if wrong := len(given ^ accepted):
        raise NotYet(f"{wrong} of the {len(attempts)} {'is' if wrong == 1 else 'are'} wrong.")


def _is_accepted(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except NoticeError:
        return False
    return True
