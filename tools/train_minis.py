"""Train, evaluate and describe the miniature models in data/checkpoints.

    python tools/train_minis.py --seed 0 --out data/checkpoints   # train them, then evaluate
    python tools/train_minis.py --evaluate                        # print the table of saved files
    python tools/train_minis.py --card                            # write data/checkpoints/README.md

Everything is rendered on the fly; the pool of scenes is kept in --cache. The budget is counted in
steps, so that a seed gives the same model on the same machine and versions.
"""

import argparse
import json
import platform
import shutil
import sys
import time
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.training import card, evaluation, loops, models, pool, shortcuts  # noqa: E402

NAMES = tuple(evaluation.CLASSES)
POOL_SEED, POOL_SIZE = 20, 40_000
STEPS = {"vision": 1600, "blip-mini": 700, "llava-mini": 650, "blip-mini-noise": 700}


def log(message):
    print(time.strftime("%H:%M:%S"), message, flush=True)


def hardware():
    """The CPU's name and the number of threads used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} thread(s)"


def trained_tower(data, args, words):
    """The vision tower of stage 1 in an otherwise untrained BLIP, from the cache if it is there."""
    processor = models.build_blip_processor(words)
    torch.manual_seed(args.seed)
    model = models.build_blip(processor.tokenizer)
    steps = args.steps["vision"]
    path = Path(args.cache) / f"vision-{data.key}-{args.seed}-{steps}.safetensors"
    if not path.exists():
        log(f"stage 1, vision tower: {steps} steps")
        rng = np.random.default_rng([args.seed, 1])
        minutes = loops.train_vision(data, model.vision_model, steps, rng, log)
        save_file(model.vision_model.state_dict(), path, {"minutes": str(minutes)})
    model.vision_model.load_state_dict(load_file(path))
    with safe_open(path, "pt") as stored:
        return model, processor, float(stored.metadata()["minutes"])


def train(name, data, args):
    """Train the model called `name` and save it, as float16, in the folder `args.out`/`name`."""
    words = pool.words()
    model, processor, vision_minutes = trained_tower(data, args, words)
    torch.manual_seed(args.seed + 100)
    rng = np.random.default_rng([args.seed, 2])
    log(f"stage 2, {name}: {args.steps[name]} steps")
    noise = nullcontext()
    if name == "llava-mini":
        blip, processor = model, models.build_llava_processor(words)
        model, run = models.build_llava(processor.tokenizer), loops.train_llava
        sample = loops.to_tensor(data.pixels[:256])
        models.copy_vision(blip.vision_model, model.model.vision_tower, sample)
    else:
        run = loops.train_blip
        if name == "blip-mini-noise":
            noise = loops.noisy_embeddings(model.vision_model, args.seed)
    with noise:
        minutes = run(data, model, processor.tokenizer, args.steps[name], rng, log)
    folder = args.out / name
    shutil.rmtree(folder, ignore_errors=True)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    return {
        "seed": args.seed,
        "steps": {"vision": args.steps["vision"], "answers": args.steps[name]},
        "pool": {"scenes": len(data), "seed": POOL_SEED},
        "minutes": {"vision": round(vision_minutes, 1), "answers": round(minutes, 1)},
        "hardware": hardware(),
        "versions": {p: version(p) for p in ("torch", "transformers", "tokenizers", "numpy")},
    }


def report(name, results):
    """Print the table of one checkpoint."""
    print(f"\n{name}")
    for key, cell in results["answers"].items():
        print(f"  {key:45} {cell['accuracy']:7.1%}  n={cell['n']}")
    for key in ("blank_grey", "blank_black", "blank_white", "neither"):
        row = results[key]
        print(f"  {key:14} {row['accuracy']:.1%} right, {row['listed']:.1%} a listed option, "
              f"{row['first']:.1%} the first, n={row['n']}")  # fmt: skip


def evaluation_items(args):
    """The stored pairs, or, before they are built, freshly rendered held-out scenes."""
    if args.data.exists() and not args.fresh:
        return evaluation.stored_items(args.data)
    return evaluation.rendered_items(args.fresh or 200, seed=99)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "checkpoints")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "embedded")
    parser.add_argument("--cache", type=Path, default=ROOT / "_build" / "training")
    parser.add_argument("--only", choices=NAMES, action="append", help="one model, not all")
    parser.add_argument("--scale", type=float, default=1.0, help="of the budget, to try it out")
    parser.add_argument("--fresh", type=int, default=0, help="evaluate on N new scenes a family")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the saved files")
    parser.add_argument("--card", action="store_true", help="only write the model card")
    args = parser.parse_args()
    args.steps = {name: max(1, round(n * args.scale)) for name, n in STEPS.items()}
    torch.set_num_threads(1)
    shortcuts.keep_memory()
    if args.card:
        card.write(args.out)
        return
    if not args.evaluate:
        data = pool.load_pool(round(POOL_SIZE * args.scale), POOL_SEED, args.cache)
        log(f"pool of {len(data)} scenes")
    items = evaluation_items(args)
    for name in args.only or NAMES:
        folder = args.out / name
        path = folder / "metrics.json"
        metrics = {} if not args.evaluate else json.loads(path.read_text())
        if not args.evaluate:
            metrics["training"] = train(name, data, args)
        metrics["results"] = evaluation.evaluate(folder, items)
        path.write_text(json.dumps(metrics, indent=1) + "\n")
        report(name, metrics["results"])


if __name__ == "__main__":
    main()
