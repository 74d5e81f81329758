"""What does a head carry: which option was seen, or only that an option is the true one?

A head's effect can have three causes, which donors tell apart. A donor is another scene's run that
has none of the pair's words (`notice_lib.patching.MatchedDonors`), so it knows nothing of them.

- E is the effect with the pair's own clean run as the source;
- E_T is the effect with donors in which the option at the same place is true;
- E_F is the effect with donors in which it is false: the same donors' corrupt runs.

They add up, E = content + truth + removal:

- **removal** R = (E_T + E_F) / 2 is what any other activation does: it takes away what the head
  said in the corrupt run;
- **truth** V = (E_T - E_F) / 2 is what it adds that the option at this place is the true one;
- **content** C = E - E_T is what only the pair's own activation adds: what was seen.

The content share K = C / (C + V) is 1 for a head that carries what was seen, and 0 for one that
says "this option is true" of any option. The share of the effect that an unrelated donor leaves
cannot tell these: it is a half for a head of pure content, all for one of pure truth, and all for
one of pure removal.

Donors are averaged within a pair, pairs within a scene, and scenes are the unit of all intervals.
K is the ratio of the two means over scenes. It is undefined (NaN) unless the interval of C + V lies
above zero, and where C or V is clearly negative: its interval lies below zero. (To ask that the
mean itself be at least zero would leave half of all heads of pure content undefined, since the
measured V of such a head is as often just below zero as above it.) A share is between 0 and 1, and
K and its interval end there.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import NoticeError
from ..models.answers import answered_correctly
from ..models.base import VLM
from ..pairs import PairSet
from ..patching import DONORS, MatchedDonors, Site, logit_difference, sweep
from ..patching.engine import patch as fast_engine
from ..patching.jobs import Engine
from .statistics import bootstrap_interval, ratio_interval
from .table import CONDITION, HEAD, gather, scene_effects

PARTS = ("effect", "content", "truth", "removal")


def carried(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site],
    pool: PairSet | None = None,
    donors: int = DONORS,
    level: float = 0.95,
    seed: int = 0,
    out: str | Path | None = None,
    engine: Engine = fast_engine,
) -> pd.DataFrame:
    """Measure what heads carry, under image corruption.

    Only pairs and donors that the model answers correctly with both pictures are used. Measure on
    other scenes than those on which the heads were chosen, and take donors from other scenes, too:
    a head that was chosen on a donor's scene writes more than it should there.

    Args:
        sites: single heads, at one position.
        pool: the pairs that donors are drawn from; by default `pairs`. A set of few words needs a
            larger one.
        donors: their number for each pair. Pairs that have fewer are left out, with a warning.
        level: what the intervals cover.
        seed: of the donors and the bootstrap.
        out: a folder for the three sweeps; an interrupted measurement goes on there.
        engine: as of `notice_lib.patching.sweep`.

    Returns:
        The table of `content_shares`.

    Raises:
        NoticeError: no pair has enough donors; as of `sweep` and `content_shares`.
    """
    sites = list(sites)
    right = answered_correctly(model, pairs)
    pool = right if pool is None else answered_correctly(model, pool)

    def measured(name: str, some: PairSet, donor) -> pd.DataFrame:
        folder = None if out is None else Path(out) / name
        return gather(
            [sweep(model, some, sites, donor=donor, seed=seed, out=folder, engine=engine)]
        )

    true = measured("true", right, MatchedDonors("clean", pool, donors))
    ran = set(true["pair_id"])
    matched = right.filter(lambda pair: pair.pair_id in ran)
    false = measured("false", matched, MatchedDonors("corrupt", pool, donors))
    return content_shares(decompose(measured("own", matched, "own"), true, false), level, seed)


def decompose(own: pd.DataFrame, true: pd.DataFrame, false: pd.DataFrame) -> pd.DataFrame:
    """The parts of each head's effect in each pair.

    Args:
        own, true, false: tables as of `gather`, of sweeps of the same sites and pairs: with the
            pair's own donor, and with `MatchedDonors` of the clean and of the corrupt run.

    Returns:
        One row a pair and head: component, layer, head, task, corruption, pair_id, scene_id;
        effect, content, truth and removal in logits, the first being the sum of the others;
        total_effect (L - L*); and donors, their number.

    Raises:
        NoticeError: a row of one table is missing in another.
    """
    keys = [*HEAD, *CONDITION, "pair_id"]
    given = own.set_index(keys, verify_integrity=False)
    parts = given[["scene_id", "effect"]].assign(
        total_effect=logit_difference(given, "source") - logit_difference(given, "base")
    )
    means = {}
    for name, table in (("true", true), ("false", false)):
        by_pair = table.groupby(keys, observed=True)["effect"]
        means[name], parts["donors"] = by_pair.mean(), by_pair.size()
        odd = means[name].index.symmetric_difference(parts.index)
        if len(odd):
            raise NoticeError(
                f"The sweeps with own and with {name} donors differ in {len(odd)} rows, the first: "
                f"{odd[0]}. Run them on the same sites, and on the pairs that have enough donors."
            )
    return parts.assign(
        content=parts["effect"] - means["true"],
        truth=(means["true"] - means["false"]) / 2,
        removal=(means["true"] + means["false"]) / 2,
    ).reset_index()


def content_shares(parts: pd.DataFrame, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """What each head carries in each task, over scenes.

    Args:
        parts: as of `decompose`.
        level: what the intervals cover (`statistics.bootstrap_interval`, `.ratio_interval`).

    Returns:
        One row a head and task: component, layer, head, task; content_share (K, NaN where it is
        undefined) with content_share_low and content_share_high; for each of effect, content,
        truth and removal the mean in logits with `*_low` and `*_high`, and the same of it as a
        fraction of the total effect: `*_fraction`, `*_fraction_low` and `*_fraction_high`;
        total_effect (logits); scenes and pairs (how many); donors (the smallest number of a pair).

    Raises:
        NoticeError: fewer than three scenes of a task; a pair and head have more than one row.
    """
    tasks = [_of_task(part, level, seed) for _, part in parts.groupby("task", observed=True)]
    return pd.concat(tasks, ignore_index=True)


def _of_task(part: pd.DataFrame, level: float, seed: int) -> pd.DataFrame:
    by_scene = {name: scene_effects(part, name) for name in (*PARTS, "total_effect")}
    values = {name: matrix.to_numpy() for name, matrix in by_scene.items()}
    found = by_scene["effect"].columns.to_frame(index=False).assign(task=part["task"].iloc[0])
    found = found.assign(**_content_share(values["content"], values["truth"], level, seed))
    total = values["total_effect"]
    for name in PARTS:
        found[name] = values[name].mean(0)
        found[f"{name}_low"], found[f"{name}_high"] = bootstrap_interval(
            values[name], level, seed=seed
        )
        found[f"{name}_fraction"] = found[name] / total.mean(0)
        found[f"{name}_fraction_low"], found[f"{name}_fraction_high"] = ratio_interval(
            values[name], total, level, seed=seed
        )
    return found.assign(
        total_effect=total.mean(0),
        scenes=len(total),
        pairs=part["pair_id"].nunique(),
        donors=part["donors"].min(),
    )


def _content_share(
    content: np.ndarray, truth: np.ndarray, level: float, seed: int
) -> dict[str, np.ndarray]:
    """K and its interval from (scenes, heads) of content and truth; NaN where K is undefined."""
    said = content + truth
    defined = bootstrap_interval(said, level, seed=seed)[0] > 0
    for part in (content, truth):
        defined &= bootstrap_interval(part, level, seed=seed)[1] >= 0
    with np.errstate(divide="ignore", invalid="ignore"):
        share = content.mean(0) / said.mean(0)
    low, high = ratio_interval(content, said, level, seed=seed)
    return {
        f"content_share{end}": np.where(defined, values.clip(0, 1), np.nan)
        for end, values in (("", share), ("_low", low), ("_high", high))
    }
