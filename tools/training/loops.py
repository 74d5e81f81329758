"""The training runs: the vision tower on patches, then each model on questions."""

import math
import os
import time
from collections import defaultdict
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from tools.training import batches, forward, models
from tools.training.pool import HEADS, IGNORED
from tools.training.recipes import WEIGHT_DECAY

LEARNING_RATE = 1e-3
VISION_RATE = 0.3  # of the learning rate, once the tower is trained on patches
FURTHER_RATE, FURTHER_BATCH = 0.3, 64  # of the learning rate, and images a step, in stage 3
WARM_UP, HOLD = 0.05, 0.4  # parts of the steps; then a cosine down to FLOOR
FLOOR = 0.02
STOP_WEIGHT = 0.1  # of the token that ends an answer, which generate() needs
SHIFT = 3  # pixels by which pictures are moved
NOISY, MOST_NOISE = 0.5, 4.0  # share of noisy images; their largest noise in standard deviations
LOG_EVERY, SAVE_EVERY = 100, 500  # steps
MODULES, OPTIMIZER = "modules.", "optimizer."  # in the names of saved tensors


def to_tensor(pixels):
    """float32 (n, 3, size, size): `pixels` (n, size, size, 3) uint8 as the processors do it."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    return (scaled - models.PIXEL_MEAN) / models.PIXEL_STD


def augment(pixels):
    """Move the pictures a little; vary contrast, brightness and, less, tint.

    Colours are answers and must stay.
    """
    n, size, device = len(pixels), pixels.shape[-1], pixels.device
    x, y = torch.randint(2 * SHIFT + 1, (2,)).tolist()
    moved = F.pad(pixels, (SHIFT,) * 4, mode="replicate")[:, :, y : y + size, x : x + size]
    one, three = (n, 1, 1, 1), (n, 3, 1, 1)
    gain = 1 + 0.1 * torch.randn(one, device=device) + 0.04 * torch.randn(three, device=device)
    light = 0.15 * torch.randn(one, device=device) + 0.05 * torch.randn(three, device=device)
    return moved * gain + light


def computing(device):
    """A context of the forward pass: bfloat16, but where a CPU would have to emulate it.

    There a step takes more than ten times as long as in float32.
    """
    if device == "cpu" and not has_bfloat16():
        return nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16)


def has_bfloat16():
    """Whether this machine's CPU computes in bfloat16 by itself."""
    mkldnn = torch.backends.mkldnn.is_available()
    return mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def noisy_embeddings(tower):
    """While open, half of the images get Gaussian noise on the embeddings of their patches.

    As `notice_lib.corruption.GaussianNoise` adds it, of a strength drawn between none and the most.
    """

    def add_noise(module, args, embeddings):
        n, device = len(embeddings), embeddings.device
        strength = torch.rand(n, 1, 1, device=device) * MOST_NOISE
        strength = strength * (torch.rand(n, 1, 1, device=device) < NOISY)
        noise = torch.randn(embeddings.shape, device=device)
        noise[:, 0] = 0  # of the class token
        scale = embeddings.detach().float().std((1, 2), keepdim=True)
        return embeddings + (noise * strength * scale).to(embeddings)

    handle = tower.embeddings.register_forward_hook(add_noise)
    try:
        yield
    finally:
        handle.remove()


def train_patches(pool, tower, states_of, steps, seed, fit):
    """Stage 1: `tower` predicts for each patch what it shows. `states_of` is its forward pass."""
    device = next(tower.parameters()).device
    pixels = torch.from_numpy(np.asarray(pool.pixels)).to(device)
    labels = {name: torch.from_numpy(np.asarray(a)).to(device) for name, a in pool.labels.items()}
    readout = torch.nn.Linear(models.HIDDEN, sum(map(len, HEADS.values()))).to(device)

    def loss(batch):
        chosen = batch["images"].to(device)
        states = states_of(tower, augment(to_tensor(pixels[chosen])))[:, 1:]
        scores = readout(states).float().split([len(words) for words in HEADS.values()], -1)
        losses, hits = [], {}
        for name, logits in zip(HEADS, scores, strict=True):
            target = labels[name][chosen].long()
            known = target != IGNORED
            sums = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
            losses.append(sums / known.sum().clamp(min=1))
            hits[name] = ((logits.argmax(-1) == target) & known).sum(), known.sum()
        return sum(losses), hits

    return fit([(tower, 1.0), (readout, 1.0)], loss, batches.PatchBatches(pool, seed, steps))


def train_questions(pool, parts, logits_of, dataset, fit):
    """Stage 2: cross-entropy of the answers.

    `parts` are modules and the factor of their learning rate; `logits_of(pixels, batch)` is the
    model's forward pass.
    """
    device = next(parts[0][0].parameters()).device
    pixels = torch.from_numpy(np.asarray(pool.pixels)).to(device)

    def loss(batch):
        kinds = np.array(batch["kinds"])
        batch = {name: x.to(device) for name, x in batch.items() if name != "kinds"}
        chosen, plain = pixels[batch["images"]], batch["plain"][:, None, None]
        shown = torch.where(plain >= 0, plain, chosen).to(torch.uint8)
        scores = logits_of(augment(to_tensor(shown)), batch).float().log_softmax(-1)
        right = scores[:, 0].argmax(-1) == batch["answers"][:, 0]
        hits = {}
        for kind in np.unique(kinds):
            of_kind = torch.from_numpy(kinds == kind).to(device)
            hits[str(kind)] = (right & of_kind).sum(), of_kind.sum()
        return answer_loss(scores, batch["answers"], batch["others"]), hits

    return fit(parts, loss, dataset)


def answer_loss(scores, answers, others):
    """Cross-entropy of log-probabilities (n, tokens, vocabulary): an answer's mean, and its end.

    An answer and its `others` share the first token's probability where they differ.
    """
    there = answers >= 0
    costs = -scores.gather(-1, answers.clamp(min=0)[..., None])[..., 0] * there
    other = -scores[:, 0].gather(-1, others[:, None])[:, 0]
    costs = torch.cat([((costs[:, 0] + other) / 2)[:, None], costs[:, 1:]], 1)
    words = there.sum(1) - 1
    is_end = torch.arange(answers.shape[1], device=answers.device) == words[:, None]
    of_words = (costs * (there & ~is_end)).sum(1) / words
    return (of_words + STOP_WEIGHT * (costs * is_end).sum(1)).mean()


def blip_parts(model, vision_rate):
    return [(model.vision_model, vision_rate), (model.text_encoder, 1.0), (model.text_decoder, 1.0)]


def blip_logits(model):
    """The forward pass of BLIP: (pixels, batch) to logits."""
    return lambda pixels, batch: forward.blip_logits(
        model, forward.blip_image(model.vision_model, pixels), batch
    )


def llava_parts(model, vision_rate):
    core = model.model
    parts = [(core.vision_tower, vision_rate), (core.multi_modal_projector, 1.0)]
    return [*parts, (core.language_model, 1.0), (model.lm_head, 1.0)]


def llava_logits(model, tokenizer):
    """The forward pass of LLaVA: (pixels, batch) to logits."""
    ids = tokenizer(models.LLAVA_PROMPT).input_ids
    before = torch.tensor(ids[: ids.index(model.config.image_token_id)], device=model.device)

    def logits(pixels, batch):
        seen = forward.clip_image(model.model.vision_tower, pixels)[:, 1:]
        return forward.llava_logits(model, model.model.multi_modal_projector(seen), batch, before)

    return logits


class Fit:
    """Minimises a loss with AdamW, see `computing`; goes on where it was stopped.

    Called with `parts` (modules and the factors of their learning rates), a loss and a dataset of
    batches, it returns the minutes taken. `path` is the file that it saves every SAVE_EVERY steps.
    """

    def __init__(self, path, seed, device, workers, log, weight_decay=WEIGHT_DECAY):
        self.path, self.seed, self.device, self.workers, self.log = path, seed, device, workers, log
        self.weight_decay = weight_decay

    def __call__(self, parts, loss_and_hits, dataset):
        steps, modules = len(dataset), torch.nn.ModuleList(module for module, _ in parts)
        groups = [{"params": list(m.parameters()), "lr": LEARNING_RATE * f} for m, f in parts]
        optimizer = torch.optim.AdamW(
            groups, weight_decay=self.weight_decay, betas=(0.9, 0.98), fused=True
        )
        done, minutes = self._restore(modules, optimizer)
        started, recent = time.time(), _Recent()
        ahead = DataLoader(
            Subset(dataset, range(done, steps)), batch_size=None, num_workers=self.workers
        )
        for step, batch in enumerate(ahead, done + 1):
            torch.manual_seed(1_000_003 * self.seed + step)
            for group, (_, factor) in zip(optimizer.param_groups, parts, strict=True):
                group["lr"] = LEARNING_RATE * factor * rate(step - 1, steps)
            with computing(self.device):
                loss, hits = loss_and_hits(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            optimizer.step()
            recent.add(loss, hits)
            spent = minutes + (time.time() - started) / 60
            if step % LOG_EVERY == 0 or step == steps:
                self.log(f"step {step}/{steps} {spent:.1f} min {recent}")
                recent = _Recent()
            if step % SAVE_EVERY == 0 or step == steps:
                self._save(modules, optimizer, step, spent)
        minutes += (time.time() - started) / 60
        self.log(f"{(steps - done) / (time.time() - started):.2f} steps a second")
        return minutes

    def _save(self, modules, optimizer, step, minutes):
        tensors = {f"{MODULES}{name}": tensor for name, tensor in modules.state_dict().items()}
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{OPTIMIZER}{i}.{name}": tensor for name, tensor in state.items()}
        tensors = {
            name: tensor.detach().clone() for name, tensor in tensors.items()
        }  # some are tied
        partial = self.path.with_suffix(f".{os.getpid()}")
        save_file(tensors, partial, {"step": str(step), "minutes": str(minutes)})
        partial.replace(self.path)

    def _restore(self, modules, optimizer):
        """The steps done before, and their minutes."""
        if not self.path.exists():
            return 0, 0.0
        weights, states = {}, defaultdict(dict)
        for name, tensor in load_file(self.path, self.device).items():
            if name.startswith(MODULES):
                weights[name.removeprefix(MODULES)] = tensor
            else:
                number, _, kind = name.removeprefix(OPTIMIZER).partition(".")
                states[int(number)][kind] = tensor
        modules.load_state_dict(weights)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(states)})
        with safe_open(self.path, "pt") as stored:
            about = stored.metadata()
        return int(about["step"]), float(about["minutes"])


class _Recent:
    """Means of the loss and of the hits since the last line of the log."""

    def __init__(self):
        self.losses, self.hits = [], defaultdict(list)

    def add(self, loss, hits):
        self.losses.append(loss.detach())
        for name, counts in hits.items():
            self.hits[name].append(torch.stack(counts))

    def __str__(self):
        parts = [f"loss {torch.stack(self.losses).mean():.3f}"]
        for name, counts in sorted(self.hits.items()):
            right, n = torch.stack(counts).sum(0).tolist()
            parts.append(f"{name} {right / max(n, 1):.3f}")
        return " ".join(parts)


def rate(step, steps):
    """Factor of the learning rate: warm-up, constant, then a cosine."""
    part = (step + 1) / steps
    if part < WARM_UP:
        return part / WARM_UP
    falling = max(0.0, (part - HOLD) / (1 - HOLD))
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * falling))
