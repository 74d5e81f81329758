"""From a name to an adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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

from ..choices import Attention, Quantization, check_choice
from ..errors import NoticeError
from ..paths import checkpoint_dir
from .base import VLM
from .blip import Blip
from .decoder import DecoderOnly
from .llava import Llava

EMBEDDED = ("blip-mini", "llava-mini", "blip-mini-noise")


def read_model(
    name: str | Path,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    attention: Attention = "eager",
    quantization: Quantization | None = None,
) -> VLM:
    """Load a checkpoint behind its family's adapter, without the self-check.

    The arguments are those of `notice_lib.load_model`. A model that the generic adapter does not
    understand is refused before its weights are read.

    Raises:
        NoticeError: there is no such checkpoint, its family is not supported, it does not fit on
            the GPUs, or 4-bit weights are not available here or for this model.
    """
    check_choice("attention", attention, Attention)
    source = str(checkpoint_dir(str(name)) if name in EMBEDDED else name)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    precision = dtype or (torch.float32 if on_cpu else "auto")
    with step(name, "reading its configuration"):
        # Without this argument transformers asks whether to run code from the checkpoint.
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
            loaded: Any = model_class.from_pretrained(  # A pair, because of output_loading_info.
                source,
                output_loading_info=True,
                dtype=precision,
                attn_implementation=attention,
                use_safetensors=True,  # A pickled checkpoint could run code.
                **placement,
            )
        except torch.OutOfMemoryError:
            raise
        except (OSError, RuntimeError, SafetensorError) as error:  # Missing, other shapes, cut off.
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
    """Within this block, any error of a processor, a configuration or a model becomes a NoticeError
    that names the model and the step and quotes the cause."""
    try:
        yield
    except (NoticeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # Constructors and processors raise arbitrary exceptions.
        raise NoticeError(
            f"{str(name)!r} failed while {doing}. {type(error).__name__}: {error}\n{_remedy(error)}"
        ) from error


def _remedy(error: Exception) -> str:
    """What to do about an error of a processor or a model."""
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

    It is examined on a model without weights, so a model that no adapter understands costs nothing.
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
    except Exception as error:  # Model constructors raise arbitrary exceptions.
        raise NoticeError(f"transformers cannot build it: {error}") from None


def _processor(source: str, name: str | Path):
    """A checkpoint's processor.

    Its Pillow backend gives the same pixels whether or not torchvision is installed. Families that
    also read videos (Qwen2-VL, SmolVLM, InternVL) need torchvision for that part of their
    processors.
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
    except (OSError, ValueError) as error:  # Missing, or it needs code from the checkpoint.
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
    """Refuse a device that does not exist here; with "auto", accelerate decides."""
    if device == "auto":
        return
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise NoticeError(f"There is no device {device!r}: use cpu, cuda or auto.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise NoticeError(f"CUDA is not available here, so {device!r} cannot be used: use cpu.")


def _placement(device: str, quantization: str | None) -> dict:
    """transformers' arguments for where the weights go; none for one device in full precision."""
    if quantization is None:
        return {"device_map": "auto"} if device == "auto" else {}
    check_choice("quantization", quantization, Quantization, otherwise="None")
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
    """Refuse weights in main memory or on disk, which are missing when single modules are
    called."""
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
