"""Which heads matter in a condition, and which matter in every task.

The input is the table of effects of several sweeps (`gather`). A condition is one task under one
corruption. The analysis has two steps:

    found = head_effects(gather(sweeps))   # one row per head and condition: effect, interval, ...
    heads = universal_heads(found)         # one row per head: its kind, its effects side by side

**The paper's rule** ("paper") selects, in each condition, the heads whose mean `|score|` over pairs
is at least mean + 2 SD over all heads of the component. A head that is selected in every task is
universal. The rule has two defects, whatever the data. First, a mean of absolute values grows with
a head's *spread*. A head that pushes the answer in either direction, and not at all on average, is
selected, and it is selected in every task if its spread is large in every task. (With randomly
flipped signs of effects, the rule selects exactly the same heads.) Second, the threshold is
relative: some heads pass it in any long-tailed noise, at most a fifth pass it if all heads matter,
and more pairs do not make the selection more certain.

**The default rule** ("signed") asks what a head does *on average over scenes*: it takes the mean
before the absolute value. It selects a head if its mean effect exceeds `minimum`, a share of the
total effect (source minus base run), in one direction. A test that flips the signs of whole scenes
decides this (`statistics.sign_flip_test`), with Benjamini and Hochberg's correction over the heads
of the component. Among the heads selected in a condition, the expected share without such an
effect is therefore at most `level`. The test and the minimum are both needed. With enough scenes, a
test alone would select nearly every head of a real model, since hardly any effect is exactly zero;
a threshold alone would select noise.

A head is **universal** if it has such an effect in *every* condition, with the same sign. A single
condition without an effect refutes this, so the p-value is the largest of the conditions' p-values,
or 1 if signs differ. These p-values are corrected over heads as well. `level` thus also bounds the
expected share of false ones among the *universal* heads, which it would not for an intersection of
the conditions' selections. This holds for any dependence between conditions.

The rule assumes that scenes are drawn independently and that heads are not negatively dependent
(Benjamini and Hochberg's rate holds under positive dependence; "max_t" bounds the probability of
*any* false head and needs no such assumption). It does not show that a head's effect concerns the
content of this picture: a patch that merely removes something from a run makes a wrong answer less
certain and so has an effect. `beyond_null` subtracts the effect of another scene's activations.

Sources: paper, section 4; published code, BLIP/circuit_analysis.ipynb; Benjamini & Hochberg,
JRSS B 57 (1995); Nichols et al., NeuroImage 25 (2005) and Benjamini & Heller, Biometrics 64 (2008)
for the largest p-value.
"""

from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from ..errors import NoticeError
from ..models.answers import SCORES
from ..patching import METRICS
from .statistics import bootstrap_interval, enough_draws, max_t_test, sign_flip_test, two_sd
from .table import CONDITION, HEAD, scene_effects, total_effect

_NEEDED = {*HEAD, *CONDITION, "pair_id", "scene_id", "draw", "donor"} | {
    f"{run}_{score}" for run in ("base", "source") for score in SCORES
}
KINDS = {"vision": ["image"], "text": ["text"], "multimodal": ["image", "text"]}
"""For each kind of universal head, the corruptions under which it matters in every task."""

MINIMUM = 0.005
"""Smallest effect that counts by default: half a percent of the total effect. Like any such
threshold it is a convention, so report how the number of heads depends on it."""

Rule = Literal["signed", "max_t", "paper", "abs_of_mean"]
RULES: dict[str, str] = {
    "signed": "mean effect above a minimum, either sign; bounds the false-discovery rate (default)",
    "max_t": "the same; bounds the probability of any false head",
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
    """Estimate each head's mean effect in each condition and select heads by a rule.

    Args:
        table: effects from `gather`, with one row per pair, head and condition, which means a
            single position.
        rule: one of `RULES`. The documentation of this module says why "signed" is the default.
        metric: the column of `table` that measures effects.
        level: false-discovery rate ("signed") or probability of any false head ("max_t") in each
            component and condition. The intervals cover 1 - level.
        minimum: smallest mean effect that counts, as a share of the condition's mean total effect.
            Used by "signed" and "max_t".
        draws: random sign flips, by default enough for a single head to be selected.
        seed: seed of the flips and the bootstrap.

    Returns:
        One row per head and condition: component, layer, head, task, corruption, rule, scenes
        (number of scenes), effect (mean over scenes, in the metric's unit), fraction_recovered
        (effect divided by the mean total effect), mean_abs (mean `|metric|` over pairs, the paper's
        score), low and high (interval of effect by `statistics.bootstrap_interval`), p (NaN without
        a test), q (corrected p) and selected.

    Raises:
        NoticeError: the rule or metric is unknown, the metric is not a difference between two runs
            although the rule tests against zero, or `scene_effects` raises it.
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
    """Find the heads that matter in every task.

    A head is of kind "vision" if it matters in every task under image corruption, "text" if it does
    under text corruption, and "multimodal" if it does under both.

    With the 2-SD rules these are the heads that are selected in all conditions of the kind,
    whatever their signs, as in the paper's Table 1. With "signed" and "max_t", the p-value of a
    head is the largest of the conditions' p-values, or 1 if signs differ, corrected over the
    component's heads. For "signed" (Benjamini and Hochberg) `level` bounds the expected share of
    false ones among the universal heads of a kind; for "max_t" (Bonferroni) it bounds the
    probability of any false one.

    Args:
        found: table from `head_effects`. A kind has no heads if a corruption that it needs is
            missing. With a single task, "universal" refers to that task only.
        level: bound on false universal heads.

    Returns:
        One row per head:

        - component, layer, head;
        - kind: "multimodal", "vision", "text", "vision, text" (a head that is shown to be each of
          them but not both at once), or "";
        - for each kind, a boolean column of its name and q_<kind> (NaN without a test);
        - image_effect, text_effect: means over tasks;
        - agreement: the share of conditions with the more frequent sign;
        - <task>_<corruption>_<name> for each condition, where the names are effect,
          fraction_recovered, low, high, mean_abs, p, q and selected.

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
        raise NoticeError(
            "Some heads are missing in some conditions: sweep the same sites in all conditions."
        )
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
        raise NoticeError(f"There is no rule {rule!r}; choose one of {', '.join(RULES)}.")
    if "corruption" not in table or metric not in table:
        raise NoticeError(
            f"The table needs a column 'corruption' (`gather` adds it) and a column {metric!r} "
            f"(`effects` adds {', '.join(METRICS)})."
        )
    if metric == "patched_probability" and rule in ("signed", "max_t"):
        raise NoticeError(
            f"The rule {rule!r} tests whether a patch changes something, but patched_probability "
            "is not a change. Use restoration_probability, or the rule 'paper' or 'abs_of_mean'."
        )


def _condition(part, rule, metric, level, minimum, draws, seed) -> pd.DataFrame:
    """The heads of one component in one condition."""
    by_scene = scene_effects(part, metric)
    matrix = by_scene.to_numpy()
    found = by_scene.columns.to_frame(index=False)[["layer", "head"]]
    found["scenes"] = len(matrix)
    found["effect"] = matrix.mean(axis=0)
    total = total_effect(part, metric)
    found["fraction_recovered"] = found["effect"] / total
    of_pairs = part.assign(score=part[metric].abs()).groupby(HEAD, observed=True)["score"]
    found["mean_abs"] = of_pairs.mean().reindex(by_scene.columns).to_numpy()
    found["low"], found["high"] = bootstrap_interval(matrix, 1 - level, seed=seed)
    if rule in ("paper", "abs_of_mean"):
        score = found["mean_abs"] if rule == "paper" else found["effect"].abs()
        return found.assign(p=np.nan, q=np.nan, selected=two_sd(score.to_numpy()))
    draws = draws or enough_draws(matrix.shape[1], level)
    smallest = minimum * abs(total) if minimum else 0.0
    if not np.isfinite(smallest):
        raise NoticeError(
            "The minimum is a fraction of the total effect, source minus base run, but these "
            "patches have no source run (perhaps they are ablations). Give minimum=0."
        )
    found["p"] = sign_flip_test(matrix, smallest, draws, seed)
    if rule == "signed":
        found["q"] = false_discovery_control(found["p"])
    else:
        found["q"] = max_t_test(matrix, smallest, draws, seed)
    return found.assign(selected=found["q"] <= level)


def _universal(wide, corruptions, rule, level) -> tuple[pd.Series, pd.Series]:
    """Whether each head is universal of one kind, and its q."""
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
