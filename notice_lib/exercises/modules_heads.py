"""Exercises of the map of modules and heads."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from hashlib import sha256
from itertools import product

import numpy as np
import torch

from ..choices import SemanticCorruption
from ..models import VLM, answers
from ..pairs import PairSet
from ..patching import Site, effects, sweep
from .verdict import NotBegun, NotYet, check, entry, members, number, tried, true_or_false

CORRUPTIONS: tuple[SemanticCorruption, ...] = ("image", "text")


@check
def check_whole(answer: Mapping[str, set[int]], vlm: VLM, pairs: PairSet) -> None:
    """4.1: the layers whose output, patched at all tokens, restores the clean answer exactly."""
    given = {name: members(entry(answer, name), "{0, 1}") for name in CORRUPTIONS}
    some = pairs.sample(2, 0)
    sites = [Site("layer_output", layer, position="all") for layer in range(vlm.n_layers)]
    for corruption in CORRUPTIONS:
        tried_out = effects(sweep(vlm, some, sites, corruption).table())
        off = (tried_out.fraction_recovered - 1).abs().groupby(tried_out.layer).max()
        exact = set(off.index[off < 1e-3])
        if given[corruption] - exact:
            raise NotYet(
                f"{corruption}: {len(given[corruption] - exact)} of these layers do not restore "
                "it. What above them still reads something corrupt?"
            )
        if exact - given[corruption]:
            raise NotYet(f"{corruption}: there are more layers.")


@check
def check_honest(function: Callable[[np.ndarray], float]) -> None:
    """4.2: the second half's mean at the cell that is largest in the first, by simulation."""
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((20, 200)) for _ in range(200)]
    found = [number(tried(function, values)) for values in noise]
    if abs(np.mean(found)) > 0.1:
        raise NotYet(
            "on pure noise the mean over many trials should be near 0, and this gives "
            f"{np.mean(found):+.2f}."
        )
    planted = []
    for values in noise:
        cell = rng.integers(values.shape[1])
        planted.append(values + 2 * (np.arange(values.shape[1]) == cell))
    measured = np.array([number(tried(function, values)) for values in planted])
    if abs(measured.mean() - 2) > 0.1:
        raise NotYet("a planted cell with a large effect is not found.")
    if not 0.25 < measured.std() < 0.4:
        raise NotYet("use all rows of the second half, and only those.")


@check
def check_exchange(function: Callable, vlm: VLM, pairs: PairSet, linears: Callable) -> str:
    """4.3: two heads of a layer change places, and the model stays the same function.

    `linears(vlm, layer)` gives (query, key, value) and the linear map that mixes the heads.
    """
    other, layer = deepcopy(vlm), vlm.n_layers - 1
    before = _effects(vlm, pairs, layer)
    # Two heads that differ, or a head that did not move would pass for one.
    a, b = int(np.argmax(before)), int(np.argmin(before))
    readers, mixer = linears(other, layer)
    modules = dict(zip(("query", "key", "value", "mixer"), (*readers, mixer), strict=True))
    weights = {part: deepcopy(module.state_dict()) for part, module in modules.items()}
    with torch.no_grad():
        try:
            function(readers, mixer, a, b, mixer.in_features // other.n_heads)
        except Exception as error:
            raise NotYet(f"it stops with {type(error).__name__}: {error}") from error
    moved = [
        f"{part}.{name}"
        for part, module in modules.items()
        for name, value in module.state_dict().items()
        if not torch.equal(value, weights[part][name])
    ]
    if not moved:
        raise NotBegun("no weight has moved.")
    some = pairs.sample(4, 0)
    drift = answers(other, some).logit_correct - answers(vlm, some).logit_correct
    if drift.abs().max() > 1e-3:
        raise NotYet(f"this is another function. Moved so far: {', '.join(moved)}.")
    after = _effects(other, pairs, layer)
    for old, new in ((a, b), (b, a)):
        if abs(before[old] - after[new]) > 1e-3:
            raise NotYet(f"head {new} is not what head {old} was.")
    return (
        f"The answers are the same, and what was L{layer}.H{a} ({before[a]:+.3f} logits) is now "
        f"L{layer}.H{b}."
    )


def _effects(vlm: VLM, pairs: PairSet, layer: int) -> list[float]:
    """The effects of a layer's heads on the first pair, at this family's token."""
    place = vlm.image_component, layer
    sites = [Site(*place, head, vlm.effect_role) for head in range(vlm.n_heads)]
    table = effects(sweep(vlm, pairs.sample(1, 0), sites).table())
    return table.set_index("head").effect.loc[range(vlm.n_heads)].tolist()


_HOLDS = "0435570a21580be9"
"""Stands for the statements about a map that are true, and does not say which."""


def _true_statements() -> dict[str, bool]:
    """Whether each of the statements A to F is true, by trying what `_HOLDS` may stand for."""
    for values in product((True, False), repeat=6):
        truth = dict(zip("ABCDEF", values, strict=True))
        named = "4.4: " + " ".join(letter for letter in truth if truth[letter])
        if sha256(named.encode()).hexdigest().startswith(_HOLDS):
            return truth
    raise AssertionError("no set of statements has this hash")


@check
def check_statements(holds: Mapping[str, bool]) -> None:
    """4.4: which statements about a map are true."""
    true_or_false(holds, _true_statements())
