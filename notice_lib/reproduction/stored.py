"""The stored tables of runs, which pages about heads read instead of judging a few pairs anew."""

import json
from collections.abc import Mapping
from pathlib import Path

from .. import fingerprint
from ..models.base import VLM
from ..pairs import PairSet
from ..paths import data_dir


def stored_run(
    model: VLM, sets: Mapping[str, PairSet], results: str | Path | None = None
) -> Path | None:
    """Find the folder of a run of `reproduce` with this very model and these very pairs.

    Args:
        model: its weights and their precision must be those of the run.
        sets: the pairs of each task, as `read_tasks` returns them.
        results: the folder of all runs; by default `results/` of the library's data.

    Returns:
        The folder, which data/results/README.md describes, or None if no finished run fits. What
        another model or other pairs gave is never returned in their place.
    """
    results = data_dir() / "results" if results is None else Path(results)
    wanted = fingerprint.identity(model) | {
        "given_fingerprints": {task: fingerprint.of_pairs(pairs) for task, pairs in sets.items()}
    }
    del wanted["model"]  # The same weights may have been loaded from another place.
    for manifest in sorted(results.glob("*/manifest.json")):
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if all(found.get(key) == value for key, value in wanted.items()):
            return manifest.parent
    return None
