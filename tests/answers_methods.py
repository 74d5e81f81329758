"""Answers to the exercises on the engine, noise and circuits."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from exercise_answers import (
    Answers,
    answers,
    blip,
    head_sites,
    of_kinds,
    worked_pair,
    worked_set,
)
from PIL import Image
from scipy.stats import binomtest

from notice_lib import NoticeError, Site, load_model
from notice_lib.exercises import circuits
from notice_lib.patching import logit_difference, make_jobs


def attend(query, key, value, own_key, own_value):
    weights = torch.softmax(torch.cat([key @ query, own_key @ query]) * len(query) ** -0.5, 0)
    return weights[: len(key)] @ value + weights[len(key) :] @ own_value


def glued(query, key, value, own_key, own_value):
    keys, values = torch.cat([key, own_key]), torch.cat([value, own_value])
    return torch.softmax(keys @ query * len(query) ** -0.5, 0) @ values


def two_softmaxes(query, key, value, own_key, own_value):
    first = torch.softmax(key @ query * len(query) ** -0.5, 0) @ value
    return first + torch.softmax(own_key @ query * len(query) ** -0.5, 0) @ own_value


@answers("engine.check_attend")
def shared_prefix():
    return Answers(
        attend,
        {
            "wrong type": (lambda *given: attend(*given).tolist(), "no tensor"),
            "constant": (lambda query, *_: torch.zeros_like(query), "other numbers"),
            "near miss": (two_softmaxes, "a softmax of its own"),
            "shortcut": (glued, "glued together"),
        },
        rounded=lambda *given: attend(*given).round(decimals=2),
    )


@answers("engine.check_idle")
def nobody_needs():
    double = load_model("blip-mini", device="cpu", dtype=torch.float64, check=False)
    sites = [
        Site(component, layer, position="correct")
        for component in ("self_attention", "cross_attention", "mlp")
        for layer in (0, 1)
    ]
    (job,) = make_jobs(double, worked_set(), sites)
    every = {(site.component, site.layer) for site in sites}
    return Answers(
        {("self_attention", 0)},
        {
            "wrong type": ("self_attention", "give a set"),
            "constant": (set(), "1 missing"),
            "near miss": ({("self_attention", 0), ("mlp", 0)}, "moves a logit"),
            "shortcut": (every, "moves a logit"),
        },
        (double, job),
    )


def refuse():
    raise NoticeError("another sweep")


@answers("engine.check_overnight")
def overnight():
    fine, refused = {"engine", "max_tokens"}, {"seed", "precision", "pairs"}
    attempts = {name: refuse if name in refused else lambda: None for name in fine | refused}
    return Answers(
        fine,
        {
            "wrong type": ("engine", "give a set"),
            "constant": (set(), "2 of the 5"),
            "near miss": ({"engine"}, "1 of the 5"),
            "shortcut": (fine | refused, "3 of the 5"),
        },
        (attempts,),
    )


@answers("noise.check_mixed")
def mixed():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([["a", "b", "c"], range(3)], names=["pair_id", "draw"])
    runs = pd.DataFrame({"corrupt_logit_correct": rng.normal(0, 3, 9)}, index).reset_index()
    table = runs.loc[runs.index.repeat(4)].reset_index(drop=True)
    table["corrupt_logit_incorrect"] = table["logit_incorrect"] = 0.0
    table["logit_correct"] = table.corrupt_logit_correct + rng.normal(0, 0.5, len(table))
    table["effect"] = logit_difference(table) - logit_difference(table, "corrupt")
    base = runs.assign(draw=(runs.draw - 1) % 3).set_index(["pair_id", "draw"])
    keys = list(zip(table.pair_id, table.draw, strict=True))
    next_one = base.corrupt_logit_correct.loc[keys].to_numpy()
    right = np.std(table.logit_correct - next_one)
    return Answers(
        right,
        {
            "wrong type": ("wide", "one number"),
            "constant": (0.0, "rows is not 0.00 logits"),
            "near miss": (right**2, "the spread over these 36 rows"),
            "shortcut": (table.effect.std(), "with the same draw"),
        },
        (table, 3),
        rounded=round(right, 2),
    )


@answers("noise.check_oracle")
def oracle():
    pair = worked_pair()

    def painter(paint):
        return SimpleNamespace(paint=paint)

    def partner(image, mask, *_):
        pixels = np.array(image)
        pixels[mask] = np.asarray(pair.image("corrupt"))[mask]
        return Image.fromarray(pixels)

    def region(one):
        return one.masks("clean")["differs"]

    return Answers(
        painter(partner),
        {
            "wrong type": (partner, "a method `paint`"),
            "constant": (painter(lambda image, *_: image), "the partner's pixels"),
            "near miss": (
                painter(lambda *_: Image.new("RGB", pair.image("clean").size)),
                "outside the box",
            ),
            "shortcut": (painter(lambda *_: Image.new("RGB", (2, 2))), "the same size"),
        },
        (worked_set(), region),
    )


def needed(n, least=0.8, level=0.95):
    for k in range(n + 1):
        if binomtest(k, n).proportion_ci(level, method="wilson").low > least:
            return k


@answers("noise.check_needed")
def must_pass():
    return Answers(
        needed,
        {
            "wrong type": (lambda n: "most", "one number"),
            "constant": (lambda n: 88, "for n = 5"),
            "near miss": (lambda n: needed(n, level=0.9), "whose interval starts"),
            "shortcut": (lambda n: int(0.8 * n) + 1, "for n = 5"),
        },
        forms=of_kinds(needed),
    )


def estimate(gradient, base, source, columns, token):
    return gradient[token, columns] @ (source[token, columns] - base[token, columns])


@answers("circuits.check_estimate")
def estimated():
    return Answers(
        estimate,
        {
            "wrong type": (lambda *_: "small", "one number"),
            "constant": (lambda *_: 0.0, "another number"),
            "near miss": (lambda *given: -estimate(*given), "the other sign"),
            "shortcut": (
                lambda gradient, base, source, _, token: (
                    gradient[token] @ (source[token] - base[token])
                ),
                "the whole module",
            ),
        },
        (blip(), worked_set(), head_sites()),
        rounded=lambda *given: float(f"{estimate(*given).item():.3g}"),
    )


@answers("circuits.check_backup")
def backup():
    return Answers(
        (1.0, 4.0),
        {
            "wrong type": (1.0, "two numbers"),
            "constant": ((0.0, 0.0), "faithfulness is"),
            "near miss": ((1.0, 0.0), "which has a backup"),
            "shortcut": ((1.0, 1.0), "which has a backup"),
        },
        rounded=(1, 4),
    )


def missed(effect, guess, m):
    return effect.drop(guess.abs().nlargest(m).index).abs().max()


@answers("circuits.check_missed")
def overlooked():
    return Answers(
        missed,
        {
            "wrong type": (lambda *_: "b", "one number"),
            "constant": (lambda *_: 6.0, "a middling estimate"),
            "near miss": (
                lambda effect, guess, m: effect.drop(guess.nlargest(m).index).abs().max(),
                "a negative estimate",
            ),
            "shortcut": (
                lambda effect, guess, m: effect.abs().nsmallest(len(effect) - m).max(),
                "by the estimate",
            ),
        },
        rounded=lambda *given: round(missed(*given), 1),
    )


@answers("circuits.check_smallest")
def smallest():
    vlm, pair = blip(), worked_set()
    heads = [(i, j) for i in range(vlm.n_layers) for j in range(vlm.n_heads)]
    right = circuits._greedy(vlm, pair, heads)
    return Answers(
        set(right),
        {
            "wrong type": (3, "give a set"),
            "constant": ({(0, 0)}, "has not turned"),
            "near miss": (set(right[:-1]), "has not turned" if len(right) > 1 else "give"),
            "shortcut": (set(heads), "fewer are enough"),
        },
        (vlm, pair),
    )
