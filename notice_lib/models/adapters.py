"""Adapters (LoRA) beside a model's weights or alone: merged into them, or refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from ..errors import NoticeError


@contextmanager
def base_of(source: str, name: str) -> Iterator[str]:
    """Within this block, the checkpoint that an adapter changes, or `source` if it is no adapter.

    Base weights in the adapter's folder go before those that its configuration names.

    Args:
        source: a folder or a hub id.
        name: the name by which the model is to be loaded, for messages.

    Raises:
        NoticeError: peft is not installed, the adapter's configuration is not valid JSON or names
            no base, or its weights are pickled.
    """
    try:
        config = find_adapter_config_file(source)
    except OSError:  # No such repository; that is said when its configuration is read.
        config = None
    if config is None:
        yield source
        return
    if find_spec("peft") is None:
        raise NoticeError(
            f"{name!r} has an adapter (adapter_config.json), which changes the model's weights, "
            "and peft, which merges it into them, is not installed: pip install peft. To analyse "
            "the model without the adapter, load its base checkpoint, or move adapter_config.json "
            "away."
        )
    folder, weights = Path(source), "adapter_model.safetensors"
    if cached_file(source, weights, _raise_exceptions_for_missing_entries=False) is None:
        raise NoticeError(
            f"{name!r} has an adapter without adapter_model.safetensors. Save it again with a "
            "current version of peft; pickled weights (adapter_model.bin) can run code and are not "
            "read."
        )
    if (folder / "config.json").is_file():
        with TemporaryDirectory() as alone:  # transformers would load the adapter on its own.
            for file in folder.iterdir():
                if not file.name.startswith("adapter_"):
                    (Path(alone) / file.name).symlink_to(file.resolve())
            yield alone
        return
    try:
        base = json.loads(Path(config).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        raise NoticeError(
            f"{name!r}: its adapter_config.json is no JSON object. Copy it again from where the "
            "adapter comes from."
        ) from None
    if not base:
        raise NoticeError(
            f"{name!r} is an adapter whose adapter_config.json names no base_model_name_or_path. "
            "Write the base checkpoint's folder or hub id there, or put its files beside it."
        )
    yield base


def merge(model: PreTrainedModel, source: str, name: str) -> None:
    """Load an adapter into a model, and make it part of the model's weights.

    Raises:
        NoticeError: the adapter and the model do not fit each other, or the model is quantised.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    if getattr(model, "is_quantized", False):
        raise NoticeError(
            f"{name!r} has an adapter, and merging it into quantised weights would round them "
            "again. Load it without quantization."
        )
    told = model.load_adapter(source)
    wrong = sorted({*told.missing_keys, *told.unexpected_keys})
    if wrong:
        raise NoticeError(
            f"{name!r} has an adapter that does not fit its base checkpoint; these weights have no "
            f"counterpart: {', '.join(wrong[:5])}. Take the base that it was trained on."
        )
    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            _replace(model, path, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            _replace(model, path, module.modules_to_save[module.active_adapter])
    model._hf_peft_config_loaded = False


def _replace(model: torch.nn.Module, path: str, module: torch.nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
