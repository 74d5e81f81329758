"""From a name to an adapter."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    BlipForQuestionAnswering,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
)

from ..errors import NoticeError
from ..paths import data_dir
from .base import VLM
from .blip import Blip
from .decoder_only import DecoderOnly
from .llava import Llava

EMBEDDED = ("blip-mini", "llava-mini", "blip-mini-noise")

# The architecture, not the model type: BLIP's captioning models share the type "blip".
_FAMILIES = {
    "BlipForQuestionAnswering": (BlipForQuestionAnswering, Blip),
    "LlavaForConditionalGeneration": (LlavaForConditionalGeneration, Llava),
}


def load_model(
    name: str | Path,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    attention: Literal["eager", "sdpa"] = "eager",
    quantization: Literal["nf4"] | None = None,
) -> VLM:
    """Load a vision-language model behind the library's interface.

    Args:
        name: "blip-mini", "llava-mini" or "blip-mini-noise" (they travel with the library), a local
            folder, or a hub id: "Salesforce/blip-vqa-base", "Salesforce/blip-vqa-capfilt-large",
            "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf", or another decoder-only model
            of `AutoModelForImageTextToText` (LLaVA-NeXT, Qwen2-VL, SmolVLM, Gemma 3, ...).
        device: "cpu", "cuda", ...; None takes a GPU where there is one. "auto" spreads a model that
            is larger than one GPU over all of them (accelerate's device map).
        dtype: None takes float32 on a CPU and the checkpoint's own on a GPU.
        attention: "eager" returns attention maps; "sdpa" is faster where images have many tokens,
            for LLaVA (BLIP's text has eager attention only).
        quantization: "nf4" keeps the weights of linear layers in 4 bits and computes in bfloat16,
            as the published code does for LLaVA. Needs bitsandbytes and a GPU.

    Models beyond BLIP and LLaVA get the generic adapter. What it does not understand is refused
    before weights are read; what it does proves itself on a random image, which takes about twelve
    forwards of the model (`notice_lib.patching.verify`).

    Raises:
        NoticeError: there is no such checkpoint, its family is not supported or fails its
            self-check, it does not fit on the GPUs, or 4-bit weights cannot be had here or of it.
    """
    source = str(data_dir() / "checkpoints" / name) if name in EMBEDDED else str(name)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    if dtype is None:
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        dtype = torch.float32 if on_cpu else "auto"
    try:
        # Else transformers would ask whether to run code that the checkpoint brings along.
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _no_checkpoint(name, error) from None
    model_class, adapter = _family(config, name)
    if quantization and adapter is Blip:
        raise NoticeError(
            f"{str(name)!r} is a BLIP, which is small and whose engine reads its weights directly: "
            "load it without quantization."
        )
    placement = _placement(device, quantization)
    try:
        # Safetensors, since a pickled checkpoint can run code.
        model, told = model_class.from_pretrained(
            source,
            output_loading_info=True,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            **placement,
        )
        processor = _processor(source, name)
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # missing, of other shapes, cut off
        raise _no_checkpoint(name, error) from None
    if told["missing_keys"]:
        raise NoticeError(
            f"{str(name)!r} lacks weights, which would be random: "
            f"{', '.join(sorted(told['missing_keys'])[:5])}. Take a whole checkpoint."
        )
    if not placement:
        model = model.to(device)
    _refuse_offloading(model, name)
    loaded = adapter(model, processor, str(name))
    if adapter is DecoderOnly:
        # Here, since what runs models is imported after them.
        from ..patching.self_check import verify

        verify(loaded)
    return loaded


def _family(config: PreTrainedConfig, name: str | Path):
    """(model class, adapter) of a checkpoint's architecture.

    The generic adapter looks at the model without weights first, so that what it does not
    understand costs nothing.
    """
    architecture = (config.architectures or [config.model_type])[0]
    if architecture in _FAMILIES:
        return _FAMILIES[architecture]
    try:
        shell = _shell(config)
        if type(shell).__name__ != architecture:
            raise NoticeError(f"transformers reads an image and a text by {type(shell).__name__}.")
        DecoderOnly(shell, name=str(name))
    except NoticeError as error:
        why = str(error).splitlines()[0]
        raise NoticeError(
            f"{str(name)!r} is a {architecture}; supported are {', '.join(_FAMILIES)}, and models "
            "of AutoModelForImageTextToText that are decoders with the image among their tokens. "
            f"Here: {why}"
        ) from None
    return type(shell), DecoderOnly


def _shell(config: PreTrainedConfig) -> torch.nn.Module:
    """The model that a configuration describes, without memory for its weights."""
    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except Exception as error:  # Whatever a hundred model files say of what they cannot build.
        raise NoticeError(f"transformers cannot build it: {error}") from None


def _processor(source: str, name: str | Path):
    """The Pillow backend gives the same pixels whether or not torchvision is installed.

    Families that read videos, too (Qwen2-VL, SmolVLM, InternVL), need torchvision for them, and
    their processors cannot be had without that part.
    """
    try:
        processor = AutoProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    except ImportError as error:
        if find_spec("torchvision") is None:
            raise NoticeError(
                f"The processor of {str(name)!r} needs another package, probably torchvision, "
                f"which reads videos: pip install torchvision. transformers says: {error}"
            ) from None
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except ValueError as error:  # e.g. it would need code that the checkpoint brings along
        raise _no_checkpoint(name, error) from None
    if getattr(processor, "image_processor", None) is None:
        raise NoticeError(
            f"{str(name)!r} has no processor for images: processor_config.json or "
            "preprocessor_config.json is missing, or of another kind."
        )
    return processor


def _check_device(device: str) -> None:
    """Refuse a device that there is not; "auto" is for accelerate to decide."""
    if device == "auto":
        return
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise NoticeError(f"There is no device {device!r}: take cpu, cuda or auto.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise NoticeError(f"torch sees no GPU here, so {device!r} cannot be had: take cpu.")


def _placement(device: str, quantization: str | None) -> dict:
    """What tells transformers where the weights go; nothing for one device in full precision."""
    if quantization is None:
        return {"device_map": "auto"} if device == "auto" else {}
    if quantization != "nf4":
        raise NoticeError(f"quantization is 'nf4' or None, not {quantization!r}.")
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise NoticeError(
            "4-bit weights need a CUDA GPU and bitsandbytes (pip install bitsandbytes). Without "
            "them use dtype=torch.bfloat16, which takes four times the memory."
        )
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    return {"device_map": device, "quantization_config": four_bits}


def _refuse_offloading(model: torch.nn.Module, name: str | Path) -> None:
    """Weights that wait in main memory or on disk are not there when single modules are called."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if torch.cuda.is_available() and places & {"cpu", "disk"}:
        raise NoticeError(
            f"{str(name)!r} does not fit on the GPUs here: parts of it would be kept elsewhere "
            f"({', '.join(sorted(places))}). Use quantization='nf4', a smaller dtype or more GPUs."
        )


def _no_checkpoint(name: str | Path, error: Exception) -> NoticeError:
    return NoticeError(
        f"{str(name)!r} is no checkpoint: give {', '.join(EMBEDDED)}, a folder with config.json, "
        "model.safetensors and the processor's files, or a hub id (which needs a network). "
        f"transformers says: {error}"
    )
