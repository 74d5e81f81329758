"""From a name to an adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

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
    PreTrainedModel,
)

from ..errors import NoticeError
from ..paths import data_dir
from .base import VLM
from .blip import Blip
from .decoder import DecoderOnly
from .llava import Llava

EMBEDDED = ("blip-mini", "llava-mini", "blip-mini-noise")


def read_model(
    name: str | Path,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    attention: Literal["eager", "sdpa"] = "eager",
    quantization: Literal["nf4"] | None = None,
) -> VLM:
    """A checkpoint behind its family's adapter; see `notice_lib.load_model`, which also lets it
    prove itself.

    What the generic adapter does not understand is refused before weights are read.

    Raises:
        NoticeError: there is no such checkpoint, its family is not supported, it does not fit on
            the GPUs, or 4-bit weights cannot be had here or of it.
    """
    source = str(data_dir() / "checkpoints" / name) if name in EMBEDDED else str(name)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    precision = dtype or (torch.float32 if on_cpu else "auto")
    with step(name, "reading its configuration"):
        # Else transformers would ask whether to run code that the checkpoint brings along.
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise _no_checkpoint(name, error) from None
    model_class = _model_class(config, name)
    if quantization and model_class is BlipForQuestionAnswering:
        raise NoticeError(
            f"{str(name)!r} is a BLIP, which is small and whose engine reads its weights directly: "
            "load it without quantization."
        )
    placement = _placement(device, quantization)
    with step(name, "reading its processor"):
        processor = _processor(source, name)
    with step(name, "reading its weights"):
        try:
            # Safetensors, since a pickled checkpoint can run code.
            loaded: Any = model_class.from_pretrained(  # a pair, by output_loading_info
                source,
                output_loading_info=True,
                dtype=precision,
                attn_implementation=attention,
                use_safetensors=True,
                **placement,
            )
        except torch.OutOfMemoryError:
            raise
        except (OSError, RuntimeError, SafetensorError) as error:  # missing, other shapes, cut off
            raise _no_checkpoint(name, error) from None
    model, told = loaded
    if told["missing_keys"]:
        raise NoticeError(
            f"{str(name)!r} lacks weights, which would be random: "
            f"{', '.join(sorted(told['missing_keys'])[:5])}. Take a whole checkpoint."
        )
    if not placement:
        model = model.to(device)
    _refuse_offloading(model, name)
    with step(name, "reading a blank image"):
        return _adapter(model)(model, processor, str(name))


@contextmanager
def step(name: str | Path, doing: str) -> Iterator[None]:
    """Within this block, whatever a processor, a configuration or a model raises becomes one error
    that tells the model, the step, and the cause in full."""
    try:
        yield
    except (NoticeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # Constructors and processors raise arbitrary exceptions.
        raise NoticeError(
            f"{str(name)!r} failed while {doing}. {type(error).__name__}: {error}\n{_remedy(error)}"
        ) from error


def _remedy(error: Exception) -> str:
    """What can be done about an error of a processor or model."""
    if isinstance(error, ImportError):
        return "Install the package that is named, and load it again."
    return (
        "If its files are complete, this version of transformers does not run it so: try the "
        'version that its model card names, or load_model(..., engine="reference"), which runs '
        "nothing but whole forwards."
    )


def _adapter(model: torch.nn.Module) -> type[VLM]:
    if isinstance(model, BlipForQuestionAnswering):
        return Blip
    if isinstance(model, LlavaForConditionalGeneration) and Llava.understands(model):
        return Llava
    return DecoderOnly


def _model_class(config: PreTrainedConfig, name: str | Path) -> type[PreTrainedModel]:
    """The class of a checkpoint's architecture.

    A model without weights is looked at first, so that what no adapter understands costs nothing.
    """
    architecture = (config.architectures or [config.model_type])[0]
    if architecture == BlipForQuestionAnswering.__name__:
        # The architecture, not the model type: BLIP's captioning models share the type "blip".
        return BlipForQuestionAnswering
    try:
        shell = _shell(config)
        if type(shell).__name__ != architecture:
            raise NoticeError(f"transformers reads an image and a text by {type(shell).__name__}.")
        DecoderOnly(shell, name=str(name))
    except NoticeError as error:
        why = str(error).splitlines()[0]
        raise NoticeError(
            f"{str(name)!r} is a {architecture}; supported are BlipForQuestionAnswering and models "
            "of AutoModelForImageTextToText that are decoders with the image among their tokens "
            f"(LLaVA, Qwen2-VL, Gemma 3, ...). Here: {why}"
        ) from None
    return type(shell)


def _shell(config: PreTrainedConfig) -> PreTrainedModel:
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
    except (OSError, ValueError) as error:  # missing, or code that the checkpoint brings along
        raise _no_checkpoint(name, error) from None
    if getattr(processor, "image_processor", None) is None:
        raise NoticeError(
            f"{str(name)!r} has no processor for images: processor_config.json or "
            "preprocessor_config.json is missing, or of another kind."
        )
    if getattr(processor, "patch_size", 0) is None:
        raise NoticeError(
            f"The processor of {str(name)!r} does not know its patch_size: its "
            "processor_config.json is older than this version of transformers. Take a newer "
            "revision of the checkpoint, or write patch_size and vision_feature_select_strategy "
            "into that file, as they stand in config.json (vision_config.patch_size)."
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
    elsewhere = torch.cuda.is_available() and places & {"cpu", "disk"}
    if elsewhere or any(weights.device.type == "meta" for weights in model.parameters()):
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
