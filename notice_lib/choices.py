"""The names that callers choose between, each list written once.

The library's functions check their arguments against these types, and the command line makes its
options from them. Importing this module loads nothing heavy.
"""

from typing import Any, Literal, get_args

from .errors import NoticeError

RunName = Literal["clean", "corrupt"]
"""Which of a pair's two runs."""

SemanticCorruption = Literal["image", "text"]
"""A corruption within the distribution: another image (SIP), or other options in the prompt
(STR)."""

CorruptionName = Literal[SemanticCorruption, "noise"]
"""What tables and the command line call a corruption; "noise" is Gaussian noise on the image."""

Direction = Literal["denoise", "noise"]
"""Clean activations into the corrupt run, or corrupt ones into the clean run."""

Donor = Literal["own", "unrelated"]
"""Activations come from the pair's other run, or from a run of another scene."""

DonorWords = Literal["other", "same"]
"""A matched donor has none of the pair's words, or the same two options."""

NoisePlace = Literal["patch_embeddings", "tower_output"]
"""Noise is added to the embeddings of an image's patches, or to what the vision tower gives to the
text."""

Ablation = Literal["mean", "zero"]
"""What an ablation writes in place of an activation."""

Criterion = Literal["generated", "preferred"]
"""A pair is answered correctly if the model's own answer is the correct option, or if this option's
logit is larger than the other option's."""

EngineName = Literal["fast", "reference"]
"""The engine that computes once what patched runs share, or one full forward for each of them."""

Attention = Literal["eager", "sdpa"]
"""transformers' name of the attention function that a model is loaded with."""

Quantization = Literal["nf4"]
"""A format of 4-bit weights."""


def check_choice(argument: str, value: object, choices: Any, otherwise: str = "") -> None:
    """Refuse a value that is none of the names of a `Literal`.

    Args:
        argument: its name, for the message.
        otherwise: what else the argument may be, for the message.

    Raises:
        NoticeError: lists the names.
    """
    names = get_args(choices)
    if value not in names:
        known = [*map(repr, names), *([otherwise] if otherwise else [])]
        raise NoticeError(f"{argument} is {' or '.join(known)}, not {value!r}.")
