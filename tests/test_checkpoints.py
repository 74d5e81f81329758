"""The shipped checkpoints answer as their card says, through plain Hugging Face classes."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from notice_lib import GaussianNoise, load_model, load_pairs
from notice_lib.corruption import noisy_runs
from tools.training import evaluation, loops

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "data" / "checkpoints"
NAMES = tuple(evaluation.CLASSES)
ORDERS = ("correct_first", "incorrect_first")
MAX_BYTES = 10_000_000
QUESTIONS = 360  # asked without evidence


@cache
def loaded(name):
    return evaluation.load(CHECKPOINTS / name)


@cache
def stored():
    return evaluation.stored_items(ROOT / "data" / "embedded")


def some(items, n, seed=0):
    """`n` of `items`, or all: a sample with a seed."""
    chosen = np.random.default_rng(seed).permutation(len(items))[:n]
    return [items[i] for i in chosen]


def accuracy(items, answers):
    return np.mean([given == item.correct for item, given in zip(items, answers, strict=True)])


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_small_and_holds_no_pickle(name):
    files = [path for path in (CHECKPOINTS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json"}


@pytest.mark.parametrize("name", NAMES)
def test_language_side_has_six_layers_of_eight_heads(name):
    text = loaded(name)[0].config.text_config
    assert text.num_hidden_layers >= 6
    assert text.num_attention_heads >= 8


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_one_token_in_prompt_and_answer(name):
    tokenizer = loaded(name)[1].tokenizer
    for item in stored():
        for word in (item.correct, item.incorrect):
            ids = tokenizer(f" {word}", add_special_tokens=False).input_ids
            assert len(ids) == 1 and ids[0] != tokenizer.unk_token_id
            assert ids[0] in tokenizer(item.prompt).input_ids


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", evaluation.FAMILIES)
def test_held_out_accuracy_in_both_orders(name, family):
    items = [
        item
        for item in stored()
        if item.family == family and item.split == "heldout" and not item.distractor
    ]
    for order in ORDERS:
        group = [item for item in items if item.order == order]
        assert len(group) >= 100
        assert accuracy(group, evaluation.answer(*loaded(name), group)) >= 0.97, order


@pytest.mark.parametrize("name", NAMES)
def test_tells_the_role_where_both_options_are_in_the_picture(name):
    # Not so for states: which of two things is in which state the minis do not know (see the card).
    items = [item for item in stored() if item.distractor and item.family == "svo"]
    assert accuracy(items, evaluation.answer(*loaded(name), items)) >= 0.90


@pytest.mark.parametrize("name", NAMES)
def test_at_chance_without_a_picture(name):
    questions = some(stored(), QUESTIONS)
    levels = list(evaluation.BLANKS.values())
    items = [
        item
        for i, level in enumerate(levels)
        for item in evaluation.blank(questions[i :: len(levels)], level)
    ]
    right = accuracy(items, evaluation.answer(*loaded(name), items))
    assert abs(right - 0.5) <= 0.06


@pytest.mark.parametrize("name", NAMES)
def test_picks_a_listed_option_where_none_is_true(name):
    items = evaluation.neither(some(stored(), QUESTIONS))
    result = evaluation.without_evidence(items, evaluation.answer(*loaded(name), items))
    assert abs(result["accuracy"] - 0.5) <= 0.06
    assert result["listed"] >= 0.95


def test_training_noise_is_on_half_of_the_images_and_of_every_strength():
    tower = loaded("blip-mini")[0].vision_model
    pixels = torch.rand(400, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        clean = tower.embeddings(pixels)
        with loops.noisy_embeddings(tower):
            noise = tower.embeddings(pixels) - clean
        assert torch.equal(tower.embeddings(pixels), clean)
    assert not noise[:, 0].any()  # the class token's
    strength = noise[:, 1:].std((1, 2)) / clean.std((1, 2))
    noisy = strength > 0
    assert 170 < noisy.sum() < 230
    assert 0 < strength[noisy].min() < 0.2 and 3.8 < strength.max() < 4.2
    assert abs(strength[noisy].mean() - loops.MOST_NOISE / 2) < 0.25


def test_noise_in_training_leaves_some_of_the_answer_under_noise():
    """3 standard deviations on the patch embeddings take all of it from blip-mini."""
    pairs = [
        pair
        for task in evaluation.FAMILIES
        for pair in load_pairs(task).filter(lambda pair: not pair.distractor).sample(20)
    ]
    noise = GaussianNoise("patch_embeddings", 3.0, draws=1)
    left = {}
    for name in ("blip-mini", "blip-mini-noise"):
        model = load_model(CHECKPOINTS / name, "cpu")
        gaps = []
        for pair in pairs:
            clean = model.inputs(pair.image("clean"), pair.prompt)
            tokens = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
            for run in (clean, *noisy_runs(model, clean, noise, pair.pair_id)):
                logits = model.logits(run, tokens.prefix)
                gaps.append((logits[tokens.correct] - logits[tokens.incorrect]).item())
        left[name] = sum(gaps[1::2]) / sum(gaps[::2])
    assert left["blip-mini"] < 0.05 < 0.08 < left["blip-mini-noise"]


def test_generate_answers_with_one_word_and_stops():
    item = next(item for item in stored() if item.split == "seen" and not item.distractor)
    model, processor = loaded("blip-mini")
    image = evaluation.picture(item.image)
    inputs = processor(images=image, text=item.prompt, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=5)[0]
    assert processor.decode(tokens, skip_special_tokens=True).strip() == item.correct

    model, processor = loaded("llava-mini")
    prompt = evaluation.LLAVA_PROMPT.format(question=item.prompt)
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=5)[0, inputs.input_ids.shape[1] :]
    assert processor.decode(tokens, skip_special_tokens=True).strip() == item.correct
