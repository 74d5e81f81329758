"""The generic adapter and its engine, on tiny random models of many families.

That the engine is the reference is shown in test_families.py, of these families and all others.
"""

from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from test_engine import alone, every_site, largest
from tiny_vlms import FAMILIES, SIDE, pictures, qwen3_vl, tiny

from notice_lib import NoticeError, Site, ablate, load_pairs, site_grid, sweep, verify
from notice_lib.corruption import GaussianNoise
from notice_lib.models.decoder import DecoderOnly, square_side
from notice_lib.models.inputs import AnswerTokens
from notice_lib.models.llava import Llava
from notice_lib.pairs.prompts import option_spans
from notice_lib.patching import (
    Circuit,
    Intervention,
    PlacedSite,
    engine,
    place,
    recorded,
    reference,
)
from notice_lib.patching.double import DoublePrecision
from notice_lib.patching.jobs import Job
from notice_lib.patching.packed import Base, Mask

PROMPT = "Is the dog or the goat on the box?"
OTHER = "Is the pig or the duck on the box?"
ANSWER = AnswerTokens((), 30, 31)
EVERY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def exact():
    with DoublePrecision():
        yield


@cache
def build(family, dtype=torch.float64, **settings) -> DecoderOnly:
    found = tiny(family, dtype, **settings)
    return DecoderOnly(found.model, found.processor, family)


def runs(model, corruption):
    """(clean, corrupt) inputs."""
    first, second = pictures()
    clean = model.inputs(first, PROMPT)
    if corruption == "image":
        return clean, model.inputs(second, PROMPT)
    return clean, replace(model.inputs(first, OTHER), pixel_values=clean.pixel_values)


def some_patches(model, inputs, n=10, seed=0) -> tuple[Intervention, ...]:
    """A random part of all components, layers, heads and positions; and two circuits."""
    random = np.random.default_rng(seed)
    pool = every_site(model, inputs)
    image = [i for i, is_image in enumerate(inputs.image_tokens) if is_image]
    late = tuple(image[len(image) // 2 :])
    pool += [PlacedSite(name, 0, None, late, "") for name in model.components]
    pool = [pool[i] for i in random.permutation(len(pool))]
    circuits = [Intervention(tuple(pool[-3:]), "a"), Intervention(tuple(pool[-9:-3]), "b")]
    return (*alone(pool[:n]), *alone([s for s in pool if s.positions == late]), *circuits)


@EVERY
def test_given_activations_are_written_as_they_are(family, exact):
    model = build(family)
    clean, _ = runs(model, "image")
    patches = some_patches(model, clean, n=6, seed=1)
    points = {(site.component, site.layer) for patch in patches for site in patch.sites}
    _, own = reference.record(model, clean, points)
    zeros = {point: torch.zeros_like(values) for point, values in own.items()}
    job = Job(clean, zeros, patches, ANSWER)
    (slow,), (fast,) = reference.patch(model, [job]), engine.patch(model, [job])
    assert (slow.patched - fast.patched).abs().max() <= 1e-10
    (same,) = engine.patch(model, [Job(clean, own, patches, ANSWER)])
    assert torch.equal(same.patched, same.base.expand_as(same.patched))


@EVERY
def test_the_whole_layer_output_carries_the_clean_run(family, exact):
    model = build(family)
    clean, corrupt = runs(model, "image")
    everywhere = tuple(range(len(clean)))
    sites = [PlacedSite("layer_output", at, None, everywhere, "") for at in range(model.n_layers)]
    (found,) = engine.patch(model, [Job(corrupt, clean, alone(sites), ANSWER)])
    assert (found.patched - found.source).abs().max() <= 1e-10
    assert (found.base - found.source).abs().max() > 1e-3


def computed(model, position, answer=ANSWER):
    """How many tokens the engine computes in layer 1 for a patch of one token in layer 0."""
    clean = model.inputs(pictures()[0], PROMPT)
    site = PlacedSite("layer_output", 0, None, (position,), "")
    _, own = reference.record(model, clean, [("layer_output", 0)], answer.prefix)
    zeros = {point: torch.zeros_like(values) for point, values in own.items()}
    rows = []
    handle = model.text.layers[1].register_forward_pre_hook(
        lambda module, args: rows.append(args[0].shape[1])
    )
    engine.patch(model, [Job(clean, zeros, alone([site]), answer)])
    handle.remove()
    whole, patched = rows
    assert whole == len(clean) + len(answer.prefix)
    return patched


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "smolvlm", "internvl", "llava_next"])
def test_causal_models_compute_only_what_follows(family):
    model = build(family)
    clean = model.inputs(pictures()[0], PROMPT)
    first = clean.image_tokens.index(True)
    for position in (0, first + 2, 30, len(clean) - 1):
        assert computed(model, position) == len(clean) - position


def test_nothing_is_shared_within_paligemmas_prefix():
    model = build("paligemma")
    length = len(model.inputs(pictures()[0], PROMPT))
    assert computed(model, 3) == computed(model, length - 1) == length
    # Answer tokens are behind the prefix, and causal.
    answer = AnswerTokens((40, 41, 42), 30, 31)
    assert computed(model, length - 1, answer) == length + 3
    assert computed(model, length + 1, answer) == 2


def test_gemma_3s_image_starts_as_a_whole():
    model = build("gemma3")
    clean = model.inputs(pictures()[0], PROMPT)
    length, first = len(clean), clean.image_tokens.index(True)
    assert clean.image_tokens[first : first + 4] == (True,) * 4
    for inside in range(first, first + 4):
        assert computed(model, inside) == length - first
    for outside in (0, first - 1, first + 4, length - 1):
        assert computed(model, outside) == length - outside


def test_where_runs_may_start_is_read_from_the_masks_of_all_layers_above():
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    block = causal.clone()
    block[2:4, 2:4] = True
    window = torch.where(causal.triu(-1), 0.0, torch.finfo(torch.float32).min)
    layers = [
        recorded.LayerRun(None, None, None, None, {}, Base(None, None, Mask.of(m), None, None))
        for m in (causal[None, None], block[None, None], window[None, None])
    ]
    found = recorded._starts(build("llava"), layers)
    assert found == [[0, 1, 2, 2, 4, 5], [0, 1, 2, 2, 4, 5], [0, 1, 2, 3, 4, 5]]


@EVERY
def test_every_family_passes_its_self_check(family):
    found = verify(build(family, torch.float32))
    assert found.proving == found.sites == 7 and found.layers and not found.unproved
    assert found.difference < 1e-4 < found.effect


@pytest.mark.parametrize("family", ["paligemma", "gemma3"])
def test_the_self_check_sees_a_prefix_that_must_not_be_shared(family, monkeypatch):
    model = build(family, torch.float32)
    monkeypatch.setattr(
        recorded, "closed", lambda mask: torch.ones(mask.hidden.shape[-1], dtype=torch.bool)
    )
    with pytest.raises(NoticeError, match=r"failed its self-check: .* differ by 0\.\d+ between"):
        verify(model)


def test_the_self_check_sees_wrong_positions(monkeypatch):
    model, rows = build("qwen2_vl", torch.float32), recorded._rows

    def shifted(name, value, tokens):
        found = rows(name, value, tokens)
        rotary = name == "position_embeddings"
        return tuple(part.roll(1, -2) for part in found) if rotary else found

    monkeypatch.setattr(recorded, "_rows", shifted)
    with pytest.raises(NoticeError, match="failed its self-check"):
        verify(model)


def test_the_self_check_sees_a_component_that_is_not_behind_attention():
    model = copy(build("llava", torch.float32))
    queries = tuple(attention.q_proj for attention in model.text.attentions)
    model.text = replace(model.text, projections=queries)
    with pytest.raises(NoticeError, match="failed its self-check"):
        verify(model)


def test_a_llava_is_the_same_to_both_adapters(exact):
    found = tiny("llava")
    ours = DecoderOnly(found.model, found.processor, "llava")
    own = Llava(found.model, found.processor, "llava")
    for corruption in ("image", "text"):
        clean, corrupt = runs(ours, corruption)
        for run, prompt in ((clean, PROMPT), (corrupt, PROMPT if corruption == "image" else OTHER)):
            image = pictures()[int(corruption == "image" and run is corrupt)]
            same = own.inputs(image, prompt)
            for name in ("spans", "tokens", "image_tokens", "extra"):
                assert getattr(run, name) == getattr(same, name)
            assert torch.equal(run.input_ids, same.input_ids)
            assert torch.equal(run.pixel_values, same.pixel_values)
            assert torch.equal(ours.logits(run, (30,)), own.logits(run, (30,)))
            assert ours.generate(run) == own.generate(run)
        patches = some_patches(ours, clean, n=40)
        job = Job(corrupt, clean, patches, ANSWER)
        assert largest(*(engine.patch(model, [job])[0] for model in (ours, own))) <= 1e-10
    assert ours.answer_ids(PROMPT, "dog") == own.answer_ids(PROMPT, "dog")
    assert (ours.grid, ours.image_size) == (own.grid, own.image_size) == (4, SIDE)


@EVERY
def test_prompts_and_answers_are_found_in_what_the_processor_makes(family):
    model = build(family, torch.float32)
    inputs = model.inputs(pictures()[0], PROMPT)
    words = [PROMPT[start:end].strip() for start, end in filter(None, inputs.spans)]
    assert "".join(words) == PROMPT.replace(" ", "")
    assert sum(inputs.image_tokens) == (inputs.input_ids == model.image_token_id).sum() >= 4
    assert all(span is None for span, image in zip(inputs.spans, inputs.image_tokens, strict=True)
               if image)  # fmt: skip
    ids = model.answer_ids(PROMPT, "goat")
    text = model.processor.tokenizer.decode(ids)
    assert text.strip() == "goat"
    assert isinstance(model.generate(inputs, max_new_tokens=2), str)


def test_an_answer_follows_a_colon_with_a_space_and_a_line_without():
    for family, tokens in (("llava", ["▁dog"]), ("qwen2_vl", ["d", "o", "g"])):
        model = build(family)
        ids = model.answer_ids(PROMPT, "dog")
        assert model.processor.tokenizer.convert_ids_to_tokens(ids) == tokens


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl", "idefics3"])
def test_pairs_go_through_a_sweep_and_an_ablation(family):
    model, pairs = build(family, torch.float32), load_pairs("svo", n=2)
    sites = [
        *site_grid(model, ["self_attention"], [0], per_head=True, position="correct"),
        Site("mlp", 1, None, "image"),
        Circuit("last", (Site("mlp", 0, None, "last"), Site("layer_output", 1, None, "or"))),
    ]
    for corruption in ("image", "text"):
        ways = [
            sweep(model, pairs, sites, corruption, strict=True, engine=way)
            for way in (engine.patch, reference.patch)
        ]
        fast, slow = (found.patched["logit_correct"].to_numpy() for found in ways)
        assert np.abs(fast - slow).max() < 1e-4
    found = ablate(model, pairs, sites, to="mean", strict=True)
    assert len(found.patched) == 2 * len(sites)


def embedded_image(model, picture):
    """What the language model's first layer gets for a picture: (image tokens, hidden size)."""
    inputs = model.inputs(picture, PROMPT)
    tokens = [i for i, is_image in enumerate(inputs.image_tokens) if is_image]
    return recorded.record(model, [inputs], []).layers[0].input[0][tokens]


def test_regions_are_patches_of_a_square_block():
    """A change within one cell of the picture changes that cell's token most."""
    for family in ("paligemma", "idefics3", "gemma3", "internvl", "llava"):
        model, (image, *others) = build(family), pictures(6)
        cell = SIDE // model.grid
        for row, column in ((0, 1), (1, 0)):
            moved = 0  # over several changes, since a tower at random may mix its patches
            for other in others:
                changed = image.copy()
                changed.paste(other.resize((cell, cell)), (column * cell, row * cell))
                change = embedded_image(model, image) - embedded_image(model, changed)
                moved = moved + change.norm(dim=-1)
            assert int(moved.argmax()) == row * model.grid + column, family


def test_regions_need_one_square_of_tokens():
    model, pairs = build("qwen2_vl", torch.float32), load_pairs("svo", n=1)
    region = Site("mlp", 0, None, "image:differs")
    with pytest.raises(NoticeError, match="does not turn every image into the same square"):
        sweep(model, pairs, [region])
    assert model.grid == 0
    tiled = build("internvl", torch.float32, tiles=4)
    wide = pictures(side=2 * SIDE)[0].resize((4 * SIDE, SIDE))
    inputs = tiled.inputs(wide, PROMPT)
    assert sum(inputs.image_tokens) > tiled.grid**2 == 4
    roles = {"text": tuple("image" if image else "before" for image in inputs.image_tokens)}
    with pytest.raises(NoticeError, match="not one block of 2 x 2"):
        place(tiled, [region], roles, {"differs": (0,)})
    square = build("paligemma", torch.float32)
    found = sweep(square, pairs, [region], strict=True)
    assert len(found.patched) == 1


def test_a_mean_over_images_is_over_images_of_one_grid(tmp_path):
    """As many tokens in another order are other places: 6 x 8 are not 8 x 6."""
    model, pairs = build("qwen2_vl", torch.float32), load_pairs("svo", n=2)
    resized = []
    for pair, size in zip(pairs, ((64, 48), (48, 64)), strict=True):
        path = tmp_path / f"{pair.pair_id}.png"
        pair.image("clean").resize(size).save(path)
        resized.append(replace(pair, clean_image=path, corrupt_image=path))
    two = replace(pairs, pairs=tuple(resized))
    grids = [model.inputs(pair.image("clean"), pair.prompt) for pair in two]
    assert sum(grids[0].image_tokens) == sum(grids[1].image_tokens)
    table = ablate(model, two, [Site("mlp", 0, None, "image")]).table()
    assert (table["logit_correct"] == table["base_logit_correct"]).all()  # each is its own mean
    one = replace(pairs, pairs=two.pairs[:1])
    with pytest.raises(NoticeError, match="has an image laid out like this one"):
        ablate(model, replace(pairs, pairs=two.pairs[1:]), [Site("mlp", 0, None, "image")],
               reference=one)  # fmt: skip
    text = ablate(model, replace(pairs, pairs=two.pairs[1:]), [Site("mlp", 0, None, "or")],
                  reference=one)  # fmt: skip
    assert len(text.patched) == 1


def test_a_square_is_one_block_of_a_square_number():
    assert square_side((False, *[True] * 9, False)) == 3
    assert square_side((True, True, False, True, True)) == 0
    assert square_side((True, True, True)) == 0


def test_images_of_other_sizes_are_no_pair():
    model = build("llava_next", torch.float32)
    clean = model.inputs(pictures()[0], PROMPT)
    corrupt = model.inputs(Image.new("RGB", (64, 16)), PROMPT)
    assert len(clean) != len(corrupt)
    with pytest.raises(NoticeError, match="give both images the same size"):
        Job(corrupt, clean, alone([PlacedSite("mlp", 0, None, (1,), "")]), ANSWER)


def test_the_vision_tower_and_noise_are_refused():
    model, pairs = build("llava", torch.float32), load_pairs("svo", n=1)
    with pytest.raises(NoticeError, match="has no component 'vision_mlp'"):
        site_grid(model, ["vision_mlp"])
    with pytest.raises(NoticeError, match="noise on its image is not supported"):
        sweep(model, pairs, [Site("mlp", 0, None, "last")], GaussianNoise(draws=1), strict=True)


def test_what_happens_between_layers_is_refused():
    """Qwen3-VL adds visual features to the hidden states behind its first layers."""
    model_class, config, processor = qwen3_vl()
    model = DecoderOnly(model_class(config), processor, "qwen3_vl")
    with pytest.raises(NoticeError, match="hidden states change between layers 0 and 1"):
        verify(model)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: setattr(text, "second_norm", torch.nn.LayerNorm(48)), "and 2 norms"),
        (lambda text: setattr(text, "layers", text.layers[:1]), "0 lists of 3 layers"),
        (lambda text: delattr(text.layers[1], "mlp"), "not one attention and one MLP"),
        (
            lambda text: setattr(text.layers[0].self_attn, "out_proj", text.layers[0].mlp),
            "not one linear output projection",
        ),
        (
            lambda text: setattr(text.layers[0].self_attn, "head_dim", 11),
            "4 heads, which do not fit the 48 inputs",
        ),
    ],
)
def test_a_tree_that_is_not_understood_is_refused(change, named):
    found = tiny("llava", torch.float32)
    text = found.model.model.language_model
    change(text)
    with pytest.raises(NoticeError, match=named):
        DecoderOnly(found.model, found.processor, "changed")


def test_a_last_step_that_is_not_known_is_refused():
    found = tiny("llava", torch.float32)
    model = DecoderOnly(found.model, found.processor, "sharpened")

    def sharpen(module, args, output):
        output.logits = 2 * output.logits
        return output

    found.model.register_forward_hook(sharpen)
    with pytest.raises(NoticeError, match="its logits are not those"):
        verify(model)


def test_a_soft_cap_that_the_model_does_not_apply_is_not_applied(exact):
    """LLaVA ignores that of its text model's configuration, PaliGemma 2 does not."""
    found = tiny("llava")
    found.model.config.text_config.final_logit_softcapping = 3.0
    loose = DecoderOnly(found.model, found.processor, "capped")
    verify(loose)
    states = 100 * torch.randn(3, 48, dtype=torch.float64)
    for model, capped in ((loose, False), (build("paligemma2"), True)):
        run = recorded.record(model, [model.inputs(pictures()[0], PROMPT)], [])
        assert bool((run.unembed(states).abs() <= 3).all()) == capped


@EVERY
def test_a_layout_is_the_roles_of_the_text_by_the_tokenizer_alone(family, monkeypatch):
    model = build(family, torch.float32)
    spans = option_spans(PROMPT, "dog", "goat")
    asked = ("before", "correct", "or", "between", "incorrect")

    def of_the_question(roles):
        return [role for role in roles if role in asked]

    words = of_the_question(model.roles(model.inputs(pictures()[0], PROMPT), spans))
    monkeypatch.setattr(DecoderOnly, "inputs", None)  # no image is processed
    layout = model.token_layout(PROMPT, spans)
    assert of_the_question(layout) == words and set(asked) - {"between"} <= set(words)
    assert layout != model.token_layout("Is the dog or the goat on it?", spans)


def test_in_double_precision_nothing_goes_down_to_float32():
    x = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)

    def ways():
        return x.float(), x.to(torch.float32), torch.softmax(x, 0, dtype=torch.float32)

    with DoublePrecision():
        exact = ways()
        with ThreadPoolExecutor(1) as pool:
            elsewhere = pool.submit(ways).result()
    assert all(way.dtype == torch.float64 for way in exact) and torch.equal(exact[0], x)
    assert all(way.dtype == torch.float32 for way in (*elsewhere, *ways()))
