"""From a name to an adapter."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    BlipForQuestionAnswering,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    __version__ as installed,
)

from ..choices import Attention, Quantization, check_choice
from ..errors import NoticeError
from ..paths import checkpoint_dir
from .adapters import base_of, merge
from .base import VLM
from .blip import Blip
from .decoder import DecoderOnly
from .folder import PROCESSORS, check_config, check_files
from .llava import Llava

EMBEDDED = (
    "blip-mini",
    "llava-mini",
    "blip-mini-noise",
    "blip-mini-outliers",
    "blip-mini-register",
)
_OF_A_CONFIG = (
    "Copy config.json again from where the checkpoint comes from. If it is as published, this "
    "version of transformers may not support it: try the version that its model card names."
)
OF_FILES = (
    "If its files are complete, this version of transformers may not support it: try the version "
    "that its model card names."
)
"""What to do if a processor or a model raises an error, whichever engine is to patch it."""
_OF_AN_ADAPTER = (
    "Take the base that it was trained on, or merge it where it was trained (peft's "
    "merge_and_unload) and save the whole model."
)


def read_model(
    name: str | Path,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    attention: Attention = "eager",
    quantization: Quantization | None = None,
) -> VLM:
    """Load a checkpoint behind its family's adapter, without the self-check.

    The arguments are those of `notice_lib.load_model`. A model that the generic adapter does not
    understand is refused before its weights are read. A LoRA adapter is merged into the weights.

    Raises:
        NoticeError: there is no such checkpoint, a part of it is missing, its family is not
            supported, it does not fit on the GPUs, or 4-bit weights are not available here or for
            this model.
    """
    check_choice("attention", attention, Attention)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    source = _source(name)
    with base_of(source, str(name)) as weights:
        model_class = _class_of(name, weights, quantization)
        with step(name, "reading its processor", OF_FILES):
            processor = _processor(_with_processor(source, weights), name)
        model = _read(name, weights, model_class, device, dtype, attention, quantization)
        if weights != source:
            with step(name, "merging its adapter into its weights", _OF_AN_ADAPTER):
                merge(model, source, str(name))
            model.config._name_or_path = source
    with step(name, "reading a blank image", OF_FILES):
        return _adapter(model)(model, processor, str(name))


def _source(name: str | Path) -> str:
    """A folder, or a hub id.

    Raises:
        NoticeError: it can be neither.
    """
    if name in EMBEDDED:
        return str(checkpoint_dir(str(name)))
    path = Path(name)
    if path.is_dir():
        return str(name)
    if path.is_file():
        raise NoticeError(f"{str(name)!r} is a file. Give its folder, {str(path.parent)!r}.")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(name)):
        raise NoticeError(
            f"{str(name)!r} is no checkpoint: there is no such folder. Give "
            f"{', '.join(EMBEDDED)}, a folder with config.json, model.safetensors and the "
            "processor's files, or a hub id (owner/name, which needs a network)."
        )
    return str(name)


def _with_processor(source: str, base: str) -> str:
    """Where a model's processor is: an adapter may have brought its own along, or not."""
    brought = source != base and any((Path(source) / file).is_file() for file in PROCESSORS)
    return source if brought else base


def _class_of(name: str | Path, source: str, quantization: str | None) -> type[PreTrainedModel]:
    """The class of a checkpoint that has all its files.

    Raises:
        NoticeError: no adapter understands the class, or a file is missing; names it.
    """
    folder = Path(source)
    if folder.is_dir():
        check_config(folder, str(name))
    with step(name, "reading its configuration", _OF_A_CONFIG):
        config = _config(name, source)
    model_class = _model_class(config, name)
    if model_class is BlipForQuestionAnswering and (
        quantization or getattr(config, "quantization_config", None)
    ):
        raise NoticeError(
            f"{str(name)!r} is a BLIP, which is small and whose engine reads its weights directly: "
            "load it without quantization, and from a checkpoint in full precision."
        )
    if folder.is_dir():
        check_files(folder, str(name))
    return model_class


def _config(name: str | Path, source: str) -> PreTrainedConfig:
    """A checkpoint's configuration.

    Raises:
        NoticeError: it cannot be read, or it is of a model type that transformers does not know.
    """
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source)
    except OSError as error:
        raise _unreadable(name, source, error) from None
    kind = settings.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise NoticeError(
            f"{str(name)!r} is of the model type {kind!r}, which transformers {installed} does not "
            "know. Try a newer version of transformers, or a checkpoint that was converted to one "
            "of its models. Code that lies in a checkpoint is never run."
        )
    # Without this argument transformers asks whether to run code from the checkpoint.
    return AutoConfig.from_pretrained(source, trust_remote_code=False)


def _read(name, source: str, model_class, device: str, dtype, attention, quantization) -> Any:
    """The Hugging Face model, on its device."""
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    precision = dtype or (torch.float32 if on_cpu else "auto")
    placement = _placement(device, quantization)
    with step(name, "reading its weights", OF_FILES):
        try:
            loaded: Any = model_class.from_pretrained(  # A pair, because of output_loading_info.
                source,
                output_loading_info=True,
                dtype=precision,
                attn_implementation=attention,
                use_safetensors=True,  # A pickled checkpoint could run code.
                ignore_mismatched_sizes=True,  # `_check_weights` names them.
                **placement,
            )
        except torch.OutOfMemoryError:
            raise
        except (OSError, RuntimeError, SafetensorError) as error:  # Missing, or cut off.
            raise _unreadable(name, source, error) from None
    model, told = loaded
    _check_weights(model, told, name)
    if not placement:
        model = model.to(device)
    _refuse_offloading(model, name)
    return model


def _check_weights(model, told: dict, name: str | Path) -> None:
    """Refuse weights that would be random, and warn of those that the model has no place for."""
    refused = (
        ("missing_keys", "lacks weights, which would be random", "Take a whole checkpoint."),
        (
            "mismatched_keys",
            "has weights of other shapes than its config.json says",
            "Take config.json and weights from one checkpoint.",
        ),
    )
    for kind, what, remedy in refused:
        keys = sorted(key if isinstance(key, str) else key[0] for key in told[kind])
        if keys:
            raise NoticeError(f"{str(name)!r} {what}: {', '.join(keys[:5])}. {remedy}")
    quantised = getattr(model.config, "quantization_config", None)
    if quantised and getattr(model, "hf_quantizer", None) is None:
        raise NoticeError(
            f"{str(name)!r}: its config.json says that its weights are quantised in a way that "
            "this version of transformers does not know, so they would be read as ordinary "
            "numbers. Take a checkpoint in full precision."
        )
    extra = sorted(told["unexpected_keys"])
    if extra:
        warnings.warn(
            f"{str(name)!r} has {len(extra)} weights that {type(model).__name__} has no place "
            f"for, and they are ignored: {', '.join(extra[:5])}. If its answers are poor, the "
            "checkpoint is probably one of another architecture.",
            stacklevel=2,
        )


@contextmanager
def step(name: str | Path, doing: str, remedy: str) -> Iterator[None]:
    """Within this block, any error of a processor, a configuration or a model becomes a NoticeError
    that names the model and the step, quotes the cause and ends with the remedy."""
    try:
        yield
    except (NoticeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # Constructors and processors raise arbitrary exceptions.
        if isinstance(error, ImportError):
            remedy = "Install the package that is named, and load it again."
        raise NoticeError(
            f"{str(name)!r} failed while {doing}. {type(error).__name__}: {error}\n{remedy}"
        ) from error


def _adapter(model: torch.nn.Module) -> type[VLM]:
    if isinstance(model, BlipForQuestionAnswering):
        return Blip
    if isinstance(model, LlavaForConditionalGeneration) and Llava.understands(model):
        return Llava
    return DecoderOnly


def _model_class(config: PreTrainedConfig, name: str | Path) -> type[PreTrainedModel]:
    """The class of a checkpoint's architecture.

    It is examined on a model without weights, so a model that no adapter understands costs nothing.
    A configuration without `architectures` may be of any class that transformers has for its model
    type. It is taken to be the one for images and text, and weights that do not fit are refused.
    """
    architecture = config.architectures[0] if config.architectures else None
    if architecture == BlipForQuestionAnswering.__name__ or (
        architecture is None and config.model_type == "blip"
    ):
        # The architecture, not the model type: BLIP's captioning models share the type "blip".
        return BlipForQuestionAnswering
    try:
        shell = _shell(config)
        if architecture not in (None, type(shell).__name__):
            raise NoticeError(
                f"transformers would read its model type {config.model_type!r} as "
                f"{type(shell).__name__}; take a checkpoint that was converted to this class (for "
                "LLaVA, those of llava-hf)."
            )
        DecoderOnly(shell, name=str(name))
    except NoticeError as error:
        why = str(error).splitlines()[0]
        raise NoticeError(
            f"{str(name)!r} is a {architecture or config.model_type}; supported are "
            "BlipForQuestionAnswering and models of AutoModelForImageTextToText that are decoders "
            f"with the image among their tokens (LLaVA, Qwen2-VL, Gemma 3, ...). Here: {why}"
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
                f"The processor of {str(name)!r} needs another package, probably torchvision: pip "
                f"install torchvision. transformers says: {error}"
            ) from None
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise NoticeError(
                f"The processor of {str(name)!r} is code that lies in the checkpoint, and such "
                "code is never run. Try a newer version of transformers, which may have this "
                "processor, or a checkpoint that was converted to one of its models."
            ) from None
        raise _unreadable(name, source, error) from None
    if getattr(processor, "image_processor", None) is None:
        raise NoticeError(
            f"{str(name)!r} has no image processor: transformers makes a "
            f"{type(processor).__name__} of its processor_config.json or preprocessor_config.json. "
            "Copy these files from the checkpoint that this one was trained from."
        )
    if getattr(processor, "patch_size", 0) is None:
        raise NoticeError(
            f"The processor of {str(name)!r} does not know its patch_size: its "
            "processor_config.json is older than this version of transformers. Take a newer "
            "revision of the checkpoint, or write patch_size and vision_feature_select_strategy "
            "into that file, as they stand in config.json (vision_config.patch_size)."
        )
    _check_tokenizer(processor, name)
    return processor


def _check_tokenizer(processor, name: str | Path) -> None:
    """Refuse an empty tokenizer, which transformers makes where the vocabulary is missing."""
    tokenizer = processor.tokenizer
    ids = tokenizer("is the dog on the table", add_special_tokens=False)["input_ids"]
    if set(ids) <= {tokenizer.unk_token_id}:
        raise NoticeError(
            f"The tokenizer of {str(name)!r} knows no English word: its vocabulary (tokenizer.json "
            "or vocab.txt) is missing or of another language. Copy the tokenizer's files from the "
            "checkpoint that this one was trained from."
        )


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


def _unreadable(name: str | Path, source: str, error: Exception) -> NoticeError:
    """The error for a checkpoint that transformers cannot read from a folder or by a hub id."""
    if Path(source).is_dir():
        remedy = "One of its files is damaged or missing: download or copy it again."
    elif source != str(name):
        remedy = (
            f"Its adapter_config.json names the base {source!r} (base_model_name_or_path), which "
            "is not here: write the base's folder or hub id there; a hub id needs a network."
        )
    else:
        remedy = (
            f"It is none of {', '.join(EMBEDDED)} and no folder; if it is a hub id, check its "
            "spelling and your network connection."
        )
    return NoticeError(
        f"{str(name)!r} is no checkpoint that can be read. {remedy} transformers says: {error}"
    )
