"""Exercises of the primer."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from .verdict import NotYet, check, entry, explained, filled, tried, true_or_false

LOGITS = (2.0, 1.0, 0.5, 0.0)
ADDED = {
    "2 more for every word": (2.0, 2.0, 2.0, 2.0),
    "2 more for both options": (2.0, 2.0, 0.0, 0.0),
    "9 more for one other word": (0.0, 0.0, 9.0, 0.0),
}


@check
def check_prediction(prediction: Mapping[str, Mapping[str, bool]]) -> None:
    """1.1: whether L and P change, {what is added to the logits: {"L": ..., "P": ...}}."""
    before = torch.tensor(LOGITS)
    given, truth = {}, {}
    for way, added in ADDED.items():
        after = before + torch.tensor(added)
        changes = {
            "L": not torch.isclose(after[0] - after[1], before[0] - before[1]),
            "P": not torch.isclose(after.softmax(-1)[0], before.softmax(-1)[0]),
        }
        for name, changed in changes.items():
            given[f"{way}, {name}"] = entry(prediction, way, name)
            truth[f"{way}, {name}"] = changed
    true_or_false(given, truth)


class Reached(NamedTuple):
    """What a patch of a layer's output at one token changed: `moved` (layers, tokens), norms."""

    name: str
    layer: int
    token: int
    causal: bool
    moved: torch.Tensor


@check
def check_reach(reach: Callable, runs: Sequence[Reached]) -> None:
    """1.2: which (layer, token) a patch can change, as booleans, beside patched runs."""
    for run in runs:
        n_layers, n_tokens = run.moved.shape
        found = tried(reach, n_layers, n_tokens, run.layer, run.token, run.causal)
        try:
            table = torch.as_tensor(found).bool()
        except (TypeError, ValueError, RuntimeError) as error:
            raise NotYet("return a table of booleans (layers, tokens).") from error
        if table.shape != run.moved.shape:
            raise NotYet(f"the shape is {tuple(table.shape)}, not (layers, tokens).")
        wrong = (table != (run.moved > 0)).nonzero().tolist()
        if wrong:
            layer, token = wrong[0]
            says = "can" if table[layer, token] else "cannot"
            raise NotYet(
                f"{run.name}, patched at layer {run.layer}, token {run.token}: you say that layer "
                f"{layer}, token {token} {says} change; the run says otherwise."
            )


KEEP = {
    "x[0, 3]": lambda x: x[0, 3],
    "x[0, 3:5]": lambda x: x[0, 3:5],
    "x[0, [3]]": lambda x: x[0, [3]],
    "x[0, 3].clone()": lambda x: x[0, 3].clone(),
}


@check
def check_kept(survives: Mapping[str, bool], why: str) -> str:
    """1.3: which ways to keep a part of a tensor survive that it is overwritten in place.

    Args:
        survives: whether each way does.
        why: what a hook without `clone()` keeps, and why; only its form is checked.
    """
    truth = {}
    for way, keep in KEEP.items():
        activation = torch.arange(12.0).reshape(1, 6, 2) + 1
        kept = keep(activation)
        before = kept.clone()
        activation[:] = 0
        truth[way] = torch.equal(kept, before)
    filled(survives)
    true_or_false(survives, truth)
    explained(why, "what came out without `.clone()`, and why")
    return "All four were tried on a tensor that was then set to zero."
