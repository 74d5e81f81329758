"""Does a selection repeat itself? Agreement of two selections, and confirmation on other scenes."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from .selection import KINDS, MINIMUM, head_effects, universal_heads
from .table import CONDITION, HEAD


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """How far two halves, or two rules or metrics, agree on the heads.

    Args:
        first, second: from `head_effects`.

    Returns:
        One row a component and condition: rank_correlation (Spearman, of the mean effects over
        heads), rank_correlation_abs (of mean_abs), first, second and both (how many heads each
        selects) and jaccard (both / either; NaN if neither selects any).
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
    """Universal heads, tested again on scenes that had no part in their selection.

    Only the chosen heads are tested, so few corrections are due. The chance that any of them is
    confirmed as one of its kind without being one is at most `level` (each kind and component;
    Bonferroni over the chosen heads), by whichever rule they were chosen.

    Args:
        heads: from `universal_heads`; rows without a kind are passed over.
        table: the other scenes' effects, from `gather` (see `halves`).

    Returns:
        The chosen heads: component, layer, head, kind, then of the other scenes image_effect,
        text_effect, p_<kind> (corrected) and confirmed: of the same kind, with the same signs.

    Raises:
        NoticeError: where `head_effects` raises it.
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
