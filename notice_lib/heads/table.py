"""The table of effects that heads are selected from: sweeps gathered, nulls, scenes, halves."""

from collections.abc import Iterable

import pandas as pd

from ..errors import NoticeError
from ..models.answers import SCORES
from ..patching import METRICS, Sweep, effects, logit_difference

HEAD = ["component", "layer", "head"]
CONDITION = ["task", "corruption"]


def gather(sweeps: Iterable[Sweep]) -> pd.DataFrame:
    """The effects of single heads in several sweeps, as one table with a column `corruption`.

    Rows of whole modules are left out.

    Raises:
        NoticeError: no sweep; sweeps of different models, directions or donors; no heads.
    """
    sweeps = list(sweeps)
    for name in ("model", "model_fingerprint", "direction", "donor"):
        values = {str(sweep.settings.get(name)) for sweep in sweeps}
        if len(values) > 1:
            raise NoticeError(
                f"These sweeps differ in {name}: {', '.join(sorted(values))}. Their effects are "
                "not to be compared head by head; give those of one."
            )
    tables = [
        effects(sweep.table()).assign(corruption=str(sweep.settings.get("corruption")))
        for sweep in sweeps
    ]
    if not any((table["head"] >= 0).any() for table in tables):
        raise NoticeError("No sweep of single heads is among these: make one with per_head=True.")
    table = pd.concat(
        [table.astype(dict.fromkeys(("component", "task"), "string")) for table in tables],
        ignore_index=True,
    )
    return table[table["head"] >= 0].reset_index(drop=True)


def answered(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of pairs that the model answers correctly: the clean run says the clean answer and,
    under image corruption, the corrupt run the corrupt picture's.

    Source: paper, section 3: only such samples are patched.
    """
    right = logit_difference(table, "clean") > 0
    reversed_or_not_asked = (table["corruption"] != "image") | (
        logit_difference(table, "corrupt") < 0
    )
    return table[right & reversed_or_not_asked]


def null_of(table: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """`table` with the patched runs of `null`: what its rows would be with an unrelated scene's
    activations. (In the null itself the source run is another scene's, and so is the way to it.)

    It is no null of "no effect", but of "no effect that is this pair's own". An unrelated
    activation takes away what the head says in the base run; where that is in favour of a wrong
    answer, as under SIP, this alone moves the answer. And it comes from a clean run, too: a head
    that says at the correct option's token "this one is in the picture", whichever it is, says so
    there as well. Heads whose effect stays are generic, not without one.

    Args:
        table: from `gather`.
        null: from `gather`, from sweeps with donor="unrelated" of the same pairs and sites, or
            of more.

    Raises:
        NoticeError: a row of the table is not in the null.
    """
    keys = [*HEAD, *CONDITION, "pair_id", *({"draw"} & set(table))]
    own, other = (one_row_each(part).set_index(keys) for part in (table, null))
    missing = own.index.difference(other.index)
    if len(missing):
        raise NoticeError(
            f"The null lacks {len(missing)} rows of the table, the first: {missing[0]}. Run both "
            "sweeps on the same pairs and sites, and leave out the pairs that the null skipped: "
            "table[table.pair_id.isin(null.pair_id)]."
        )
    patched = other.loc[:, list(SCORES)].reindex(own.index)
    return effects(table.assign(**{name: patched[name].to_numpy() for name in SCORES}))


def beyond_null(table: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """`table` with each of `METRICS` less what it is with an unrelated scene's activations: what
    the scene's own do, beyond what any scene's would.

    Args, raises: as `null_of`.
    """
    other = null_of(table, null)
    return table.assign(**{name: table[name] - other[name] for name in METRICS})


def scene_effects(table: pd.DataFrame, metric: str = "effect") -> pd.DataFrame:
    """One condition's effects as a matrix: a row a scene, a column a head, the mean of its pairs.

    Scenes where the metric is not defined for any head are left out.

    Raises:
        NoticeError: a pair and head have more than one row; a head is missing in some scene.
    """
    means = one_row_each(table).pivot_table(
        index="scene_id", columns=HEAD, values=metric, observed=True
    )
    if means.isna().any(axis=None):
        scene = means.index[means.isna().any(axis=1)][0]
        raise NoticeError(f"Scene {scene} lacks some of the {means.shape[1]} heads of the others.")
    return means


def halves(table: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two halves of whole scenes, drawn within each task and slot: select on one, confirm on the
    other. A scene is in the same half under every corruption."""
    scenes = table[["task", "slot", "scene_id"]].astype("string").drop_duplicates("scene_id")
    scenes = scenes.sample(frac=1, random_state=seed)
    place = scenes.groupby(["task", "slot"]).cumcount()
    first = table["scene_id"].isin(scenes["scene_id"][place % 2 == 0])
    return table[first], table[~first]


def total_effect(part: pd.DataFrame, metric: str) -> float:
    """What the metric would be, on average, if the patched run were the source run.

    Raises:
        NoticeError: the source runs are other scenes', or the metric is none of `METRICS`.
    """
    if "donor" in part and ((part["donor"] != "") & (part["donor"] != part["pair_id"])).any():
        raise NoticeError(
            "These activations come from unrelated scenes, so there is no way to go from base to "
            "source run. Give null_of(table, null), with the sweep that this is the null of."
        )
    if metric == "effect":
        return float((logit_difference(part, "source") - logit_difference(part, "base")).mean())
    if metric in ("restoration_probability", "patched_probability"):
        return float((part["source_prob_correct"] - part["base_prob_correct"]).mean())
    if metric == "fraction_recovered":
        return 1.0
    raise NoticeError(
        f"What {metric!r} is on the whole way from base to source run is not known. It is known of "
        "effect, restoration_probability, patched_probability and fraction_recovered."
    )


def one_row_each(table: pd.DataFrame) -> pd.DataFrame:
    keys = [*HEAD, *CONDITION, "pair_id", *({"draw"} & set(table))]
    again = table.duplicated(keys)
    if again.any():
        row = table[again].iloc[0]
        raise NoticeError(
            f"Pair {row.pair_id} has several rows for {row.component} L{row.layer}.H{row['head']} "
            f"under {row.corruption} corruption: a sweep given twice, or several positions. Keep "
            'one position, e.g. table[table.role == "correct"].'
        )
    return table
