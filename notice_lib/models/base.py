"""What every model family offers to the rest of the library."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from PIL import Image

from ..errors import NoticeError
from ..prompts import OptionSpans, Span

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

start and end are what the model's template puts before and after the prompt; before, between and
after are the prompt's words around the options; last is the last token of all. In the vision tower
a token is the class token or an image patch.
"""

NOISE_PLACES = ("patch_embeddings", "tower_output")
"""Where noise can be added to an image: to the embeddings of its patches, or to what the vision
tower gives to the text."""


@dataclass(frozen=True)
class ImageNoise:
    """Noise that is added in a run.

    Attributes:
        at: one of `NOISE_PLACES`.
        values: (1, tokens, width), in the model's dtype.
    """

    at: str
    values: torch.Tensor


@dataclass(frozen=True)
class Inputs:
    """One run's input.

    Attributes:
        pixel_values: (1, 3, height, width), or what else the model's processor makes of an image.
        input_ids: (1, T), image tokens included where the family has them.
        spans: T character ranges in the prompt; None for special and template tokens.
        tokens: T token strings.
        image_tokens: T booleans.
        noise: what is added to the image's activations; None for nothing.
        extra: further tensors that the model's forward takes by name, as its processor gave them.
    """

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    spans: tuple[Span | None, ...]
    tokens: tuple[str, ...]
    image_tokens: tuple[bool, ...]
    noise: ImageNoise | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)

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


@dataclass(frozen=True)
class Stack:
    """Layers of one kind that follow each other.

    Attributes:
        components: what can be patched in each layer; `*_attention` per head too.
        n_layers, n_heads: its size.
    """

    components: tuple[str, ...]
    n_layers: int
    n_heads: int


class VLM(ABC):
    """An unmodified Hugging Face model and its processor, behind one small interface.

    Attributes:
        name: what it was loaded as.
        model: the Hugging Face model, in evaluation mode.
        processor: its processor, or None (then only prepared `Inputs` can be run).
        family: "blip", "llava", or "decoder" (any other decoder-only model).
        stacks: in the order in which a run passes them: "vision", the tower; "text", BLIP's
            question encoder or LLaVA's language model; BLIP's answer "decoder".
        components, n_layers, n_heads: of the text stack.
        grid, image_size: image patches and pixels per side of the vision tower. In the family
            "decoder", image tokens per side, or 0 where they are no square that is always the same.
    """

    family: str
    stacks: dict[str, Stack]

    def __init__(self, model: torch.nn.Module, processor=None, name: str = ""):
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.stacks = self._stacks(model.config)
        self.image_size, self.grid = self._image_shape(model.config)

    @property
    def components(self) -> tuple[str, ...]:
        """What can be patched in each layer of the text stack."""
        return self.stacks["text"].components

    @property
    def n_layers(self) -> int:
        """Of the text stack."""
        return self.stacks["text"].n_layers

    @property
    def n_heads(self) -> int:
        """Of the text stack."""
        return self.stacks["text"].n_heads

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

    @property
    @abstractmethod
    def tower_layers(self) -> torch.nn.ModuleList:
        """The vision tower's layers, (N, 1 + patches, D_v) -> (N, 1 + patches, D_v), up to the last
        one that the text sees."""

    @abstractmethod
    def image_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the text reads, from the output (N, 1 + patches, D_v) of the last of `tower_layers`:
        (N, image tokens, D)."""

    def stack_of(self, component: str) -> str:
        """The name of the stack that has a component.

        Raises:
            NoticeError: none has.
        """
        for name, stack in self.stacks.items():
            if component in stack.components:
                return name
        others = (name for stack in self.stacks.values() for name in stack.components)
        known = ", ".join(dict.fromkeys([*self.components, *others]))
        raise NoticeError(
            f"{self.name or self.family} has no component {component!r}; it has {known}."
        )

    def hook_point(self, component: str, layer: int) -> HookPoint:
        """Where to read and write a component's activation.

        Raises:
            NoticeError: the model has no such component or layer.
        """
        name = self.stack_of(component)
        if not 0 <= layer < self.stacks[name].n_layers:
            raise NoticeError(
                f"Layer {layer} is out of range: the {name} stack of {self.name or self.family} "
                f"has layers 0 to {self.stacks[name].n_layers - 1}."
            )
        return self._hook_point(component, layer)

    @contextmanager
    def noise(self, runs: Sequence[Inputs]) -> Iterator[None]:
        """Within this block, a batch of these runs' images gets each run's own noise."""
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
        """Where a place of `NOISE_PLACES` is read and written."""

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

    def _image_shape(self, config) -> tuple[int, int]:
        """(image_size, grid)"""
        vision = config.vision_config
        return vision.image_size, vision.image_size // vision.patch_size

    @abstractmethod
    def _stacks(self, config) -> dict[str, Stack]:
        """The model's stacks, read from its configuration."""

    @abstractmethod
    def _hook_point(self, component: str, layer: int) -> HookPoint:
        """The module and side of a component that `hook_point` has found to exist."""


def hook(module: torch.nn.Module, on: str, visit):
    """Call `visit` with a module's first input or its output, a (batch, T, width) tensor; what it
    returns, if anything, replaces it.

    It comes before the module's other hooks: transformers hangs up some that keep a layer's output
    for later use (LLaVA reads its vision tower so), and they must get what `visit` returns.

    Returns:
        The handle, a context manager that removes the hook.
    """

    def checked(activation):
        if isinstance(activation, torch.Tensor) and activation.dim() == 2:
            return (
                None  # A pooled (batch, width) vector through the same module, which no one reads.
            )
        if not isinstance(activation, torch.Tensor) or activation.dim() != 3:
            raise NoticeError(
                f"{type(module).__name__} gave {type(activation).__name__}, not a (batch, T, "
                "width) tensor: this version of transformers is not supported."
            )
        return visit(activation)

    if on == "input":

        def before(module, args):
            changed = checked(args[0])
            return None if changed is None else (changed, *args[1:])

        return module.register_forward_pre_hook(before, prepend=True)
    return module.register_forward_hook(lambda module, args, output: checked(output), prepend=True)


@contextmanager
def watch(points: Mapping[Hashable, HookPoint]) -> Iterator[dict[Hashable, torch.Tensor]]:
    """Within this block, the activation at each point of each forward is kept under its key."""
    seen: dict[Hashable, torch.Tensor] = {}

    def keeper(key):
        def keep(activation):
            seen[key] = activation

        return keep

    with ExitStack() as stack:
        for key, point in points.items():
            stack.enter_context(hook(point.module, point.on, keeper(key)))
        yield seen


def _adder(noisy: dict[int, torch.Tensor]):
    def add(activation):
        activation = activation.clone()
        for row, values in noisy.items():
            activation[row] += values[0]
        return activation

    return add
