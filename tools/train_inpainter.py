"""Train, evaluate and describe the inpainting model in data/checkpoints/inpaint-mini.

    python tools/train_inpainter.py               # render, train, evaluate, write the card
    python tools/train_inpainter.py --evaluate    # the saved model, and write the card
    python tools/train_inpainter.py --card        # write the card from saved measurements

It learns from pairs of rendered scenes that differ in one word: the surroundings of a box in one
scene, the caption of the other, and, to be painted, what the other shows in the box.
"""

import argparse
import copy
import json
import math
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from notice_lib.corruption.inpainters import (  # noqa: E402
    BLOCK,
    MARGIN,
    WordInpainter,
    bag_of_words,
    denoise,
)
from tools.train_minis import hardware  # noqa: E402
from tools.training import inpainting, inpainting_card, loops, pool  # noqa: E402

SIZE = 64  # pixels a side of the painted window
SCENES, SEED = 10_000, 13
STEPS, BATCH, RATE = 1500, 32, 1e-3
AVERAGE = 0.998  # decay of the moving average of the weights, which is what is saved
OUTSIDE = 0.1  # weight of the loss outside the box
OUT = ROOT / "data" / "checkpoints" / "inpaint-mini"


def log(message):
    print(time.strftime("%H:%M:%S"), message, flush=True)


def build_unet(n_words):
    """The U-Net: noisy picture, surroundings and box in; the clean picture out."""
    return UNet2DConditionModel(
        sample_size=SIZE // BLOCK,
        in_channels=7 * BLOCK**2,
        out_channels=3 * BLOCK**2,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        attention_head_dim=32,
        norm_num_groups=8,
        cross_attention_dim=32,  # of no block here; the class wants a number
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=n_words,
    )


def build_scheduler():
    """Noise by the squared cosine; the network predicts the clean picture ("sample")."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", timestep_spacing="trailing"
    )


def batch_of(examples, bags, rng):
    """target, known (n, 3, SIZE, SIZE) in [-1, 1], hole (n, 1, SIZE, SIZE), and bags of words."""
    chosen = rng.integers(len(examples), size=BATCH)
    source, target, hole = (
        torch.from_numpy(array[chosen])
        for array in (examples.source, examples.target, examples.holes)
    )
    source, target = (x.permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (source, target))
    hole = hole[:, None].float()
    flipped = torch.from_numpy(rng.random(BATCH) < 0.5)[:, None, None, None]
    target, known, hole = (
        torch.where(flipped, x.flip(-1), x) for x in (target, source * (1 - hole), hole)
    )
    return target, known, hole, bags[torch.from_numpy(chosen)]


def loss_of(unet, batch, scheduler):
    """Squared error of the clean picture, mostly inside the box, at random times."""
    target, known, hole, told = batch
    # More of the noisy times: there the picture is decided.
    times = (torch.rand(BATCH).sqrt() * scheduler.config.num_train_timesteps).long()
    noisy = scheduler.add_noise(target, torch.randn_like(target), times)
    with loops.computing("cpu"):
        picture = denoise(unet, noisy, known, hole, times, told)
    weight = hole + OUTSIDE * (1 - hole)
    return (weight * (picture.float() - target) ** 2).sum() / weight.sum()


def rate(step, steps):
    """Factor of the learning rate: warm-up, constant, then a cosine."""
    part = (step + 1) / steps
    if part < 0.03:
        return part / 0.03
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * max(0.0, (part - 0.4) / 0.6)))


def train(unet, examples, bags, steps, seed, save):
    """Train in place, and `save` the moving average of the weights now and then.

    Returns the minutes of processor time and the mean loss of the last 100 steps.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    unet.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(unet)
    scheduler = build_scheduler()
    optimizer = torch.optim.AdamW(unet.parameters(), RATE, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    started, losses = time.process_time(), []
    for step in range(1, steps + 1):
        loss = loss_of(unet, batch_of(examples, bags, rng), scheduler)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        follow(average, unet, min(AVERAGE, step / (step + 20)))
        losses.append(loss.item())
        minutes = (time.process_time() - started) / 60
        if step % 100 == 0:
            log(f"step {step}/{steps}, {minutes:.1f} minutes of the core, "
                f"loss {np.mean(losses[-100:]):.4f}")  # fmt: skip
        if step % 300 == 0 or step == steps:
            save(average)
    return minutes, float(np.mean(losses[-100:]))


@torch.no_grad()
def follow(average, unet, decay):
    """Move an average of the weights towards the weights."""
    for kept, new in zip(average.parameters(), unet.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def save_to(folder, words):
    """A function that writes a U-Net, float16, with scheduler and words to the folder."""

    def save(unet):
        copy.deepcopy(unet).half().save_pretrained(folder)
        (folder / "diffusion_pytorch_model.safetensors").chmod(0o644)
        build_scheduler().save_pretrained(folder)
        (folder / "words.json").write_text(json.dumps(words) + "\n", encoding="utf-8")

    return save


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--cache", type=Path, default=ROOT / "_build" / "training")
    parser.add_argument("--scenes", type=int, default=SCENES, help="pairs of scenes")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the saved model")
    parser.add_argument("--each", type=int, help="evaluate on as many scenes of each set, not all")
    parser.add_argument("--card", action="store_true", help="only write the card")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured = args.out / "metrics.json"
    metrics = json.loads(measured.read_text()) if args.evaluate or args.card else {}
    if not metrics:
        metrics["training"] = train_and_save(args)
    if not args.card:
        metrics["results"] = inpainting_card.summary(inpainting_card.evaluate(args.out, args.each))
        measured.write_text(json.dumps(metrics, indent=1) + "\n")
    inpainting_card.write(
        args.out, metrics, weights=count(args.out), words=len(pool.words()), size=SIZE,
        margin=MARGIN, scenes=SCENES, guidance=WordInpainter.guidance,
    )  # fmt: skip


def train_and_save(args):
    """Train a U-Net from nothing into the folder args.out; what the card says of it."""
    words = pool.words()
    examples = inpainting.load_examples(args.scenes, SIZE, SEED, args.cache)
    log(f"{len(examples)} windows")
    bags = torch.stack([bag_of_words(caption, words) for caption in examples.captions])
    torch.manual_seed(SEED)
    unet = build_unet(len(words))
    minutes, loss = train(unet, examples, bags, args.steps, SEED, save_to(args.out, words))
    return {
        "steps": args.steps,
        "batch": BATCH,
        "minutes": round(minutes, 1),
        "loss": round(loss, 4),
        "hardware": hardware(),
        "versions": {package: version(package) for package in ("torch", "diffusers", "numpy")},
    }


def count(folder):
    """The number of weights of a saved U-Net."""
    with safe_open(folder / "diffusion_pytorch_model.safetensors", "pt") as stored:
        return sum(stored.get_tensor(name).numel() for name in stored.keys())  # noqa: SIM118


if __name__ == "__main__":
    main()
