"""Write a data folder like one of real data, made from the embedded pairs.

Pairs of photographs have no masks and no known distractors, and models have seen none of them in
training. With such a folder one can try out a chapter's `data` parameter without real data.

    python tools/maskless.py OUT           # OUT/svo, OUT/states, OUT/faces: 216 pairs each
    python tools/maskless.py OUT --n 24    # 24 pairs of each, six whole scenes
"""

import argparse
from dataclasses import replace
from pathlib import Path

from notice_lib import PairSet, load_pairs

TASKS = ("svo", "states", "faces")
ROWS = 4  # rows per scene: both directions in both orders


def without_masks(pairs: PairSet) -> PairSet:
    """Return the held-out pairs without distractors, and without their masks."""
    kept = pairs.filter(lambda pair: pair.split == "heldout" and not pair.distractor)
    bare = [replace(pair, clean_masks=None, corrupt_masks=None) for pair in kept]
    return replace(pairs, pairs=tuple(bare))


def whole_scenes(pairs: PairSet, n: int, seed: int) -> PairSet:
    """Return n pairs, a multiple of 4: all rows of n / 4 scenes, drawn evenly over the slots."""
    scenes = len({pair.scene_id for pair in pairs})
    drawn = pairs.sample(scenes, seed, by=["scene_id"]).sample(n // ROWS, seed, by=["slot"])
    wanted = {pair.scene_id for pair in drawn}
    return pairs.filter(lambda pair: pair.scene_id in wanted)


def write(folder: Path, n: int | None = None, seed: int = 0) -> None:
    """Write n pairs of each task below a folder; None writes all.

    Raises:
        NoticeError: the folder already holds such sets.
    """
    for task in TASKS:
        pairs = without_masks(load_pairs(task))
        chosen = pairs if n is None else whole_scenes(pairs, n, seed)
        chosen.save(folder / task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="an empty or a new folder")
    parser.add_argument("--n", type=int, help="pairs of each task, a multiple of 4; default: all")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the draw")
    args = parser.parse_args()
    if args.n is not None and (args.n < ROWS or args.n % ROWS):
        parser.error(f"--n must be a multiple of {ROWS}: a scene has {ROWS} pairs")
    write(args.out, args.n, args.seed)
    print(args.out)


if __name__ == "__main__":
    main()
