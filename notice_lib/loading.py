"""Loading a model, which must prove itself before it is used."""

import warnings
from pathlib import Path

import torch

from .choices import Attention, EngineName, Quantization, check_choice
from .errors import NoticeError
from .models.base import VLM
from .models.decoder import DecoderOnly
from .models.load import OF_FILES, read_model, step
from .patching.interface import INSTEAD
from .patching.self_check import check_heads, random_input, verify


def load_model(
    name: str | Path,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    attention: Attention = "eager",
    quantization: Quantization | None = None,
    engine: EngineName = "fast",
    check: bool = True,
) -> VLM:
    """Load a vision-language model behind the library's interface.

    Args:
        name: "blip-mini", "llava-mini", "blip-mini-noise", "blip-mini-outliers" or
            "blip-mini-register" (they come with the library), a local folder, or a hub id:
            "Salesforce/blip-vqa-base", "Salesforce/blip-vqa-capfilt-large",
            "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf", or another decoder-only model
            of `AutoModelForImageTextToText` (LLaVA-NeXT, Qwen2-VL, SmolVLM, Gemma 3, ...).
        device: "cpu", "cuda", ...; None takes a GPU if there is one. "auto" spreads a model that
            is larger than one GPU over all of them (accelerate's device map).
        dtype: None takes float32 on a CPU and the checkpoint's dtype on a GPU.
        attention: "eager" returns attention maps; "sdpa" is faster for images of many tokens in
            LLaVA (BLIP's text has eager attention only).
        quantization: "nf4" keeps the weights of linear layers in 4 bits and computes in bfloat16,
            as the published code does for LLaVA. It needs bitsandbytes and a GPU.
        engine: "fast", or "reference" for a model that the fast engine refuses. Then each patched
            run is one full forward.
        check: whether the model must prove itself on a random image (`notice_lib.verify`: about
            twelve forwards, seconds for a small model). Sweeps record in their settings whether it
            did.

    Raises:
        NoticeError: there is no such checkpoint, its family is not supported or fails its
            self-check, its processor or the model raises an error (the message quotes it), it does
            not fit on the GPUs, or 4-bit weights are not available here or for this model.
    """
    check_choice("engine", engine, EngineName)
    model = read_model(name, device, dtype, attention, quantization)
    if engine == "reference":
        model.engine = engine
    with step(name, "answering a question about a random image", OF_FILES):
        inputs = random_input(model)
        if model.logits(inputs).isnan().any():
            raise NoticeError(
                f"{str(name)!r} gives logits that are no numbers (NaN). Either its weights are "
                "damaged (download them again), or its activations are too large for "
                f"{model.dtype}: load it with dtype=torch.float32 or torch.bfloat16."
            )
        model.generate(inputs, max_new_tokens=1)
    if model.engine == "reference":
        if isinstance(model, DecoderOnly):
            check_heads(model, inputs)
    elif check:
        with step(name, "comparing its engine with the reference", INSTEAD):
            unproved = verify(model, inputs).unproved
        if unproved:
            warnings.warn(
                f"{str(name)!r}: some kinds of layers could not be compared with the reference in "
                f"float64, so in half precision they are unverified: {'; '.join(unproved)}",
                stacklevel=2,
            )
    return model
