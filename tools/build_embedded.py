"""Build the embedded pair sets: `python tools/build_embedded.py` writes data/embedded.

    python tools/build_embedded.py --check     # render anew, compare pixels and tables

Every scene is a pair of records (tools/scenes) that differ in one slot. It gives four rows: two
directions (which image is clean) by two orders of the options.
"""

import argparse
import csv
import hashlib
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import scenes  # noqa: E402
from tools.plan_embedded import NEAR_SYNONYMS, SETS, plan, words  # noqa: E402
from tools.scenes.states import GROUPS, SLOT  # noqa: E402

BITS = {"differs": 1, "subject": 2, "object": 4, "distractor": 8}
COLUMNS = (
    "pair_id", "scene_id", "task", "slot", "split", "distractor", "clean_image", "corrupt_image",
    "clean_masks", "corrupt_masks", "prompt", "correct", "incorrect", "order", "shown",
)  # fmt: skip
# How hard lossless WebP tries: a second for a picture, or a millisecond.
SMALLEST = {"quality": 100, "method": 6}
QUICK = {"quality": 0, "method": 0}


def group(scene, slot):
    """The words among which a question on the slot chooses."""
    if scene.family != "states":
        return scenes.VALUES[slot]
    return next(group for group in GROUPS if scene.state in group)


def shown(scene, slot):
    """Every word of the slot's group that is true of something in the picture."""
    slots = {SLOT.get(word, slot) for word in group(scene, slot)}
    return {word for s in slots for word in scenes.shown(scene, s)}


def rows(pair):
    """The four rows of pairs.csv: two directions by two orders."""
    for direction, clean, corrupt in (("ab", pair.a, pair.b), ("ba", pair.b, pair.a)):
        correct, incorrect = words(clean, corrupt)
        true = shown(clean, clean.slot) | shown(corrupt, corrupt.slot)
        for order in ("correct_first", "incorrect_first"):
            options = (correct, incorrect) if order == "correct_first" else (incorrect, correct)
            paths = {
                f"{run}_{what}": f"{what}s/{pair.scene_id}-{side}.{ending}"
                for run, side in zip(("clean", "corrupt"), direction, strict=True)
                for what, ending in (("image", "webp"), ("mask", "png"))
            }
            yield {
                "pair_id": f"{pair.scene_id}-{direction}-{order.removesuffix('_first')}",
                "scene_id": pair.scene_id, "task": pair.family, "slot": clean.slot,
                "split": pair.split, "distractor": str(pair.distractor).lower(),
                "clean_image": paths["clean_image"], "corrupt_image": paths["corrupt_image"],
                "clean_masks": paths["clean_mask"], "corrupt_masks": paths["corrupt_mask"],
                "prompt": scenes.question(clean, clean.slot, *options),
                "correct": correct, "incorrect": incorrect, "order": order,
                "shown": " ".join(sorted(true)),
            }  # fmt: skip


def pictures(pair, exact=True):
    """{"a" | "b": (pixels, flags)}: the two images and their masks as bit flags.

    `exact` says that the scenes are counterfactuals: then `differs` is in the flags.
    """
    differs = scenes.differs(pair.a, pair.b) if exact else None
    result = {}
    for side, scene in (("a", pair.a), ("b", pair.b)):
        pixels, masks = scenes.render(scene)
        if exact:
            masks["differs"] = differs
        flags = sum(mask.astype(np.uint8) * np.uint8(BITS[name]) for name, mask in masks.items())
        result[side] = pixels, flags
    return result


def vocabulary(families):
    """The words of each slot. Shapes and textures are options of one question: one list."""
    slots = {
        slot: list(scenes.VALUES[slot]) for family in families for slot in scenes.SLOTS[family]
    }
    near = {}
    if "shape" in slots:
        slots["shape"] = slots["texture"] = slots["shape"] + slots["texture"]
        near = NEAR_SYNONYMS
    return {"slots": slots, "near_synonyms": near}


def tables(name, pairs):
    """{file name: text} of a set's pairs.csv and vocabulary.json."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for pair in pairs for row in rows(pair))
    families = scenes.FAMILIES if name == "natural" else (name,)
    words = json.dumps(vocabulary(families), indent=1) + "\n"
    return {"pairs.csv": text.getvalue(), "vocabulary.json": words}


def contents(name, pairs=None):
    """Yields (file, image or text) for everything in a set; nothing is written.

    `pairs` are by default those that are planned for the set.
    """
    pairs = pairs or plan(name)
    for pair in pairs:
        for side, (pixels, flags) in pictures(pair, exact=name != "natural").items():
            yield f"{name}/images/{pair.scene_id}-{side}.webp", Image.fromarray(pixels)
            yield f"{name}/masks/{pair.scene_id}-{side}.png", Image.fromarray(flags)
    for file, text in tables(name, pairs).items():
        yield f"{name}/{file}", text


def digest(content):
    """sha256 of an image's mode, size and pixels, or of a text."""
    if isinstance(content, str):
        return hashlib.sha256(content.encode()).hexdigest()
    head = f"{content.mode} {content.size} ".encode()
    return hashlib.sha256(head + content.tobytes()).hexdigest()


def stored_digest(path):
    """The digest of a file's decoded content."""
    if path.suffix not in (".webp", ".png"):
        return digest(path.read_bytes().decode())
    with Image.open(path) as image:
        return digest(image)


def write(path, content, effort=SMALLEST):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_bytes(content.encode())
    elif path.suffix == ".webp":
        content.save(path, lossless=True, **effort)
    else:
        content.save(path, optimize=True)


def build(folder):
    """Write all sets and hashes.json under `folder`; returns the number of files."""
    hashes = {}
    for name in SETS:
        for file, content in contents(name):
            write(folder / file, content)
            hashes[file] = digest(content)
    text = json.dumps(dict(sorted(hashes.items())), indent=0) + "\n"
    write(folder / "hashes.json", text)
    return len(hashes)


def check(folder):
    """Names of the files under `folder` that are missing, too many, or not as rendered anew."""
    hashes = json.loads((folder / "hashes.json").read_text(encoding="utf-8"))
    fresh = {file: digest(content) for name in SETS for file, content in contents(name)}
    files = [path for name in SETS for path in (folder / name).rglob("*") if path.is_file()]
    kept = {path.relative_to(folder).as_posix(): stored_digest(path) for path in files}
    names = hashes.keys() | fresh.keys() | kept.keys()
    return sorted(f for f in names if not hashes.get(f) == fresh.get(f) == kept.get(f))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "embedded")
    parser.add_argument("--check", action="store_true", help="compare with what is stored")
    args = parser.parse_args()
    start = time.perf_counter()
    if args.check:
        wrong = check(args.out)
        if wrong:
            sys.exit(f"{len(wrong)} files are not as rendered anew: {', '.join(wrong[:5])} ...")
        print("every file is as rendered anew", end="")
    else:
        for name in SETS:
            if (args.out / name).exists():
                sys.exit(f"{args.out / name} exists: move it away first, nothing is overwritten")
        print(f"{build(args.out)} files in {args.out}", end="")
    print(f" ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
