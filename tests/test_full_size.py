"""The real configurations with random weights, saved as a checkpoint is and loaded as one.

BLIP-VQA-base is whole. LLaVA-1.5 7B and 13B have every width and head, but two layers of the
language model and three of the tower (of which two are read), 64 image tokens for 576, and 13B a
small vocabulary: more takes minutes on a CPU. They are loaded and patched weekly.
"""

import shutil

import pytest
import torch

from benchmarks import random_models
from benchmarks.costs import published, weights
from notice_lib import load_model, site_grid, sweep
from notice_lib.patching import reference

BLIP = "Salesforce/blip-vqa-base"
LLAVA = {"llava-hf/llava-1.5-7b-hf": {}, "llava-hf/llava-1.5-13b-hf": {"vocab_size": 2048}}


def shape(name: str) -> dict:
    """What `random_models` makes a model of."""
    if name == BLIP:
        return random_models.BLIP_VQA_BASE
    config = published(name)
    text = config.text_config.to_dict() | {"num_hidden_layers": 2} | LLAVA[name]
    vision = config.vision_config.to_dict() | {"num_hidden_layers": 3, "image_size": 112}
    return {"text_config": text, "vision_config": vision, "vision_feature_layer": -2}


@pytest.fixture
def saved(request, tmp_path):
    """A folder with the named model in 16 bits; gone after the test, for it is large."""
    make = random_models.blip if request.param == BLIP else random_models.llava
    made = make(shape(request.param), dtype=torch.bfloat16)
    (tmp_path / "pictures").mkdir()
    folder = tmp_path / "checkpoint"
    made.model.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    yield request.param, folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "saved",
    [BLIP, *(pytest.param(name, marks=pytest.mark.weekly) for name in LLAVA)],
    indirect=True,
)
def test_a_full_size_model_is_loaded_and_patched(saved, tmp_path):
    name, folder = saved
    model = load_model(folder, device="cpu", dtype=torch.float32)
    size = sum(parameter.nbytes for parameter in model.model.parameters())
    assert size == weights(model.model.config)["float32"]
    assert model.n_heads == published(name).text_config.num_attention_heads
    if name == BLIP:
        prompt, component, layer = random_models.BLIP_PROMPT, "cross_attention", 11
        assert (model.n_layers, model.n_heads, model.grid) == (12, 12, 24)
    else:
        prompt, component, layer = random_models.LLAVA_PROMPT, "self_attention", 0
    sites = site_grid(model, [component], [layer], per_head=True, position="correct")[-1:]
    sites += site_grid(model, ["mlp"], [0], position="last")
    pairs = random_models.random_pairs(tmp_path / "pictures", prompt, 1)
    fast = sweep(model, pairs, sites)
    slow = sweep(model, pairs, sites, engine=reference.patch)
    for column in ("logit_correct", "logit_incorrect"):
        difference = (fast.patched[column] - slow.patched[column]).abs().max()
        moved = (fast.patched[column] - fast.runs[f"corrupt_{column}"].item()).abs()
        assert difference < 1e-5 < moved.min() and 20 * difference < moved.min()
