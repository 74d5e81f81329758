"""Attention maps: those of transformers itself, at the right tokens."""

import numpy as np
import pytest
import torch
from seeded import blip_runs, llava_runs, seeded_blip, seeded_llava
from tiny_vlms import pictures, tiny

from notice_lib import NoticeError, load_model, load_pairs
from notice_lib.heads.attention import attention_maps, image_attention, minus_average, shares
from notice_lib.models.decoder import DecoderOnly


@pytest.fixture(scope="module", params=["blip-mini", "llava-mini"])
def model(request):
    return load_model(request.param, device="cpu")


@torch.no_grad()
def test_blip_maps_are_transformers_own():
    blip, (run, _) = seeded_blip(), blip_runs()["image"]
    found = image_attention(blip, run)
    tower = blip.model.vision_model(pixel_values=run.pixel_values, output_hidden_states=True)
    theirs = blip.model.text_encoder(
        run.input_ids, encoder_hidden_states=tower[0], output_attentions=True
    ).cross_attentions
    theirs = torch.cat(theirs).float().numpy()
    np.testing.assert_array_equal(found.patches, theirs[..., 1:])
    np.testing.assert_array_equal(found.cls, theirs[..., 0])
    np.testing.assert_allclose(found.patches.sum(-1) + found.cls, 1, atol=1e-6)
    last = tower.hidden_states[-1]
    assert torch.equal(blip.model.vision_model.post_layernorm(last), tower[0])
    np.testing.assert_allclose(found.norms, last[0, 1:].norm(dim=-1), rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_llava_maps_are_transformers_own(kv_heads):
    llava, (run, _) = seeded_llava(kv_heads=kv_heads), llava_runs()["image"]
    found = image_attention(llava, run)
    theirs = llava.model(
        input_ids=run.input_ids, pixel_values=run.pixel_values, output_attentions=True
    ).attentions
    theirs = torch.cat(theirs).float().numpy()
    np.testing.assert_array_equal(found.patches, theirs[..., 2:18])
    assert not found.cls.any()
    text = theirs[..., :2].sum(-1) + theirs[..., 18:].sum(-1)
    np.testing.assert_allclose(found.patches.sum(-1) + text, 1, atol=1e-6)
    tower = llava.model.model.vision_tower(run.pixel_values, output_hidden_states=True)
    used = tower.hidden_states[llava.model.config.vision_feature_layer]
    np.testing.assert_allclose(found.norms, used[0, 1:].norm(dim=-1), rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "runs"), [(seeded_blip(), blip_runs()), (seeded_llava(), llava_runs())]
)
def test_one_may_keep_some_queries_and_no_hook_stays(model, runs):
    run = runs["image"][0]
    every = image_attention(model, run)  # transformers adds hooks of its own at the first run
    before = [len(module._forward_hooks) for module in model.model.modules()]
    some = image_attention(model, run, [3, 7])
    np.testing.assert_array_equal(some.patches, every.patches[:, :, [3, 7]])
    with pytest.raises(IndexError):
        image_attention(model, run, [len(run)])
    assert [len(module._forward_hooks) for module in model.model.modules()] == before


def test_attention_without_weights_is_an_error():
    llava = seeded_llava()
    llava.model.set_attn_implementation("sdpa")
    with pytest.raises(NoticeError, match="seeded llava never forms"):
        image_attention(llava, llava_runs()["image"][0])


def test_the_published_query_is_the_correct_option_and_for_states_the_noun(model):
    for name in ("svo", "states"):
        pairs = load_pairs(name).sample(4, seed=1)
        maps = attention_maps(model, pairs)
        for pair, found in zip(pairs, maps.patches, strict=True):
            word = pair.prompt.split()[2] if name == "states" else pair.correct
            inputs = model.inputs(pair.image("clean"), pair.prompt)
            tokens = [i for i, token in enumerate(inputs.tokens) if word in token.lower()]
            assert len(tokens) == 1
            expected = image_attention(model, inputs).patches[:, :, tokens[0]]
            np.testing.assert_array_equal(found, expected)
        assert maps.patches.shape == (4, model.n_layers, model.n_heads, model.grid**2)
        assert maps.cls.shape == maps.patches.shape[:3]


def test_several_tokens_of_a_query_are_averaged(model):
    (pair,) = load_pairs("svo").filter(lambda pair: pair.slot == "subject").sample(1)
    inputs = model.inputs(pair.image("corrupt"), pair.prompt)
    roles = model.roles(inputs, pair.spans)
    after = [i for i, role in enumerate(roles) if role == "after"]
    assert len(after) > 1
    expected = image_attention(model, inputs).patches[:, :, after].mean(2)
    found = attention_maps(model, [pair], "after", run="corrupt")
    np.testing.assert_allclose(found.patches[0], expected, rtol=1e-6)


def test_wrong_queries_are_named():
    llava, pairs = load_model("llava-mini", device="cpu"), load_pairs("svo", n=1)
    with pytest.raises(NoticeError, match="not 'noun'"):
        attention_maps(llava, pairs, "noun")
    with pytest.raises(NoticeError, match="has no token for 'between'"):
        verbs = load_pairs("svo").filter(lambda pair: pair.slot == "verb").sample(1)
        attention_maps(llava, verbs, "between")
    with pytest.raises(NoticeError, match="query 'start' stand before the image"):
        attention_maps(llava, pairs, "start")
    with pytest.raises(NoticeError, match="give at least one"):
        attention_maps(llava, [])


def test_shares_sum_to_one_and_differences_to_zero():
    maps = np.random.default_rng(0).random((5, 3, 4, 16))
    np.testing.assert_allclose(shares(maps).sum(-1), 1)
    difference = minus_average(shares(maps))
    np.testing.assert_allclose(difference.sum(-1), 0, atol=1e-12)
    np.testing.assert_allclose(difference.sum((1, 2)), 0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3", "paligemma"])
def test_maps_of_the_generic_adapter_are_transformers_own(family):
    tiny_model = tiny(family)
    model = DecoderOnly(tiny_model.model, tiny_model.processor, family)
    run = model.inputs(pictures()[0], "Is the dog or the goat on the box?")
    found = image_attention(model, run)
    theirs = model.model(
        input_ids=run.input_ids,
        pixel_values=run.pixel_values,
        output_attentions=True,
        **run.extra,
    ).attentions
    theirs = torch.cat(theirs)[..., torch.tensor(run.image_tokens)]
    np.testing.assert_array_equal(found.patches, theirs.float().numpy())
    assert len(found.norms) == sum(run.image_tokens) == found.patches.shape[-1]
