"""What a checkpoint's folder must hold, told before transformers guesses."""

import json
from pathlib import Path

from ..errors import NoticeError

TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
"""Files with a tokenizer's vocabulary, one of which is needed."""
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
"""Files with the settings of the image's processing, one of which is needed."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_config(folder: Path, name: str) -> None:
    """Refuse a folder without a configuration of transformers.

    Raises:
        NoticeError: says what is wrong with config.json.
    """
    if not (folder / "config.json").is_file():
        within = sorted(path.parent.name for path in folder.glob("*/config.json"))
        where = (
            f" Checkpoints are in its folders {', '.join(within[:5])}: name one." if within else ""
        )
        raise NoticeError(
            f"{name!r} is no checkpoint: it has no config.json.{where} A checkpoint is a folder "
            "with config.json, model.safetensors, and the files of tokenizer and processor."
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise NoticeError(f"{name!r}: its config.json is not valid JSON ({error}).") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise NoticeError(
            f"{name!r}: its config.json names no model_type, so it is no configuration of "
            "transformers. Take a checkpoint that was saved by transformers' save_pretrained."
        )
    architectures = config.get("architectures") or []
    if not (isinstance(architectures, list) and all(isinstance(one, str) for one in architectures)):
        raise NoticeError(
            f"{name!r}: architectures in its config.json is {json.dumps(architectures)}, which is "
            'no list of class names. Write it as ["BlipForQuestionAnswering"], for example.'
        )


def check_files(folder: Path, name: str) -> None:
    """Refuse a folder without weights, tokenizer or image processor.

    Args:
        name: the name by which the model is to be loaded, for messages.

    Raises:
        NoticeError: says which file is missing, and where to get it.
    """
    files = {path.name for path in folder.iterdir()}
    _check_weights(folder, files, name)
    for wanted, what in ((TOKENIZERS, "tokenizer"), (PROCESSORS, "image processor")):
        if not files.intersection(wanted):
            raise NoticeError(
                f"{name!r} has no {what}: none of {', '.join(wanted)} is there. Copy the {what}'s "
                "files from the checkpoint that this one was trained from."
            )


def _check_weights(folder: Path, files: set[str], name: str) -> None:
    for index in folder.glob("*.safetensors.index.json"):
        shards = _shards(index, name)
        missing = sorted(shards - files)
        if missing:
            raise NoticeError(
                f"{name!r} lacks {len(missing)} of the {len(shards)} files of its weights that "
                f"{index.name} lists: {', '.join(missing[:5])}. Download them again."
            )
    if any(file.endswith(".safetensors") and not file.startswith("adapter_") for file in files):
        return
    pickled = sorted(file for file in files if file.endswith(PICKLES))
    if pickled:
        raise NoticeError(
            f"{name!r} has its weights in {pickled[0]}, a pickle, which can run code and is not "
            "read. Convert it where you trust it: load the model with transformers and write it "
            "with save_pretrained, which makes model.safetensors."
        )
    raise NoticeError(f"{name!r} has no weights: there is no model.safetensors. Download it again.")


def _shards(index: Path, name: str) -> set[str]:
    """The files that an index of weights lists."""
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, TypeError, LookupError, AttributeError):
        shards = set()
    if not shards or not all(isinstance(file, str) for file in shards):
        raise NoticeError(
            f"{name!r}: its {index.name} is damaged: it has no weight_map that lists the files of "
            "its weights. Download it again."
        )
    return shards
