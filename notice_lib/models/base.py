"""What every model family offers to the rest of the library."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image

from ..errors import NoticeError
from ..prompts import OptionSpans, Span

ROLES = (
    "start",
    "image",
    "before",
    "correct",
    "or",
    "between",
    "incorrect",
    "after",
    "end",
    "last",
)
"""What a token is to a two-choice question.

start and end are what the model's template puts before and after the prompt; before, between and
after are the prompt's words around the options; last is the last token of all.
"""


@dataclass(frozen=True)
class Inputs:
    """One run's input.

    Attributes:
        pixel_values: (1, 3, height, width).
        input_ids: (1, T), image tokens included where the family has them.
        spans: T character ranges in the prompt; None for special and template tokens.
        tokens: T token strings.
        image_tokens: T booleans.
    """

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    spans: tuple[Span | None, ...]
    tokens: tuple[str, ...]
    image_tokens: tuple[bool, ...]

    def __len__(self) -> int:
        return self.input_ids.shape[1]


@dataclass(frozen=True)
class AnswerTokens:
    """Where the two answers are told apart.

    Attributes:
        prefix: ids that both answers begin with (mostly none); they are fed to the model.
        correct, incorrect: the first ids that differ; their logits are the answers' scores.
    """

    prefix: tuple[int, ...]
    correct: int
    incorrect: int


@dataclass(frozen=True)
class HookPoint:
    """Where a component's activation is read and written: a module's input or output.

    The activation is (1, T, width). Where `per_head`, head h holds the h-th of n_heads equal
    slices of the width: its output before the output projection.
    """

    module: torch.nn.Module
    on: Literal["input", "output"]
    per_head: bool


class VLM(ABC):
    """An unmodified Hugging Face model and its processor, behind one small interface.

    Attributes:
        name: what it was loaded as.
        model: the Hugging Face model, in evaluation mode.
        processor: its processor, or None (then only prepared `Inputs` can be run).
        family: "blip" or "llava".
        components: what can be patched in each layer; self_attention and cross_attention per head
            too.
        n_layers, n_heads: of the stack whose text positions are patched: BLIP's question encoder,
            LLaVA's language model.
        grid, image_size: image patches and pixels per side of the vision tower.
    """

    family: str
    components: tuple[str, ...]

    def __init__(self, model: torch.nn.Module, processor=None, name: str = ""):
        self.model = model.eval()
        self.processor = processor
        self.name = name
        text, vision = model.config.text_config, model.config.vision_config
        self.n_layers: int = text.num_hidden_layers
        self.n_heads: int = text.num_attention_heads
        self.image_size: int = vision.image_size
        self.grid: int = self.image_size // vision.patch_size

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return next(self.model.parameters()).dtype

    @abstractmethod
    def inputs(self, image: Image.Image, prompt: str) -> Inputs:
        """Process one image and one prompt; never padded."""

    @abstractmethod
    def logits(self, inputs: Inputs, prefix: tuple[int, ...] = ()) -> torch.Tensor:
        """(vocabulary,) logits of the answer's next token after `prefix`: one full forward."""

    @abstractmethod
    def generate(self, inputs: Inputs, max_new_tokens: int = 8) -> str:
        """The model's own greedy answer, in lower case without special tokens."""

    @abstractmethod
    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Ids of an answer in the surface form in which the model writes it after the prompt."""

    def hook_point(self, component: str, layer: int) -> HookPoint:
        """Where to read and write a component's activation.

        Raises:
            NoticeError: the model has no such component or layer.
        """
        self._check(component, layer)
        return self._hook_point(component, layer)

    def answer_tokens(self, prompt: str, correct: str, incorrect: str) -> AnswerTokens:
        """The first tokens in which the two answers differ.

        Raises:
            NoticeError: the tokens of one answer begin with all tokens of the other.
        """
        a, b = self.answer_ids(prompt, correct), self.answer_ids(prompt, incorrect)
        shared = 0
        while shared < min(len(a), len(b)) and a[shared] == b[shared]:
            shared += 1
        if shared == min(len(a), len(b)):
            raise NoticeError(
                f"{self.name or self.family} cannot tell the answers {correct!r} and {incorrect!r} "
                f"apart: their tokens are {a} and {b}. Use other answer words."
            )
        return AnswerTokens(tuple(a[:shared]), a[shared], b[shared])

    def roles(self, inputs: Inputs, spans: OptionSpans) -> tuple[str, ...]:
        """The role of each of the T tokens; see `ROLES`."""
        first = min(spans.correct, spans.incorrect)
        second = max(spans.correct, spans.incorrect)
        in_prompt = [i for i, span in enumerate(inputs.spans) if span is not None]
        named = [
            (spans.correct, "correct"),
            (spans.incorrect, "incorrect"),
            (spans.either_or, "or"),
        ]

        def role(i: int, span: Span | None) -> str:
            if i == len(inputs) - 1:
                return "last"
            if inputs.image_tokens[i]:
                return "image"
            if span is None:
                return "start" if i < in_prompt[0] else "end"
            for option, name in named:
                if span[0] < option[1] and option[0] < span[1]:
                    return name
            if span[1] <= first[0]:
                return "before"
            return "between" if span[1] <= second[0] else "after"

        return tuple(role(i, span) for i, span in enumerate(inputs.spans))

    def token_layout(self, prompt: str, spans: OptionSpans) -> tuple[str, ...]:
        """The roles of a prompt's tokens: two prompts with the same layout can be compared."""
        blank = Image.new("RGB", (self.image_size, self.image_size))
        return self.roles(self.inputs(blank, prompt), spans)

    @abstractmethod
    def _hook_point(self, component: str, layer: int) -> HookPoint:
        """The module and side of a component that `hook_point` has found to exist."""

    def _check(self, component: str, layer: int) -> None:
        if component not in self.components:
            raise NoticeError(
                f"{self.name or self.family} has no component {component!r}; "
                f"it has {', '.join(self.components)}."
            )
        if not 0 <= layer < self.n_layers:
            raise NoticeError(
                f"Layer {layer} is out of range: {self.name or self.family} has layers "
                f"0 to {self.n_layers - 1}."
            )
