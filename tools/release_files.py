"""List the files of those checkpoints that a release's wheel lacks, and copy them for the release.

    python tools/release_files.py                 # writes data/checkpoints/released.json
    python tools/release_files.py v0.1.0 FOLDER   # copies the files for the release of this tag

The first command is needed after a change of these checkpoints.
"""

import argparse
import json
import shutil
from pathlib import Path

from notice_lib import __version__
from notice_lib.files import sha256
from notice_lib.released import MANIFEST, asset, read_manifest

CHECKPOINTS = Path(__file__).resolve().parents[1] / "data" / "checkpoints"
IN_THE_WHEEL = ("blip-mini", "llava-mini")


def manifest(checkpoints: Path) -> dict[str, dict[str, str]]:
    """Return {checkpoint: {file: SHA-256}} of the checkpoints that the wheel lacks."""
    return {
        folder.name: {path.name: sha256(path) for path in sorted(folder.iterdir())}
        for folder in sorted(checkpoints.iterdir())
        if (folder / "config.json").is_file() and folder.name not in IN_THE_WHEEL
    }


def copy(checkpoints: Path, out: Path) -> None:
    """Copy the files of the manifest into one folder, under their names in a release."""
    out.mkdir(parents=True, exist_ok=True)
    for name, files in read_manifest(checkpoints).items():
        for file in files:
            shutil.copy(checkpoints / name / file, out / asset(name, file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "tag", nargs="?", help="tag of the release, which must be that of the version"
    )
    parser.add_argument("out", nargs="?", type=Path, help="folder for copies of the files")
    args = parser.parse_args()
    if args.tag is None:
        text = json.dumps(manifest(CHECKPOINTS), indent=1) + "\n"
        (CHECKPOINTS / MANIFEST).write_text(text, encoding="utf-8")
    elif args.tag != f"v{__version__}":
        parser.error(f"the version is {__version__}, so its tag is v{__version__}, not {args.tag}")
    elif args.out is None:
        parser.error("name a folder for the files")
    else:
        copy(CHECKPOINTS, args.out)


if __name__ == "__main__":
    main()
