"""Attribution patching on seeded random models: where it is exact, and where it is not."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from seeded import blip_runs, llava_runs, seeded_blip, seeded_llava
from test_patching import count_hooks

from notice_lib import NoticeError, effects, load_model, load_pairs, site_grid, sweep
from notice_lib.models.inputs import AnswerTokens
from notice_lib.patching import Intervention, PlacedSite, attribution, queries, reference
from notice_lib.patching.jobs import Job

CASES = [
    pytest.param(seeded_blip, blip_runs, id="blip"),
    pytest.param(seeded_llava, llava_runs, id="llava"),
    pytest.param(lambda: seeded_llava(kv_heads=2), llava_runs, id="llava-gqa"),
]
EVERYTHING = pytest.mark.parametrize(("build", "runs"), CASES)
ANSWER = AnswerTokens((), 30, 31)


def job_of(runs, sites) -> Job:
    clean, corrupt = runs
    return Job(corrupt, clean, tuple(Intervention((site,)) for site in sites), ANSWER)


def heads_of(model, component, layer, position) -> list[PlacedSite]:
    return [PlacedSite(component, layer, head, position, "") for head in range(model.n_heads)]


def some_sites(model, clean) -> list[PlacedSite]:
    """Of every component, layer and head, at two tokens behind the image."""
    last = len(clean) - 1
    return [
        PlacedSite(component, layer, head, position, "")
        for component in model.components
        for layer in range(model.n_layers)
        for head in ([None, 1] if component.endswith("attention") else [None])
        for position in ((last - 2,), (last - 4, last))
    ]


def changes(outcome) -> torch.Tensor:
    """(patches, 2): what the two logits change by."""
    return (outcome.patched - outcome.base)[:, :2]


def linear_behind(model, first: int):
    """Make the model linear from layer `first` on, and its read-out: no MLP, uniform attention,
    normalisations without an effect of the size of their input."""
    with torch.no_grad():
        for module in model.model.modules():
            if isinstance(module, torch.nn.LayerNorm) or "RMSNorm" in type(module).__name__:
                name = "eps" if hasattr(module, "eps") else "variance_epsilon"
                setattr(module, name, 1e14)
                module.weight.mul_(1e7)
        for block in read_layers(model)[first:]:
            for name, parameter in block.named_parameters():
                if re.search(r"query|q_proj|down_proj|(?<!attention\.)output\.dense", name):
                    parameter.zero_()
        if model.family == "blip":  # GELU is the identity far above zero
            model.model.text_decoder.cls.predictions.transform.dense.bias.fill_(1e4)
    return model


def read_layers(model) -> list[torch.nn.Module]:
    """The text stack's layers, and BLIP's decoder's."""
    if model.family == "llava":
        return list(model.model.model.language_model.layers)
    decoder = model.model.text_decoder.bert.encoder.layer
    return [*model.model.text_encoder.encoder.layer, *decoder]


@EVERYTHING
def test_gradients_are_finite_differences(build, runs):
    model = build()
    clean, corrupt = runs()["image"]
    point = ("self_attention", 1)
    scores, here, gradients = attribution.linearise(model, corrupt, [point], ANSWER)
    direction = torch.randn(here[point].shape, generator=torch.Generator().manual_seed(0)).double()
    direction /= direction.norm()
    step = 1e-2 if model.family == "llava" else 1e-4  # Llama normalises in float32
    everywhere = Intervention((PlacedSite(*point, None, tuple(range(len(clean))), ""),))
    ends = [
        Job(corrupt, {point: here[point] + sign * step * direction}, (everywhere,), ANSWER)
        for sign in (1, -1)
    ]
    (plus,), (minus,) = (outcome.patched for outcome in reference.patch(model, ends))
    expected = (plus - minus) / (2 * step)
    found = (gradients[point] * direction).sum((1, 2, 3))
    assert torch.allclose(found, expected, rtol=1e-2, atol=1e-6)
    assert expected[:2].abs().min() > 1e-3
    assert torch.allclose(scores, reference.patch(model, ends)[0].base, atol=1e-10)


@EVERYTHING
def test_small_differences_leave_an_error_of_second_order(build, runs):
    """Halve the difference between the two images: the error falls to a quarter."""
    model = build()
    clean, corrupt = runs()["image"]
    sites = some_sites(model, clean)
    errors = []
    for share in (0.01, 0.005):
        near = corrupt.pixel_values.lerp(clean.pixel_values, share)
        job = job_of((replace(clean, pixel_values=near), corrupt), sites)
        exact, estimate = (changes(way.patch(model, [job])[0]) for way in (reference, attribution))
        errors.append((exact - estimate).norm() / exact.norm())
    assert errors[0] < 0.2
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.05)


@EVERYTHING
def test_it_is_exact_where_everything_behind_is_linear(build, runs):
    model = linear_behind(build(), first=1)
    for corruption, (clean, corrupt) in runs().items():
        sites = [
            site
            for site in some_sites(model, clean)
            if site.layer > 0 or site.component in ("mlp", "layer_output")
        ]
        job = job_of((clean, corrupt), sites)
        exact, estimate = (changes(way.patch(model, [job])[0]) for way in (reference, attribution))
        assert torch.allclose(exact, estimate, rtol=1e-4, atol=1e-5 * exact.abs().max()), corruption
        assert exact.abs().max() > 0.01


@EVERYTHING
def test_a_circuits_estimate_is_the_sum_of_its_sites(build, runs):
    model = build()
    clean, corrupt = runs()["image"]
    sites = heads_of(model, "self_attention", 1, (len(clean) - 1,))
    whole = PlacedSite("self_attention", 1, None, (len(clean) - 1,), "")
    job = job_of((clean, corrupt), [*sites, whole])
    job = replace(job, interventions=(*job.interventions, Intervention(tuple(sites), "all heads")))
    found = changes(attribution.patch(model, [job])[0])
    assert torch.allclose(found[: len(sites)].sum(0), found[-1])
    assert torch.allclose(found[-2], found[-1])


@EVERYTHING
def test_nothing_is_left_behind(build, runs):
    model = build()
    clean, corrupt = runs()["image"]
    model.logits(clean)
    before = count_hooks(model)
    job = job_of((clean, corrupt), heads_of(model, "self_attention", 1, (3,)))
    for engine in (attribution.patch, queries.patch, queries.first_order, queries.corrected):
        engine(model, [job])
    assert count_hooks(model) == before
    assert all(parameter.grad is None for parameter in model.model.parameters())
    assert not model.logits(clean).requires_grad


@EVERYTHING
def test_frozen_parameters_make_no_difference(build, runs):
    model = build()
    clean, corrupt = runs()["image"]
    job = job_of((clean, corrupt), some_sites(model, clean))
    (before,) = attribution.patch(model, [job])
    model.model.requires_grad_(False)
    (after,) = attribution.patch(model, [job])
    assert torch.allclose(before.patched, after.patched, atol=1e-10)


def test_a_heads_query_by_hand():
    """BLIP's cross-attention with the source's query and the base's keys and values."""
    model = seeded_blip()
    clean, corrupt = blip_runs()["image"]
    layer, position = 2, 5
    attention = model.model.text_encoder.encoder.layer[layer].crossattention.self
    seen = {}
    for name, run in (("source", clean), ("base", corrupt)):
        handles = [
            getattr(attention, part).register_forward_hook(
                lambda module, args, output, at=(name, part): seen.update({at: output[0]})
            )
            for part in ("query", "key", "value")
        ]
        model.logits(run)
        for handle in handles:
            handle.remove()
    size = seen["base", "key"].shape[-1] // model.n_heads
    outputs = torch.zeros(1, len(corrupt), size * model.n_heads, dtype=torch.float64)
    for head in range(model.n_heads):
        own = slice(head * size, (head + 1) * size)
        query = seen["source", "query"][position, own]
        weights = torch.softmax(seen["base", "key"][:, own] @ query / size**0.5, 0)
        outputs[0, position, own] = weights @ seen["base", "value"][:, own]
    sites = heads_of(model, "cross_attention", layer, (position,))
    job = job_of((clean, corrupt), sites)
    by_hand = replace(job, source={("cross_attention", layer): outputs})
    expected, found = reference.patch(model, [by_hand])[0], queries.patch(model, [job])[0]
    assert torch.allclose(expected.patched, found.patched, atol=1e-12)
    assert changes(found).abs().max() > 1e-4


@EVERYTHING
def test_the_correction_is_exact_where_all_but_the_heads_softmax_is_linear(build, runs):
    """The softmax is saturated, so the plain estimate hardly sees what the query does."""
    model = build()
    blip, layer = model.family == "blip", model.n_layers - 1
    component = "cross_attention" if blip else "self_attention"
    weight = model.query_point(component, layer).module.weight
    kept = weight.detach().clone()
    linear_behind(model, first=layer)
    with torch.no_grad():
        weight.copy_(kept * (2 if blip else 0.2))  # what it reads is no longer normalised
    clean, corrupt = runs()["text" if blip else "image"]
    job = job_of((clean, corrupt), heads_of(model, component, layer, (len(clean) - 1,)))
    exact, linear, corrected = (
        changes(engine(model, [job])[0])
        for engine in (queries.patch, queries.first_order, queries.corrected)
    )
    assert torch.allclose(exact, corrected, rtol=1e-4, atol=1e-4 * exact.abs().max())
    assert linear.norm() < 0.05 * exact.norm()


@EVERYTHING
def test_the_correction_agrees_with_single_runs(build, runs):
    """One frozen run with all queries replaced gives what a run for each head gives."""
    model = build()
    clean, corrupt = runs()["text"]
    sites = [
        PlacedSite("self_attention", layer, layer, (len(clean) - 2,), "")
        for layer in range(model.n_layers)
    ]
    together = queries.corrected(model, [job_of((clean, corrupt), sites)])[0]
    for i, site in enumerate(sites):
        alone = queries.corrected(model, [job_of((clean, corrupt), [site])])[0]
        assert torch.allclose(together.patched[i], alone.patched[0], atol=1e-12)


def test_only_attention_has_queries():
    model, runs = seeded_blip(), blip_runs()["image"]
    with pytest.raises(NoticeError, match="'mlp' of BLIP has no queries"):
        queries.patch(model, [job_of(runs, [PlacedSite("mlp", 0, None, (1,), "")])])


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
def test_a_sweep_of_estimates_lies_beside_an_exact_one(name):
    model = load_model(name, "cpu")
    pairs = load_pairs("svo", n=2, seed=0)
    sites = site_grid(model, ["self_attention"], layers=[1], per_head=True)
    exact = sweep(model, pairs, sites)
    estimated = sweep(model, pairs, sites[::2], engine=attribution.patch)
    both = attribution.beside(exact, estimated)
    assert len(both) == len(exact.patched)
    assert both.estimate.isna().eq(both["head"] % 2 == 1).all()
    assert both.effect.equals(effects(exact.table()).effect)
    of_first = both[both["head"] == 0]
    wanted = effects(estimated.table()).query("head == 0").effect
    assert of_first.estimate.to_list() == wanted.to_list()


def test_recall_counts_the_largest_absolutely():
    effect = pd.Series([5.0, -4.0, 3.0, 0.0, 0.1])
    estimate = pd.Series([0.0, 9.0, 1.0, -2.0, 0.5])
    assert attribution.recall(effect, effect, 3) == 1
    assert attribution.recall(effect, estimate, 2) == 0.5
    assert attribution.recall(effect, estimate, 3) == pytest.approx(2 / 3)
    assert attribution.recall(effect, estimate, 3, budget=5) == 1


def test_a_folder_of_estimates_is_not_taken_for_one_of_patched_runs(tmp_path):
    model, pairs = load_model("blip-mini"), load_pairs("svo", n=2)
    sites = site_grid(model, ["mlp"], layers=[1], position="last")
    sweep(model, pairs, sites, out=tmp_path, engine=attribution.patch)
    with pytest.raises(NoticeError, match="measures is 'attribution' there and"):
        sweep(model, pairs, sites, out=tmp_path)
