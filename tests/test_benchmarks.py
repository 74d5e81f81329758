"""Each benchmark runs end to end at a tiny size, and its closing line can be read."""

import math
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    against_published,
    families,
    gpu,
    hub,
    minis,
    random_families,
    random_models,
    scaling,
    threads,
)
from benchmarks.operations import BlipWork, LlavaWork
from notice_lib import NoticeError, effects, site_grid, sweep

RUNS = {
    "published-blip": against_published.blip,
    "published-llava": against_published.llava,
    "families": families.run,
    "minis": minis.run,
    "scaling": scaling.run,
    "gpu": gpu.run,
    "threads": threads.run,
    "hub": hub.run,
}


@pytest.fixture(autouse=True)
def same_threads():
    """Benchmarks set the number of threads of their process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def closing(report, folder) -> dict[str, float]:
    """The figures of the closing line, as read from the written table."""
    report.write(folder)
    assert (folder / f"{report.name}.csv").read_text().count("\n") == len(report.table) + 1
    last = (folder / f"{report.name}.md").read_text().splitlines()[-1]
    name, figures = re.fullmatch(r"`([\w-]+): (.*)`", last).groups()
    assert name == report.name
    found = dict(figure.split("=") for figure in figures.split(" "))
    return {name: float(value) for name, value in found.items()}


def weekly_if_it_takes_minutes(names):
    weekly, slow = pytest.mark.weekly, ("threads", "hub")
    return [pytest.param(one, marks=weekly) if one in slow else one for one in names]


@pytest.mark.parametrize("name", weekly_if_it_takes_minutes(RUNS))
def test_a_benchmark_runs_and_its_closing_line_can_be_read(name, tmp_path):
    figures = closing(RUNS[name](tiny=True), tmp_path)
    assert all(map(math.isfinite, figures.values()))
    if "ratio" in figures:
        assert figures["ratio"] > 0
    if "max_abs_diff" in figures:
        assert figures["max_abs_diff"] <= 1e-5
    if name.startswith("published"):
        assert figures["max_abs_diff_float64"] <= 1e-10
    if name == "hub":
        assert 0 < figures["core_seconds_to_start"] <= figures["core_seconds"]
        assert figures["peak_mib"] > 100
    if name == "scaling":
        assert figures["memory_growth"] < 1.2


@pytest.mark.parametrize("family", random_families.FAMILIES)
def test_a_family_sees_its_image(family, tmp_path):
    """An engine has nothing to do for one that does not, so its speed would mean nothing."""
    model = random_families.FAMILIES[family](random_families.TINY)
    pairs = random_models.random_pairs(tmp_path, random_models.LLAVA_PROMPT)
    sites = site_grid(model, ["self_attention"], per_head=True, position="last")
    table = effects(sweep(model, pairs, sites).table())
    assert table.effect.abs().min() > 1e-6


def test_the_peak_is_the_measured_process_own():
    """Not that of the process which starts it, however large that is."""
    point = {"sites": 4, "pairs": 1, "layers": 1, "prompt tokens": 12, "image tokens": 4}
    small = scaling._peak_of(point)
    ballast = torch.ones(2**28)  # 1 GiB
    assert scaling._peak_of(point) < small + 100
    assert len(ballast) == 2**28


def test_without_a_gpu_the_benchmark_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoticeError, match="needs a GPU"):
        gpu.run()


def test_operations_are_those_that_torch_counts():
    """Three full inputs, where attention is eager (torch does not count the fused kernels)."""
    model = random_models.blip(random_models.TINY_BLIP).model
    ids, pixels = torch.ones(3, 9, dtype=torch.long), torch.randn(3, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        image = model.vision_model(pixel_values=pixels)[0]
        question = model.text_encoder(ids, encoder_hidden_states=image)[0]
        model.text_decoder(ids[:, :1], encoder_hidden_states=question)
    counted = counter.get_total_flops()
    assert BlipWork(model.config, 9).published_site() == pytest.approx(counted, rel=1e-6)

    model = random_models.llava(random_models.TINY_LLAVA).model
    model.set_attn_implementation("eager")
    ids = torch.tensor([[1, *[4] * 16, *[2] * 11]])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, pixel_values=pixels[:1], logits_to_keep=1)
    # Eager attention also computes what the causal mask throws away.
    tokens, text = ids.shape[1], model.config.text_config
    wasted = 4 * text.hidden_size * sum(range(tokens)) * text.num_hidden_layers
    counted = 3 * (counter.get_total_flops() - wasted)
    assert LlavaWork(model.config, tokens).published_site() == pytest.approx(counted, rel=1e-6)
