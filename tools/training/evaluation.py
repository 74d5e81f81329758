"""Accuracy of saved checkpoints, asked through plain Hugging Face classes, never padded.

An answer counts as right where the most probable of *all* tokens is the right word.
"""

import csv
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, BlipForQuestionAnswering, LlavaForConditionalGeneration

from tools import scenes as renderer
from tools.training.models import LLAVA_PROMPT
from tools.training.pool import sample_scene

CLASSES = {
    "blip-mini": BlipForQuestionAnswering,
    "llava-mini": LlavaForConditionalGeneration,
    "blip-mini-noise": BlipForQuestionAnswering,
}
FAMILIES = ("svo", "states", "faces")
BLANKS = {"grey": 128, "black": 0, "white": 255}
BATCH = 100


@dataclass(frozen=True)
class Item:
    """One question: an image (a path or an RGB array), its wording and both answers."""

    image: object
    prompt: str
    correct: str
    incorrect: str
    family: str
    slot: str
    split: str
    order: str
    distractor: bool
    shown: frozenset = frozenset()


def load(folder):
    """(model in float32, processor) of the checkpoint in `folder`, named as in CLASSES."""
    folder = Path(folder)
    model = (
        CLASSES[folder.name]
        .from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        .eval()
    )
    return model, AutoProcessor.from_pretrained(folder, backend="pil")


def stored_items(folder):
    """The questions of the clean images of the sets svo, states and faces in data/embedded."""
    items = []
    for family in FAMILIES:
        with open(Path(folder) / family / "pairs.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                items.append(
                    Item(
                        image=str(Path(folder) / family / row["clean_image"]),
                        prompt=row["prompt"],
                        correct=row["correct"],
                        incorrect=row["incorrect"],
                        family=family,
                        slot=row["slot"],
                        split=row["split"],
                        order=row["order"],
                        distractor=row["distractor"].lower() == "true",
                        shown=frozenset(row["shown"].split()),
                    )
                )
    return items


def rendered_items(scenes_per_family, seed, split="heldout", distractors=0.3):
    """Questions on fresh scenes, each in both answer orders: for choosing a recipe."""
    rng = np.random.default_rng(seed)
    items = []
    for family in FAMILIES:
        for _ in range(scenes_per_family):
            scene = sample_scene(family, rng, split, distractors)
            image = renderer.render(scene)[0]
            slots = renderer.SLOTS["svo"] if family == "svo" else [renderer.slot_of(scene)]
            for slot in slots:
                items += both_orders(scene, slot, image, rng, split)
    return items


def both_orders(scene, slot, image, rng, split):
    shown = renderer.shown(scene, slot)
    correct = renderer.value(scene, slot)
    lures = sorted(shown - {correct})
    others = lures or renderer.options(scene, slot)
    incorrect = others[rng.integers(len(others))]
    for order in ("correct_first", "incorrect_first"):
        words = (correct, incorrect) if order == "correct_first" else (incorrect, correct)
        prompt = renderer.question(scene, slot, *words)
        yield Item(
            image, prompt, correct, incorrect, scene.family, slot, split, order, bool(lures), shown
        )


def blank(items, level):
    """`items` on a plain picture of one grey `level` (0 to 255)."""
    picture = np.full((renderer.SIZE, renderer.SIZE, 3), level, np.uint8)
    return [replace(item, image=picture) for item in items]


def neither(items, seed=0):
    """`items` with both options replaced by words that are not true of their image."""
    rng = np.random.default_rng(seed)
    changed = []
    for item in items:
        taken = item.shown | {item.correct, item.incorrect}
        absent = [word for word in renderer.VALUES[item.slot] if word not in taken]
        new = dict(
            zip((item.correct, item.incorrect), rng.choice(absent, 2, replace=False), strict=True)
        )
        prompt = " ".join(_swap_word(word, new) for word in item.prompt.split(" "))
        changed.append(
            replace(
                item,
                prompt=prompt,
                correct=str(new[item.correct]),
                incorrect=str(new[item.incorrect]),
            )
        )
    return changed


def _swap_word(word, new):
    bare = word.rstrip("?")
    return str(new.get(bare, bare)) + word[len(bare) :]


@torch.no_grad()
def answer(model, processor, items):
    """The most probable answer word to each of `items`, over the whole vocabulary."""
    if isinstance(model, BlipForQuestionAnswering):
        prompts, ask = [item.prompt for item in items], _ask_blip
    else:
        prompts = [LLAVA_PROMPT.format(question=item.prompt) for item in items]
        ask = _ask_llava
    lengths = [len(ids) for ids in processor.tokenizer(prompts).input_ids]
    answers = [""] * len(items)
    for length in sorted(set(lengths)):
        group = [i for i, n in enumerate(lengths) if n == length]
        for start in range(0, len(group), BATCH):
            chosen = group[start : start + BATCH]
            inputs = processor(
                images=[picture(items[i].image) for i in chosen],
                text=[prompts[i] for i in chosen],
                return_tensors="pt",
            )
            for i, token in zip(chosen, ask(model, inputs).argmax(-1), strict=True):
                answers[i] = processor.tokenizer.decode(token).strip()
    return answers


def picture(image):
    """The PIL image of an Item."""
    return Image.open(image).convert("RGB") if isinstance(image, str) else Image.fromarray(image)


def _ask_blip(model, inputs):
    # Most of the work is the tower, and several questions are of one picture.
    pictures, which = inputs.pixel_values.unique(dim=0, return_inverse=True)
    seen = model.vision_model(pictures).last_hidden_state[which]
    question = model.text_encoder(
        input_ids=inputs.input_ids, encoder_hidden_states=seen
    ).last_hidden_state
    start = torch.full((len(question), 1), model.decoder_start_token_id)
    return model.text_decoder(input_ids=start, encoder_hidden_states=question).logits[:, -1]


def _ask_llava(model, inputs):
    return model(**inputs, logits_to_keep=1).logits[:, -1]


def table(items, answers):
    """{group: {"accuracy", "n"}} by family, slot, order, split and distractor."""
    totals, right = Counter(), Counter()
    for item, given in zip(items, answers, strict=True):
        kind = "distractor" if item.distractor else "plain"
        for key in (
            f"{item.family}/{item.split}/{kind}",
            f"{item.family}/{item.split}/{kind}/{item.order}",
            f"{item.slot}/{item.split}/{kind}",
        ):
            totals[key] += 1
            right[key] += given == item.correct
    return {key: {"accuracy": right[key] / n, "n": n} for key, n in sorted(totals.items())}


def without_evidence(items, answers):
    """Shares of the answers to questions without a true option, and their number.

    accuracy: the "correct" option (chance: half of listed); listed: one of the two options; first:
    the option that stands first.
    """
    pairs = list(zip(items, answers, strict=True))
    hits = {
        "accuracy": [given == item.correct for item, given in pairs],
        "listed": [given in (item.correct, item.incorrect) for item, given in pairs],
        "first": [given == first_option(item) for item, given in pairs],
    }
    return {name: float(np.mean(values)) for name, values in hits.items()} | {"n": len(pairs)}


def first_option(item):
    """The option of an Item that stands first in its prompt."""
    return item.correct if item.order == "correct_first" else item.incorrect


def evaluate(folder, items):
    """All measurements of the checkpoint in `folder` on `items`, as plain values."""
    model, processor = load(folder)
    results = {"answers": table(items, answer(model, processor, items))}
    for name, level in BLANKS.items():
        questions = blank(items, level)
        results[f"blank_{name}"] = without_evidence(questions, answer(model, processor, questions))
    questions = neither(items)
    results["neither"] = without_evidence(questions, answer(model, processor, questions))
    return results
