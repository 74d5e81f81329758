"""Whether a selection of heads replicates: agreement of two selections, and tests on new scenes."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from .selection import KINDS, MINIMUM, head_effects, universal_heads
from .table import CONDITION, HEAD


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Compare two selections of heads, such as those of two halves, two rules or two metrics.

    Args:
        first, second: tables from `head_effects`.

    Returns:
        One row per component and condition: rank_correlation (Spearman's correlation over heads
        between the mean effects), rank_correlation_abs (the same for mean_abs), first, second and
        both (how many heads the first, the second and both select), and jaccard (both divided by
        the number that either selects; NaN if neither selects any).
    """
    keys = [*HEAD, *CONDITION]
    merged = first.merge(second, on=keys, suffixes=("_1", "_2"), validate="one_to_one")
    rows = []
    for condition, part in merged.groupby(["component", *CONDITION], observed=True):
        both = (part["selected_1"] & part["selected_2"]).sum()
        either = (part["selected_1"] | part["selected_2"]).sum()
        rows.append(
            (
                *condition,
                spearmanr(part["effect_1"], part["effect_2"]).statistic,
                spearmanr(part["mean_abs_1"], part["mean_abs_2"]).statistic,
                part["selected_1"].sum(),
                part["selected_2"].sum(),
                both,
                both / either if either else np.nan,
            )
        )
    names = ["rank_correlation", "rank_correlation_abs", "first", "second", "both", "jaccard"]
    return pd.DataFrame(rows, columns=["component", *CONDITION, *names])


def confirm_heads(
    heads: pd.DataFrame,
    table: pd.DataFrame,
    metric: str = "effect",
    level: float = 0.05,
    minimum: float = MINIMUM,
    draws: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Test universal heads again, on scenes that had no part in their selection.

    Only the chosen heads are tested, so the correction covers few tests. Within each kind and
    component, the probability of confirming any head that is not universal is at most `level`
    (Bonferroni over the chosen heads), whichever rule chose them.

    Args:
        heads: table from `universal_heads`. Rows without a kind are ignored.
        table: effects of the other scenes, from `gather` (see `halves`).
        metric, level, minimum, draws, seed: as in `head_effects`.

    Returns:
        One row per chosen head: component, layer, head and kind; on the other scenes image_effect,
        text_effect and p_<kind> (corrected); and confirmed, which is true if the other scenes show
        the same kind with the same signs.

    Raises:
        NoticeError: for the same reasons as in `head_effects`.
    """
    chosen = heads.loc[heads["kind"] != "", [*HEAD, "kind", "image_effect", "text_effect"]]
    if len(chosen) == 0:
        return chosen.assign(confirmed=pd.Series(dtype=bool))
    again = universal_heads(
        head_effects(
            table.merge(chosen[HEAD], on=HEAD), "max_t", metric, level, minimum, draws, seed
        ),
        level,
    ).rename(columns={f"q_{kind}": f"p_{kind}" for kind in KINDS})
    before = chosen.rename(columns=lambda name: f"{name}_before" if "effect" in name else name)
    again = before.merge(again.drop(columns="kind"), on=HEAD, validate="one_to_one")
    same = [
        all(row[kind] for kind in row["kind"].split(", "))
        and all(
            row[f"{corruption}_effect"] * row[f"{corruption}_effect_before"] > 0
            for kind in row["kind"].split(", ")
            for corruption in KINDS[kind]
        )
        for _, row in again.iterrows()
    ]
    columns = ["kind", "image_effect", "text_effect", *(f"p_{kind}" for kind in KINDS)]
    return again[[*HEAD, *columns]].assign(confirmed=same)
