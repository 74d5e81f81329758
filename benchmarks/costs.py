"""Estimate the GPU memory and hours of a reproduction from a model's configuration.

Only the bytes of the weights are exact: they are counted on a model that is built without memory
(on torch's meta device). Everything else is **estimated** under assumptions.

- **Hours** are the necessary operations (`operations`) divided by the GPU's assumed speed, which is
  its peak (`GPUS`, from NVIDIA's data sheets) times `UTILISATION`. Only a run shows which share of
  the peak is reached: `./run bench gpu` measures it, and a reproduction records its own rates in
  costs.csv. Work on the CPU (statistics, reading pictures) is not counted.
- **Activations** are the states that are kept of the unpatched runs of pairs that run together,
  plus the largest working memory that a layer needs for `MAX_TOKENS` tokens of patched runs. This
  is an upper bound: the engine runs fewer rows at once if a layer has few sites, and halves them
  if memory runs out.
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
from notice_lib.patching.shards import SHARD
from notice_lib.paths import data_dir
from notice_lib.reproduction.evidence import NOISE, NOISE_PAIRS
from notice_lib.reproduction.experiments import MODULE_PAIRS

from .operations import BlipWork, LlavaWork

BYTES = {"float32": 4.0, "bfloat16": 2.0, "nf4": 0.5 + 4 / 64}
"""Bytes per weight. nf4 takes half a byte, plus a float32 scale for each block of 64 weights. It
applies to all linear layers but the last; other weights take two bytes."""
GPUS = {
    "T4": {"float32": 8.1, "bfloat16": 65.0},
    "RTX 3090": {"float32": 35.6, "bfloat16": 71.0},
    "A100": {"float32": 19.5, "bfloat16": 312.0},
    "H100": {"float32": 67.0, "bfloat16": 989.0},
}
"""Peak TFLOP/s of dense matrix products, in float32 (without TF32) and in 16-bit formats."""
UTILISATION = 0.2
"""Assumed share of the peak, not measured on a GPU. On one CPU core the engine reached .84 (BLIP)
and .67 (LLaVA) of the measured peak (benchmarks/results)."""
PAIRS = 8000
"""Number of pairs that the published code samples: 3,000 of SVO-Probes, 1,500 of MIT-States and
3,500 of faces."""
QUESTION = 10
"""Number of tokens in a question such as "is the dog or the cat pulling the car?"."""
OPTION = 2
"""Position of the first option in that question."""
BEFORE, AFTER = 3, 7
"""Number of tokens of LLaVA's template before the image, and behind it (around the question)."""
TASKS = 3


def published(name: str) -> BlipConfig | LlavaConfig | None:
    """The configuration of a checkpoint that the paper uses or a related one; None for others."""
    if name in ("Salesforce/blip-vqa-base", "Salesforce/blip-vqa-capfilt-large"):
        # Both have one shape: "large" names the model that filtered the captions
        # (github.com/salesforce/BLIP: ViT-B).
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
    """Read the configuration of a checkpoint.

    Args:
        name: a checkpoint in `published`, an embedded model, a folder, or a hub id.

    Raises:
        NoticeError: there is no readable configuration, or the model is of another family.
    """
    known = published(str(name))
    if known is not None:
        return known
    own = data_dir() / "checkpoints" / str(name)
    try:
        source = str(own if own.is_dir() else name)
        # By default transformers would ask whether to run code that comes with the checkpoint.
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise NoticeError(f"{str(name)!r} has no config.json that can be read: {error}") from None
    if config.model_type not in ("blip", "llava"):
        raise NoticeError(
            f"{str(name)!r} is a {config.model_type}, but costs can only be estimated for BLIP and "
            "LLaVA."
        )
    return config


def weights(config) -> dict[str, float]:
    """Bytes of a model's weights in each format of `BYTES`.

    BLIP has no nf4, since the engine reads its weights directly.
    """
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
    """Upper bound of the bytes needed beside the weights while heads at one token are patched.

    Args:
        config: the model's configuration.
        dtype: one of `BYTES`. With nf4, activations take two bytes.
        question: number of tokens in the question.
        pairs: number of pairs in a shard. Fewer run together if `MAX_TOKENS` requires it.
    """
    text, vision = config.text_config, config.vision_config
    size = BYTES["float32"] if dtype == "float32" else BYTES["bfloat16"]
    d, heads, layers = text.hidden_size, text.num_attention_heads, text.num_hidden_layers
    n = (vision.image_size // vision.patch_size) ** 2 + 1
    tokens = _tokens(config, question)
    together = max(1, min(pairs, MAX_TOKENS // (tokens * heads)))
    images = 2 * together
    # One layer of the vision tower: attention scores, weights and their copy; states; MLP.
    tower = images * (
        3 * vision.num_attention_heads * n * n
        + n * (6 * vision.hidden_size + 2 * vision.intermediate_size)
    )
    # Five states, the keys and the values of each layer, in base and source runs.
    kept = 2 * together * layers * 7 * tokens * d
    if _is_blip(config):
        kept += images * layers * 2 * n * d  # The image's keys and values for cross-attention.
        working = MAX_TOKENS * (6 * d + 2 * text.intermediate_size + 2 * heads * n)
    else:
        # Scores of one head, of all heads, their softmax in float32, and its copy.
        scores = heads * tokens * (3 + 4 / size)
        working = MAX_TOKENS * (6 * d + 3 * text.intermediate_size + scores)
    logits = 2 * text.vocab_size * min(MAX_TOKENS, together * heads)
    return size * (kept + max(tower, working + logits))


def memory(config, question: int = QUESTION) -> pd.DataFrame:
    """GiB of GPU memory by dtype: weights (exact), activations (an upper bound) and both."""
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
    module_pairs: int = MODULE_PAIRS,
    dtype: str = "bfloat16",
    gpu: str = "RTX 3090",
    question: int = QUESTION,
) -> pd.DataFrame:
    """Estimate how long each part of `notice reproduce` takes.

    Args:
        config: the model's configuration.
        pairs: number of pairs in all tasks together, all of them answered correctly.
        module_pairs: number of pairs in each of three tasks whose modules are patched.
        dtype: "float32" or "bfloat16". nf4 computes in bfloat16.
        gpu: one of `GPUS`.
        question: number of tokens in a question.

    Returns:
        One row per part: part, pairs, runs (patched runs of all pairs), tflop (in all) and hours.

    Raises:
        NoticeError: the GPU or dtype is unknown.
    """
    if gpu not in GPUS or dtype not in GPUS[gpu]:
        raise NoticeError(
            f"The peak of {gpu} in {dtype} is not known. Choose one of {', '.join(GPUS)}, and "
            "float32 or bfloat16."
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
"""For each part, the number of patched runs and of operations per pair."""


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
    """The parts of a reproduction.

    Answers take one forward pass, and about one more to generate words, for each of two pictures.
    """
    of_pair: Work = {"answers": (0, 4 * forward)}
    of_pair |= {f"heads, {how}": heads for how in ("image", "text")}
    of_pair |= {"heads at the option": option} if option else {}
    of_pair |= {"depth": depth, "depth, noise": tuple(NOISE.draws * count for count in depth)}
    return of_pair | {f"modules, {how}": modules for how in ("image", "text")}


def _tokens(config, question: int) -> int:
    """Tokens of the prompt. BLIP adds [CLS] and [SEP], LLaVA its template and the image."""
    if _is_blip(config):
        return question + 2
    vision = config.vision_config
    return BEFORE + (vision.image_size // vision.patch_size) ** 2 + question + AFTER


def _is_blip(config) -> bool:
    return config.model_type == "blip"


def main(
    model: Annotated[str, typer.Argument(help="Folder of a checkpoint, or a hub id.")],
    pairs: Annotated[
        int, typer.Option(min=1, help="Number of pairs that are answered correctly, in all tasks.")
    ] = PAIRS,
    module_pairs: Annotated[
        int, typer.Option(min=1, help="Number of pairs per task whose modules are patched.")
    ] = MODULE_PAIRS,
    gpu: Annotated[str, typer.Option(help="T4, RTX 3090, A100 or H100.")] = "RTX 3090",
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Format in which the GPU computes (bfloat16 for nf4 weights)."),
    ] = "bfloat16",
) -> None:
    """Estimate the GPU memory and hours of `notice reproduce` from the model's configuration.

    Nothing is run and no weights are loaded. Only the bytes of the weights are exact.

    Example: ./run costs llava-hf/llava-1.5-7b-hf --gpu A100
    """
    try:
        config = read_config(model)
        hours = estimate(config, pairs, module_pairs, dtype, gpu)
    except NoticeError as error:
        sys.exit(f"costs: {error}")
    print("GPU memory in GiB: weights, activations (estimated upper bound), and both")
    print(memory(config).round(1).to_string(index=False))
    peak = GPUS[gpu][dtype]
    print(f"\nEstimated hours at {UTILISATION:.0%} of the {gpu}'s {peak:g} TFLOP/s in {dtype}")
    print(hours.round(2).to_string(index=False))
    print(f"{hours['hours'].sum():.1f} hours in all")


if __name__ == "__main__":
    typer.run(main)
