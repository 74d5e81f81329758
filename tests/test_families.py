"""The engine on every family and text model that loads: exact, or refused by name."""

import re
import threading
from collections import defaultdict
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from more_tiny_vlms import EAGER_ONLY, MORE_FAMILIES, more_tiny
from test_decoder import ANSWER, PROMPT, runs, some_patches
from test_engine import alone, every_site, largest
from tiny_vlms import FAMILIES, built, pictures, qwen3_vl, tiny

from notice_lib import GaussianNoise, NoticeError, site_grid, verify
from notice_lib.corruption import noisy_runs
from notice_lib.models.decoder import DecoderOnly
from notice_lib.models.inputs import AnswerTokens
from notice_lib.models.llava import Llava
from notice_lib.models.load import _refuse_offloading
from notice_lib.patching import Intervention, PlacedSite, engine, packed, reference, self_check
from notice_lib.patching.double import DoublePrecision
from notice_lib.patching.jobs import Job
from notice_lib.patching.recorded import record
from tools import family_table

TABLE = pd.read_csv(Path(__file__).parent / "reference" / "families.csv", keep_default_na=False)
"""What the book's page on model families says of each."""
PARTLY = ("llava_bitnet", "llava_granite")
"""Exact but for what has tests of its own."""


def outcome(*kinds):
    """{builder: why} of the families with this outcome."""
    rows = TABLE[TABLE.outcome.isin(kinds)]
    return dict(zip(rows.builder, rows.why, strict=True))


EXACT = [name for name in outcome("exact") if name not in PARTLY]
BY_REFERENCE = outcome("reference")
REFUSED = outcome("refused")


def make(name, dtype=torch.float64, attention="eager"):
    """A family's tiny model and processor, from wherever it is described."""
    if name == "qwen3_vl":
        return built(*qwen3_vl(), dtype, attention)
    return tiny(name, dtype, attention) if name in FAMILIES else more_tiny(name, dtype, attention)


def adapter(found, name):
    """As `read_model` chooses it."""
    is_llava = type(found.model).__name__ == "LlavaForConditionalGeneration"
    kind = Llava if is_llava and Llava.understands(found.model) else DecoderOnly
    return kind(found.model, found.processor, name)


@cache
def build(name, attention="eager", dtype=torch.float64):
    return adapter(make(name, dtype, attention), name)


def compare(model, corruption, n=8, answer=ANSWER, patches=None):
    """Largest difference of two pairs at once from the reference, and the largest effect."""
    clean, corrupt = runs(model, corruption)
    jobs = [
        Job(*ends, patches or some_patches(model, clean, n=n, seed=7), answer)
        for ends in ((corrupt, clean), (clean, corrupt))
    ]
    with DoublePrecision():
        slow, fast = reference.patch(model, jobs), engine.patch(model, jobs, max_tokens=300)
    effects = [(one.patched - one.base)[:, :2].abs().max().item() for one in slow]
    return max(map(largest, slow, fast)), min(effects)


def of_every_kind(model, seed):
    """Each component, layer and head once, at a random one of its places; and two circuits."""
    random = np.random.default_rng(seed)
    clean, _ = runs(model, "image")
    kinds = defaultdict(list)
    for site in every_site(model, clean):
        kinds[site.component, site.layer, site.head].append(site)
    sites = [places[random.integers(len(places))] for places in kinds.values()]
    parts = [sites[i] for i in random.permutation(len(sites))]
    circuits = (Intervention(tuple(parts[:3]), "a"), Intervention(tuple(parts[3:8]), "b"))
    return (*alone(sites), *circuits)


@pytest.mark.parametrize("name", EXACT)
def test_the_engine_is_the_reference(name):
    model = build(name)
    difference, effect = compare(model, "image", patches=of_every_kind(model, 0))
    assert difference <= 1e-10 < 1e-3 < effect
    if name not in (*EAGER_ONLY, "paligemma2"):
        model = build(name, "sdpa")
    answer = AnswerTokens((40, 41), 30, 31)
    difference, _ = compare(model, "text", answer=answer, patches=of_every_kind(model, 1))
    assert difference <= 1e-10


def test_a_window_shorter_than_the_prompt_is_one():
    """A token beyond the window changes nothing in the first layer."""
    model = build("llava_mistral")
    inputs = model.inputs(pictures()[0], PROMPT)
    hidden = record(model, [inputs], []).layers[0].base.mask.hidden[0, 0]
    assert hidden[-1, :-7].all() and not hidden[-1, -7:].any()


@pytest.mark.parametrize("name", BY_REFERENCE)
def test_what_the_engine_does_not_know_is_refused_and_the_reference_runs_it(name):
    model = build(name)
    clean, corrupt = runs(model, "image")
    last = len(clean) - 1
    sites = [PlacedSite("layer_output", at, None, (last,), "") for at in range(model.n_layers)]
    job = Job(corrupt, clean, alone(sites), ANSWER)
    with pytest.raises(NoticeError, match=f'{re.escape(BY_REFERENCE[name])}.*engine="reference"'):
        engine.patch(model, [job])
    model = adapter(make(name), name)
    model.engine = "reference"
    self_check.check_heads(model, clean)
    (found,) = engine.patch(model, [job])
    assert (found.patched - found.base)[:, :2].abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "fuyu"])
def test_a_module_tree_that_is_not_understood_is_refused(name):
    model_class, config, processor = MORE_FAMILIES[name]()
    with torch.device("meta"):
        model = model_class(config)
    why = REFUSED[name].split(" (")[0].split(" and Mllama")[0]
    with pytest.raises(NoticeError, match=re.escape(why)):
        DecoderOnly(model, processor, name)


def test_every_family_that_is_built_is_in_the_table_and_the_page_shows_it():
    assert set(TABLE.builder) == {*FAMILIES, *MORE_FAMILIES, "qwen3_vl"}
    text = family_table.PAGE.read_text(encoding="utf-8")
    assert family_table.page(text) == text


def test_heads_behind_a_norm_are_not_patched_one_by_one():
    """BitNet has a norm between its heads and their output projection; sdpa shows no weights."""
    for attention in ("eager", "sdpa"):
        model = adapter(more_tiny("llava_bitnet", torch.float32, attention), "bitnet")
        clean, corrupt = runs(model, "image")
        one = Intervention((PlacedSite("self_attention", 1, 2, (len(clean) - 1,), ""),))
        with pytest.raises(NoticeError, match="BitNetAttention is not its 4 heads side by side"):
            engine.patch(model, [Job(corrupt, clean, (one,), ANSWER)])
        verify(model)
        with pytest.raises(NoticeError, match="BitNetAttention is not its 4 heads side by side"):
            site_grid(model, ["self_attention"], per_head=True)
    whole = alone(s for s in every_site(model, clean) if s.component in model.components
                  and s.head is None)  # fmt: skip
    difference, effect = compare(build("llava_bitnet"), "image", patches=whole[::5])
    assert difference <= 1e-10 < 1e-3 < effect


def test_a_tower_whose_states_are_changed_on_the_way_is_not_patched():
    """Granite multiplies its embeddings, the image's among them."""
    model = build("llava_granite")
    clean, corrupt = runs(model, "image")
    tower = Intervention((PlacedSite("vision_mlp", 0, None, (3,), ""),))
    with pytest.raises(NoticeError, match="changed between its projector and its first layer"):
        engine.patch(model, [Job(corrupt, clean, (tower,), ANSWER)])
    text = alone(s for s in every_site(model, clean) if s.component in model.components)
    for corruption in ("image", "text"):
        difference, effect = compare(model, corruption, patches=text[::7])
        assert difference <= 1e-10 < 1e-3 < effect


def test_a_tower_without_a_class_token_has_none():
    model = build("llava_siglip")
    assert (model.class_tokens, model.grid) == (0, 4)
    with_class = build("llava_full")
    inputs = with_class.inputs(pictures()[0], PROMPT)
    assert with_class.class_tokens == 1 and sum(inputs.image_tokens) == 17


def test_noise_is_on_every_patch_of_a_tower_without_a_class_token():
    model = build("llava_siglip")
    clean = model.inputs(pictures()[0], PROMPT)
    (noisy,) = noisy_runs(model, clean, GaussianNoise("patch_embeddings", draws=1), "p1")
    assert noisy.noise.values.shape[1] == 16 and (noisy.noise.values != 0).all()


def test_a_prompt_goes_through_the_checkpoints_own_template():
    (image,) = pictures(1)
    texts = {}
    for name in ("llava_chatml", "llava_without_chat", "llava_llama"):
        model = build(name)
        ids = model.inputs(image, PROMPT).input_ids[0]
        texts[name] = model.processor.tokenizer.decode(ids).replace("<image>", "")
    assert "<|im_start|>user" in texts["llava_chatml"] and "USER" not in texts["llava_chatml"]
    assert texts["llava_without_chat"].rstrip().endswith(f"{PROMPT} ASSISTANT:")
    assert "<|im_start|>" not in texts["llava_llama"]


@pytest.mark.parametrize("name", ["llava_qwen3", "llava_mixtral", "glm4v"])
def test_hooks_of_accelerates_device_map_are_no_hindrance(name):
    found = make(name)
    dispatch_model(found.model, {"": "cpu"}, force_hooks=True)
    difference, effect = compare(adapter(found, name), "image")
    assert difference <= 1e-10 < 1e-3 < effect


def test_offloaded_weights_are_refused():
    found = more_tiny("llava_llama", torch.float32)
    cpu_offload(found.model)
    with pytest.raises(NoticeError, match="parts of it would be kept elsewhere"):
        _refuse_offloading(found.model, "offloaded")


def test_a_compiled_model_is_refused():
    found = more_tiny("llava_llama")
    found.model.model.language_model.layers[1].compile(backend="eager")
    model = adapter(found, "compiled")
    inputs = model.inputs(pictures()[0], PROMPT)
    with pytest.raises(NoticeError, match=r"is compiled \(torch.compile\)"):
        record(model, [inputs], [])


def test_a_missing_mask_is_what_the_module_says():
    """With sdpa and no mask, a module that is not causal sees everything."""
    model = adapter(more_tiny("llava_llama", attention="sdpa"), "llava")
    for attention in model.text.attentions:
        attention.is_causal = False
    difference, effect = compare(model, "image")
    assert difference <= 1e-10 < 1e-3 < effect


@pytest.mark.parametrize("heads_of_mask", [1, 6])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_packed_attention_is_attention(heads_of_mask, softcap):
    """With grouped heads, masks for each head and pair, values of another width, several starts."""
    torch.manual_seed(0)
    pairs, heads, kv_heads, length, width, wide = 2, 6, 2, 9, 4, 5
    shape = (pairs, kv_heads, length)
    base_k, base_v = torch.randn(*shape, width).double(), torch.randn(*shape, wide).double()
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    added = torch.randn(pairs, heads_of_mask, length, length).double()
    mask = packed.Mask(hidden.expand_as(added), added)
    base = packed.Base(base_k, base_v, mask, torch.float64, None)
    suffixes = packed.Suffixes([0, 3, 3, 8], length)
    rows = len(suffixes.tokens)
    query = torch.randn(pairs, heads, rows, width).double()
    key = torch.randn(pairs, kv_heads, rows, width).double()
    value = torch.randn(pairs, kv_heads, rows, wide).double()
    arguments = {"scaling": 0.7, "softcap": softcap}
    found, _ = packed.WholeRuns(base, suffixes)(query, key, value, None, arguments)
    expected = []
    for start, first in zip(suffixes.starts, suffixes.first, strict=True):
        own = slice(first + start, first + length)
        k, v = (
            torch.cat([of_base[:, :, :start], of_run[:, :, own]], 2).repeat_interleave(3, 1)
            for of_base, of_run in ((base_k, key), (base_v, value))
        )
        scores = 0.7 * query[:, :, own] @ k.transpose(2, 3)
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        scores = (scores + added[:, :, start:]).masked_fill(hidden[start:], -torch.inf)
        expected.append((scores.softmax(-1) @ v).transpose(1, 2))
    assert torch.allclose(found, torch.cat(expected, 1), atol=1e-12, rtol=0)
    last = suffixes.last
    asked, _ = packed.WholeRuns(base, suffixes, each=1, of_rows=(key, value))(
        query[:, :, last], None, None, None, arguments
    )
    assert torch.allclose(asked, found[:, last], atol=1e-12, rtol=0)


def test_a_mask_of_ones_own_is_refused():
    found = more_tiny("llava_llama")

    def mask(module, args, kwargs):
        if kwargs["attention_mask"] is None:
            return args, kwargs | {"attention_mask": torch.zeros(1, 1, 1, 1)}

    for layer in found.model.model.language_model.layers:
        layer.self_attn.register_forward_pre_hook(mask, with_kwargs=True)
    model = adapter(found, "own mask")
    clean, corrupt = runs(model, "image")
    job = Job(corrupt, clean, some_patches(model, clean, n=4), ANSWER)
    with pytest.raises(NoticeError, match="LlamaAttention makes an attention mask of its own"):
        engine.patch(model, [job])


def test_unknown_arguments_of_attention_are_not_swallowed():
    given = {"scaling": 0.1, "sliding_window": 7, "position_bias": torch.ones(1), "sinks": None,
             "indices": torch.ones(0), "block": 3}  # fmt: skip
    assert packed.unknown_arguments(given) == ["block", "position_bias"]


def tiled(name):
    """A family whose processor cuts large pictures into tiles, as in its published settings."""
    model = adapter(make(name, torch.float32), name)
    images = model.processor.image_processor
    images.crop_to_patches, images.min_patches, images.max_patches = True, 1, 4
    return model


@pytest.mark.parametrize(
    ("model", "wide", "told"),
    [
        (partial(build, "qwen2_vl"), (640, 427), "image_grid_thw"),
        (partial(build, "qwen2_5_vl"), (640, 427), "image_grid_thw"),
        (partial(build, "glm4v"), (64, 48), "image_grid_thw"),
        (partial(build, "aria"), (640, 427), "pixel_mask"),
        (partial(build, "llava_next"), (640, 427), "image_sizes"),
        (partial(build, "llava_pixtral"), (640, 427), "image_sizes"),
        (partial(build, "smolvlm"), (128, 64), "the template's tokens"),
        (partial(tiled, "internvl"), (128, 64), "the columns and rows of the image's crops"),
        (partial(tiled, "aya_vision"), (96, 32), "the columns and rows of the image's crops"),
        (partial(tiled, "cohere2_vision"), (128, 64), "the columns and rows of the image's crops"),
    ],
)
def test_two_images_of_other_grids_are_no_pair(model, wide, told):
    """Also where they have as many tokens: 6 x 8 are not 8 x 6, and tiles in a row no column."""
    model = model()
    image = pictures()[0]
    one, other = image.resize(wide), image.resize(wide[::-1])
    clean, corrupt = model.inputs(one, PROMPT), model.inputs(other, PROMPT)
    site = Intervention((PlacedSite("mlp", 0, None, (9,), ""),))
    with pytest.raises(NoticeError, match=rf"do not correspond.*differ in .*{told}"):
        Job(corrupt, clean, (site,), ANSWER)
    Job(clean, model.inputs(pictures()[1].resize(wide), PROMPT), (site,), ANSWER)


def test_tiles_that_lie_alike_correspond_whatever_the_pictures_size():
    model = tiled("internvl")
    runs = [model.inputs(pictures()[0].resize(size), PROMPT) for size in ((128, 64), (202, 97))]
    assert len(runs[0].pixel_values) == 3 and runs[0].layout == runs[1].layout
    (crops,) = [value for name, value in runs[0].layout if "crops" in name]
    assert crops == ((0, 0), (2, 0), (1, 0))  # left, right, and all of it in the middle


def test_in_half_precision_the_layers_are_proved_in_float64(monkeypatch):
    """A thousandth too much attention is lost in bfloat16's rounding, and seen in float64."""
    model = adapter(more_tiny("llava_qwen3", torch.bfloat16), "qwen3")
    assert verify(model).layers == ("Qwen3DecoderLayer",)
    attend = packed.WholeRuns.__call__
    monkeypatch.setattr(
        packed.WholeRuns, "__call__", lambda self, query, *rest: attend(self, 1.001 * query, *rest)
    )
    with pytest.raises(NoticeError, match="in float64, outputs of Qwen3DecoderLayer differ"):
        verify(model)
    monkeypatch.setattr(self_check, "prove_layers", lambda *arguments: ((), ()))
    verify(model)


def test_layers_that_cannot_be_tried_in_float64_are_named():
    model = adapter(more_tiny("llava_llama", torch.float32), "llama")
    for layer in model.text.layers:
        layer.guard = threading.Lock()  # cannot be copied
    found = verify(model)
    assert found.layers == () and found.unproved[0].startswith("LlamaDecoderLayer: ")


@pytest.mark.parametrize("name", ["llava_mixtral", "llava_qwen3_moe", "llava_deepseek_v3"])
def test_near_ties_of_routing_are_counted(name):
    model = adapter(more_tiny(name, torch.float32), name)
    inputs = model.inputs(pictures()[0], PROMPT)
    assert verify(model, inputs).near_ties == 0
    routed = 0
    for mlp in model.text.mlps:
        if hasattr(mlp, "gate"):
            torch.nn.init.zeros_(mlp.gate.weight)  # all experts are equally good
            routed += 1
    assert routed and self_check.count_near_ties(model, inputs) == routed * len(inputs)


def test_a_model_that_answers_otherwise_in_a_batch_is_refused(monkeypatch):
    model = adapter(more_tiny("llava_llama", torch.float32), "llama")
    batch = DecoderOnly.batch_logits
    monkeypatch.setattr(
        Llava, "batch_logits", lambda self, given, *rest: batch(self, given, *rest).flip(0)
    )
    with pytest.raises(NoticeError, match="between two images in one forward and each image alone"):
        verify(model)


def test_a_mask_of_ones_own_is_refused_when_the_layers_are_proved():
    model = adapter(more_tiny("llava_llama", torch.float32), "own mask")

    def mask(module, args, kwargs):
        if kwargs["attention_mask"] is None:
            return args, kwargs | {"attention_mask": torch.zeros(1, 1, 1, 1)}

    for attention in model.text.attentions:
        attention.register_forward_pre_hook(mask, with_kwargs=True)
    with pytest.raises(NoticeError, match="LlamaAttention makes an attention mask of its own"):
        verify(model)
