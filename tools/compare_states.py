"""How well checkpoints tell states, by which recipes were compared (data/checkpoints/sheets).

    python tools/compare_states.py data/checkpoints/blip-mini ...

For each checkpoint it prints the accuracy on freshly rendered states scenes in both orders: held
out and seen, with one thing and with two.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import scenes as renderer  # noqa: E402
from tools.training import evaluation  # noqa: E402

SEED, SCENES = 77, 150
KINDS = [(split, distractor) for split in ("heldout", "seen") for distractor in (False, True)]


def items(split, distractor, n=SCENES, seed=SEED):
    """Questions on `n` fresh states scenes, each in both orders."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        scene = renderer.sample("states", rng, split=split, distractor=distractor)
        image = renderer.render(scene)[0]
        found += evaluation.both_orders(scene, renderer.slot_of(scene), image, rng, split)
    return found


def accuracy(model, processor, asked):
    given = evaluation.answer(model, processor, asked)
    return np.mean([word == item.correct for word, item in zip(given, asked, strict=True)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    asked = {kind: items(*kind) for kind in KINDS}
    print("checkpoint,heldout_one,heldout_two,seen_one,seen_two")
    for folder in args.checkpoints:
        loaded = evaluation.load(folder)
        found = (accuracy(*loaded, asked[kind]) for kind in KINDS)
        print(folder, *(f"{value:.3f}" for value in found), sep=",", flush=True)


if __name__ == "__main__":
    main()
