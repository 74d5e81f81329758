"""What a reproduction takes on a GPU: memory and hours, **estimated** from a configuration.

Only the weights' bytes are exact: they are those of the model made without memory (torch's meta
device). The rest is arithmetic with assumptions.

- **Hours** = operations that must be done (`operations`), by what the GPU is assumed to do a
  second: its peak (`GPUS`, NVIDIA's data sheets) times `UTILISATION`. How near one comes to the
  peak, only a run tells: `./run bench gpu` measures it, and a reproduction's costs.csv has its own
  rates. Statistics and the reading of pictures, on the CPU, are not counted.
- **Activations** = what is kept of the unpatched runs of the pairs that run together, and the
  largest that one layer needs for `MAX_TOKENS` tokens of patched runs. An upper bound: the engine
  takes fewer rows at once where a layer has few sites, and halves them where memory ends.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch
import typer
from transformers import (
    AutoConfig,
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from notice_lib.errors import NoticeError
from notice_lib.patching.engine import MAX_TOKENS
from notice_lib.patching.sweeps import SHARD
from notice_lib.paths import data_dir
from notice_lib.reproduction.claims import NOISE, NOISE_PAIRS

from .operations import BlipWork, LlavaWork

BYTES = {"float32": 4.0, "bfloat16": 2.0, "nf4": 0.5 + 4 / 64}
"""Of a weight. nf4: half a byte, and a float32 scale for each block of 64; only of linear layers
but for the last, the others stay in two bytes."""
GPUS = {
    "T4": {"float32": 8.1, "bfloat16": 65.0},
    "RTX 3090": {"float32": 35.6, "bfloat16": 71.0},
    "A100": {"float32": 19.5, "bfloat16": 312.0},
    "H100": {"float32": 67.0, "bfloat16": 989.0},
}
"""Peak TFLOP/s of dense products, in float32 (without TF32) and in either 16-bit format."""
UTILISATION = 0.2
"""Share of the peak that is assumed. An assumption: no GPU was at hand to measure it. On one CPU
core the engine reached .84 (BLIP) and .67 (LLaVA) of the measured peak (benchmarks/results)."""
PAIRS = 8000
"""3,000 of SVO-Probes, 1,500 of MIT-States and 3,500 of faces, as the published code samples."""
QUESTION = 10
"""Tokens of a question, as "is the dog or the cat pulling the car?" has."""
OPTION = 2
"""Where its first option stands."""
BEFORE, AFTER = 3, 7
"""Tokens of LLaVA's template before the image, and around the question behind it."""
TASKS = 3


def published(name: str) -> BlipConfig | LlavaConfig | None:
    """The shapes of the checkpoints that the paper uses, and of their sisters; None for others."""
    if name in ("Salesforce/blip-vqa-base", "Salesforce/blip-vqa-capfilt-large"):
        # One shape: "large" is what filtered the captions (github.com/salesforce/BLIP: ViT-B).
        return BlipConfig(
            text_config={"num_attention_heads": 12}, architectures=["BlipForQuestionAnswering"]
        )
    wider = {
        "llava-hf/llava-1.5-7b-hf": {},
        "llava-hf/llava-1.5-13b-hf": {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 40,
        },
    }
    if name not in wider:
        return None
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    tower |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    return LlavaConfig(
        text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096, **wider[name]),
        vision_config=CLIPVisionConfig(projection_dim=768, **tower),
        architectures=["LlavaForConditionalGeneration"],
    )


def read_config(name: str | Path) -> BlipConfig | LlavaConfig:
    """A model's configuration: of `published`, of an embedded model, a folder, or the hub.

    Raises:
        NoticeError: there is none; it is of another family.
    """
    known = published(str(name))
    if known is not None:
        return known
    own = data_dir() / "checkpoints" / str(name)
    try:
        source = str(own if own.is_dir() else name)
        # Else transformers would ask whether to run code that the checkpoint brings along.
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise NoticeError(f"{str(name)!r} has no config.json that can be read: {error}") from None
    if config.model_type not in ("blip", "llava"):
        raise NoticeError(f"{str(name)!r} is a {config.model_type}: costs know BLIP and LLaVA.")
    return config


def weights(config) -> dict[str, float]:
    """Bytes of a model's weights in each of `BYTES`; of BLIP none in nf4, since the engine reads
    its weights themselves."""
    made = BlipForQuestionAnswering if _is_blip(config) else LlavaForConditionalGeneration
    with torch.device("meta"):
        model = made(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    packed = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    )
    found = {dtype: BYTES[dtype] * total for dtype in ("float32", "bfloat16")}
    if not _is_blip(config):
        found["nf4"] = BYTES["nf4"] * packed + BYTES["bfloat16"] * (total - packed)
    return found


def activations(config, dtype: str, question: int = QUESTION, pairs: int = SHARD) -> float:
    """Bytes at most beside the weights, while heads at one token are patched.

    Args:
        dtype: one of `BYTES`; with nf4 activations have two bytes.
        pairs: of one shard; fewer run together where `MAX_TOKENS` bounds them.
    """
    text, vision = config.text_config, config.vision_config
    size = BYTES["float32"] if dtype == "float32" else BYTES["bfloat16"]
    d, heads, layers = text.hidden_size, text.num_attention_heads, text.num_hidden_layers
    n = (vision.image_size // vision.patch_size) ** 2 + 1
    tokens = _tokens(config, question)
    together = max(1, min(pairs, MAX_TOKENS // (tokens * heads)))
    images = 2 * together
    # One layer of the tower: attention's scores, weights and their copy; states, MLP.
    tower = images * (
        3 * vision.num_attention_heads * n * n
        + n * (6 * vision.hidden_size + 2 * vision.intermediate_size)
    )
    # Five states, keys and values of each layer, of base and source.
    kept = 2 * together * layers * 7 * tokens * d
    if _is_blip(config):
        kept += images * layers * 2 * n * d  # the image's keys and values, for cross-attention
        working = MAX_TOKENS * (6 * d + 2 * text.intermediate_size + 2 * heads * n)
    else:
        # Scores, all scores, softmax in float32 and its copy.
        scores = heads * tokens * (3 + 4 / size)
        working = MAX_TOKENS * (6 * d + 3 * text.intermediate_size + scores)
    logits = 2 * text.vocab_size * min(MAX_TOKENS, together * heads)
    return size * (kept + max(tower, working + logits))


def memory(config, question: int = QUESTION) -> pd.DataFrame:
    """GiB of GPU memory: a row a dtype; weights (exact), activations (at most) and both."""
    rows = [
        {
            "dtype": dtype,
            "weights": own / 2**30,
            "activations": activations(config, dtype, question) / 2**30,
        }
        for dtype, own in weights(config).items()
    ]
    table = pd.DataFrame(rows)
    return table.assign(both=table["weights"] + table["activations"])


def estimate(
    config,
    pairs: int = PAIRS,
    module_pairs: int = 120,
    dtype: str = "bfloat16",
    gpu: str = "RTX 3090",
    question: int = QUESTION,
) -> pd.DataFrame:
    """How long each part of `notice reproduce` takes.

    Args:
        pairs: of all tasks together, all of them answered correctly.
        module_pairs: of each of three tasks.
        dtype: "float32" or "bfloat16"; nf4 computes in bfloat16.
        gpu: one of `GPUS`.

    Returns:
        A row a part: part, pairs, runs (patched ones, of all pairs), tflop (in all) and hours.

    Raises:
        NoticeError: an unknown GPU or dtype.
    """
    if gpu not in GPUS or dtype not in GPUS[gpu]:
        raise NoticeError(
            f"Peaks are known of {', '.join(GPUS)}, in float32 and bfloat16; not of {gpu} in "
            f"{dtype}."
        )
    of_pair = (_of_blip if _is_blip(config) else _of_llava)(config, question)
    counts = dict.fromkeys(("depth", "depth, noise"), TASKS * NOISE_PAIRS)
    counts |= {f"modules, {how}": TASKS * module_pairs for how in ("image", "text")}
    rows = [
        {"part": part, "pairs": n, "runs": n * runs, "tflop": n * work / 1e12}
        for part, (runs, work) in of_pair.items()
        for n in (counts.get(part, pairs),)
    ]
    table = pd.DataFrame(rows)
    return table.assign(hours=table["tflop"] / (GPUS[gpu][dtype] * UTILISATION) / 3600)


Work = dict[str, tuple[int, float]]
"""{part: (patched runs, operations) of a pair}"""


def _of_blip(config, question: int) -> Work:
    work = BlipWork(config, _tokens(config, question))
    layers, heads = range(work.layers), work.heads
    forward = work.image() + work.layers * work.layer() + work.decoder()

    def patched(sites: int) -> tuple[int, float]:
        return sites * work.layers, work.needed(layer for layer in layers for _ in range(sites))

    return _parts(forward, heads=patched(heads), depth=patched(1), modules=patched(4 * work.t))


def _of_llava(config, question: int) -> Work:
    work = LlavaWork(config, _tokens(config, question))
    text, last = config.text_config, work.s - 1
    behind = range(last - question - AFTER + 1, work.s)
    forward = work.image + work.layers * work.layer(work.s) + 2 * work.d * work.vocabulary

    def patched(*positions: int) -> tuple[int, float]:
        sites = [(layer, at) for layer in range(work.layers) for at in positions]
        return len(sites), work.needed(sites)

    heads = text.num_attention_heads
    return _parts(
        forward,
        heads=patched(*heads * [last]),
        depth=patched(last),
        modules=patched(*3 * [*behind]),
        option=patched(*heads * [behind[1 + OPTION]]),
    )


def _parts(forward: float, heads, depth, modules, option=None) -> Work:
    """Answers: a forward and about one more for the words, on both pictures."""
    of_pair: Work = {"answers": (0, 4 * forward)}
    of_pair |= {f"heads, {how}": heads for how in ("image", "text")}
    of_pair |= {"heads at the option": option} if option else {}
    of_pair |= {"depth": depth, "depth, noise": tuple(NOISE.draws * count for count in depth)}
    return of_pair | {f"modules, {how}": modules for how in ("image", "text")}


def _tokens(config, question: int) -> int:
    """Of the prompt: BLIP adds [CLS] and [SEP], LLaVA its template and the image."""
    if _is_blip(config):
        return question + 2
    vision = config.vision_config
    return BEFORE + (vision.image_size // vision.patch_size) ** 2 + question + AFTER


def _is_blip(config) -> bool:
    return config.model_type == "blip"


def main(
    model: Annotated[str, typer.Argument(help="A checkpoint's folder, or a hub id.")],
    pairs: Annotated[
        int, typer.Option(min=1, help="Of all tasks together, answered correctly.")
    ] = 8000,
    module_pairs: Annotated[
        int, typer.Option(min=1, help="Of each task, as `notice reproduce` takes it.")
    ] = 120,
    gpu: Annotated[str, typer.Option(help="T4, RTX 3090, A100 or H100.")] = "RTX 3090",
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="What the GPU computes in; with nf4, bfloat16."),
    ] = "bfloat16",
) -> None:
    """Estimate the GPU memory and hours of `notice reproduce`, from the model's configuration.

    Nothing is run and no weight is loaded. Only the weights' bytes are exact.

    Example: ./run costs llava-hf/llava-1.5-7b-hf --gpu A100
    """
    try:
        config = read_config(model)
        hours = estimate(config, pairs, module_pairs, dtype, gpu)
    except NoticeError as error:
        sys.exit(f"costs: {error}")
    print("GPU memory, GiB: weights; estimated activations (at most); both")
    print(memory(config).round(1).to_string(index=False))
    peak = GPUS[gpu][dtype]
    print(f"\nHours, estimated: at {UTILISATION:.0%} of the {gpu}'s {peak:g} TFLOP/s in {dtype}")
    print(hours.round(2).to_string(index=False))
    print(f"{hours['hours'].sum():.1f} hours in all")


if __name__ == "__main__":
    typer.run(main)
