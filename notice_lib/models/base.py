"""What every model family offers to the rest of the library."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image

from ..choices import EngineName, NoisePlace
from ..errors import NoticeError
from ..pairs.prompts import OptionSpans, Span
from .hooks import HookPoint, hook
from .inputs import AnswerTokens, Inputs
from .layout import crop_places, shows_all
from .threads import threads_for

ROLES = (
    "start",
    "class",
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

start and end are the tokens that the model's template puts before and after the prompt. before,
between and after are the prompt's words around the options. last is the very last token. In the
vision tower, a token is the class token or an image patch.
"""

NOISE_PLACES: tuple[NoisePlace, ...] = get_args(NoisePlace)
"""Where noise can be added to an image."""

TOWER_COMPONENTS = ("vision_self_attention", "vision_mlp", "vision_layer_output")
"""What can be patched in each layer of a vision tower."""


@dataclass(frozen=True)
class Stack:
    """Layers of one kind that follow each other.

    Attributes:
        components: what can be patched in each layer; attention also by single heads.
        n_layers, n_heads: the number of layers, and of heads in each.
    """

    components: tuple[str, ...]
    n_layers: int
    n_heads: int


class VLM(ABC):
    """An unmodified Hugging Face model and its processor, behind one small interface.

    Attributes:
        name: the name that it was loaded by.
        model: the Hugging Face model, in evaluation mode.
        processor: its processor, or None (then only prepared `Inputs` can be run).
        family: "blip", "llava", or "decoder" (any other decoder-only model).
        engine: "fast", or "reference" for a model that is patched by full forwards.
        checked: whether it passed its self-check (`notice_lib.verify`).
        fitting_tokens: how many tokens of patched runs fit in memory at once; None until more did
            not fit.
        stacks: in the order in which a run passes them: "vision", the tower; "text", BLIP's
            question encoder or LLaVA's language model; "decoder", BLIP's answer decoder.
        components, n_layers, n_heads: those of the text stack.
        grid, image_size: image patches and pixels per side of the vision tower. In the family
            "decoder", image tokens per side, or 0 if they are not the same square for every image.
    """

    family: str
    stacks: dict[str, Stack]
    image_component: str
    """The component of the text stack that reads the image."""
    engine: EngineName = "fast"
    class_tokens: int = 1
    """How many tokens of the vision tower stand before the image's patches."""

    def __init__(self, model: torch.nn.Module, processor=None, name: str = ""):
        # Any, since no type checker knows the attributes of Hugging Face's models.
        self.model: Any = model.eval()
        self.processor = processor
        self.name = name
        self.checked = False
        self.fitting_tokens: int | None = None
        self._places: dict[tuple[int, int], np.ndarray] = {}
        self.stacks = self._stacks(model.config)
        self.image_size, self.grid = self._image_shape(model.config)

    def __str__(self) -> str:
        """What messages call the model."""
        return self.name or f"this {self.family} model"

    @property
    def components(self) -> tuple[str, ...]:
        """What can be patched in each layer of the text stack."""
        return self.stacks["text"].components

    @property
    def n_layers(self) -> int:
        """The number of the text stack's layers."""
        return self.stacks["text"].n_layers

    @property
    def n_heads(self) -> int:
        """The number of heads in each layer of the text stack."""
        return self.stacks["text"].n_heads

    @property
    def effect_role(self) -> str:
        """The role of the tokens at which the effects and the attention of heads are measured,
        unless told otherwise.

        It is the correct option where the text reads the image by cross-attention (BLIP), and
        elsewhere the last token, as in the paper.
        """
        return "correct" if self.image_component == "cross_attention" else "last"

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Within this block the model is this thread's alone, as hooks may be on it, and a small
        model computes on one core."""
        # The lock is the Hugging Face model's and not the adapter's, which can be copied.
        with _LOCKS.setdefault(self.model, RLock()), threads_for(self.model):
            yield

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return next(self.model.parameters()).dtype

    @abstractmethod
    def inputs(self, image: Image.Image, prompt: str) -> Inputs:
        """Process one image and one prompt, without padding."""

    @abstractmethod
    def logits(self, inputs: Inputs, prefix: tuple[int, ...] = ()) -> torch.Tensor:
        """(vocabulary,) logits of the answer's next token after `prefix`, by one full forward."""

    @abstractmethod
    def generate_ids(self, inputs: Inputs, max_new_tokens: int = 8) -> list[int]:
        """The tokens of the model's own greedy answer."""

    def generate(self, inputs: Inputs, max_new_tokens: int = 8) -> str:
        """The model's own greedy answer, in lower case without special tokens."""
        return self.decode(self.generate_ids(inputs, max_new_tokens))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens, in lower case without special tokens."""
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip().lower()

    @abstractmethod
    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """The ids of an answer in the form in which the model writes it after the prompt."""

    @property
    @abstractmethod
    def attention_modules(self) -> Sequence[torch.nn.Module]:
        """For each layer of the text stack, the module of `image_component`.

        If attention is eager, it returns its output and its weights (N, H, T, keys).
        """

    @abstractmethod
    def image_attention(
        self, weights: torch.Tensor, inputs: Inputs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention to the image, from one layer's weights (..., keys).

        Returns:
            (..., patches) attention to the patches, and (...) attention to the class token, which
            is zero if the text does not see one.
        """

    @property
    @abstractmethod
    def patches_point(self) -> HookPoint:
        """The point at which the image's patches leave the vision tower."""

    @abstractmethod
    def patch_states(self, states: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """(patches, width) the patches of a run's activation (tokens, width) at `patches_point`."""

    @abstractmethod
    def query_point(self, component: str, layer: int) -> HookPoint:
        """The point at which the queries of a text layer's attention are read and written.

        Head h's queries are the h-th of n_heads slices.

        Raises:
            NoticeError: the component has no separate queries.
        """

    @property
    @abstractmethod
    def tower_layers(self) -> torch.nn.ModuleList:
        """The vision tower's layers up to the last one that the text sees.

        Each maps (N, class token + patches, D_v) to the same shape.
        """

    @abstractmethod
    def image_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """(N, image tokens, D) what the text reads of the image.

        Args:
            hidden: the output of the last of `tower_layers`, (N, class token + patches, D_v).
        """

    def stack_of(self, component: str) -> str:
        """The name of the stack that has a component.

        Raises:
            NoticeError: no stack has it.
        """
        for name, stack in self.stacks.items():
            if component in stack.components:
                return name
        others = (name for stack in self.stacks.values() for name in stack.components)
        known = ", ".join(dict.fromkeys([*self.components, *others]))
        raise NoticeError(f"{self} has no component {component!r}; it has {known}.")

    def hook_point(self, component: str, layer: int) -> HookPoint:
        """The point at which a component's activation is read and written.

        Raises:
            NoticeError: the model has no such component or layer.
        """
        name = self.stack_of(component)
        if not 0 <= layer < self.stacks[name].n_layers:
            raise NoticeError(
                f"Layer {layer} is out of range: the {name} stack of {self} has layers 0 to "
                f"{self.stacks[name].n_layers - 1}."
            )
        return self._hook_point(component, layer)

    @contextmanager
    def noise(self, runs: Sequence[Inputs]) -> Iterator[None]:
        """Within this block, each image in a batch of these runs gets its run's noise."""
        with ExitStack() as stack:
            for place in NOISE_PLACES:
                noisy = {
                    row: run.noise.values
                    for row, run in enumerate(runs)
                    if run.noise is not None and run.noise.at == place
                }
                if noisy:
                    point = self.noise_point(place)
                    stack.enter_context(hook(point.module, point.on, _adder(noisy)))
            yield

    @abstractmethod
    def noise_point(self, place: str) -> HookPoint:
        """The point at which a place of `NOISE_PLACES` is read and written."""

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
                f"{self} cannot tell the answers {correct!r} and {incorrect!r} apart: their tokens "
                f"are {a} and {b}. Use other answer words."
            )
        return AnswerTokens(tuple(a[:shared]), a[shared], b[shared])

    @abstractmethod
    def text_tokens(self, prompt: str) -> tuple[tuple[Span | None, ...], tuple[bool, ...]]:
        """The tokens of a prompt in its template, from the tokenizer alone.

        Returns:
            For each token, its character range in the prompt (None outside of it), and whether it
            stands for the image, which is one token here.
        """

    def shows_all(self, size: tuple[int, int]) -> bool:
        """Whether the vision tower sees all of an image of this size (width, height), as one
        square.

        Only then are the image patches of its regions known. Some processors crop an image that is
        no square, pad it, or cut it into tiles.
        """
        if size not in self._places:
            self._places[size] = crop_places(self._pixels, size)
        return shows_all(self._places[size])

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        """(..., 3, height, width) what the processor makes of an image."""
        return self.processor.image_processor(images=image, return_tensors="pt")["pixel_values"]

    def roles(self, inputs: Inputs, spans: OptionSpans) -> tuple[str, ...]:
        """The role of each of the T tokens; see `ROLES`."""
        return _roles(inputs.spans, inputs.image_tokens, spans)

    def token_layout(self, prompt: str, spans: OptionSpans) -> tuple[str, ...]:
        """The roles of a prompt's tokens, with the image as one token.

        Two prompts with the same layout can be compared.
        """
        return _roles(*self.text_tokens(prompt), spans)

    def _image_shape(self, config) -> tuple[int, int]:
        """(image_size, grid)"""
        vision = config.vision_config
        return vision.image_size, vision.image_size // vision.patch_size

    @abstractmethod
    def _stacks(self, config) -> dict[str, Stack]:
        """The model's stacks, read from its configuration."""

    @abstractmethod
    def _hook_point(self, component: str, layer: int) -> HookPoint:
        """As `hook_point`, for a component and layer that exist."""


_LOCKS: WeakKeyDictionary[torch.nn.Module, RLock] = WeakKeyDictionary()


def _roles(
    ranges: tuple[Span | None, ...], image_tokens: tuple[bool, ...], spans: OptionSpans
) -> tuple[str, ...]:
    """The role of each token, from its character range in the prompt; see `ROLES`."""
    first = min(spans.correct, spans.incorrect)
    second = max(spans.correct, spans.incorrect)
    in_prompt = [i for i, span in enumerate(ranges) if span is not None]
    named = [
        (spans.correct, "correct"),
        (spans.incorrect, "incorrect"),
        (spans.either_or, "or"),
    ]

    def role(i: int, span: Span | None) -> str:
        if i == len(ranges) - 1:
            return "last"
        if image_tokens[i]:
            return "image"
        if span is None:
            return "start" if i < in_prompt[0] else "end"
        for option, name in named:
            if span[0] < option[1] and option[0] < span[1]:
                return name
        if span[1] <= first[0]:
            return "before"
        return "between" if span[1] <= second[0] else "after"

    return tuple(role(i, span) for i, span in enumerate(ranges))


def _adder(noisy: dict[int, torch.Tensor]):
    def add(activation):
        activation = activation.clone()
        for row, values in noisy.items():
            activation[row] += values[0]
        return activation

    return add
