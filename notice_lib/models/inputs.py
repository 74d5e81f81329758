"""What goes into one run of a model, and the tokens by which its answer is scored."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from ..pairs.prompts import Span


@dataclass(frozen=True)
class ImageNoise:
    """Noise that is added to an image in one run.

    Attributes:
        at: one of `NOISE_PLACES`.
        values: the noise in the model's dtype, (1, tokens, width).
    """

    at: str
    values: torch.Tensor


@dataclass(frozen=True)
class Inputs:
    """One run's input.

    Attributes:
        pixel_values: (1, 3, height, width), or whatever the model's processor makes of an image.
        input_ids: (1, T), including the image's tokens if the family has them.
        spans: each token's character range in the prompt; None for special and template tokens.
        tokens: T token strings.
        image_tokens: T booleans, true for tokens that stand for the image.
        noise: what is added to the image's activations; None for nothing.
        extra: further tensors that the processor gave and the model's forward takes by name.
        arrangement: what else tells how the image is laid out: the column and row of each of its
            crops, and what the processor returned of its shape without the forward taking it.
    """

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    spans: tuple[Span | None, ...]
    tokens: tuple[str, ...]
    image_tokens: tuple[bool, ...]
    noise: ImageNoise | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)
    arrangement: tuple[tuple[str, Hashable], ...] = ()

    def __len__(self) -> int:
        return self.input_ids.shape[1]

    @cached_property
    def layout(self) -> tuple[tuple[str, Hashable], ...]:
        """What two runs must share for their tokens to correspond, each part with its name.

        It is the order of image and text tokens, the words of the template around the prompt (which
        number an image's tiles), and what the processor tells of the image's shape: 6 x 8 tokens
        are not 8 x 6.
        """
        template = tuple(
            token
            for token, span, image in zip(self.tokens, self.spans, self.image_tokens, strict=True)
            if span is None and not image
        )
        of_tokens = ((name, contents(value)) for name, value in self._extra(of_tokens=True))
        return (
            ("the order of tokens", self.image_tokens),
            ("the template's tokens", template),
            *of_tokens,
            *self.image_layout,
        )

    @cached_property
    def image_layout(self) -> tuple[tuple[str, Hashable], ...]:
        """The parts of `layout` that do not depend on the prompt."""
        return (
            ("the number of image tokens", sum(self.image_tokens)),
            ("the shape of pixel_values", tuple(self.pixel_values.shape)),
            *((name, contents(value)) for name, value in self._extra(of_tokens=False)),
            *self.arrangement,
        )

    def _extra(self, of_tokens: bool) -> list[tuple[str, torch.Tensor]]:
        """The further tensors that have a value for each token, or those that have not."""
        shape = self.input_ids.shape
        return [
            (name, x) for name, x in sorted(self.extra.items()) if (x.shape == shape) == of_tokens
        ]


@dataclass(frozen=True)
class AnswerTokens:
    """The tokens by which two answers are told apart.

    Attributes:
        prefix: the ids that both answers begin with (mostly none). The model reads them first.
        correct, incorrect: the first ids that differ. Their logits are the answers' scores.
    """

    prefix: tuple[int, ...]
    correct: int
    incorrect: int


def contents(tensor: torch.Tensor) -> tuple:
    """A tensor's shape, and its values if they are whole numbers: others are pixels, not layout."""
    shape = tuple(tensor.shape)
    if tensor.is_floating_point():
        return shape
    return shape, tensor.cpu().contiguous().numpy().tobytes()
