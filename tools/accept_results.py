"""Copy the results of a reproduction into data/results, where they can be reviewed and committed.

    python tools/accept_results.py RESULTS NAME             # becomes data/results/NAME
    python tools/accept_results.py RESULTS NAME --replace   # in place of an earlier run

RESULTS is the folder that `notice reproduce --out RESULTS` wrote. Only a finished run of committed
code is accepted, with tables that its manifest confirms. Its sweeps stay where they are.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

from notice_lib.files import sha256
from notice_lib.reproduction.experiments import SCHEMA

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results"


def problem(folder: Path) -> str | None:
    """Say why the results in a folder cannot be accepted; None if they can."""
    path = folder / "manifest.json"
    if not path.is_file():
        return "there is no manifest.json, so the run is not finished"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("schema") != SCHEMA:
        return f"its schema is {manifest.get('schema')}, not {SCHEMA}: run notice reproduce again"
    commit = manifest.get("commit") or ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        return f"it was not made by the code of a commit ({commit or 'no commit is named'})"
    for name, digest in manifest["tables"].items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            return f"{name} is not the table that the run wrote"
    return None


def accept(folder: Path, name: str, replace: bool, results: Path = RESULTS) -> Path:
    """Copy a run's manifest and tables to the folder `name` of `results`.

    Raises:
        SystemExit: the run cannot be accepted, or `name` is taken or not a name; nothing changes.
    """
    target, earlier, unfinished = results / name, results / f".{name}.old", results / f".{name}.new"
    if not re.fullmatch(r"[\w.-]*\w", name):
        sys.exit(f"{name!r} is not a name of a folder: use letters, digits, dots and dashes.")
    if why := problem(folder):
        sys.exit(f"{folder} is not accepted: {why}.")
    if earlier.exists() and not target.exists():
        earlier.rename(target)  # Another call was killed before it renamed the new results.
    if target.exists() and not replace:
        sys.exit(f"{target} exists. Use another name, or --replace.")
    tables = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["tables"]
    for left in (earlier, unfinished):
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir()
    for file in ("manifest.json", *tables):
        shutil.copy(folder / file, unfinished)
    if target.exists():
        target.rename(earlier)
    unfinished.rename(target)
    shutil.rmtree(earlier, ignore_errors=True)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run accept", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of a finished reproduction")
    parser.add_argument("name", help="its name in data/results")
    parser.add_argument("--replace", action="store_true", help="replace results of this name")
    args = parser.parse_args()
    target = accept(args.folder, args.name, args.replace)
    print(f"Accepted as {target}. Review it: git add {target}; git diff --cached; the report.")


if __name__ == "__main__":
    main()
