"""The fast way equals the plain way, on every component, layer, head and position."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from seeded import blip_runs, llava_runs, seeded_blip, seeded_llava
from test_patching import count_hooks

from notice_lib.models.base import AnswerTokens
from notice_lib.patching import PlacedSite, engine, plain
from notice_lib.patching.jobs import Job

CASES = [
    pytest.param(seeded_blip, blip_runs, id="blip"),
    pytest.param(seeded_llava, llava_runs, id="llava"),
    pytest.param(lambda dtype: seeded_llava(dtype, kv_heads=2), llava_runs, id="llava-gqa"),
]
EVERYTHING = pytest.mark.parametrize(("build", "runs"), CASES)


def every_site(model, clean) -> tuple[PlacedSite, ...]:
    """Each single site at each text position, and one group of two positions."""
    text = [i for i, image in enumerate(clean.image_tokens) if not image]
    positions = [(i,) for i in text] + [(text[1], text[3])]
    return tuple(
        PlacedSite(component, layer, head, position, "")
        for component in model.components
        for layer in range(model.n_layers)
        for head in (
            [None, *range(model.n_heads)] if model.hook_point(component, 0).per_head else [None]
        )
        for position in positions
    )


def gap(outcome):
    return outcome.patched[:, 0] - outcome.patched[:, 1]


def largest(one, other) -> float:
    return max(
        (getattr(one, run) - getattr(other, run)).abs().max().item()
        for run in ("base", "source", "patched")
    )


@pytest.mark.parametrize("swap", [False, True], ids=["denoise", "noise"])
@pytest.mark.parametrize("corruption", ["image", "text"])
@EVERYTHING
def test_the_engine_is_the_plain_way_in_float64(build, runs, corruption, swap):
    model = build(torch.float64)
    clean, corrupt = runs()[corruption]
    base, source = (clean, corrupt) if swap else (corrupt, clean)
    job = Job(base, source, every_site(model, clean), AnswerTokens((), 30, 31))
    (slow,), (fast,) = plain.patch(model, [job]), engine.patch(model, [job], max_rows=500)
    assert largest(slow, fast) <= 1e-10
    assert (gap(slow) - (slow.base[0] - slow.base[1])).abs().max() > 1e-3


@EVERYTHING
def test_in_float32_the_engine_errs_no_more_than_the_plain_way(build, runs):
    outcomes = {}
    for dtype in (torch.float32, torch.float64):
        model = build(dtype)
        clean, corrupt = (
            replace(run, pixel_values=run.pixel_values.to(dtype)) for run in runs()["image"]
        )
        sites = every_site(model, clean)[::5]
        job = Job(corrupt, clean, sites, AnswerTokens((), 30, 31))
        outcomes[dtype] = [way.patch(model, [job])[0] for way in (plain, engine)]
    slow, fast = outcomes[torch.float32]
    exact = outcomes[torch.float64][0]
    assert largest(slow, fast) <= max(1e-5, 3 * largest(slow, exact))


@EVERYTHING
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_sites_in_any_chunks_and_batches_are_the_same(build, runs, data):
    """Also with answers that share a first token, and several pairs at once."""
    model = build(torch.float64)
    (a, b), (_, c) = runs()["image"], runs()["text"]
    pool = every_site(model, a)
    sites = tuple(data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=12, unique=True)))
    answer = AnswerTokens(data.draw(st.sampled_from([(), (40,)])), 30, 31)
    jobs = [Job(*runs, sites, answer) for runs in ((b, a), (a, b), (c, a))]
    rows = data.draw(st.integers(1, 400))
    together = engine.patch(model, jobs, max_rows=rows)
    for job, outcome in zip(jobs, together, strict=True):
        assert largest(plain.patch(model, [job])[0], outcome) <= 1e-10


@EVERYTHING
def test_the_engine_leaves_no_hook(build, runs):
    model = build(torch.float64)
    clean, corrupt = runs()["image"]
    model.logits(clean)
    before = count_hooks(model)
    job = Job(corrupt, clean, every_site(model, clean)[:3], AnswerTokens((), 30, 31))
    engine.patch(model, [job])
    assert count_hooks(model) == before


def test_out_of_memory_halves_the_chunks_and_goes_on(monkeypatch):
    model = seeded_llava(torch.float64)
    clean, corrupt = llava_runs()["image"]
    job = Job(corrupt, clean, every_site(model, clean)[:4], AnswerTokens((), 30, 31))
    tried, group = [], engine._PATCH_GROUP["llava"]

    def small_machine(model, jobs, max_rows):
        tried.append(max_rows)
        if max_rows > 30:
            raise torch.OutOfMemoryError("too small")
        return group(model, jobs, max_rows)

    monkeypatch.setitem(engine._PATCH_GROUP, "llava", small_machine)
    with pytest.warns(UserWarning, match="going on with 25 tokens at a time"):
        (outcome,) = engine.patch(model, [job], max_rows=100)
    assert tried == [100, 50, 25]
    assert largest(plain.patch(model, [job])[0], outcome) <= 1e-10
