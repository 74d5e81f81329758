"""Train, evaluate and describe the small models in data/checkpoints.

    python tools/train_minis.py --seed 1 --out data/checkpoints/seeds/1   # train, then evaluate
    python tools/train_minis.py --evaluate --out data/checkpoints/seeds/1 # evaluate what is saved
    python tools/train_minis.py --card --out data/checkpoints             # write the card there

The pool of scenes and the state of each training are kept in --cache: a training that is stopped
goes on from there. The budget is counted in steps, so that a seed gives the same model on the same
machine and versions. --device cuda trains on a GPU.
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

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.training import batches, card, evaluation, forward, loops, memory, models, pool  # noqa: E402
from tools.training.recipes import CAPTIONS, CHOSEN, RECIPES, WEIGHT_DECAY  # noqa: E402

POOL_SEED, POOL_SIZE = 20, 50_000
FURTHER_SEED, FURTHER_SIZE = 21, 12_000


def log(message):
    print(time.strftime("%H:%M:%S"), message, flush=True)


def hardware(device="cpu"):
    """The name of the GPU, or of the CPU and the number of threads used."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} thread(s)"


class Training:
    """One model in training: its parts, its forward pass, and where its states are kept."""

    def __init__(self, name, recipe, args):
        self.name, self.recipe, self.args = name, recipe, args
        torch.manual_seed(args.seed)
        if name.startswith("llava"):
            self.processor = models.build_llava_processor(pool.words())
            self.model = models.build_llava(self.processor.tokenizer).to(args.device)
            self.model.set_attn_implementation(forward.LEAN_ATTENTION)
            self.words = batches.llava_words(self.processor.tokenizer)
            self.tower, self.states_of = self.model.model.vision_tower, forward.clip_image
            self.logits = loops.llava_logits(self.model, self.processor.tokenizer)
            self.parts = loops.llava_parts
        else:
            self.processor = models.build_blip_processor(pool.words())
            self.model = models.build_blip(self.processor.tokenizer).to(args.device)
            self.words = batches.blip_words(self.processor.tokenizer)
            self.tower, self.states_of = self.model.vision_model, forward.blip_image
            self.logits = loops.blip_logits(self.model)
            self.parts = loops.blip_parts

    def fit(self, stage, of, data, weight_decay=WEIGHT_DECAY):
        """How a stage is fitted; models of one family share the state of stage 1."""
        args = self.args
        path = args.cache / f"{of}-{data.key}-{args.seed}-stage{stage}.safetensors"
        return loops.Fit(path, args.seed, args.device, args.workers, log, weight_decay)

    def stage_1(self, data):
        """Minutes of learning what patches show, or captions of whole pictures."""
        steps, seed = self.recipe.steps[0], [self.args.seed, 1]
        family = self.name.split("-")[0]
        fit = self.fit(1, f"{family}-{self.recipe.start}-{steps}", data)
        if self.recipe.start == "patches":
            return loops.train_patches(data, self.tower, self.states_of, steps, seed, fit)
        asked = batches.QuestionBatches(data, self.words, seed, steps, CAPTIONS)
        return loops.train_questions(data, self.parts(self.model, 1.0), self.logits, asked, fit)

    def stage_2(self, data):
        """Minutes of learning to answer questions."""
        parts = self.parts(self.model, loops.VISION_RATE)
        return self.ask(2, data, parts, captions=self.recipe.captions)

    def stage_3(self, data):
        """Minutes of learning to answer questions about a pool of further scenes."""
        parts = [(module, loops.FURTHER_RATE) for module, _ in self.parts(self.model, 1.0)]
        return self.ask(3, data, parts, size=loops.FURTHER_BATCH)

    def ask(self, stage, data, parts, **given):
        recipe, seed = self.recipe, [self.args.seed, stage]
        steps = recipe.steps[stage - 1]
        asked = batches.QuestionBatches(data, self.words, seed, steps, recipe.kinds, **given)
        noisy = loops.noisy_embeddings(self.tower) if recipe.noise else nullcontext()
        with noisy:
            fit = self.fit(stage, f"{self.name}-{recipe.key}", data, recipe.weight_decay)
            return loops.train_questions(data, parts, self.logits, asked, fit)

    def restore(self, folder):
        """Take the weights of a saved model after stage 2; how it was trained until then."""
        saved = type(self.model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        self.model.load_state_dict(saved.state_dict())
        return json.loads((folder / "metrics.json").read_text())["training"]


def scenes(name, size, seed, args, **given):
    """A pool of rendered scenes on the grid of a model's patches; what it is, as a dict."""
    grid = models.LLAVA_GRID if name.startswith("llava") else models.BLIP_GRID
    data = pool.load_pool(size, seed, grid, args.cache, args.workers or 2, **given)
    return data, {"scenes": len(data), "seed": seed}


def train(name, recipe, args):
    """Train the model called `name`, save it in float16 in `args.out`/`name`; how, as a dict."""
    log(f"{name}: recipe {recipe}")
    training = Training(name, recipe, args)
    before, minutes, pools = {}, {}, {}
    if args.after_stage_2:
        before = {"before": training.restore(args.after_stage_2 / name)}
    else:
        data, pools["pool"] = scenes(name, args.pool, POOL_SEED, args)
        minutes = {"start": training.stage_1(data), "questions": training.stage_2(data)}
    if recipe.steps[2]:
        further, pools["further"] = scenes(
            name, args.further, FURTHER_SEED, args, nouns=pool.FURTHER
        )
        minutes["further"] = training.stage_3(further)
    folder = args.out / name
    shutil.rmtree(folder, ignore_errors=True)
    if name.startswith("llava"):
        training.model.set_attn_implementation("sdpa")
    training.model.half().cpu().save_pretrained(folder)
    training.processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    return {
        "seed": args.seed,
        "recipe": {"name": args.recipe, "key": recipe.key, **vars(recipe)},
        **pools,
        "minutes": {stage: round(value, 1) for stage, value in minutes.items()},
        "hardware": hardware(args.device),
        "versions": {p: version(p) for p in ("torch", "transformers", "tokenizers", "numpy")},
        **before,
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
    parser.add_argument("--recipe", choices=RECIPES, default=CHOSEN)
    parser.add_argument("--steps", type=int, nargs=3, help="of the stages, not the recipe's")
    parser.add_argument("--after-stage-2", type=Path, help="folder of models that had stages 1, 2")
    parser.add_argument("--further", type=int, default=FURTHER_SIZE, help="scenes of stage 3")
    parser.add_argument("--pool", type=int, default=POOL_SIZE, help="scenes to learn from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the models")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "embedded")
    parser.add_argument("--cache", type=Path, default=ROOT / "_build" / "training")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    parser.add_argument("--only", choices=evaluation.CLASSES, action="append", help="one model")
    parser.add_argument("--fresh", type=int, default=0, help="evaluate on N new scenes a family")
    parser.add_argument("--no-evaluation", action="store_true", help="only train")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the saved files")
    parser.add_argument("--card", action="store_true", help="only write the model card")
    args = parser.parse_args()
    torch.set_num_threads(1)
    memory.keep()
    if args.card:
        card.write(args.out)
        return
    for name in args.only or evaluation.CLASSES:
        path = args.out / name / "metrics.json"
        metrics = json.loads(path.read_text()) if args.evaluate else {}
        if not args.evaluate:
            recipe = RECIPES[args.recipe].of(name, args.steps)
            metrics["training"] = train(name, recipe, args)
        if not args.no_evaluation:
            metrics["results"] = evaluation.evaluate(args.out / name, evaluation_items(args))
            report(name, metrics["results"])
        path.write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
