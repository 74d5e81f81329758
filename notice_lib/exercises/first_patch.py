"""Exercises of the first patch."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from ..choices import Direction
from ..models import VLM
from ..pairs import PairSet
from ..patching import Circuit, Site, effects, logit_difference, site_grid, sweep
from .by_hand import STORED, by_hand, louder
from .verdict import (
    NotBegun,
    NotYet,
    check,
    entry,
    members,
    near,
    number,
    refuse_slips,
    tried,
)

WAYS: tuple[Direction, ...] = ("denoise", "noise")


def _effects(
    vlm: VLM, pairs: PairSet, sites: Sequence[Site], way: Direction = "denoise"
) -> pd.DataFrame:
    """The table of a sweep, with the roles as strings."""
    return effects(sweep(vlm, pairs, sites, direction=way).table()).astype({"role": str})


@check
def check_noising(function: Callable, vlm: VLM, pair: PairSet, sites: Sequence[Site]) -> str:
    """3.1: L' - L of a head's corrupt slice in the clean run, by hooks.

    It is tried on the three heads of `sites` that noising moves most.
    """
    _by_hand(function, sites[0])
    noised, denoised = (_effects(vlm, pair, sites, way) for way in ("noise", "denoise"))
    for at in noised.effect.abs().nlargest(3).index:
        row = noised.loc[at]
        site = Site(str(row.component), int(row.layer), int(row["head"]), row.role)
        found = _by_hand(function, site)
        if near(found, row.effect):
            continue
        first = _effects(vlm, pair, [Site(site.component, site.layer, site.head, 0)], "noise")
        clean, corrupt = (logit_difference(noised, run)[at] for run in ("clean", "corrupt"))
        where = f"L{site.layer}.H{site.head} at {row.role}"
        slips = {
            "the sign is reversed: L' minus L.": -row.effect,
            "this is denoising; patch the clean run.": denoised.effect[at],
            "subtract L, the base run's, not L*.": row.effect + clean - corrupt,
            "this is L' itself; subtract L.": row.effect + clean,
            "nothing happens; return the changed tensor from the second hook.": 0,
            "this is token 0; use the role's tokens.": first.effect.item(),
        }
        refuse_slips(found, {f"{where}: {why}": wrong for why, wrong in slips.items()})
        raise NotYet(f"{where} is not {found:+.2f}.")
    _refuse_stored(function, vlm, pair, noised)
    return "Only the two runs changed places."


def _refuse_stored(function: Callable, vlm: VLM, pair: PairSet, noised: pd.DataFrame) -> None:
    """Refuse numbers that were computed before, by changing weights behind the strongest head."""
    row = noised.loc[noised.effect.abs().idxmax()]
    site = Site(str(row.component), int(row.layer), int(row["head"]), row.role)
    before = logit_difference(noised, "clean")[row.name]
    with louder(vlm.hook_point(site.component, site.layer).module):
        table = _effects(vlm, pair, [site], "noise")
        found = _by_hand(function, site)
    effect, clean = table.effect.item(), logit_difference(table, "clean").item()
    # A reader may subtract the L that the page has computed.
    if not any(near(found, one) for one in (effect, effect + clean - before)):
        raise NotYet(STORED)


def _by_hand(function: Callable, site: Site) -> float:
    """What a function returns for a head, if it has patched by itself."""
    with by_hand() as hooked:
        found = number(tried(function, site.layer, site.head, site.position), "in logits")
    if not hooked:
        raise NotYet("no hook was registered, so nothing was patched.")
    return found


def _whole_and_sum(vlm: VLM, pair: PairSet, roles: Sequence[str]) -> pd.DataFrame:
    """Effects of whole attention layers, and the sums of their heads', by layer and role."""
    parts = {}
    for name, per_head in (("whole", False), ("sum", True)):
        sites = [
            site
            for role in roles
            for site in site_grid(vlm, [vlm.image_component], per_head=per_head, position=role)
        ]
        parts[name] = _effects(vlm, pair, sites).groupby(["layer", "role"]).effect.sum()
    return pd.DataFrame(parts)


def least_additive(vlm: VLM, pair: PairSet, roles: Sequence[str]) -> tuple[int, str]:
    """Return the layer and role at which a layer differs most from the sum of its heads."""
    table = _whole_and_sum(vlm, pair, roles)
    layer, role = (table["whole"] - table["sum"]).abs().idxmax()
    return int(layer), str(role)


@check
def check_excess(value: float, vlm: VLM, pair: PairSet, layer: int, role: str) -> None:
    """3.2: the effect of a whole attention layer minus the sum of its heads' effects."""
    found = number(value, "in logits")
    row = _whole_and_sum(vlm, pair, [role]).loc[layer, role]
    whole, single = row["whole"], row["sum"]
    if near(found, whole - single):
        return
    total = _effects(vlm, pair, [Site(vlm.image_component, layer, None, role)]).iloc[[0]]
    way = (logit_difference(total, "clean") - logit_difference(total, "corrupt")).item()
    slips = {
        "the whole minus the sum, not the reverse.": single - whole,
        "the sum of the heads, not their mean.": whole - single / vlm.n_heads,
        "this is the whole alone.": whole,
        "this is the sum alone.": single,
        "in logits, not in %.": 100 * (whole - single) / way,
    }
    refuse_slips(found, slips)
    raise NotYet("it is the effect of one site without a head, minus those of its heads.")


@check
def check_test(
    measured: float, prediction: float, vlm: VLM, pairs: PairSet, sites: Sequence[Site]
) -> str:
    """3.3: how far noising moves, in %, the head whose denoising recovers most."""
    if prediction is None:
        raise NotBegun("write your prediction first.")
    said, found = number(prediction, "in %"), number(measured, "in %")
    means = pd.DataFrame({way: _mean_percent(vlm, pairs, sites, way) for way in WAYS})
    top = means["denoise"].idxmax()
    wanted = means["noise"][top]
    if near(found, wanted, 0.1):
        return f"Your prediction was off by {abs(said - wanted):.1f} points."
    slips = {
        "give it in %.": wanted / 100,
        "the fraction is positive towards the corrupt run.": -wanted,
        "this is its denoising again.": means["denoise"][top],
    }
    for why, wrong in slips.items():
        if near(found, wrong, 0.1 if abs(wrong) > 1 else 0.001):
            raise NotYet(why)
    for (layer, head, role), other in means["noise"].items():
        if near(found, other, 0.1):
            raise NotYet(f"this may be L{layer}.H{head} at {role}, which is not the strongest.")
    raise NotYet("it is the mean of fraction_recovered over the pairs, in the other direction.")


def _mean_percent(vlm: VLM, pairs: PairSet, sites: Sequence[Site], way: Direction) -> pd.Series:
    """Mean fraction recovered by layer, head and role, in %."""
    table = _effects(vlm, pairs, sites, way)
    return 100 * table.groupby(["layer", "head", "role"]).fraction_recovered.mean()


GATES = {"AND": min, "OR": max}


@check
def check_gates(recovered: Mapping[str, Mapping[str, float]]) -> str:
    """3.4: what patching one of two parts moves, {gate: {direction: fraction}}."""
    wrong = 0
    for name, gate in GATES.items():
        clean, corrupt = gate(1, 1), gate(0, 0)
        truth = {
            "denoise": (gate(1, 0) - corrupt) / (clean - corrupt),
            "noise": (gate(0, 1) - clean) / (corrupt - clean),
        }
        for way in WAYS:
            wrong += not near(number(entry(recovered, name, way)), truth[way])
    if wrong:
        raise NotYet(f"{wrong} of the 4 numbers {'is' if wrong == 1 else 'are'} wrong.")
    return "One direction alone cannot tell the two apart from a part that does nothing."


def six_patches(vlm: VLM) -> dict[str, Site]:
    """Return six patches of layer outputs and single heads, by letter."""
    middle, last = vlm.n_layers // 2, vlm.n_layers - 1
    sites = (
        Site("layer_output", 0, position="correct"),
        Site("layer_output", middle, position="correct"),
        Site("layer_output", middle, position="before"),
        Site("layer_output", last, position="all"),
        Site(vlm.image_component, middle, 0, "correct"),
        Site("layer_output", middle, position="incorrect"),
    )
    return dict(zip("ABCDEF", sites, strict=True))


@check
def check_flips(measured: set[str], predicted: set[str], vlm: VLM, pair: PairSet) -> str:
    """3.5: the letters of the patches of `six_patches` that turn the corrupt answer."""
    if predicted is None:
        raise NotBegun("write your prediction first, a set of letters.")
    said, found = (members(one, '{"A", "F"}') for one in (predicted, measured))
    sites = six_patches(vlm)
    unknown = (said | found) - set(sites)
    if unknown:
        raise NotYet(f"there is no patch {unknown.pop()!r}.")
    circuits = [Circuit(letter, (site,)) for letter, site in sites.items()]
    table = effects(sweep(vlm, pair, circuits).table()).set_index("circuit")
    flipped = set(table.index[logit_difference(table) > 0])
    helping = set(table.index[table.effect > 0])
    if found == flipped:
        return f"Your prediction was wrong about {len(said ^ flipped)} of the 6."
    if found == helping:
        raise NotYet("these move the answer towards the clean one; which of them turn it?")
    raise NotYet(f"{len(found ^ flipped)} of the 6 differ from the sign of L' in a sweep.")
