"""The three training runs: the vision tower on patches, then each model on questions."""

import math
import time
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn import functional as F

from tools.training import models
from tools.training.pool import HEADS, IGNORED
from tools.training.questions import QUESTIONS_PER_IMAGE, draw_batch, mixture
from tools.training.shortcuts import LEAN_ATTENTION, blip_shortcuts

BATCH = 64
LEARNING_RATE = 1e-3
VISION_RATE = 0.3  # of the learning rate, once the tower is trained on patches
WARM_UP, HOLD = 0.05, 0.5  # parts of the steps; then a cosine down to FLOOR
FLOOR = 0.02
STOP_WEIGHT = 0.1  # of the end-of-answer token, which generate() needs
MASKED = -1e9
NOISY, MOST_NOISE = 0.5, 4.0  # share of noisy images; their largest noise in standard deviations


def to_tensor(pixels):
    """float32 (n, 3, 96, 96): `pixels` (n, 96, 96, 3) uint8 as the processors normalise them."""
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (scaled - models.PIXEL_MEAN) / models.PIXEL_STD


def augment(pixels):
    """Vary contrast, brightness and, little, tint: colours are answers and must stay."""
    n = len(pixels)
    gain = 1 + 0.1 * torch.randn(n, 1, 1, 1) + 0.04 * torch.randn(n, 3, 1, 1)
    shift = 0.15 * torch.randn(n, 1, 1, 1) + 0.05 * torch.randn(n, 3, 1, 1)
    return pixels * gain + shift


@contextmanager
def noisy_embeddings(tower, seed):
    """While open, half of the images get Gaussian noise on the embeddings of their patches.

    As `notice_lib.corruption.GaussianNoise` adds it, of a strength drawn between none and the most.
    """
    generator = torch.Generator().manual_seed(seed)

    def add_noise(module, args, embeddings):
        n = len(embeddings)
        strength = torch.rand(n, 1, 1, generator=generator) * MOST_NOISE
        strength = strength * (torch.rand(n, 1, 1, generator=generator) < NOISY)
        noise = torch.randn(embeddings.shape, generator=generator)
        noise[:, 0] = 0  # of the class token
        scale = embeddings.detach().float().std((1, 2), keepdim=True)
        return embeddings + (noise * strength * scale).to(embeddings)

    handle = tower.embeddings.register_forward_hook(add_noise)
    try:
        yield
    finally:
        handle.remove()


def train_vision(pool, tower, steps, rng, log):
    """Stage 1: `tower` predicts for each patch what it shows."""
    sizes = [len(classes) for classes in HEADS.values()]
    readout = torch.nn.Linear(models.HIDDEN, sum(sizes))

    def loss():
        chosen = rng.integers(len(pool), size=BATCH)
        states = tower(augment(to_tensor(pool.pixels[chosen]))).last_hidden_state[:, 1:]
        losses, hits = [], {}
        for name, logits in zip(HEADS, readout(states).float().split(sizes, -1), strict=True):
            target = torch.from_numpy(pool.labels[name][chosen])
            known = target != IGNORED
            if known.any():
                losses.append(F.cross_entropy(logits[known], target[known]))
                hits[name] = (logits[known].argmax(-1) == target[known]).tolist()
        return sum(losses), hits

    return _fit([(tower, 1.0), (readout, 1.0)], loss, steps, log)


def train_blip(pool, model, tokenizer, steps, rng, log):
    """Stage 2 for BLIP: cross-entropy of the answer."""
    probabilities = mixture(pool)

    def loss():
        batch = draw_batch(pool, BATCH, rng, probabilities)
        states = model.vision_model(augment(to_tensor(batch.pixels))).last_hidden_state
        ids = tokenizer([q.text for q in batch.questions]).input_ids
        answers = _answer_ids(batch.questions, tokenizer, "")
        total, hits = 0.0, {}
        for members in _equal_lengths(ids):
            images = members[:: _per_image(members)] // QUESTIONS_PER_IMAGE
            question = model.text_encoder(
                input_ids=torch.tensor([ids[i] for i in members]),
                encoder_hidden_states=states[images],
            ).last_hidden_state
            start = torch.full((len(members),), model.decoder_start_token_id)
            logits = model.text_decoder(
                input_ids=torch.stack([start, answers[members, 0]], 1),
                encoder_hidden_states=question,
                use_cache=False,
            ).logits
            asked = [batch.questions[i] for i in members]
            part, right = _answer_loss(logits, asked, answers[members], tokenizer.sep_token_id)
            total = total + part * len(members) / len(ids)
            _count(asked, right, hits)
        return total, hits

    parts = [(model.vision_model, VISION_RATE), (model.text_encoder, 1.0)]
    parts += [(model.text_decoder, 1.0)]
    with blip_shortcuts(model):
        return _fit(parts, loss, steps, log)


def train_llava(pool, model, tokenizer, steps, rng, log):
    """Stage 2 for LLaVA: cross-entropy of the answer."""
    probabilities = mixture(pool)
    core = model.model
    image_token = model.config.image_token_id
    prefix = tokenizer(models.LLAVA_PROMPT).input_ids
    prefix = torch.tensor(prefix[: prefix.index(image_token)])
    before = core.vision_tower.config._attn_implementation
    model.set_attn_implementation(LEAN_ATTENTION)

    def loss():
        batch = draw_batch(pool, BATCH, rng, probabilities)
        prompts = [models.LLAVA_PROMPT.format(question=q.text) for q in batch.questions]
        ids = [x[x.index(image_token) + 1 :] for x in tokenizer(prompts).input_ids]
        answers = _answer_ids(batch.questions, tokenizer, "▁")
        images = augment(to_tensor(batch.pixels))
        logits = llava_logits(model, images, prefix, ids, answers[:, 0])
        total, right = _answer_loss(logits, batch.questions, answers, tokenizer.eos_token_id)
        hits = {}
        _count(batch.questions, right, hits)
        return total, hits

    parts = [(core.vision_tower, VISION_RATE), (core.multi_modal_projector, 1.0)]
    parts += [(core.language_model, 1.0), (model.lm_head, 1.0)]
    try:
        return _fit(parts, loss, steps, log)
    finally:
        model.set_attn_implementation(before)


def llava_logits(model, images, prefix, questions, answers):
    """Logits (n questions, 2, vocabulary) at the last token of each question and at its answer.

    The questions on one image stand one after the other behind it, each blind to the others, so
    that the image's tokens run through the language model once. `questions` are the token ids
    after the image, image by image; padding at their end is seen by nothing that counts.
    """
    n_images = len(images)
    per_image = len(questions) // n_images
    lengths = torch.tensor([len(q) for q in questions])
    width = int(lengths.max()) + 1
    blocks = torch.zeros(len(questions), width, dtype=torch.long)
    for row, question, answer in zip(blocks, questions, answers, strict=True):
        row[: len(question)] = torch.tensor(question)
        row[len(question)] = answer
    core = model.model
    seen = core.vision_tower(images, output_hidden_states=True).hidden_states
    seen = core.multi_modal_projector(seen[model.config.vision_feature_layer][:, 1:])
    embed = model.get_input_embeddings()
    head = embed(prefix).expand(n_images, -1, -1)
    tail = embed(blocks).view(n_images, per_image * width, -1)
    before = len(prefix) + seen.shape[1]
    mask, positions = _packed_mask(before, per_image, width)
    states = core.language_model(
        inputs_embeds=torch.cat([head, seen.to(head.dtype), tail], 1),
        attention_mask=mask.expand(n_images, -1, -1, -1),
        position_ids=positions.expand(n_images, -1),
        use_cache=False,
    ).last_hidden_state
    states = states[:, before:].reshape(len(questions), width, -1)
    rows = torch.arange(len(questions))
    return model.lm_head(torch.stack([states[rows, lengths - 1], states[rows, lengths]], 1))


def _packed_mask(before, blocks, width):
    """Additive mask (1, 1, t, t), causal and blind between blocks, and positions (1, t)."""
    total = before + blocks * width
    block = torch.arange(blocks).repeat_interleave(width)
    block = torch.cat([torch.full((before,), -1), block])
    visible = (block[None] == -1) | (block[None] == block[:, None])
    visible &= torch.ones(total, total, dtype=torch.bool).tril()
    mask = torch.zeros(total, total).masked_fill(~visible, MASKED)
    positions = torch.cat([torch.arange(before), before + torch.arange(width).repeat(blocks)])
    return mask[None, None], positions[None]


def _equal_lengths(ids):
    """Arrays of question numbers: equal token length, and equally many on each of their images."""
    groups = {}
    for start in range(0, len(ids), QUESTIONS_PER_IMAGE):
        by_length = {}
        for i in range(start, start + QUESTIONS_PER_IMAGE):
            by_length.setdefault(len(ids[i]), []).append(i)
        for length, members in by_length.items():
            groups.setdefault((length, len(members)), []).extend(members)
    return [np.array(members) for members in groups.values()]


def _per_image(members):
    return int((members // QUESTIONS_PER_IMAGE == members[0] // QUESTIONS_PER_IMAGE).sum())


def _answer_ids(questions, tokenizer, start):
    """(n, 2): the token of the right and of the other answer."""
    pairs = [(start + q.answer, start + q.other) for q in questions]
    ids = tokenizer.convert_tokens_to_ids([word for pair in pairs for word in pair])
    return torch.tensor(ids).view(-1, 2)


def _answer_loss(logits, questions, answers, stop):
    """Cross-entropy of logits (n, 2, vocabulary), the answer, then `stop`; and which are right."""
    weight = torch.tensor([0.5 if q.kind == "neither" else 1.0 for q in questions])
    right, other = answers.T
    scores = logits[:, 0].float().log_softmax(-1)
    rows = torch.arange(len(questions))
    loss = -(weight * scores[rows, right] + (1 - weight) * scores[rows, other]).mean()
    stopping = F.cross_entropy(logits[:, 1].float(), torch.full_like(right, stop))
    return loss + STOP_WEIGHT * stopping, (scores.argmax(-1) == right).tolist()


def _count(questions, right, hits):
    """Add to `hits`, {kind: list of bool}, which of the questions were answered correctly."""
    for question, correct in zip(questions, right, strict=True):
        hits.setdefault(question.kind, []).append(correct)


def _rate(step, steps):
    """Factor of the learning rate: warm-up, constant, then a cosine."""
    part = (step + 1) / steps
    if part < WARM_UP:
        return part / WARM_UP
    falling = max(0.0, (part - HOLD) / (1 - HOLD))
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * falling))


def _fit(parts, loss_and_hits, steps, log, every=100):
    """Minimise with AdamW in bfloat16 autocast; `parts` are (module, rate factor). Minutes."""
    groups = [{"params": list(m.parameters()), "lr": LEARNING_RATE * f} for m, f in parts]
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    started, recent = time.time(), {}
    for step in range(1, steps + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, hits = loss_and_hits()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        for name, values in {"loss": [loss.item()], **hits}.items():
            recent.setdefault(name, []).extend(values)
        if step % every == 0 or step == steps:
            means = " ".join(f"{name} {np.mean(v):.3f}" for name, v in sorted(recent.items()))
            log(f"step {step}/{steps} {(time.time() - started) / 60:.1f} min {means}")
            recent = {}
    return (time.time() - started) / 60
