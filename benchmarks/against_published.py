"""Compare the engine with the published scheme on the same pair, in alternation.

The published scheme costs the same for every site, so a few sites are timed and extrapolated.
"""

import sys
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from notice_lib import run_inputs, site_grid, sweep
from notice_lib.models.base import VLM
from notice_lib.patching import logit_difference

from . import published, random_models
from .operations import BlipWork, LlavaWork
from .report import Report, matmul_peak, timed

ROUNDS = 5
SITES_A_ROUND = 2


def blip(tiny: bool = False) -> Report:
    """Patch BLIP-VQA-base: 12 x 3 modules and 12 x 12 cross-attention heads at each of 9 tokens."""
    config = random_models.TINY_BLIP if tiny else random_models.BLIP_VQA_BASE
    model = random_models.blip(config)
    sites = site_grid(model, ["layer_output", "self_attention", "cross_attention"])
    sites += site_grid(model, ["cross_attention"], per_head=True)

    def needed(found):
        work = BlipWork(model.model.config, int(found.position.max()) + 1)
        return work.needed(found.layer.tolist()), work.published_site()

    return _compare(
        "published-blip", model, random_models.BLIP_PROMPT, sites, needed, ("image",), tiny
    )


def llava(tiny: bool = False) -> Report:
    """Patch 8 layers x 8 heads of a LLaVA at each of 11 text tokens behind 576 image tokens."""
    config = random_models.TINY_LLAVA if tiny else random_models.LLAVA_8X8
    model = random_models.llava(config)
    sites = random_models.heads_behind_the_image(model, random_models.LLAVA_PROMPT)

    def needed(found):
        work = LlavaWork(model.model.config, int(found.position.max()) + 1)
        places = zip(found.layer.tolist(), found.position.tolist(), strict=True)
        return work.needed(places), work.published_site()

    return _compare(
        "published-llava",
        model,
        random_models.LLAVA_PROMPT,
        sites,
        needed,
        ("image", "text"),
        tiny,
    )


def _compare(
    name: str,
    model: VLM,
    prompt: str,
    sites: list,
    needed: Callable,
    corruptions: tuple[str, ...],
    tiny: bool,
) -> Report:
    rounds = 1 if tiny else ROUNDS
    with TemporaryDirectory() as folder:
        pairs = random_models.random_pairs(folder, prompt)
        table, peaks, differences = [], {}, {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            peaks[threads] = matmul_peak(side=128 if tiny else 2048)
            for corruption in corruptions:
                rows, differences[corruption] = _in_turns(model, pairs, sites, corruption, rounds)
                table.append(rows.assign(threads=threads, corruption=corruption))
        found = sweep(model, pairs, sites).patched
        operations, each = needed(found)
        exact = _in_float64(model, pairs, sites, corruptions[0], found)
    table = pd.concat(table, ignore_index=True)
    table["ratio"] = table.published_seconds / table.engine_seconds
    medians = table.groupby(["corruption", "threads"]).median().reset_index()
    main = medians[(medians.threads == 1) & (medians.corruption == corruptions[0])].iloc[0]
    closing = {"ratio": main.ratio}
    for row in medians.itertuples():
        if (row.threads, row.corruption) != (1, corruptions[0]):
            closing[f"ratio_{row.corruption}_{row.threads}_threads"] = row.ratio
    closing |= {
        "max_abs_diff": max(differences.values()),
        **exact,
        "sites": len(found),
        "seconds": main.engine_seconds,
        "of_peak": operations / main.engine_seconds / peaks[1],
    }
    notes = [
        f"One pair, {len(found)} sites. Medians of {rounds} rounds in which engine and published "
        f"scheme alternate. The published scheme is timed on {SITES_A_ROUND} sites per round and "
        "**extrapolated** to all sites, since its cost does not depend on the site. `ratio` is the "
        f"speed-up on one thread under {corruptions[0]} corruption.",
        f"Operations: the published scheme does {each / 1e9:.0f} GFLOP per site and "
        f"{each * len(found) / 1e12:.0f} TFLOP in all; {operations / 1e12:.2f} TFLOP are necessary "
        "(counted from the configuration by benchmarks/operations.py). The measured peak of this "
        "machine's float32 matrix product is "
        + ", ".join(f"{peak / 1e9:.0f} GFLOP/s on {n} thread(s)" for n, peak in peaks.items())
        + f". At that rate the necessary operations take {operations / peaks[1]:.1f} s on one "
        "thread.",
        "`max_abs_diff` is the largest difference in logit difference between engine and published "
        "scheme on the timed sites, in float32. `max_abs_diff_float64` is the same in float64. "
        "`float32_error` compares the engine's float32 with its own float64 on all sites.",
    ]
    return Report(name, table, closing, notes)


def _in_turns(model, pairs, sites, corruption, rounds) -> tuple[pd.DataFrame, float]:
    """Seconds of each round (one row per round), and the largest difference in logit difference."""
    site = _published(model, pairs, corruption)
    sweep(model, pairs, sites[:1], corruption)
    rows, largest = [], 0.0
    random = np.random.default_rng(0)
    for _ in range(rounds):
        engine, found = timed(lambda: sweep(model, pairs, sites, corruption))
        patched = found.patched
        sample = patched.iloc[random.choice(len(patched), SITES_A_ROUND, replace=False)]
        slow, gaps = timed(partial(_each, site, sample))
        largest = max(largest, np.abs(logit_difference(sample) - gaps).max())
        print(
            f"engine: {engine:.1f} s for all sites; published scheme: {slow / len(sample):.1f} s "
            "for one",
            file=sys.stderr,
        )
        rows.append(
            {
                "engine_seconds": engine,
                "published_seconds_a_site": slow / len(sample),
                "published_seconds": slow / len(sample) * len(patched),
            }
        )
    return pd.DataFrame(rows), largest


def _in_float64(model, pairs, sites, corruption, found) -> dict[str, float]:
    """Differences in float64. This converts the model to float64."""
    model.model.double()
    exact = sweep(model, pairs, sites, corruption).patched
    sample = exact.iloc[np.linspace(0, len(exact) - 1, 4).astype(int)]
    gaps = _each(_published(model, pairs, corruption), sample)
    return {
        "max_abs_diff_float64": np.abs(logit_difference(sample) - gaps).max(),
        "float32_error": (logit_difference(found) - logit_difference(exact)).abs().max(),
    }


def _published(model, pairs, corruption):
    _, _, corrupt_prompt = run_inputs(model, pairs, pairs[0], corruption)
    return published.site_function(model, pairs[0], corrupt_prompt)


def _each(site, rows: pd.DataFrame) -> list[float]:
    """Logit differences L' by the published scheme for rows of a sweep."""
    return [
        site(row.component, row.layer, None if row.head < 0 else row.head, row.position)
        for row in rows.itertuples()
    ]
