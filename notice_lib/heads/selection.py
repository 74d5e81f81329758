"""Which heads matter: rules of selection, and heads that matter in every task.

The input is the table of effects of several sweeps (`gather`), a condition is one task under one
corruption. Two steps:

    found = head_effects(gather(sweeps))   # a row a head and condition: effect, interval, selected
    heads = universal_heads(found)         # a row a head: its kind, and its effects side by side

**The paper's rule** ("paper") selects in each condition the heads whose mean `|score|` over pairs
is at least mean + 2 SD over all heads of the component, and calls a head universal that is selected
in every task. It has two faults, whatever the data. A mean of absolute values grows with a head's
*spread*: a head that pushes the answer now here, now there, and nowhere on average, passes, and
does so in every task if its spread is its own. (Flip the signs of effects at random: the rule
selects the very same heads.) And the cut is relative: some of any long-tailed noise pass it, of
heads that all matter at most a fifth, and no number of pairs makes it surer.

**The default rule** ("signed") asks what a head does *on average over scenes*: the mean is taken
before the absolute value. A head is selected if its mean effect is larger than `minimum`, a share
of the way from the base to the source run, in one direction, by a test that flips whole scenes
(`statistics.sign_flip_test`), with Benjamini and Hochberg's correction over the component's heads.
So of the heads selected in a condition an expected share of at most `level` does not have such
an effect. Both parts are needed: a test alone would, with enough scenes, select nearly every head
of a real model, since hardly any effect is exactly zero; a threshold alone would take noise.

A head is **universal** if it has such an effect in *every* condition, with the same sign. Its
p-value for that is the largest of its p-values (one condition without an effect is enough to
refute), 1 where signs differ; these are corrected over heads in turn. So `level` bounds the
expected share of false ones among the *universal* heads too, which intersecting the conditions'
lists would not. It holds whatever the dependence between conditions.

What it assumes: scenes are drawn independently, and heads are not dependent in an adversarial way
(Benjamini and Hochberg's rate holds for positive dependence; "max_t" bounds the chance of *any*
false head, without such an assumption). What it does not say: that a head's effect is about this
picture's content. A patch that merely takes something away from a run makes a wrong answer less
certain, and so has an effect. `beyond_null` subtracts what activations of another scene do.

Sources: paper, section 4; published code, BLIP/circuit_analysis.ipynb; Benjamini & Hochberg,
JRSS B 57 (1995); Nichols et al., NeuroImage 25 (2005) and Benjamini & Heller, Biometrics 64 (2008)
for the largest p-value.
"""

import math
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from ..errors import NoticeError
from ..models.answers import SCORES
from ..patching import METRICS
from .statistics import bootstrap_interval, max_t_test, sign_flip_test, two_sd
from .table import CONDITION, HEAD, scene_effects, total_effect

_NEEDED = {*HEAD, *CONDITION, "pair_id", "scene_id", "draw", "donor"} | {
    f"{run}_{score}" for run in ("base", "source") for score in SCORES
}
KINDS = {"vision": ["image"], "text": ["text"], "multimodal": ["image", "text"]}
"""The corruptions in all of whose tasks a universal head of each kind is selected."""

MINIMUM = 0.005
"""Smallest effect that counts by default: half a percent of the way from base to source run. A
convention, as any such threshold: say how the number of heads depends on it."""

Rule = Literal["signed", "max_t", "paper", "abs_of_mean"]
RULES: dict[str, str] = {
    "signed": "mean effect above a minimum, either sign; false-discovery rate controlled (default)",
    "max_t": "the same; the chance of any false head controlled",
    "paper": "mean of |effect| at least mean + 2 SD over heads, as the paper does",
    "abs_of_mean": "|mean effect| at least mean + 2 SD over heads",
}


def head_effects(
    table: pd.DataFrame,
    rule: Rule = "signed",
    metric: str = "effect",
    level: float = 0.05,
    minimum: float = MINIMUM,
    draws: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Each head's mean effect in each condition, how sure it is, and whether a rule selects it.

    Args:
        table: from `gather`, with one row a pair, head and condition: one position only.
        rule: one of `RULES`; the module's text says why "signed" is the default.
        metric: a column of the table.
        level: false-discovery rate ("signed") or chance of any false head ("max_t") in each
            component and condition; the intervals cover 1 - level.
        minimum: smallest mean effect that counts, as a share of the mean way from base to source
            run in the condition; of "signed" and "max_t".
        draws: random sign flips; by default so many that one head alone can be selected.
        seed: of the flips and the bootstrap.

    Returns:
        One row a head and condition: component, layer, head, task, corruption, rule, scenes
        (their number), effect (mean over scenes, the metric's unit), fraction_recovered (the effect
        over the mean effect of going all the way to the source run), mean_abs (mean `|metric|` over
        pairs: the paper's score), low and high (bootstrap interval of effect,
        `statistics.bootstrap_interval`), p (NaN without a test), q (corrected p) and selected.

    Raises:
        NoticeError: an unknown rule or metric; a metric that is no difference of two runs, with
            a rule that tests against zero; and where `scene_effects` raises it.
    """
    _check(rule, metric, table)
    table = table[[name for name in table if name in _NEEDED or name == metric]]
    parts = [
        _condition(part, rule, metric, level, minimum, draws, seed).assign(
            component=component, task=task, corruption=corruption, rule=rule
        )
        for (component, task, corruption), part in table.groupby(
            ["component", *CONDITION], observed=True
        )
    ]
    first = [*HEAD, *CONDITION, "rule"]
    found = pd.concat(parts, ignore_index=True)
    return found[[*first, *found.columns.difference(first, sort=False)]]


def universal_heads(found: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """Heads that matter in every task: under image corruption ("vision"), under text corruption
    ("text"), or under both ("multimodal").

    By the 2-SD rules, heads selected in all those conditions, whatever their signs: the paper's
    Table 1. By "signed" and "max_t", the largest p-value of the conditions, 1 if signs differ,
    corrected over the component's heads (Benjamini and Hochberg; Bonferroni): an expected share
    of at most `level` of the universal heads of a kind is none, or the chance that any is none.

    Args:
        found: from `head_effects`. A kind whose corruption is not there has no heads. With one
            task, "universal" says no more than that task.

    Returns:
        One row a head: component, layer, head; kind ("multimodal", "vision", "text",
        "vision, text" for one shown to be each but not both at once, or ""); for each kind a
        column (bool) and q_<kind> (NaN without a test); image_effect and text_effect (means over
        tasks); agreement (share of conditions with the more frequent sign); and for each
        condition <task>_<corruption>_ effect, fraction_recovered, low, high, mean_abs, p, q and
        selected.

    Raises:
        NoticeError: a head is missing in some condition.
    """
    rule = found["rule"].iloc[0]
    wide = {
        name: found.pivot(index=HEAD, columns=CONDITION[::-1], values=name)
        for name in (
            "effect",
            "fraction_recovered",
            "low",
            "high",
            "mean_abs",
            "p",
            "q",
            "selected",
        )
    }
    if wide["effect"].isna().any(axis=None):
        raise NoticeError("Some heads are missing in some conditions: run the same sites in all.")
    heads = pd.DataFrame(index=wide["effect"].index)
    for kind, corruptions in KINDS.items():
        heads[kind], heads[f"q_{kind}"] = _universal(wide, corruptions, rule, level)
    heads.insert(0, "kind", _kind(heads))
    for corruption in ("image", "text"):
        heads[f"{corruption}_effect"] = (
            wide["effect"].reindex(columns=[corruption], level=0).mean(axis=1)
        )
    positive = (wide["effect"] > 0).mean(axis=1)
    heads["agreement"] = np.maximum(positive, 1 - positive)
    for corruption, task in wide["effect"].columns:
        for name, values in wide.items():
            heads[f"{task}_{corruption}_{name}"] = values[corruption, task]
    return heads.reset_index()


def _check(rule: str, metric: str, table: pd.DataFrame) -> None:
    if rule not in RULES:
        raise NoticeError(f"There is no rule {rule!r}; rules are {', '.join(RULES)}.")
    if "corruption" not in table or metric not in table:
        raise NoticeError(
            f"The table needs a column 'corruption' (`gather` adds it) and a column {metric!r} "
            f"(`effects` adds {', '.join(METRICS)})."
        )
    if metric == "patched_probability" and rule in ("signed", "max_t"):
        raise NoticeError(
            f"The rule {rule!r} asks whether a patch changes something; patched_probability is "
            "no change. Use restoration_probability, or one of the 2-SD rules."
        )


def _condition(part, rule, metric, level, minimum, draws, seed) -> pd.DataFrame:
    """The heads of one component in one condition."""
    by_scene = scene_effects(part, metric)
    matrix = by_scene.to_numpy()
    found = by_scene.columns.to_frame(index=False)[["layer", "head"]]
    found["scenes"] = len(matrix)
    found["effect"] = matrix.mean(axis=0)
    way = total_effect(part, metric)
    found["fraction_recovered"] = found["effect"] / way
    of_pairs = part.assign(score=part[metric].abs()).groupby(HEAD, observed=True)["score"]
    found["mean_abs"] = of_pairs.mean().reindex(by_scene.columns).to_numpy()
    found["low"], found["high"] = bootstrap_interval(matrix, 1 - level, seed=seed)
    if rule in ("paper", "abs_of_mean"):
        score = found["mean_abs"] if rule == "paper" else found["effect"].abs()
        return found.assign(p=np.nan, q=np.nan, selected=two_sd(score.to_numpy()))
    draws = draws or max(9999, math.ceil(2 * matrix.shape[1] / level))
    smallest = minimum * abs(way) if minimum else 0.0
    if not np.isfinite(smallest):
        raise NoticeError(
            "The minimum is a share of the way from base to source run, and these patches have no "
            "source run (an ablation?). Give minimum=0."
        )
    found["p"] = sign_flip_test(matrix, smallest, draws, seed)
    if rule == "signed":
        found["q"] = false_discovery_control(found["p"])
    else:
        found["q"] = max_t_test(matrix, smallest, draws, seed)
    return found.assign(selected=found["q"] <= level)


def _universal(wide, corruptions, rule, level) -> tuple[pd.Series, pd.Series]:
    """(is universal, q) of each head for one kind."""
    there = wide["p"].columns.get_level_values("corruption").isin(corruptions)
    heads = wide["p"].index
    none = pd.Series(np.nan, heads)
    if not set(corruptions) <= set(wide["p"].columns.get_level_values("corruption")):
        return none.notna(), none
    if rule in ("paper", "abs_of_mean"):
        return wide["selected"].loc[:, there].astype(bool).all(axis=1), none
    signs = np.sign(wide["effect"].loc[:, there])
    agree = signs.eq(signs.iloc[:, 0], axis=0).all(axis=1)
    p = wide["p"].loc[:, there].max(axis=1).where(agree, 1.0)
    by_component = p.groupby(level="component", observed=True)
    q = by_component.transform(
        (lambda p: false_discovery_control(p)) if rule == "signed" else (lambda p: p * len(p))
    ).clip(upper=1.0)
    return q <= level, q


def _kind(heads: pd.DataFrame) -> pd.Series:
    each = (
        heads["vision"]
        .map({True: "vision", False: ""})
        .str.cat(heads["text"].map({True: "text", False: ""}), sep=", ")
    )
    return each.str.strip(", ").mask(heads["multimodal"], "multimodal")
