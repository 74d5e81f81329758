"""Sweeps: patch every site of every pair, and keep one tidy table."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
from tqdm.auto import tqdm

from ..corruption import replace_tokens
from ..errors import NoticeError
from ..models.answers import SCORES
from ..models.base import VLM, Inputs
from ..pairs import PairSet, SemanticPair
from . import engine
from .jobs import Job, Outcome
from .sites import Site, check_sites, place

SCHEMA = 1
"""Version of the tables' columns; saved tables of another version are refused."""

PATCHED_DTYPES = {
    "pair_id": "string",
    "component": "category",
    "layer": "int16",
    "head": "int16",
    "position": "int16",
    "role": "category",
    "token": "string",
    **dict.fromkeys(SCORES, "float64"),
}
"""Columns of `Sweep.patched`. `head` is -1 for a whole module; `position` and `token` are those of
the site's first token."""

RUNS_DTYPES = {
    "pair_id": "string",
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
"""Columns of `Sweep.runs`."""

Corruption = Literal["image", "text"]
Direction = Literal["denoise", "noise"]


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        patched: one row a pair and site: the patched run's scores of the two answers.
        runs: one row a pair: the unpatched clean and corrupt runs' scores.
        settings: model, corruption, direction, seed, schema.
    """

    patched: pd.DataFrame
    runs: pd.DataFrame
    settings: dict

    def table(self) -> pd.DataFrame:
        """`patched` beside each row's `runs`: the table that `notice_lib.metrics` works on.

        The columns base_* and source_* repeat the run that is patched and the run that
        activations come from (denoise: corrupt and clean; noise: clean and corrupt).
        """
        table = self.patched.merge(self.runs, on="pair_id", validate="many_to_one")
        base, source = ("corrupt", "clean")
        if self.settings["direction"] == "noise":
            base, source = source, base
        for name in SCORES:
            table[f"base_{name}"] = table[f"{base}_{name}"]
            table[f"source_{name}"] = table[f"{source}_{name}"]
        return table

    def save(self, folder: str | Path) -> None:
        """Write patched.parquet, runs.parquet and settings.json (last)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.patched.to_parquet(folder / "patched.parquet", index=False)
        self.runs.to_parquet(folder / "runs.parquet", index=False)
        (folder / "settings.json").write_text(json.dumps(self.settings, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> "Sweep":
        """Read what `save` wrote.

        Raises:
            NoticeError: the folder holds no finished sweep, or one of another schema version.
        """
        folder = Path(folder)
        if not (folder / "settings.json").is_file():
            raise NoticeError(f"{folder} holds no finished sweep: it has no settings.json.")
        settings = json.loads((folder / "settings.json").read_text())
        if settings["schema"] != SCHEMA:
            raise NoticeError(
                f"{folder} was written with table schema {settings['schema']}, this version reads "
                f"{SCHEMA}. Run the sweep again, or install the version that wrote it."
            )
        return cls(
            pd.read_parquet(folder / "patched.parquet").astype(PATCHED_DTYPES),
            pd.read_parquet(folder / "runs.parquet").astype(RUNS_DTYPES),
            settings,
        )


def sweep(
    model: VLM,
    pairs: PairSet,
    sites: Iterable[Site],
    corruption: Corruption = "image",
    direction: Direction = "denoise",
    seed: int = 0,
    patch: Callable[[VLM, Sequence[Job]], list[Outcome]] = engine.patch,
) -> Sweep:
    """Patch each site of each pair, one at a time.

    Args:
        corruption: "image": the corrupt run sees the pair's corrupt image (SIP). "text": it reads
            the prompt with both options replaced (STR; `replace_tokens`). SIP reverses the answer
            while STR removes both options, so raw effects of the two are not on one scale.
        direction: "denoise" copies clean activations into the corrupt run (is the site
            sufficient?), "noise" corrupt ones into the clean run (is it necessary?).
        seed: of the replacement words.
        patch: the engine; `notice_lib.patching.plain.patch` is the slow and obvious one.

    Raises:
        NoticeError: a site that the model does not have, a pair whose clean and corrupt prompts
            differ in their token layout, an unreadable image; names the culprit.

    Source: paper, sections 3 and 4; published code, BLIP/patching_utils.py.
    """
    if corruption not in ("image", "text") or direction not in ("denoise", "noise"):
        raise NoticeError(
            f"corruption is 'image' or 'text', not {corruption!r}; "
            f"direction is 'denoise' or 'noise', not {direction!r}."
        )
    sites = list(sites)
    check_sites(model, sites)
    patched, runs = [], []
    with tqdm(
        total=len(pairs), desc=f"patching {model.name}, {corruption}", unit="pair", leave=False
    ) as progress:
        for batch in _batches(pairs):
            jobs, known = zip(
                *(_job(model, pairs, pair, sites, corruption, direction, seed) for pair in batch),
                strict=True,
            )
            for pair, job, run, outcome in zip(batch, jobs, known, patch(model, jobs), strict=True):
                patched += _patched_rows(pair.pair_id, job, outcome)
                runs.append(run | _run_scores(outcome, direction))
            progress.update(len(batch))
    settings = {
        "model": model.name,
        "corruption": corruption,
        "direction": direction,
        "seed": seed,
        "schema": SCHEMA,
    }
    return Sweep(_frame(patched, PATCHED_DTYPES), _frame(runs, RUNS_DTYPES), settings)


def run_inputs(
    model: VLM, pairs: PairSet, pair: SemanticPair, corruption: Corruption, seed: int = 0
) -> tuple[Inputs, Inputs, str]:
    """The clean and the corrupt run's inputs, and the corrupt run's prompt.

    Raises:
        NoticeError: the two prompts differ in their token layout; names the pair.
    """
    clean = model.inputs(pair.image("clean"), pair.prompt)
    if corruption == "image":
        return clean, model.inputs(pair.image("corrupt"), pair.prompt), pair.prompt
    prompt = replace_tokens(pair, pairs, model.token_layout, seed)
    corrupt = replace(model.inputs(pair.image("clean"), prompt), pixel_values=clean.pixel_values)
    check_lengths(clean, corrupt, pair.pair_id)
    return clean, corrupt, prompt


def check_lengths(clean: Inputs, corrupt: Inputs, pair_id: str) -> None:
    """Refuse two prompts of different token lengths: their positions do not correspond."""
    if len(clean) != len(corrupt):
        raise NoticeError(
            f"Pair {pair_id}: the clean prompt has {len(clean)} tokens, the corrupt one "
            f"{len(corrupt)} ({clean.tokens} / {corrupt.tokens}). Positions are patched one by "
            "one, so use replacement words of the same number of tokens."
        )


def _batches(pairs: PairSet, size: int = 32) -> Iterator[list[SemanticPair]]:
    """Pairs whose images are held in memory together."""
    for start in range(0, len(pairs), size):
        yield list(pairs.pairs[start : start + size])


def _job(model, pairs, pair, sites, corruption, direction, seed) -> tuple[Job, dict]:
    """What to run for one pair, and what is known of it before: the start of its `runs` row."""
    clean, corrupt, corrupt_prompt = run_inputs(model, pairs, pair, corruption, seed)
    answer = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    placed = place(sites, clean, model.roles(clean, pair.spans))
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    run = {name: getattr(pair, name) for name in RUNS_DTYPES if hasattr(pair, name)}
    run |= {"clean_prompt": pair.prompt, "corrupt_prompt": corrupt_prompt}
    return Job(base, source, tuple(placed), answer), run


def _patched_rows(pair_id: str, job: Job, outcome: Outcome) -> list[dict]:
    return [
        {
            "pair_id": pair_id,
            "component": site.component,
            "layer": site.layer,
            "head": -1 if site.head is None else site.head,
            "position": site.positions[0],
            "role": site.role,
            "token": job.base.tokens[site.positions[0]],
            **dict(zip(SCORES, scores, strict=True)),
        }
        for site, scores in zip(job.sites, outcome.patched.tolist(), strict=True)
    ]


def _run_scores(outcome: Outcome, direction: Direction) -> dict[str, float]:
    base, source = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
    return {
        f"{run}_{name}": value
        for run, scores in ((base, outcome.base), (source, outcome.source))
        for name, value in zip(SCORES, scores.tolist(), strict=True)
    }


def _frame(rows: list[dict], dtypes: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)
