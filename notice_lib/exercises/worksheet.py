"""Tasks of the worksheet of the 90-minute session."""

from collections.abc import Mapping

from ..choices import Direction
from ..models import VLM
from ..pairs import PairSet
from ..patching import Site, effects, sweep
from .verdict import NotBegun, NotYet, check, near, number, refuse_slips


def _by_role(vlm: VLM, one: PairSet, layer: int, direction: Direction) -> dict[str, float]:
    """What the output of a layer moves of one pair at the tokens of each role, in percent."""
    (pair,) = one
    inputs = vlm.inputs(pair.image("clean"), pair.prompt)
    roles = [role for role in dict.fromkeys(vlm.roles(inputs, pair.spans)) if role != "image"]
    sites = [Site("layer_output", layer, position=role) for role in roles]
    table = effects(sweep(vlm, one, sites, direction=direction).table())
    shares = table.assign(role=table["role"].astype(str)).groupby("role").fraction_recovered.mean()
    return {role: 100 * shares[role] for role in roles}


@check
def check_roles(recovered: Mapping[str, float], vlm: VLM, one: PairSet, layer: int) -> None:
    """Task 3: what each role recovers alone, in percent, at a layer.

    Args:
        one: the pair.
    """
    if not isinstance(recovered, Mapping):
        raise NotYet("`recovered` is a dictionary, {role: percent}.")
    if not recovered:
        raise NotBegun("fill `recovered`.")
    wanted = _by_role(vlm, one, layer, "denoise")
    if missing := [role for role in wanted if role not in recovered]:
        raise NotYet(f"the role {missing[0]!r} is missing.")
    found = {role: number(recovered[role], "in %") for role in wanted}
    if all(near(100 * found[role], wanted[role], 1) for role in wanted):
        raise NotYet("these are fractions; give them in percent.")
    if len(set(found.values())) == 1:
        raise NotYet("every role has the same value: is only its own token patched?")
    for role, value in wanted.items():
        if not near(found[role], value, 1):
            raise NotYet(f"the value for {role!r} is wrong. Are these its tokens, all of them?")


@check
def check_needed(moved: float, prediction: float, vlm: VLM, one: PairSet, layer: int) -> str:
    """Task 4: how far noising the role that recovers most moves L towards L*, in percent."""
    if prediction is None:
        raise NotBegun("write your prediction first.")
    found, guess = number(moved, "in %"), number(prediction, "in %")
    enough = _by_role(vlm, one, layer, "denoise")
    best = max(enough, key=enough.__getitem__)
    wanted = _by_role(vlm, one, layer, "noise")[best]
    slips = {
        "it falls by so much: give the fall as a positive number.": -wanted,
        "this is how much denoising recovers. Exchange the two runs.": enough[best],
        "this is what is left of L. By how much does L' fall below it?": 100 - wanted,
    }
    if not near(found, wanted, 1):
        refuse_slips(found, slips, 1)
        if near(100 * found, wanted, 1):
            raise NotYet("give it in percent.")
        raise NotYet("patch the clean run, at the role that recovered most.")
    return f"Your prediction was off by {abs(guess - wanted):.0f} points."
