"""What a head carries: which option was seen, or only that an option is the true one.

A head's effect can have three causes, which matched donors tell apart
(`notice_lib.patching.MatchedDonors`). A matched donor is a run of another scene in which none of
the pair's words occurs, so it carries nothing of them. With image corruption and denoising,

- E is the effect with the pair's own clean run as the source;
- E_T is the mean effect with donors in which the option at the same place is true: clean runs;
- E_F is the mean effect with donors in which it is false: the same donors' corrupt runs.

E is the sum of three parts:

- **removal**, R = (E_T + E_F) / 2: what any other activation does, because it takes away what the
  head wrote in the corrupt run;
- **truth**, V = (E_T - E_F) / 2: what is gained if the activation says that the option at this
  place is the true one;
- **content**, C = E - E_T: what only an activation gains that has seen the pair's own option.

The content share K = C / (C + V) is 1 for a head that carries what was seen, and 0 for a head that
says "this option is true" of whichever option. The share of the effect that an unrelated donor
leaves cannot tell them apart: it is one half for a head of pure content, and all of the effect
both for a head of pure truth and for one of pure removal.

Donors are averaged within a pair, and pairs within a scene. The scene is the unit of every interval
(`decision.as_units`). K is a ratio of means over scenes. It is undefined (NaN) unless the interval
of C + V lies above zero, and if the interval of C or of V lies below zero. (If the mean of V itself
had to be at least zero, half of all heads of pure content would be undefined, because their
measured V is below zero as often as above.) K and the ends of its interval are limited to 0 and 1.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ..choices import Criterion, Donor
from ..errors import NoticeError
from ..models.answers import answered_correctly
from ..models.base import VLM
from ..pairs import PairSet
from ..patching import DONORS, MatchedDonors, Site, logit_difference, sweep
from ..patching.engine import patch as fast_engine
from ..patching.jobs import Engine
from .conditions import means
from .decision import as_units
from .statistics import bootstrap_interval, ratio_interval
from .table import CONDITION, HEAD, gather, one_row_each, scene_effects

PARTS = ("effect", "content", "truth", "removal")


def carried(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site],
    pool: PairSet | None = None,
    donors: int = DONORS,
    sharing: int = 0,
    by: Criterion = "generated",
    level: float = 0.95,
    seed: int = 0,
    out: str | Path | None = None,
    engine: Engine = fast_engine,
) -> pd.DataFrame:
    """Measure what heads carry, under image corruption.

    Only pairs and donors that the model answers correctly with both pictures are used. If the heads
    were chosen by their effects, choose them on other scenes than those of the pairs and the pool:
    a chosen head writes more than usual on the scenes on which it was chosen.

    Args:
        sites: single heads, all at one position.
        pool: the pairs that donors are drawn from; by default `pairs`. Sets of few words or scenes
            need a larger one.
        donors: number of donors of each pair. A pair with fewer is left out, with a warning.
        sharing: number of donors of each pair that share both of its options, to see whether
            content transfers between scenes. 0 leaves this out.
        by: when a pair is answered correctly; as in `answered_correctly`.
        level: what the intervals cover.
        seed: random seed of the donors and the bootstrap.
        out: folder for the sweeps. An interrupted measurement goes on there.
        engine: as in `notice_lib.patching.sweep`.

    Returns:
        The table of `content_shares`.

    Raises:
        NoticeError: the model answers no pair correctly, no pair has enough donors, or as `sweep`
            and `content_shares`.
    """
    sites = list(sites)
    right = answered_correctly(model, pairs, by)
    if not len(right):
        raise NoticeError(
            f"{model.name} answers none of the {len(pairs)} pairs correctly with both pictures."
        )
    pool = right if pool is None else answered_correctly(model, pool, by)

    def measure(name: str, some: PairSet, donor: Donor | MatchedDonors) -> pd.DataFrame:
        folder = None if out is None else Path(out) / name
        return gather(
            [sweep(model, some, sites, donor=donor, seed=seed, out=folder, engine=engine)]
        )

    true = measure("true", right, MatchedDonors("clean", pool, donors))
    with_donors = set(true["pair_id"])
    matched = right.filter(lambda pair: pair.pair_id in with_donors)
    false = measure("false", matched, MatchedDonors("corrupt", pool, donors))
    own = measure("own", matched, "own")
    same = None
    if sharing:
        same = measure("same", matched, MatchedDonors("clean", pool, sharing, "same"))
    parts = decompose(own, true, false, same)
    unit = {pair.pair_id: pair.scene_id for pair in as_units(right)}
    parts["scene_id"] = parts["pair_id"].map(unit)
    return content_shares(parts, level, seed)


def strongest_heads(found: pd.DataFrame, n: int = 5, position: int | str = "correct") -> list[Site]:
    """The heads with the largest mean effects, as sites: choose on some scenes, measure on others.

    Args:
        found: table of `head_effects` or `content_shares`, of one corruption. Effects are averaged
            over its tasks.
        position: as in `Site`.
    """
    effects = found.groupby(HEAD, observed=True)["effect"].mean().nlargest(n)
    return [Site(component, layer, head, position) for component, layer, head in effects.index]


def decompose(
    own: pd.DataFrame, true: pd.DataFrame, false: pd.DataFrame, same: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The parts of each head's effect in each pair.

    Args:
        own, true, false: tables of `gather`, of sweeps of the same sites and pairs: with each
            pair's own donor, and with `MatchedDonors` of the "clean" and of the "corrupt" run.
        same: the same for `MatchedDonors` of the "clean" run with the same words, on those pairs
            that have any.

    Returns:
        One row for each pair and head: component, layer, head, task, corruption, pair_id, scene_id;
        effect, content, truth and removal in logits, the first of which is the sum of the others;
        total_effect, L - L*; donors, their number; and, with `same`, transferred: the effect with
        the donors that share the options, minus E_T (NaN where there are none).

    Raises:
        NoticeError: a table has several rows for a pair and head, or a row is missing in another.
    """
    keys = [*HEAD, *CONDITION, "pair_id"]
    given = one_row_each(own).set_index(keys)
    true_effects, false_effects = (
        _donor_effects(table, keys, given.index) for table in (true, false)
    )
    parts = given[["scene_id", "effect"]].assign(
        content=given["effect"] - true_effects["mean"],
        truth=(true_effects["mean"] - false_effects["mean"]) / 2,
        removal=(true_effects["mean"] + false_effects["mean"]) / 2,
        total_effect=logit_difference(given, "source") - logit_difference(given, "base"),
        donors=true_effects["size"],
    )
    if same is not None:
        mean = same.groupby(keys, observed=True)["effect"].mean()
        parts["transferred"] = mean.reindex(parts.index) - true_effects["mean"]
    return parts.reset_index()


def _donor_effects(table: pd.DataFrame, keys: list[str], wanted: pd.Index) -> pd.DataFrame:
    """The mean effect over each pair's donors, and their number."""
    found = table.groupby(keys, observed=True)["effect"].agg(["mean", "size"])
    odd = found.index.symmetric_difference(wanted)
    if len(odd):
        raise NoticeError(
            f"The sweeps with own and with matched donors differ in {len(odd)} rows, the first: "
            f"{odd[0]}. Run them on the same sites, and on the pairs that have enough donors."
        )
    return found


def content_shares(parts: pd.DataFrame, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """What each head carries in each task, averaged over scenes.

    Args:
        parts: table of `decompose`.
        level: what the intervals cover (`statistics.bootstrap_interval` and `.ratio_interval`).
        seed: random seed of the bootstrap.

    Returns:
        One row for each head and task. Every number has its interval in `*_low` and `*_high`:

        - component, layer, head, task;
        - content_share: K, NaN where it is undefined;
        - effect, content, truth, removal: means in logits;
        - effect_fraction, content_fraction, truth_fraction, removal_fraction: the same as fractions
          of the total effect;
        - total_effect (mean L - L*, in logits), scenes, pairs and donors (of a pair; the smallest
          number), without intervals;
        - with donors that share the options: transferred (mean in logits) and transferred_share,
          the part of the content that such donors bring along, over the scenes that have any:
          transferred_scenes. It is NaN unless the interval of their content lies above zero.

    Raises:
        NoticeError: fewer than three scenes of a task.
    """
    tasks = [_of_task(part, level, seed) for _, part in parts.groupby("task", observed=True)]
    return pd.concat(tasks, ignore_index=True)


def _of_task(part: pd.DataFrame, level: float, seed: int) -> pd.DataFrame:
    by_scene = {name: scene_effects(part, name) for name in (*PARTS, "total_effect")}
    values = {name: matrix.to_numpy() for name, matrix in by_scene.items()}
    found = by_scene["effect"].columns.to_frame(index=False).assign(task=part["task"].iloc[0])
    columns = _content_share(values["content"], values["truth"], level, seed)
    for name in PARTS:
        columns |= means({name: values[name]}, seed, level)
        columns |= _ratio(f"{name}_fraction", values[name], values["total_effect"], level, seed)
    columns |= {
        "total_effect": values["total_effect"].mean(0),
        "scenes": len(values["effect"]),
        "pairs": part["pair_id"].nunique(),
        "donors": part["donors"].min(),
    }
    if "transferred" in part:
        columns |= _transferred(part.dropna(subset="transferred"), level, seed)
    return found.assign(**columns)


def _content_share(content: np.ndarray, truth: np.ndarray, level: float, seed: int) -> dict:
    said = content + truth
    defined = bootstrap_interval(said, level, seed=seed)[0] > 0
    for part in (content, truth):
        defined &= bootstrap_interval(part, level, seed=seed)[1] >= 0
    share = _ratio("content_share", content, said, level, seed)
    return {name: np.where(defined, ends.clip(0, 1), np.nan) for name, ends in share.items()}


def _transferred(part: pd.DataFrame, level: float, seed: int) -> dict:
    moved, content = (scene_effects(part, name).to_numpy() for name in ("transferred", "content"))
    defined = bootstrap_interval(content, level, seed=seed)[0] > 0
    share = _ratio("transferred_share", moved, content, level, seed)
    return {
        **means({"transferred": moved}, seed, level),
        **{name: np.where(defined, ends, np.nan) for name, ends in share.items()},
        "transferred_scenes": len(moved),
    }


def _ratio(name: str, x: np.ndarray, y: np.ndarray, level: float, seed: int) -> dict:
    low, high = ratio_interval(x, y, level, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: x.mean(0) / y.mean(0), f"{name}_low": low, f"{name}_high": high}
