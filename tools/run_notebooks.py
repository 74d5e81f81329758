"""Execute paired notebooks with any parameters, and keep the results with their time and memory.

    python tools/run_notebooks.py --chapter 04 --n-pairs 8 --out runs     # on the embedded pairs
    python tools/run_notebooks.py --model blip-mini=Salesforce/blip-vqa-base \\
        --model llava-mini=llava-hf/llava-1.5-7b-hf --data my_data --device cuda --out runs
    python tools/run_notebooks.py --list                                  # the chapters, as JSON

The folder gets the executed notebooks, failed ones up to their error, and runs.csv with the seconds
and the peak memory of each. A failure does not stop the others; the exit status is 1 if one failed.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.prepare_notebooks import add_arguments, given, notebooks, prepare  # noqa: E402

COLUMNS = ("chapter", "status", "seconds", "peak_mib", "cores", "machine", "parameters")
# Progress bars of downloads and sweeps would fill the log.
QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def execute(notebook: Path, out: Path, python: str, environment: dict) -> dict:
    """Execute one notebook in its own process and an empty folder; return its row of runs.csv."""
    command = [python, "-m", "papermill", "--no-progress-bar", notebook, out / notebook.name]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, env=environment)
        # The usage of a process includes that of the processes it waited for, here the kernel.
        # Linux also counts the memory of this process at the start, so peaks exceed 0.1 GiB.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "chapter": notebook.stem,
        "status": "ok" if process.returncode == 0 else "failed",
        "seconds": round(time.monotonic() - started),
        "peak_mib": round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def run(prepared: list[Path], out: Path, python: str, environment: dict, values: dict) -> bool:
    """Execute prepared notebooks into a folder; return whether all succeeded."""
    out = out.resolve()  # Notebooks run in other folders.
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with open(out / "runs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for notebook in prepared:
            row = execute(notebook, out, python, environment)
            writer.writerow(row | {"parameters": json.dumps(values)})
            file.flush()
            print(f"{row['chapter']}: {row['status']}, {row['seconds']} s", flush=True)
            rows.append(row)
    return all(row["status"] == "ok" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "_build" / "runs", help="folder for the results"
    )
    parser.add_argument("--list", action="store_true", help="only print the chapters, as JSON")
    args = parser.parse_args()
    if args.list:
        print(json.dumps([path.stem for path in notebooks(args.chapter)]))
        return
    values, models = given(args), dict(args.model)
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Path(folder), args.chapter, values, models)
        fine = run(prepared, args.out, sys.executable, os.environ | QUIET, values | models)
    print(f"Executed notebooks and runs.csv: {args.out}")
    sys.exit(not fine)


if __name__ == "__main__":
    main()
