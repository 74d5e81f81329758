"""Measure the paper's two models at full size on one GPU, in 16 bits (LLaVA also in 4 bits).

Weights are random. The table puts the estimates of `benchmarks.costs` beside the measurements. This
benchmark has not run on a GPU yet; the tests run its code on a CPU.
"""

import gc
import math
from collections.abc import Iterable
from importlib.util import find_spec
from statistics import median
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from notice_lib import NoticeError, Site, load_model, site_grid, sweep
from notice_lib.models.base import VLM

from . import costs, random_models
from .operations import BlipWork, LlavaWork
from .report import Report, matmul_peak, timed

ROUNDS = 3
BLIP_PAIRS = 8
LLAVA_PAIRS = 100
# The published code samples SVO-Probes as 500 x {subject, verb, object} x two pictures.
EXPERIMENT_PAIRS = 3000


def run(tiny: bool = False) -> Report:
    """Measure BLIP on 1,620 sites per pair, and LLaVA on its 32 x 32 heads at the last token.

    LLaVA runs on 100 pairs, in 16 bits if they fit on the GPU, and in 4 bits if bitsandbytes is
    installed.

    Raises:
        NoticeError: there is no GPU and `tiny` is false.
    """
    if not tiny and not torch.cuda.is_available():
        raise NoticeError(
            "The benchmark gpu needs a GPU, but torch finds none. Use --tiny to try out its code "
            "on the CPU."
        )
    device, dtype = ("cpu", torch.float32) if tiny else ("cuda", _sixteen_bits())
    rows, notes = [_blip(tiny, device, dtype)], []
    if tiny or _fits():
        _release()
        rows.append(_llava("llava", tiny, _made_llava(tiny, device, dtype)))
    else:
        notes.append("LLaVA-1.5-7B in 16 bits is left out: it does not fit on this GPU.")
    if tiny or find_spec("bitsandbytes"):
        _release()
        rows.append(_llava("llava_nf4", tiny, _saved_llava(tiny, dtype)))
    else:
        notes.append("LLaVA-1.5-7B in 4 bits is left out: bitsandbytes is not installed.")
    table = pd.DataFrame(rows)
    closing = {}
    for row in table.itertuples():
        closing |= {
            f"{row.model}_sites_per_s": row.sites_per_s,
            f"{row.model}_of_peak": row.of_peak,
            f"{row.model}_hours": row.hours_of_experiment,
        }
        if not math.isnan(row.gib):
            closing[f"{row.model}_gib"] = row.gib
    notes += [
        f"Image corruption, {dtype}. `seconds` is the median of {1 if tiny else ROUNDS} rounds and "
        "includes reading the pictures. `of_peak` is the rate of necessary operations "
        "(benchmarks/operations.py) divided by the measured peak of the matrix product. `gib` is "
        "the peak of allocated memory, `estimated_gib` the estimate of `./run costs`.",
        f"`hours_of_experiment` is **extrapolated** to {EXPERIMENT_PAIRS:,} pairs: for BLIP every "
        "module at every token and layer and every cross-attention head at every token, for LLaVA "
        "every head at the last token. One reader notes (we have not checked it against the PDF) "
        "that the paper reports 10-12 hours for one BLIP experiment and 90-96 hours for LLaVA on "
        "an RTX 3090. The paper's experiments may comprise other sites and pairs.",
    ]
    return Report("gpu", table, closing, notes)


def _sixteen_bits() -> torch.dtype:
    """bfloat16, or float16 on GPUs that only emulate bfloat16 (such as the T4)."""
    native = torch.cuda.get_device_capability() >= (8, 0)
    return torch.bfloat16 if native else torch.float16


def _fits() -> bool:
    """Whether LLaVA-1.5-7B in 16 bits, with its estimated activations, fits on the GPU."""
    table = costs.memory(costs.published("llava-hf/llava-1.5-7b-hf")).set_index("dtype")
    _, total = torch.cuda.mem_get_info()
    return table.loc["bfloat16", "both"] * 2**30 < total


def _release() -> None:
    """Free the previous model's memory, which would count towards the next model's peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _blip(tiny, device, dtype) -> dict:
    config = random_models.TINY_BLIP if tiny else random_models.BLIP_VQA_BASE
    model = random_models.blip(config, device, dtype)
    sites = site_grid(model, ["layer_output", "self_attention", "cross_attention"])
    sites += site_grid(model, ["cross_attention"], per_head=True)

    def needed(found):
        work = BlipWork(model.model.config, int(found.position.max()) + 1)
        return work.needed(found.layer.tolist())

    size = 1 if tiny else BLIP_PAIRS
    return _measure("blip", model, random_models.BLIP_PROMPT, sites, size, needed, tiny)


def _made_llava(tiny, device, dtype) -> VLM:
    config = random_models.TINY_LLAVA if tiny else random_models.LLAVA_7B
    return random_models.llava(config, device, dtype)


def _saved_llava(tiny, dtype) -> VLM:
    """Make a LLaVA on the CPU, save it (14 GB) and load it with 4-bit weights like a checkpoint."""
    made = _made_llava(tiny, "cpu", dtype)
    with TemporaryDirectory() as folder:
        made.model.save_pretrained(folder)
        made.processor.save_pretrained(folder)
        del made
        if tiny:
            return load_model(folder, device="cpu")
        return load_model(folder, device="cuda", attention="sdpa", quantization="nf4")


def _llava(name: str, tiny: bool, model: VLM) -> dict:
    sites = site_grid(model, ["self_attention"], per_head=True, position="last")

    def needed(found):
        positions = found.position.tolist()
        work = LlavaWork(model.model.config, positions[0] + 1)
        return work.needed(zip(found.layer.tolist(), positions, strict=True))

    size = 1 if tiny else LLAVA_PAIRS
    return _measure(name, model, random_models.LLAVA_PROMPT, sites, size, needed, tiny)


def _measure(
    name: str, model: VLM, prompt: str, sites: Iterable[Site], size: int, needed, tiny: bool
) -> dict:
    """Measure a sweep of `size` pairs, and return one row of the table."""
    device, dtype = model.device.type, model.dtype
    peak = matmul_peak(device, dtype, side=128 if tiny else 8192)
    with TemporaryDirectory() as folder:
        pairs = random_models.random_pairs(folder, prompt, size)
        found = sweep(model, random_models.random_pairs(folder, prompt, 1), sites).patched
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rounds = range(1 if tiny else ROUNDS)
        taken = median(timed(lambda: sweep(model, pairs, sites))[0] for _ in rounds)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    estimated = costs.memory(model.model.config).set_index("dtype")["both"]
    precision = "nf4" if name.endswith("nf4") else "bfloat16" if device == "cuda" else "float32"
    return {
        "model": name,
        "pairs": size,
        "sites_a_pair": len(found),
        "seconds": taken,
        "sites_per_s": len(found) * size / taken,
        "tflop_a_pair": needed(found) / 1e12,
        "peak_tflop_per_s": peak / 1e12,
        "of_peak": needed(found) * size / taken / peak,
        "gib": memory,
        "estimated_gib": estimated[precision],
        "hours_of_experiment": taken / size * EXPERIMENT_PAIRS / 3600,
    }
