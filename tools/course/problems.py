"""The graded problems: how a variant is drawn, its answer, and the wrong answers that it must not
equal.

An answer is a list of parts, and a part is a tuple of numbers. A part counts if all its numbers are
right. Cases are what the student's code is given, as JSON can hold it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from .pool import WHOLE, Pool

Case = dict
Answer = list[tuple[float, ...]]
NOT_ASKED = float("nan")
"""Stands in a wrong answer for a number that this mistake does not change."""
PAIRS = 6
"""Pairs of a variant that asks for means."""
STRONGEST = 8
"""Heads that such a variant is drawn from."""


@dataclass(frozen=True)
class Problem:
    """A problem that is graded by tests.

    Attributes:
        name: of the function that students write, or of the answer's cell.
        points: for all parts of all cases.
        tolerance: the largest error of a number that is right.
        draw: makes a case from a pool and a random generator.
        answer: the right answer to a case.
        slips: wrong answers to a case, by what is wrong with them.
        hidden: how many cases the tests have. 0: the student's own case, whose numbers the notebook
            must hold.
    """

    name: str
    points: int
    tolerance: float
    draw: Callable[[Pool, np.random.Generator], Case]
    answer: Callable[[Pool, Case], Answer]
    slips: Callable[[Pool, Case], dict[str, Answer]]
    hidden: int = 0


def _some(pool: Pool, rng: np.random.Generator, n: int) -> list[str]:
    ids = sorted(pair.pair_id for pair in pool.pairs)
    return sorted(map(str, rng.choice(ids, n, replace=False)))


def _site(pool: Pool, rng: np.random.Generator) -> Case:
    return {
        "layer": int(rng.integers(pool.model.n_layers)),
        "head": int(rng.integers(pool.model.n_heads)),
    }


def _rows(table: pd.DataFrame, case: Case, **other) -> pd.DataFrame:
    """The rows of a case's pairs at its site."""
    at = case | other
    return table.loc[[(pair, at["layer"], at["head"], at["role"]) for pair in at["pairs"]]]


def _percent(parts: pd.Series, wholes: pd.Series) -> float:
    return 100 * float(parts.mean() / wholes.mean())


# 1. One head, patched by hand.


def _draw_patch(pool, rng):
    role = str(rng.choice(pool.roles))
    return {"pairs": _some(pool, rng, 1)} | _site(pool, rng) | {"role": role}


def _patched(pool, case):
    """L' of denoising, of noising, and of the clean run patched with itself."""
    denoised, noised = (_rows(table, case).iloc[0] for table in (pool.denoised, pool.noised))
    return [(denoised["L"], noised["L"], noised["base"])]


def _patch_slips(pool, case):
    clean, corrupt = _rows(pool.noised, case)[["base", "source"]].iloc[0]
    ((denoised, noised, _),) = _patched(pool, case)

    def at(**other):
        ((one, two, _),) = _patched(pool, case | other)
        return [(one, two, NOT_ASKED)]

    roles, heads = pool.roles, pool.model.n_heads
    return {
        "nothing is written into the run": [(corrupt, clean, NOT_ASKED)],
        "this is the run that is read, not the patched one": [(clean, corrupt, NOT_ASKED)],
        "base and source are exchanged": [(noised, denoised, NOT_ASKED)],
        "this is the effect; L' is wanted": [(denoised - corrupt, noised - clean, 0)],
        "the sign is reversed": [(-denoised, -noised, -clean)],
        "the whole component is patched, not one head": at(head=WHOLE),
        "the neighbouring head is patched": at(head=(case["head"] + 1) % heads),
        "another token is patched": at(role=roles[(roles.index(case["role"]) + 1) % len(roles)]),
    }


# 2. The denominator.


def _draw_table(pool, rng):
    clean, corrupt = rng.normal(7, 3, 12), rng.normal(-7, 3, 12)
    share = rng.uniform(-0.5, 1.5) + rng.normal(0, 0.3, 12)
    patched = corrupt + share * (clean - corrupt)
    return {
        name: values.round(3).tolist()
        for name, values in (("L", clean), ("L_star", corrupt), ("L_patched", patched))
    }


def _recovered(pool, case):
    L, corrupt, patched = (np.array(case[name]) for name in ("L", "L_star", "L_patched"))
    return [(100 * (patched - corrupt).mean() / (L - corrupt).mean(),)]


def _recovered_slips(pool, case):
    L, corrupt, patched = (np.array(case[name]) for name in ("L", "L_star", "L_patched"))
    ((right,),) = _recovered(pool, case)
    wrong = {
        "this is the mean of the pairs' own fractions": 100
        * ((patched - corrupt) / (L - corrupt)).mean(),
        "this is a fraction; percent is wanted": right / 100,
        "this is the mean effect in logits": (patched - corrupt).mean(),
        "subtract L* from L'": 100 * patched.mean() / (L - corrupt).mean(),
        "the total effect is L - L*, not L": 100 * (patched - corrupt).mean() / L.mean(),
        "the sign is reversed": -right,
        "this is what is still missing": 100 - right,
    }
    return {why: [(value,)] for why, value in wrong.items()}


# 3. Enough, or needed?


def _draw_means(pool, rng):
    """One of the heads that move the answer most: of others there is little to say."""
    pairs, role = _some(pool, rng, PAIRS), pool.model.effect_role
    table = pool.denoised.loc[(pairs, slice(None), slice(None), role), :]
    effects = (table["L"] - table["base"]).drop(WHOLE, level="head").groupby(["layer", "head"])
    strongest = effects.mean().abs().nlargest(STRONGEST).index
    layer, head = map(int, strongest[rng.integers(STRONGEST)])
    return {"pairs": pairs, "layer": layer, "head": head, "role": role}


def _shares(pool, case):
    denoised, noised = (_rows(table, case) for table in (pool.denoised, pool.noised))
    total = denoised["source"] - denoised["base"]
    return denoised["L"] - denoised["base"], noised["base"] - noised["L"], total


def _enough_needed(pool, case):
    enough, needed, total = _shares(pool, case)
    return [(_percent(enough, total),), (_percent(needed, total),)]


def _enough_slips(pool, case):
    *both, total = _shares(pool, case)
    enough, needed = (value for (value,) in _enough_needed(pool, case))
    wrong = {
        "the two are exchanged": (needed, enough),
        "these are the means of the pairs' own fractions": [
            100 * (part / total).mean() for part in both
        ],
        "these are fractions; percent is wanted": (enough / 100, needed / 100),
        "these are logits": [part.mean() for part in both],
        "the sign is reversed": (-enough, -needed),
    }
    return {why: [(value,) for value in values] for why, values in wrong.items()}


# 4. Content, truth and removal.


def _parts(pool, case):
    """Mean effects in logits: of own, true and false sources, and the total effect."""
    own = _rows(pool.denoised, case)
    donated = [_rows(pool.donated[run], case) for run in ("clean", "corrupt")]
    effects = [float((table["L"] - table["base"]).mean()) for table in (own, *donated)]
    return *effects, float((own["source"] - own["base"]).mean())


def _three_parts(pool, case):
    own, true, false, total = _parts(pool, case)
    parts = own - true, (true - false) / 2, (true + false) / 2
    return [(100 * part / total,) for part in parts]


def _parts_slips(pool, case):
    own, true, false, total = _parts(pool, case)
    _, truth, removal = (100 * part / total for part in (own - true, true - false, false))
    right = [value for (value,) in _three_parts(pool, case)]
    wrong = {
        "donors with the false option are subtracted, not those with the true one": (
            100 * (own - false) / total, NOT_ASKED, NOT_ASKED,
        ),
        "half of the difference, and half of the sum": (NOT_ASKED, truth, 2 * right[2]),
        "the false donors alone are not removal": (NOT_ASKED, NOT_ASKED, removal),
        "the true donors alone are not truth": (NOT_ASKED, 100 * true / total, NOT_ASKED),
        "this is the whole effect": [100 * own / total] * 3,
        "these are fractions; percent is wanted": [value / 100 for value in right],
        "these are logits": [value * total / 100 for value in right],
        "the sign is reversed": [-value for value in right],
    }  # fmt: skip
    return {why: [(value,) for value in values] for why, values in wrong.items()}


# 5. The unit and the null.


def _draw_effects(pool, rng):
    # Halves and 64ths are exact: flips tie with the observed signs in every way to add.
    sizes = rng.integers(1, 3, 6)
    scenes = np.repeat(np.arange(len(sizes)), sizes)
    own = rng.normal(0.4, 0.6, len(sizes))[scenes]
    effects = np.round(64 * (own + rng.normal(0, 0.2, len(scenes)))) / 64
    names = [f"scene-{scene}" for scene in scenes]
    return {"effects": effects.tolist(), "scenes": names}


def _flipped(values) -> np.ndarray:
    """The means of all sign flips, the first of which flips nothing."""
    signs = np.array(list(product((1, -1), repeat=len(values))))
    return (signs * np.asarray(values)).mean(1)


def _p(means: np.ndarray) -> float:
    return float((np.abs(means) >= abs(means[0]) - 1e-9).mean())


def _p_value(pool, case):
    by_scene = pd.Series(case["effects"]).groupby(case["scenes"]).mean()
    return [(_p(_flipped(by_scene)),)]


def _p_slips(pool, case):
    scenes = pd.Series(case["effects"]).groupby(case["scenes"])
    means = _flipped(scenes.mean())
    n = len(means)
    wrong = {
        "pairs are flipped; whole scenes must be": _p(_flipped(case["effects"])),
        "this is one-sided": float((means >= means[0] - 1e-9).mean()),
        "this is one-sided, of the other side": float((means <= means[0] + 1e-9).mean()),
        "the observed signs are one of the flips": (n * _p(means) - 1) / n,
        "average the pairs of a scene first, so that scenes weigh the same": _p(
            _flipped(scenes.sum())
        ),
        "this is the mean effect, not p": float(means[0]),
        "this is 1 - p": 1 - _p(means),
    }
    return {why: [(value,)] for why, value in wrong.items()}


# 6. Looks, matters, is missed.


def _three_looks(pool, case):
    at = [(pair, case["layer"], case["head"]) for pair in case["pairs"]]
    looks = 100 * float(pool.attention.loc[at, "share"].mean())
    effect, _, total = _shares(pool, case)
    zeroed = _rows(pool.zeroed, case)
    missed = _percent(zeroed["base"] - zeroed["L"], zeroed["base"])
    return [(looks,), (_percent(effect, total),), (missed,)]


def _looks_slips(pool, case):
    at = [(pair, case["layer"], case["head"]) for pair in case["pairs"]]
    excess, area = (100 * float(pool.attention.loc[at, name].mean()) for name in ("excess", "area"))
    effect, needed, total = _shares(pool, case)
    zeroed = _rows(pool.zeroed, case)
    lost = zeroed["base"] - zeroed["L"]
    right = [value for (value,) in _three_looks(pool, case)]
    wrong = {
        "the average head is subtracted": (excess, NOT_ASKED, NOT_ASKED),
        "this is the area of the patches": (area, NOT_ASKED, NOT_ASKED),
        "a head is missed in percent of L, not of L - L*": (
            NOT_ASKED, NOT_ASKED, 100 * float(lost.mean()) / float(total.mean()),
        ),
        "corrupt activations are carried there; write zeros": (
            NOT_ASKED, NOT_ASKED, _percent(needed, zeroed["base"]),
        ),
        "what matters is in percent of L - L*, not of L": (
            NOT_ASKED, _percent(effect, zeroed["base"]), NOT_ASKED,
        ),
        "these are fractions; percent is wanted": [value / 100 for value in right],
        "the sign is reversed": [-value for value in right],
    }  # fmt: skip
    return {why: [(value,) for value in values] for why, values in wrong.items()}


PROBLEM_SETS: dict[str, tuple[Problem, ...]] = {
    "problem_set_1": (
        Problem("patched_difference", 10, 0.002, _draw_patch, _patched, _patch_slips, hidden=4),
        Problem("percent_recovered", 5, 0.05, _draw_table, _recovered, _recovered_slips, hidden=5),
        Problem("enough_needed", 5, 0.01, _draw_means, _enough_needed, _enough_slips),
    ),
    "problem_set_2": (
        Problem("three_parts", 6, 0.005, _draw_means, _three_parts, _parts_slips),
        Problem("p_value", 8, 0.0005, _draw_effects, _p_value, _p_slips, hidden=4),
        Problem("looks_matters_missed", 6, 0.005, _draw_means, _three_looks, _looks_slips),
    ),
}
APART = 20
"""A number that is asked for differs from zero and from each wrong one by so many tolerances."""


def is_apart(problem: Problem, pool: Pool, case: Case) -> bool:
    """Whether a case's answer cannot be had by a listed mistake, or by answering zero."""
    right, least = problem.answer(pool, case), APART * problem.tolerance
    zero = [(0.0,) * len(part) for part in right]
    for wrong in (zero, *problem.slips(pool, case).values()):
        for numbers, others in zip(right, wrong, strict=True):
            distance = np.abs(np.subtract(numbers, others))
            if (distance < least).any():  # NOT_ASKED is near nothing
                return False
    return True
