"""Build the book into _build/html, redoing only what changed, and say how long it took.

Jupyter Book's cache keys a chapter by its own code. What that code imports and reads counts too, so
a change of the library, the data, the pinned versions or the Python in use starts from nothing.

    python tools/build_book.py           # build
    python tools/build_book.py --hash    # only print the hash of all that, for other caches' keys
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "_build"
STAMP = BUILD / "inputs.sha256"
INPUTS = ("notice_lib", "data", "constraints.txt", "pyproject.toml")
# A progress bar that has ended leaves an empty box on a page.
NO_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def inputs_hash(root: Path = ROOT) -> str:
    """SHA-256 over the names and bytes of everything that chapters use besides their own text."""
    digest = hashlib.sha256(sys.version.encode())
    for name in INPUTS:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(root)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def build() -> int:
    """Run Jupyter Book and return its exit status: not 0 after a warning or a failing cell."""
    stamp = inputs_hash()
    if not STAMP.exists() or STAMP.read_text() != stamp:
        shutil.rmtree(BUILD, ignore_errors=True)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    status = subprocess.run(
        [jupyter_book, "build", ROOT, "-q", "-W", "-n", "--keep-going"], env=os.environ | NO_BARS
    ).returncode
    if status:
        # Pages that were read are not read again, and a second build would not repeat the warning.
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
    BUILD.mkdir(exist_ok=True)
    STAMP.write_text(stamp)
    return status


if __name__ == "__main__":
    if sys.argv[1:] == ["--hash"]:
        sys.exit(print(inputs_hash()))
    started = time.monotonic()
    failed = build()
    seconds = time.monotonic() - started
    if failed:
        sys.exit(f"The book was not built: see the messages above ({seconds:.0f} s).")
    print(f"The book: {BUILD / 'html' / 'index.html'} (built in {seconds:.0f} s)")
