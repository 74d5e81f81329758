"""The table of effects that heads are selected from: gather sweeps, subtract a null, average over
scenes, split into halves."""

from collections.abc import Iterable

import pandas as pd

from ..errors import NoticeError
from ..models.answers import SCORES
from ..patching import METRICS, Sweep, effects, logit_difference

HEAD = ["component", "layer", "head"]
CONDITION = ["task", "corruption"]


def gather(sweeps: Iterable[Sweep]) -> pd.DataFrame:
    """Join the effects of single heads in several sweeps into one table.

    Args:
        sweeps: sweeps of one model, direction and donor.

    Returns:
        The rows of `effects` for single heads, with the column corruption. Rows of whole modules
        are left out.

    Raises:
        NoticeError: there is no sweep of single heads, or the sweeps differ in model, direction or
            donor.
    """
    sweeps = list(sweeps)
    for name in ("model", "model_fingerprint", "direction", "donor"):
        values = {str(sweep.settings.get(name)) for sweep in sweeps}
        if len(values) > 1:
            raise NoticeError(
                f"These sweeps differ in {name}: {', '.join(sorted(values))}. Their effects cannot "
                f"be compared head by head; give sweeps of one {name}."
            )
    tables = [
        effects(sweep.table()).assign(corruption=str(sweep.settings.get("corruption")))
        for sweep in sweeps
    ]
    if not any((table["head"] >= 0).any() for table in tables):
        raise NoticeError(
            "None of these sweeps has single heads: sweep site_grid(..., per_head=True)."
        )
    table = pd.concat(
        [table.astype(dict.fromkeys(("component", "task"), "string")) for table in tables],
        ignore_index=True,
    )
    return table[table["head"] >= 0].reset_index(drop=True)


def answered(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of pairs that the model answers correctly.

    The clean run must prefer the clean picture's answer. Under image corruption, the corrupt run
    must prefer the corrupt picture's answer, too.

    Source: paper, section 3 (only such samples are patched).
    """
    clean = logit_difference(table, "clean") > 0
    corrupt = (table["corruption"] != "image") | (logit_difference(table, "corrupt") < 0)
    return table[clean & corrupt]


def null_of(table: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """Replace the patched runs of `table` by those of `null`, patched with an unrelated scene.

    The result shows what the rows of `table` would be with another scene's activations. It keeps
    the pair's own source run and total effect, whereas those in `null` are another scene's.

    The null hypothesis is not "no effect" but "no effect specific to this pair". An unrelated
    activation removes the head's contribution to the base run. If this contribution supports a
    wrong answer, as under SIP, its removal alone changes the answer. Moreover, the unrelated
    activation comes from a clean run, too: a head that marks the correct option as present in the
    picture, whichever option it is, does so there as well. A head whose effect remains under the
    null is therefore generic, not without effect.

    Args:
        table: effects from `gather`.
        null: effects from `gather`, of sweeps with donor="unrelated" that include the pairs and
            sites of `table`.

    Returns:
        `table` with the patched scores and the metrics of the null.

    Raises:
        NoticeError: `null` lacks a row of `table`.
    """
    keys = [*HEAD, *CONDITION, "pair_id", *({"draw"} & set(table))]
    own, other = (one_row_each(part).set_index(keys) for part in (table, null))
    missing = own.index.difference(other.index)
    if len(missing):
        raise NoticeError(
            f"The null lacks {len(missing)} rows of the table; the first is {missing[0]}. Run both "
            "sweeps on the same pairs and sites, and leave out pairs that the null skipped: "
            "table[table.pair_id.isin(null.pair_id)]."
        )
    patched = other.loc[:, list(SCORES)].reindex(own.index)
    return effects(table.assign(**{name: patched[name].to_numpy() for name in SCORES}))


def beyond_null(table: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """Subtract from each of `METRICS` its value with an unrelated scene's activations.

    The difference is the effect of the pair's own activations beyond that of any scene's.

    Args:
        table, null: as in `null_of`.

    Raises:
        NoticeError: `null` lacks a row of `table`.
    """
    other = null_of(table, null)
    return table.assign(**{name: table[name] - other[name] for name in METRICS})


def scene_effects(table: pd.DataFrame, metric: str = "effect") -> pd.DataFrame:
    """Average one condition's effects over the pairs of each scene.

    Args:
        table: the effects of one condition.
        metric: the column to average.

    Returns:
        A matrix with one row per scene and one column per head. Scenes in which the metric is
        undefined for all heads are left out.

    Raises:
        NoticeError: a pair has several rows for one head, or a head is missing in some scene.
    """
    means = one_row_each(table).pivot_table(
        index="scene_id", columns=HEAD, values=metric, observed=True
    )
    if means.isna().any(axis=None):
        scene = means.index[means.isna().any(axis=1)][0]
        raise NoticeError(
            f"Scene {scene} lacks some of the {means.shape[1]} heads that other scenes have. Sweep "
            "the same sites on all pairs, or leave the scene out."
        )
    return means


def halves(table: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table into two random halves of whole scenes, within each task and slot.

    Select heads on one half and confirm them on the other. A scene is in the same half under every
    corruption.
    """
    scenes = table[["task", "slot", "scene_id"]].astype("string").drop_duplicates("scene_id")
    scenes = scenes.sample(frac=1, random_state=seed)
    place = scenes.groupby(["task", "slot"]).cumcount()
    first = table["scene_id"].isin(scenes["scene_id"][place % 2 == 0])
    return table[first], table[~first]


def total_effect(part: pd.DataFrame, metric: str) -> float:
    """The mean of a metric over scenes if the patched run were the source run.

    Pairs are averaged within their scene first, as `scene_effects` does, so that an effect and the
    total that it is a fraction of weigh the scenes alike.

    Raises:
        NoticeError: the source runs belong to other scenes, or the metric is not in `METRICS`.
    """
    if "donor" in part and ((part["donor"] != "") & (part["donor"] != part["pair_id"])).any():
        raise NoticeError(
            "These activations come from unrelated scenes, so the total effect from base to source "
            "run is not defined. Use null_of(table, null), where `table` is the sweep with the "
            "pairs' own activations and `null` is this one."
        )
    if metric == "fraction_recovered":
        return 1.0
    if metric == "effect":
        change = logit_difference(part, "source") - logit_difference(part, "base")
    elif metric in ("restoration_probability", "patched_probability"):
        change = part["source_prob_correct"] - part["base_prob_correct"]
    else:
        raise NoticeError(
            f"The total effect in {metric!r} is not known. Use effect, restoration_probability, "
            "patched_probability or fraction_recovered."
        )
    return float(change.groupby(part["scene_id"], observed=True).mean().mean())


def one_row_each(table: pd.DataFrame) -> pd.DataFrame:
    keys = [*HEAD, *CONDITION, "pair_id", *({"draw"} & set(table))]
    again = table.duplicated(keys)
    if again.any():
        row = table[again].iloc[0]
        raise NoticeError(
            f"Pair {row.pair_id} has several rows for {row.component} L{row.layer}.H{row['head']} "
            f"under {row.corruption} corruption. Give each sweep once, and keep one position, e.g. "
            'table[table.role == "correct"].'
        )
    return table
