"""The reference equals the published code, site by site."""

from pathlib import Path

import numpy as np
import pytest
import torch
from seeded import blip_runs, seeded_blip

from notice_lib.models.inputs import AnswerTokens
from notice_lib.patching import Intervention, PlacedSite
from notice_lib.patching.jobs import Job
from notice_lib.patching.reference import patch

PUBLISHED = np.load(Path(__file__).parent / "reference" / "published_blip_outputs.npz")
COMPONENTS = {
    "output": "layer_output",
    "attention_block": "self_attention",
    "crossattention_block": "cross_attention",
}
ANSWER = AnswerTokens((), *map(int, PUBLISHED["answers"]))


def test_the_model_and_inputs_are_the_published_ones():
    state = seeded_blip(torch.float32).model.state_dict()
    names = (
        "text_encoder.encoder.layer.0.crossattention.self.query.weight",
        "vision_model.embeddings.patch_embedding.weight",
        "text_decoder.bert.embeddings.word_embeddings.weight",
    )
    sums = [state[name].double().abs().sum().item() for name in names]
    np.testing.assert_allclose(sums, PUBLISHED["weight_checksum"], rtol=1e-6)
    clean, corrupt = blip_runs()["text"]
    np.testing.assert_array_equal(clean.input_ids[0], PUBLISHED["txt_clean"])
    np.testing.assert_array_equal(corrupt.input_ids[0], PUBLISHED["txt_corrupt"])


@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"), [("f64", torch.float64, 1e-10), ("f32", torch.float32, 1e-4)]
)
def test_every_site_equals_the_published_code(corruption, name, dtype, tolerance):
    model = seeded_blip(dtype)
    clean, corrupt = blip_runs(dtype)[corruption]
    kinds = [str(kind) for kind in PUBLISHED["kinds"]]
    patches = [
        Intervention(
            (PlacedSite(COMPONENTS[kinds[kind]], layer, head if head >= 0 else None, (token,), ""),)
        )
        for kind, layer, token, head in PUBLISHED["sites"].tolist()
    ]
    assert len(patches) == 396

    outcome = patch(model, [Job(corrupt, clean, tuple(patches), ANSWER)])[0]

    def gap(scores):
        return (scores[..., 0] - scores[..., 1]).numpy()

    clean_gap, corrupt_gap = gap(outcome.source), gap(outcome.base)
    expected = PUBLISHED[f"{corruption}_{name}_LD_clean_corrupt"]
    np.testing.assert_allclose([clean_gap, corrupt_gap], expected, rtol=0, atol=tolerance)
    probability = outcome.patched[:, 2].numpy()
    difference = gap(outcome.patched) - corrupt_gap
    ours = np.stack(
        [
            probability,
            probability - outcome.base[2].item(),
            difference,
            difference / (clean_gap - corrupt_gap),
        ],
        axis=1,
    )
    np.testing.assert_allclose(ours, PUBLISHED[f"{corruption}_{name}"], rtol=0, atol=tolerance)
