"""`python -m benchmarks NAME`: run benchmarks, write their tables and print their closing lines."""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

# One line per benchmark: module, function, description.
BENCHMARKS = {
    "published-blip": ("against_published", "blip", "BLIP-VQA-base against the published scheme"),
    "published-llava": ("against_published", "llava", "a LLaVA against the published scheme"),
    "peers": ("peers", "run", "the engine against nnsight and TransformerLens"),
    "families": ("families", "run", "eight decoder-only families, against forwards and nnsight"),
    "minis": ("minis", "run", "the embedded models, as the chapters use them"),
    "threads": ("threads", "run", "four chapters at the same time, as in a class"),
    "hub": ("hub", "run", "what a student of a class needs of a JupyterHub"),
    "scaling": ("scaling", "run", "time and memory as the work grows"),
    "gpu": ("gpu", "run", "the paper's models at full size (needs a GPU)"),
}


def main() -> None:
    """Run the named benchmarks, one after the other."""
    listed = "\n".join(f"  {name:16} {what}" for name, (_, _, what) in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="./run bench",
        epilog=listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", choices=BENCHMARKS, metavar="NAME", help="one or more of those below"
    )
    parser.add_argument("--tiny", action="store_true", help="use a tiny model to try out the code")
    parser.add_argument(
        "--out", type=Path, help="folder for the tables (default: benchmarks/results)"
    )
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    from notice_lib import NoticeError

    try:
        for name in arguments.names:
            _run(name, arguments.tiny, arguments.out)
    except NoticeError as error:
        sys.exit(f"{parser.prog}: {error}")


def _run(name: str, tiny: bool, out: Path | None) -> None:
    """Run one benchmark. With `tiny`, the table is written only if `out` is given."""
    from .report import RESULTS

    module, function, _ = BENCHMARKS[name]
    report = getattr(import_module(f".{module}", __package__), function)(tiny=tiny)
    if out or not tiny:
        report.write(out or RESULTS)
    print("\n\n".join(report.notes), report.table.to_string(index=False), sep="\n\n")
    print(report.line(), flush=True)


if __name__ == "__main__":
    main()
