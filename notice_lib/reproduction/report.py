"""Verdicts of all stored runs, as the report and the first page of the book show them."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ..paths import data_dir
from .claims import paper_claims

MINI = re.compile(r"(?P<family>blip|llava)-mini(-seed(?P<seed>\d+))?")

SHORT = {
    "multimodal": "heads matter under both corruptions",
    "multimodal_procedure": "the paper's rule, under both",
    "vision": "heads matter under image corruption",
    "vision_procedure": "the paper's rule, under image",
    "text": "heads matter under text corruption",
    "text_procedure": "the paper's rule, under text",
    "image_over_text": "heads do more under image than text",
    "last_over_option": "heads do more at the last token than the option",
    "detection": "heads detect the object",
    "suppression": "heads suppress the object",
    "outliers": "heads suppress outliers",
    "no_detection": "no important head detects or suppresses",
    "noise_later": "noise puts importance into later layers",
    "noise_out": "noise leaves the distribution",
}
"""Each claim in a few words, by its key without the family."""

BUILT_IN = ("detection", "no_detection")
"""Claims that labels of image patches decide: they teach a vision tower where every thing is."""


def read_verdicts(results: str | Path | None = None) -> pd.DataFrame:
    """Read the verdicts of every finished run that was judged by today's rules.

    Args:
        results: the folder of all runs; by default `results/` of the library's data.

    Returns:
        The rows of all `claims.csv`, in the order of data/paper/claims.csv, with

        - run: name of the run's folder; model: what was run, as its manifest has it;
        - label: "seed 0" and so on for the small models, else the run's name;
        - chose: whether this is the seed on which the small models' recipe was chosen;
        - short: the claim in a few words;
        - built_in: whether the model's training supervises what the claim is about.
    """
    results = data_dir() / "results" if results is None else Path(results)
    today = paper_claims("blip")["version"].iloc[0]
    tables = []
    for manifest in sorted(results.glob("*/manifest.json")):
        path = manifest.with_name("claims.csv")
        found = pd.read_csv(path) if path.exists() else pd.DataFrame()
        if not found.empty and (found["version"] == today).all():
            model = json.loads(manifest.read_text(encoding="utf-8"))["model"]
            tables.append(_of_run(found, manifest.parent.name, model))
    if not tables:
        return _of_run(paper_claims("blip").iloc[:0].assign(verdict=""), "", "")
    return pd.concat(tables, ignore_index=True)


def _of_run(found: pd.DataFrame, run: str, model: str) -> pd.DataFrame:
    mini = MINI.fullmatch(run)
    seed = (mini["seed"] or "0") if mini else None
    names = found["key"].str.split("_", n=1).str[-1]
    return found.assign(
        run=run,
        model=model,
        label=f"seed {seed}" if mini else run,
        chose=seed == "0",
        short=names.map(SHORT),
        built_in=names.isin(BUILT_IN) if mini else False,
    )


def tally(verdicts: Iterable[str]) -> str:
    """Count verdicts in words: "seen (3 of 3)", or "seen in 2 of 3, undecided in 1"."""
    verdicts = list(verdicts)
    counts = Counter(verdicts).most_common()
    if len(counts) == 1:
        return f"{verdicts[0]} ({len(verdicts)} of {len(verdicts)})"
    (first, most), *rest = counts
    parts = [f"{first} in {most} of {len(verdicts)}", *(f"{said} in {n}" for said, n in rest)]
    return ", ".join(parts)


PAPER = {"blip": "Salesforce/blip-vqa-base", "llava": "llava-hf/llava-1.5-7b-hf"}
NAMES = {"blip": "The small BLIP", "llava": "The small LLaVA"}
DIFFERS = "differs between seeds"
ORDER = (
    "seen",
    "repeats",
    "not seen",
    "does not repeat",
    "undecided",
    "not testable",
    DIFFERS,
)


def five_lines(verdicts: pd.DataFrame) -> list[str]:
    """Say what holds in five lines of Markdown: the paper's models, two small ones, two caveats.

    Args:
        verdicts: a table of `read_verdicts`.
    """
    minis = verdicts[verdicts["label"].str.startswith("seed ")]
    ran = sorted(set(PAPER.values()) & set(verdicts["model"]))
    first = (
        f"**The paper's models: untested.** There is no run of {' or '.join(PAPER.values())} yet, "
        "so nothing here confirms or refutes what is said of these checkpoints. The small models "
        "only show whether something like it can be found in them."
    )
    if ran:
        first = f"**The paper's models.** There are runs of {' and '.join(ran)}."
    built_in = dict.fromkeys(minis[minis["built_in"]]["short"])
    named = " and ".join(f'"{claim}"' for claim in built_in) or "nothing"
    return [
        first,
        *(_of_family(minis[minis["family"] == family], NAMES[family]) for family in PAPER),
        f"**Built in:** {named}. The training told the vision towers where each thing is, so a "
        "verdict on this is no discovery.",
        _of_seeds(minis),
    ]


def _of_family(minis: pd.DataFrame, name: str) -> str:
    """Which claims have which verdict in one family."""
    if minis.empty:
        return f"**{name}.** There are no results."
    groups: dict[str, list[str]] = {}
    for short, rows in minis.groupby("short", sort=False):
        said = rows["verdict"].iloc[0] if rows["verdict"].nunique() == 1 else DIFFERS
        groups.setdefault(said, []).append(short)
    seeds = minis["label"].nunique()
    listed = [
        f"*{said.capitalize()}:* {_listed(groups[said])}." for said in ORDER if said in groups
    ]
    return f"**{name}, {seeds} seed{'s' * (seeds > 1)}.** {' '.join(listed)}"


def _listed(claims: Iterable[str]) -> str:
    """Join claims; those that differ only in what they are "under" share their first words."""
    shared: dict[str, list[str]] = {}
    for claim in claims:
        does, under, where = claim.partition(" under ")
        shared.setdefault(does, []).append(under + where)
    return "; ".join(does + _joined(wheres) for does, wheres in shared.items())


def _joined(wheres: list[str]) -> str:
    """Say " under a, under b and under c"."""
    *others, last = wheres
    return f"{','.join(others)} and{last}" if others else last


def _of_seeds(minis: pd.DataFrame) -> str:
    """How many verdicts all seeds share, of the claims that several seeds were judged by."""
    by_claim = minis.groupby("key")["verdict"]
    several = by_claim.nunique()[by_claim.size() > 1]
    if several.empty:
        judged = "One seed is judged so far." if len(minis) else "None is judged so far."
        if minis["chose"].any():
            judged = f"{judged[:-1]}, and it is the one on which the recipe was chosen."
        return f"**Seeds.** {judged} Whether another training gives the same verdicts is open."
    return (
        f"**Seeds.** {(several == 1).sum()} of {len(several)} verdicts are the same in all seeds. "
        "Seed 0 is the one on which the recipe was chosen."
    )
