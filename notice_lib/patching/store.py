"""Sweeps on disk, in shards that are there completely or not at all, so a killed sweep can go on.

A folder holds `plan.json` (what is run, and in how many shards) and three Parquet files for each
shard: patched, skipped and, written last, runs. A shard is complete once its runs file exists.
Files are written under another name and renamed.
"""

import json
from functools import partial
from pathlib import Path

import pandas as pd

from ..errors import NoticeError, UsedFolderError
from ..files import write_atomically
from .table import PATCHED_DTYPES, RUNS_DTYPES, SCHEMA, SKIPPED_DTYPES, Sweep, join

TABLES = {"patched": PATCHED_DTYPES, "skipped": SKIPPED_DTYPES, "runs": RUNS_DTYPES}
"""The columns of a shard's tables, in the order in which its files are written."""


class Store:
    """The folder of one sweep.

    Attributes:
        settings: what is run.
        shards: the number of parts into which the pairs are divided. It does not depend on the
            number of processes.

    Raises:
        NoticeError: the folder holds a sweep with other settings, or is a file.
    """

    def __init__(self, folder: str | Path, settings: dict, shards: int):
        self.folder = Path(folder)
        self.settings = settings
        self.shards = shards
        plan = {"settings": settings, "shards": shards}
        if self.folder.exists() and not self.folder.is_dir():
            raise NoticeError(f"{folder} is a file; a sweep is written to a folder. Name another.")
        if (self.folder / "plan.json").exists():
            _refuse_other(self.folder, _read_plan(self.folder), plan)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(plan)
            write_atomically(self.folder / "plan.json", lambda path: path.write_text(text))

    @classmethod
    def open(cls, folder: str | Path) -> "Store":
        """The store of a sweep that a folder holds already.

        Raises:
            NoticeError: the folder holds no sweep, or one of another schema version.
        """
        plan = _read_plan(Path(folder))
        return cls(folder, plan["settings"], plan["shards"])

    def has(self, shard: int) -> bool:
        """Whether a shard is complete."""
        return self._path("runs", shard).exists()

    def write(self, shard: int, part: Sweep) -> None:
        """Keep one shard's tables."""
        for name in TABLES:
            table: pd.DataFrame = getattr(part, name)
            write_atomically(self._path(name, shard), partial(table.to_parquet, index=False))

    def read(self) -> Sweep:
        """All shards, in order.

        Raises:
            NoticeError: some are missing or damaged.
        """
        missing = [shard for shard in range(self.shards) if not self.has(shard)]
        if missing:
            raise NoticeError(
                f"{self.folder} holds no finished sweep: {len(missing)} of {self.shards} shards "
                "are missing. Run the same sweep again; it goes on where it stopped."
            )
        tables = {
            name: join((self._table(name, shard) for shard in range(self.shards)), dtypes)
            for name, dtypes in TABLES.items()
        }
        return Sweep(**tables, settings=self.settings)

    def _table(self, name: str, shard: int) -> pd.DataFrame:
        path = self._path(name, shard)
        try:
            return pd.read_parquet(path, columns=list(TABLES[name]))
        except (OSError, ValueError) as error:  # Missing, cut off, or another table.
            raise NoticeError(
                f"{path} cannot be read ({error}). Delete {self._path('runs', shard).name} in the "
                "same folder and run the sweep again: it computes this shard anew."
            ) from None

    def _path(self, table: str, shard: int) -> Path:
        return self.folder / f"{table}-{shard:05d}.parquet"


def write_sweep(sweep: Sweep, folder: str | Path) -> None:
    """Write a sweep that was run in memory to a folder, as `sweep(..., out=folder)` does.

    Raises:
        UsedFolderError: the folder holds another sweep.
    """
    Store(folder, sweep.settings, shards=1).write(0, sweep)


def read_sweep(folder: str | Path) -> Sweep:
    """Read a finished sweep from its folder.

    Raises:
        NoticeError: the folder holds no finished sweep, or one of another schema version.
    """
    return Store.open(folder).read()


def _read_plan(folder: Path) -> dict:
    if not (folder / "plan.json").is_file():
        raise NoticeError(
            f"{folder} holds no finished sweep: it has no plan.json. Name a folder that a sweep "
            "wrote (`out=`, or `notice sweep --out`)."
        )
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        schema, _ = plan["settings"]["schema"], plan["shards"]
    except (ValueError, KeyError, TypeError) as error:
        raise NoticeError(
            f"{folder / 'plan.json'} is no plan of a sweep ({type(error).__name__}: {error}). If "
            "a sweep wrote the folder, the file is damaged: run the sweep into another folder."
        ) from None
    if schema != SCHEMA:
        raise NoticeError(
            f"{folder} was written with table schema {schema}, but this "
            f"version of the library reads schema {SCHEMA}. Run the sweep again into another "
            "folder, or install the version that wrote it."
        )
    return plan


def _refuse_other(folder: Path, found: dict, wanted: dict) -> None:
    found = {**found["settings"], "shards": found["shards"]}
    wanted = json.loads(json.dumps({**wanted["settings"], "shards": wanted["shards"]}))
    names = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
    if names:
        differences = "; ".join(
            f"{name} is {found.get(name)!r} there and {wanted.get(name)!r} here" for name in names
        )
        raise UsedFolderError(
            f"{folder} holds the results of another sweep: {differences}. Name another folder."
        )
