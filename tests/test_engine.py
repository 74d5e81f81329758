"""The engine equals the reference, on every component, layer, head and position."""

from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from seeded import blip_runs, llava_runs, seeded_blip, seeded_llava
from test_patching import count_hooks

from notice_lib import NoticeError
from notice_lib.models.base import NOISE_PLACES
from notice_lib.models.hooks import watch
from notice_lib.models.inputs import AnswerTokens, ImageNoise
from notice_lib.patching import (
    Intervention,
    PlacedSite,
    blip_plan,
    decoder_plan,
    engine,
    reference,
    resume,
)
from notice_lib.patching.jobs import Job

CASES = [
    pytest.param(seeded_blip, blip_runs, id="blip"),
    pytest.param(seeded_llava, llava_runs, id="llava"),
    pytest.param(partial(seeded_llava, kv_heads=2), llava_runs, id="llava-gqa"),
]
ANSWER = AnswerTokens((), 30, 31)
EVERYTHING = pytest.mark.parametrize(("build", "runs"), CASES)
ODD = [
    pytest.param(
        partial(seeded_blip, num_hidden_layers=1, num_attention_heads=8, vision={"image_size": 24}),
        partial(blip_runs, image_size=24, length=3),
        id="blip, 1 layer, 3 tokens, 9 patches",
    ),
    pytest.param(
        partial(seeded_blip, hidden_size=96, num_attention_heads=3, num_hidden_layers=2,
                encoder_hidden_size=96, vision={"hidden_size": 96, "num_attention_heads": 6}),
        partial(blip_runs, length=12),
        id="blip, 3 heads of 32, 6 in the tower",
    ),
    pytest.param(
        partial(seeded_llava, num_hidden_layers=1, kv_heads=1, feature_layer=-1,
                vision={"image_size": 16}),
        partial(llava_runs, image_size=16, length=3),
        id="llava, 1 layer, 4 image tokens, 1 key-value head",
    ),
    pytest.param(
        partial(seeded_llava, num_attention_heads=8, kv_heads=2, head_dim=12, attention="sdpa"),
        partial(llava_runs, length=9),
        id="llava, 8 heads of 12, 2 key-value heads, sdpa",
    ),
]  # fmt: skip


def some_positions(model, component, clean) -> list[tuple[int, ...]]:
    """Tokens of a component's stack: each of the text's, some of the tower's, and groups."""
    stack = model.stack_of(component)
    if stack == "decoder":
        return [(0,)]
    if stack == "vision":
        tokens = model.grid**2 + model.class_tokens
        return [(0,), (2,), (1, tokens - 1), tuple(range(tokens))]
    text = [(i,) for i, image in enumerate(clean.image_tokens) if not image]
    image = tuple(i for i, image in enumerate(clean.image_tokens) if image)
    return [*text, (0, len(clean) - 1)] + [image, image[1:3]] * bool(image)


def every_site(model, clean) -> list[PlacedSite]:
    """Each component, layer, and head, whole or single, at `some_positions`."""
    return [
        PlacedSite(component, layer, head, position, "")
        for stack in model.stacks.values()
        for component in stack.components
        for layer in range(stack.n_layers)
        for head in (
            [None, *range(stack.n_heads)] if model.hook_point(component, 0).per_head else [None]
        )
        for position in some_positions(model, component, clean)
    ]


def alone(sites) -> tuple[Intervention, ...]:
    return tuple(Intervention((site,)) for site in sites)


def gap(outcome):
    return outcome.patched[:, 0] - outcome.patched[:, 1]


def largest(one, other) -> float:
    return max(
        (getattr(one, run) - getattr(other, run)).abs().max().item()
        for run in ("base", "source", "patched")
    )


@pytest.mark.parametrize(
    ("corruption", "swap"), [("image", False), ("text", True)], ids=["denoise", "noise"]
)
@pytest.mark.parametrize(("build", "runs"), CASES + ODD)
def test_the_engine_is_the_reference_in_float64(build, runs, corruption, swap):
    model = build(torch.float64)
    clean, corrupt = runs(torch.float64)[corruption]
    base, source = (clean, corrupt) if swap else (corrupt, clean)
    job = Job(base, source, alone(every_site(model, clean)), ANSWER)
    (slow,), (fast,) = reference.patch(model, [job]), engine.patch(model, [job], max_tokens=500)
    assert largest(slow, fast) <= 1e-10
    assert (gap(slow) - (slow.base[0] - slow.base[1])).abs().max() > 1e-3


def worst(build, runs, dtype):
    """Largest difference of the engine from the reference, and of that from float64."""

    def outcome(way, precision):
        model = build(precision)
        clean, corrupt = runs(precision)["image"]
        job = Job(corrupt, clean, alone(every_site(model, clean)[::5]), ANSWER)
        return way.patch(model, [job])[0]

    slow = outcome(reference, dtype)
    return largest(slow, outcome(engine, dtype)), largest(slow, outcome(reference, torch.float64))


@EVERYTHING
def test_in_float32_the_engine_errs_no_more_than_the_reference(build, runs):
    difference, error = worst(build, runs, torch.float32)
    assert difference <= max(1e-5, 3 * error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@EVERYTHING
def test_in_half_precision_too(build, runs, dtype):
    difference, error = worst(build, runs, dtype)
    assert difference <= 3 * error


@EVERYTHING
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_patches_in_any_chunks_and_batches_are_the_same(build, runs, data):
    """Also circuits, answers that share a first token, several pairs at once, noisy images."""
    model = build(torch.float64)
    (a, b), (_, c) = runs()["image"], runs()["text"]
    place = data.draw(st.sampled_from(NOISE_PLACES))
    noisy = replace(b, noise=ImageNoise(place, noise_like(model, b, place)))
    pool = every_site(model, a)
    circuit = st.lists(st.sampled_from(pool), min_size=1, max_size=4, unique=True)
    sets = data.draw(st.lists(circuit, min_size=1, max_size=8))
    patches = tuple(Intervention(tuple(sites), str(i)) for i, sites in enumerate(sets))
    answer = AnswerTokens(data.draw(st.sampled_from([(), (40,)])), 30, 31)
    jobs = [Job(*runs, patches, answer) for runs in ((b, a), (a, b), (c, a), (noisy, a))]
    rows = data.draw(st.integers(1, 400))
    together = engine.patch(model, jobs, max_tokens=rows)
    for job, outcome in zip(jobs, together, strict=True):
        assert largest(reference.patch(model, [job])[0], outcome) <= 1e-10


def noise_like(model, inputs, place):
    with watch({place: model.noise_point(place)}) as seen:
        model.logits(inputs)
    return 0.1 * torch.randn(seen[place].shape, dtype=model.dtype)


@EVERYTHING
def test_given_activations_are_written_as_they_are(build, runs):
    """Ablation: the source is no run."""
    model = build(torch.float64)
    clean, _ = runs()["image"]
    sites = every_site(model, clean)[::7]
    points = {(site.component, site.layer) for site in sites}
    _, own = reference.record(model, clean, points)
    patches = (*alone(sites), Intervention(tuple(sites[::3]), "some"))
    zeros = {point: torch.zeros_like(values) for point, values in own.items()}
    job = Job(clean, zeros, patches, ANSWER)
    (slow,), (fast,) = reference.patch(model, [job]), engine.patch(model, [job])
    assert (slow.patched - fast.patched).abs().max() <= 1e-10
    assert slow.source.isnan().all() and fast.source.isnan().all()
    (same,) = engine.patch(model, [Job(clean, own, patches, ANSWER)])
    assert (same.patched - same.base).abs().max() <= 1e-10


@pytest.mark.parametrize(
    ("build", "runs", "corruption", "site"),
    [
        (seeded_blip, blip_runs, "image", PlacedSite("self_attention", 0, 1, (2,), "")),
        (seeded_blip, blip_runs, "text", PlacedSite("vision_mlp", 1, None, (3, 4), "")),
        (seeded_llava, llava_runs, "image", PlacedSite("layer_output", 2, None, (1,), "")),
        (seeded_llava, llava_runs, "text", PlacedSite("mlp", 1, None, (7,), "")),
    ],
)
def test_a_run_that_writes_what_is_there_is_not_run(build, runs, corruption, site, monkeypatch):
    model, (clean, corrupt) = build(), runs()[corruption]
    job = Job(corrupt, clean, alone([site]), ANSWER)
    (slow,) = reference.patch(model, [job])
    for module in (blip_plan, decoder_plan):
        monkeypatch.setattr(module, "_run_chunk", None)
    (fast,) = engine.patch(model, [job])
    assert largest(slow, fast) <= 1e-10


@pytest.mark.parametrize("engine_of", [engine, reference], ids=["engine", "reference"])
@pytest.mark.parametrize(
    ("site", "culprit"),
    [
        (("mlp", 0, None, (24,)), "text stack has 24 tokens in this run.* from 0 to 23"),
        (("mlp", 0, None, (3, -1)), "text stack has 24 tokens"),
        (("mlp", 0, None, ()), "text stack has 24 tokens"),
        (("vision_mlp", 0, None, (17,)), "vision stack has 17 tokens"),
        (("self_attention", 0, 4, (3,)), "text stack has the heads 0 to 3"),
        (("mlp", 3, None, (3,)), "text stack of seeded llava has layers 0 to 2"),
        (("mlp", 0, 1, (3,)), "'mlp' has no heads"),
    ],
)
def test_what_a_run_has_no_place_for_is_refused(engine_of, site, culprit):
    """Otherwise the engine would write into the next run's tokens."""
    model, (clean, corrupt) = seeded_llava(), llava_runs()["image"]
    assert len(clean) == 24
    sites = [PlacedSite("mlp", 0, None, (3,), ""), PlacedSite(*site, "")]
    with pytest.raises(NoticeError, match=culprit):
        engine_of.patch(model, [Job(corrupt, clean, alone(sites), ANSWER)])


def test_the_decoder_has_a_token_for_each_that_both_answers_begin_with():
    model, (clean, corrupt) = seeded_blip(), blip_runs()["image"]
    job = Job(corrupt, clean, alone([PlacedSite("decoder_mlp", 0, None, (1,), "")]), ANSWER)
    with pytest.raises(NoticeError, match="decoder stack has 1 tokens"):
        engine.patch(model, [job])
    job = replace(job, answer=AnswerTokens((40,), 30, 31))
    (slow,), (fast,) = reference.patch(model, [job]), engine.patch(model, [job])
    assert largest(slow, fast) <= 1e-10


@EVERYTHING
def test_the_engine_leaves_no_hook(build, runs):
    model = build(torch.float64)
    clean, corrupt = runs()["image"]
    model.logits(clean)
    before = count_hooks(model)
    job = Job(corrupt, clean, alone(every_site(model, clean)[::20]), ANSWER)
    engine.patch(model, [job])
    assert count_hooks(model) == before


@pytest.mark.parametrize("component", ["vision_mlp", "decoder_mlp"])
def test_the_engine_leaves_no_hook_after_an_exception(component, monkeypatch):
    model, (clean, corrupt) = seeded_blip(), blip_runs()["image"]
    model.logits(clean)
    before, during = count_hooks(model), []

    def fail(writes, *activation):
        during.append(count_hooks(model))
        raise RuntimeError("within a hook")

    monkeypatch.setattr(resume.Writes, "__call__", fail)
    job = Job(corrupt, clean, alone([PlacedSite(component, 0, None, (0,), "")]), ANSWER)
    with pytest.raises(RuntimeError, match="within a hook"):
        engine.patch(model, [job])
    assert during == [before + 1] and count_hooks(model) == before


TEXT_SITES = [PlacedSite("mlp", layer, None, (19,), "") for layer in range(3)]


class SmallMachine:
    """A part of the engine that fails with more than so many runs or pairs at once."""

    def __init__(self, monkeypatch, module, name, size, most):
        self.sizes, work = [], getattr(module, name)

        def small(*arguments):
            self.sizes.append(size(arguments))
            if self.sizes[-1] > most:
                raise torch.OutOfMemoryError("too small")
            return work(*arguments)

        monkeypatch.setattr(module, name, small)


@pytest.mark.parametrize(
    ("build", "runs", "plan"),
    [(seeded_llava, llava_runs, decoder_plan), (seeded_blip, blip_runs, blip_plan)],
)
def test_a_chunk_that_does_not_fit_is_halved_and_finished_ones_are_kept(
    build, runs, plan, monkeypatch
):
    model = build(torch.float64)
    clean, corrupt = runs()["image"]
    last = len(clean) - 1
    sites = [PlacedSite("mlp", layer, None, (last,), "") for layer in (1, 0)] * 4
    job = Job(corrupt, clean, alone(sites), ANSWER)
    machine = SmallMachine(monkeypatch, plan, "_run_chunk", lambda given: len(given[-1]), 2)
    with pytest.warns(UserWarning, match="going on with 2048 tokens at a time"):
        (outcome,) = engine.patch(model, [job])
    assert machine.sizes == [4, 2, 2] * 2
    assert largest(reference.patch(model, [job])[0], outcome) <= 1e-10
    # What did fit is remembered, and an argument goes before it.
    assert model.fitting_tokens == 1024
    machine.sizes.clear()
    engine.patch(model, [job], max_tokens=2 * len(clean) if plan is blip_plan else 2)
    assert machine.sizes == [2] * 4


def test_pairs_that_do_not_fit_together_are_halved(monkeypatch):
    model = seeded_llava(torch.float64)
    clean, corrupt = llava_runs()["image"]
    job = Job(corrupt, clean, alone(TEXT_SITES), ANSWER)
    machine = SmallMachine(monkeypatch, decoder_plan, "record", lambda given: len(given[1]), 2)
    with pytest.warns(UserWarning, match="Out of memory"):
        outcomes = engine.patch(model, [job] * 5)
    assert machine.sizes[:2] == [5, 2]
    expected = reference.patch(model, [job])[0]
    assert max(largest(expected, outcome) for outcome in outcomes) <= 1e-10


def test_what_does_not_fit_at_all_is_an_error(monkeypatch):
    model = seeded_llava(torch.float64)
    clean, corrupt = llava_runs()["image"]
    SmallMachine(monkeypatch, decoder_plan, "_run_chunk", lambda given: len(given[-1]), 0)
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError):
        engine.patch(model, [Job(corrupt, clean, alone(TEXT_SITES * 2), ANSWER)])


@EVERYTHING
def test_threads_take_turns_with_a_model(build, runs):
    model = build(torch.float64)
    clean, corrupt = runs()["image"]
    patches = alone(every_site(model, clean)[::9])
    jobs = [Job(corrupt, clean, patches, ANSWER), Job(clean, corrupt, patches, ANSWER)]
    expected = [reference.patch(model, [job])[0] for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        ways = [engine.patch, reference.patch] * 4
        found = list(pool.map(lambda way, job: way(model, [job])[0], ways, jobs * 4))
    for outcome, right in zip(found, expected * 4, strict=True):
        assert largest(outcome, right) <= 1e-10


def test_configurations_are_restored_after_an_exception(monkeypatch):
    model = seeded_llava(torch.float64)
    clean, corrupt = llava_runs()["image"]
    modules = list(model.model.modules())
    before = [getattr(module, "config", None) for module in modules]
    names = [getattr(config, "_attn_implementation", None) for config in before]

    def fail(*arguments):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(decoder_plan.WholeRuns, "__call__", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        engine.patch(model, [Job(corrupt, clean, alone(TEXT_SITES), ANSWER)])
    after = [getattr(module, "config", None) for module in modules]
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert names == [getattr(config, "_attn_implementation", None) for config in after]


def test_an_adapter_can_be_copied():
    model = seeded_llava(torch.float64)
    twin = deepcopy(model)
    clean, corrupt = llava_runs()["image"]
    job = Job(corrupt, clean, alone(TEXT_SITES), ANSWER)
    three = (model, twin, copy(model))
    first, *others = (engine.patch(one, [job])[0] for one in three)
    assert all(largest(first, other) == 0 for other in others)
