"""The tables of a sweep."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from ..models.answers import SCORES

SCHEMA = 3
"""The version of the tables' columns. Saved tables of another version are refused."""

PATCHED_DTYPES = {
    "pair_id": "string",
    "draw": "int16",
    "circuit": "category",
    "component": "category",
    "layer": "int16",
    "head": "int16",
    "position": "int16",
    "role": "category",
    "token": "string",
    **dict.fromkeys(SCORES, "float64"),
}
"""Columns of `Sweep.patched`. `draw` counts a pair's draws of noise, or its matched donors. `head`
is -1 for a whole module. `position` is the index of the site's first token, and `token` is the text
of that token. In a circuit's row, `circuit` is its name, `component` is "circuit", and `layer`,
`head` and `position` are -1."""

RUNS_DTYPES = {
    "pair_id": "string",
    "draw": "int16",
    "donor": "string",
    "scene_id": "string",
    "task": "category",
    "slot": "category",
    "split": "category",
    "order": "category",
    "distractor": "bool",
    "correct": "string",
    "incorrect": "string",
    "clean_prompt": "string",
    "corrupt_prompt": "string",
    **{f"{run}_{name}": "float64" for run in ("clean", "corrupt") for name in SCORES},
}
"""Columns of `Sweep.runs`. `donor` is the pair that activations come from: this pair, or another
one (`sweep`'s argument `donor`). In the latter case the source run's scores are those of the
donor's run for this pair's answers. An ablation has no source run, so those scores are NaN."""

SKIPPED_DTYPES = {"pair_id": "string", "reason": "string"}
"""Columns of `Sweep.skipped`."""


@dataclass(frozen=True)
class Sweep:
    """The results of a sweep.

    Attributes:
        patched: the patched runs' scores of the answers, one row for each pair, draw, and site or
            circuit.
        runs: the unpatched clean and corrupt runs' scores, one row for each pair and draw.
        skipped: one row for each pair that could not be run, with the reason.
        settings: what was run (model, pairs, sites, corruption, direction, seed, schema, ...).
    """

    patched: pd.DataFrame
    runs: pd.DataFrame
    skipped: pd.DataFrame
    settings: dict

    def table(self) -> pd.DataFrame:
        """Each row of `patched` beside its row of `runs`: the table that the metrics work on.

        The columns base_* and source_* repeat the scores of the run that is patched and of the run
        that activations come from (denoise: corrupt and clean; noise: clean and corrupt).
        """
        table = self.patched.merge(self.runs, on=["pair_id", "draw"], validate="many_to_one")
        base, source = runs_of(self.settings["direction"])
        for name in SCORES:
            table[f"base_{name}"] = table[f"{base}_{name}"]
            table[f"source_{name}"] = table[f"{source}_{name}"]
        return table


def runs_of(direction: str) -> tuple[str, str]:
    """(base, source): which of the "clean" and the "corrupt" run is patched, and which is
    copied."""
    return ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")


def frame(rows: Iterable[dict], dtypes: dict[str, str]) -> pd.DataFrame:
    """A table with exactly these columns and types, even if it has no row."""
    return join([pd.DataFrame(list(rows), columns=list(dtypes))], dtypes)


def join(parts: Iterable[pd.DataFrame], dtypes: dict[str, str]) -> pd.DataFrame:
    """The parts of one table below each other. (The parts' categories may differ.)"""
    texts = {name: "string" if kind == "category" else kind for name, kind in dtypes.items()}
    return pd.concat([part.astype(texts) for part in parts], ignore_index=True).astype(dtypes)
