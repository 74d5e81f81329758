"""The patch lab's files are those of the shipped checkpoint, whole and small."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from notice_lib import load_model, load_pairs
from notice_lib.files import sha256
from notice_lib.models.answers import score
from tools.lab.scenes import TASKS, preprocessing, shown

ROOT = Path(__file__).parents[1]
LAB = ROOT / "book" / "assets" / "lab" / "blip-mini"
MANIFEST = json.loads((LAB / "manifest.json").read_text(encoding="utf-8"))
AGAIN = "python tools/export_lab.py data/checkpoints/blip-mini --out book/assets/lab/blip-mini"


@cache
def model():
    return load_model(MANIFEST["checkpoint"])


@cache
def pairs():
    return {pair.pair_id: pair for task in TASKS for pair in load_pairs(task)}


def test_the_graphs_are_of_the_weights_that_the_book_uses():
    weights = ROOT / "data" / "checkpoints" / MANIFEST["checkpoint"] / "model.safetensors"
    assert MANIFEST["weights"] == sha256(weights), AGAIN


@pytest.mark.parametrize("name", MANIFEST["files"])
def test_every_file_is_the_one_that_the_manifest_names(name):
    file = MANIFEST["files"][name]
    path = (LAB / file["path"]).resolve()
    assert (path.stat().st_size, sha256(path)) == (file["bytes"], file["sha256"]), AGAIN
    assert file["bytes"] <= 10e6


def test_scenes_are_small_and_nothing_else_lies_there():
    listed = {image for scene in MANIFEST["scenes"] for image in scene["images"].values()}
    found = {path.relative_to(LAB).as_posix(): path.stat().st_size for path in LAB.glob("*/*")}
    assert set(found) == listed
    assert sum(found.values()) <= 3e6


def test_shapes_and_preprocessing_are_the_models():
    assert MANIFEST["pixels"] == preprocessing(model())
    assert MANIFEST["components"] == list(model().components)
    assert MANIFEST["shape"]["layers"] == model().n_layers
    assert MANIFEST["shape"]["heads"] == model().n_heads


@pytest.mark.parametrize("scene", MANIFEST["scenes"], ids=lambda scene: scene["id"])
def test_a_scene_is_what_the_model_sees_and_says(scene):
    pair = pairs()[scene["id"]]
    tokens = model().answer_tokens(pair.prompt, *scene["options"])
    assert (tokens.prefix, [tokens.correct, tokens.incorrect]) == ((), scene["option_ids"])
    for run in ("clean", "corrupt"):
        inputs = model().inputs(pair.image(run), pair.prompt)
        with Image.open(LAB / scene["images"][run]) as image:
            assert np.array_equal(np.asarray(image), shown(model(), inputs.pixel_values))
        assert (inputs.input_ids[0].tolist(), list(inputs.tokens)) == (
            scene["ids"],
            scene["tokens"],
        )
        scores = score(model().logits(inputs), tokens)
        assert scores[0] - scores[1] == pytest.approx(scene["L"][run], abs=1e-4)
    assert scene["L"]["corrupt"] < 0 < scene["L"]["clean"]
