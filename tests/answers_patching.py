"""Answers to the exercises on patching a pair, and of maps."""

import torch
from exercise_answers import (
    Answers,
    answers,
    behind_a_hook,
    blip,
    by_hooks,
    head_sites,
    some_pairs,
    worked_pair,
    worked_set,
)

from notice_lib import effects, sweep
from notice_lib.exercises import first_patch
from notice_lib.patching import logit_difference


def noising(layer, head, role, lazy=False):
    """L' - L of a head at a role, by hooks; lazily, nothing is written."""
    vlm, pair = blip(), worked_pair()
    roles = vlm.roles(vlm.inputs(pair.image("clean"), pair.prompt), pair.spans)
    positions = [i for i, one in enumerate(roles) if one == role]
    return by_hooks("clean", layer, head, positions, lazy=lazy)


def by_library(layer, head, role):
    (site,) = [s for s in head_sites() if (s.layer, s.head, s.position) == (layer, head, role)]
    return effects(sweep(blip(), worked_set(), [site], direction="noise").table()).effect.item()


def by_reference(layer, head, role):
    """The library's slow way, which no check of names would find."""
    from notice_lib.patching import make_jobs, reference

    (site,) = [s for s in head_sites() if (s.layer, s.head, s.position) == (layer, head, role)]
    reference.patch(blip(), make_jobs(blip(), worked_set(), [site]))


def looked_up():
    """A function that reads the answers off a table that was swept before."""
    table = effects(sweep(blip(), worked_set(), head_sites(), direction="noise").table())
    known = table.astype({"role": str}).set_index(["layer", "head", "role"]).effect
    return lambda *place: known[place]


@answers("first_patch.check_noising")
def noising_by_hand():
    return Answers(
        noising,
        {
            "wrong type": (lambda *_: "large", "one number"),
            "constant": (lambda *_: 0, "no hook was registered"),
            "near miss": (lambda *place: -noising(*place), "the sign is reversed"),
            "nothing written": (lambda *place: noising(*place, lazy=True), "nothing happens"),
            "shortcut": (by_library, "by hand"),
            "another shortcut": (by_reference, "by hand"),
            "a third": (looked_up(), "no hook was registered"),
            "a fourth": (behind_a_hook(looked_up()), "with other weights"),
        },
        (blip(), worked_set(), head_sites()),
        rounded=lambda *place: round(noising(*place), 2),
    )


@answers("first_patch.check_excess")
def excess():
    vlm, pair = blip(), worked_set()
    layer, role = first_patch.least_additive(vlm, pair, ["correct", "incorrect"])
    row = first_patch._whole_and_sum(vlm, pair, [role]).loc[(layer, role)]
    whole, total = row["whole"], row["sum"]
    return Answers(
        whole - total,
        {
            "wrong type": ([1.0], "one number"),
            "constant": (0, "one site without a head"),
            "near miss": (total - whole, "not the reverse"),
            "shortcut": (whole, "the whole alone"),
        },
        (vlm, pair, layer, role),
        rounded=round(whole - total, 2),
    )


@answers("first_patch.check_test")
def both_ways():
    vlm, pairs, sites = blip(), some_pairs(2), head_sites()[::2]
    means = {way: first_patch._mean_percent(vlm, pairs, sites, way) for way in first_patch.WAYS}
    top = means["denoise"].idxmax()
    right = means["noise"][top]
    return Answers(
        right,
        {
            "wrong type": ("2 %", "one number"),
            "constant": (-50, "in the other direction"),
            "near miss": (right / 100, "give it in %"),
            "shortcut": (means["denoise"][top], "its denoising again"),
        },
        (10, vlm, pairs, sites),
        rounded=round(right, 1),
    )


@answers("first_patch.check_gates")
def gates():
    def said(*numbers):
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        both = [dict(zip(first_patch.WAYS, pair, strict=True)) for pair in pairs]
        return dict(zip(first_patch.GATES, both, strict=True))

    return Answers(
        said(0, 1, 1, 0),
        {
            "wrong type": (said("no", 1, 1, 0), "one number"),
            "constant": (said(0, 0, 0, 0), "2 of the 4"),
            "near miss": (said(0, 1, 1, 1), "1 of the 4"),
            "shortcut": (said(0.5, 0.5, 0.5, 0.5), "4 of the 4"),
        },
        rounded=said(0.0, 1.0, 1.0, 0.0),
    )


@answers("first_patch.check_flips")
def flips():
    vlm, pair = blip(), worked_set()
    tables = {
        a: sweep(vlm, pair, [site]).table() for a, site in first_patch.six_patches(vlm).items()
    }
    right = {letter for letter, table in tables.items() if logit_difference(table).item() > 0}
    helping = {a for a, table in tables.items() if effects(table).effect.item() > 0}
    return Answers(
        right,
        {
            "wrong type": ("D", "give a set"),
            "constant": (set(), "differ from the sign"),
            "near miss": (right ^ {"A"}, "1 of the 6 differ"),
            "shortcut": (helping, "which of them turn it"),
        },
        (set("A"), vlm, pair),
    )


@answers("modules_heads.check_whole")
def wholes():
    vlm = blip()
    every, last = set(range(vlm.n_layers)), vlm.n_layers - 1
    return Answers(
        {"image": {last}, "text": every},
        {
            "wrong type": ({"image": last, "text": every}, "give a set"),
            "constant": ({"image": every, "text": every}, "5 of these layers"),
            "near miss": ({"image": {last}, "text": every - {0}}, "text: there are more"),
            "shortcut": ({"image": set(), "text": set()}, "image: there are more"),
        },
        (vlm, some_pairs()),
    )


def honest_peak(values, of=lambda half: half):
    half = len(values) // 2
    return of(values[half:])[:, values[:half].mean(0).argmax()].mean()


@answers("modules_heads.check_honest")
def honest():
    return Answers(
        honest_peak,
        {
            "wrong type": (lambda values: values.mean(0), "one number"),
            "constant": (lambda values: 0.0, "is not found"),
            "near miss": (lambda values: honest_peak(values, lambda h: h[:4]), "all rows"),
            "shortcut": (lambda values: values.mean(0).max(), "on pure noise"),
        },
        rounded=lambda values: round(honest_peak(values), 2),
    )


def linears(vlm, layer):
    block = vlm.model.text_encoder.encoder.layer[layer].crossattention
    return (block.self.query, block.self.key, block.self.value), block.output.dense


def exchange(readers, mixer, a, b, size, with_bias=True):
    order = list(range(mixer.in_features))
    of_a, of_b = (slice(h * size, (h + 1) * size) for h in (a, b))
    order[of_a], order[of_b] = order[of_b], order[of_a]
    for linear in readers:
        linear.weight.copy_(linear.weight[order])
        if with_bias:
            linear.bias.copy_(linear.bias[order])
    mixer.weight.copy_(mixer.weight[:, order])


def noop_in_disguise(readers, mixer, a, b, size):
    """The weights change, by nothing that could be seen in the answers."""
    mixer.weight.add_(1e-9 * torch.sign(mixer.weight))


@answers("modules_heads.check_exchange")
def exchanged_heads():
    return Answers(
        exchange,
        {
            "wrong type": (3, "it stops with TypeError"),
            "constant": (lambda readers, mixer, *_: mixer.weight.zero_(), "another function"),
            "near miss": (lambda *given: exchange(*given, with_bias=False), "another function"),
            "shortcut": (noop_in_disguise, "is not what head"),
        },
        (blip(), some_pairs(), linears),
    )


@answers("modules_heads.check_statements")
def statements():
    right = {"A": True, "B": False, "C": False, "D": True, "E": False, "F": True}
    return Answers(
        right,
        {
            "wrong type": ("ADF", "a dictionary"),
            "constant": (dict.fromkeys(right, True), "3 of the 6 answers"),
            "near miss": (right | {"F": False}, "1 of the 6 answers"),
            "shortcut": (dict.fromkeys(right, False), "3 of the 6 answers"),
        },
    )
