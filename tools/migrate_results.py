"""Rename the columns of stored results to the library's current names; values stay bit-equal.

In schema 2 of data/results, the column `share` (an effect over the total effect) of heads.csv,
noise.csv and modules.parquet is called `fraction_recovered`, and the manifest counts pairs that are
"answered correctly". In schema 3, verdicts of the first version are in claims_version1.csv. Folders
of schema 3 are left as they are.

Usage: python tools/migrate_results.py [FOLDER ...]   (all of data/results by default)
"""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq

from notice_lib.files import sha256

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = 3
TABLES = ("heads.csv", "noise.csv")


def migrate(folder: Path) -> bool:
    """Migrate a folder to schema 3; return whether there was anything to do."""
    manifest_file = folder / "manifest.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    if manifest.get("schema", 1) >= SCHEMA:
        return False
    for name in TABLES:
        if (folder / name).exists():
            _rename_in_csv(folder / name)
    if (folder / "modules.parquet").exists():
        _rename_in_parquet(folder / "modules.parquet")
    if (folder / "claims.csv").exists():
        (folder / "claims.csv").rename(folder / "claims_version1.csv")
    manifest["schema"] = SCHEMA
    manifest["migrated"] = (
        "columns renamed by tools/migrate_results.py; values are those of the run"
    )
    for counts in manifest.get("counts", {}).values():
        if "answered rightly" in counts:
            counts["answered correctly"] = counts.pop("answered rightly")
    if "tables" in manifest:
        tables = ("claims_version1.csv" if n == "claims.csv" else n for n in manifest["tables"])
        manifest["tables"] = {name: sha256(folder / name) for name in sorted(tables)}
    manifest_file.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return True


def _renamed(column: str) -> str:
    if column == "share" or column.endswith("_share"):
        return column.removesuffix("share") + "fraction_recovered"
    return column


def _rename_in_csv(path: Path) -> None:
    """Rename columns in the header, and leave every other byte unchanged."""
    header, rest = path.read_text(encoding="utf-8").split("\n", 1)
    path.write_text("\n".join([",".join(map(_renamed, header.split(","))), rest]), encoding="utf-8")


def _rename_in_parquet(path: Path) -> None:
    table = pq.read_table(path)
    renamed = table.rename_columns([_renamed(name) for name in table.column_names])
    metadata = {
        key: value.replace(b'"share"', b'"fraction_recovered"')
        for key, value in (table.schema.metadata or {}).items()
    }
    pq.write_table(renamed.replace_schema_metadata(metadata), path)


if __name__ == "__main__":
    for place in sys.argv[1:] or sorted((ROOT / "data" / "results").glob("*/")):
        done = migrate(Path(place))
        print(f"{Path(place).name}: {'migrated to' if done else 'already has'} schema 3")
