"""Any decoder-only vision-language model whose image becomes tokens of its sequence."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from copy import copy
from inspect import signature
from math import isqrt
from typing import Any

import torch
from PIL import Image
from transformers.utils import ModelOutput

from ..errors import NoticeError
from ..pairs.prompts import Span
from .base import VLM, Stack
from .hooks import HookPoint
from .inputs import Inputs, contents
from .layout import arrangement, crop_places
from .text_model import find_text_model, refusal, text_config

DYNAMIC_SIZE = 224
"""Pixels per side of a blank image if a model's configuration names no image size."""

TEXT_INPUTS = ("input_ids", "attention_mask", "labels")
"""What a processor gives of the text. Nothing is padded, so no mask is needed."""


class DecoderOnly(VLM):
    """Adapter over any `transformers.AutoModelForImageTextToText` that it understands.

    The language model is found beside the token embeddings. Its parts, with what is patched (H
    heads side by side)::

        layers[l]                       output: layer_output (the residual stream after it)
            (the attention).o_proj      input:  self_attention, H heads
            (the MLP)                   output: mlp (before a norm that the family puts after it)
        norm, lm_head                   the answer

    The prompt goes through the processor's chat template. If there is none, it follows directly
    after the image token. The vision tower cannot be patched.

    Raises:
        NoticeError: a part of the model is missing or ambiguous; names it.
    """

    family = "decoder"
    no_heads = ""
    """Why heads cannot be patched one by one; empty if they can, or if nothing is known yet."""
    without_template = "{image}{prompt}"
    """What a prompt becomes if the processor has no chat template."""
    image_component = "self_attention"
    class_tokens = 0

    def __init__(self, model: torch.nn.Module, processor=None, name: str = ""):
        self.name = name
        self.text = find_text_model(model, name)
        self.image_token_id = _image_token_id(model.config, name)
        self._forward_arguments = set(signature(model.forward).parameters)
        self._texts: dict[str, str] = {}
        super().__init__(model, processor, name)

    def inputs(self, image: Image.Image, prompt: str) -> Inputs:
        encoded, heard = self._process(image, prompt)
        ids = encoded["input_ids"]
        is_image = (ids[0] == self.image_token_id).tolist()
        if "pixel_values" not in encoded or not any(is_image):
            raise self._error(
                f"its processor gave {', '.join(encoded)} and {sum(is_image)} image tokens "
                f"(id {self.image_token_id}) for an image: it must give pixel_values and at least "
                "one token"
            )
        start = heard.text.rfind(prompt)
        if start < 0 or ids[0].tolist() != heard.ids:
            raise self._error(
                f"its processor changes the prompt {prompt!r} before tokenizing it, so it is "
                "unknown which tokens are which of its words"
            )
        names = self._forward_arguments & set(encoded)
        names -= {*TEXT_INPUTS, "pixel_values"}
        return Inputs(
            pixel_values=self._placed(encoded["pixel_values"]),
            input_ids=ids.to(self.device),
            spans=tuple(
                None if image else _inside(offset, start, len(prompt))
                for image, offset in zip(is_image, heard.offsets, strict=True)
            ),
            tokens=tuple(self.processor.tokenizer.convert_ids_to_tokens(ids[0].tolist())),
            image_tokens=tuple(is_image),
            extra={name: self._placed(encoded[name]) for name in sorted(names)},
            arrangement=self._arrangement(encoded, image.size),
        )

    def _arrangement(self, encoded, size: tuple[int, int]) -> tuple[tuple[str, Hashable], ...]:
        """`Inputs.arrangement` of an image of this size (width, height)."""
        unused = {
            name: contents(value)
            for name, value in encoded.items()
            if name not in (*TEXT_INPUTS, *self._forward_arguments)
            and isinstance(value, torch.Tensor)
        }
        pixels = encoded["pixel_values"]
        if pixels.dim() >= 4 and pixels.shape[:-3].numel() > 1:  # Several crops.
            if size not in self._places:
                self._places[size] = crop_places(self._pixels, size)
            unused["the columns and rows of the image's crops"] = arrangement(self._places[size])
        return tuple(sorted(unused.items()))

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        return self._process(image, "?")[0]["pixel_values"]

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    @torch.no_grad()
    def logits(self, inputs: Inputs, prefix: tuple[int, ...] = ()) -> torch.Tensor:
        return self.batch_logits([inputs], prefix)[0]

    def batch_logits(self, runs: Sequence[Inputs], prefix: tuple[int, ...] = ()) -> torch.Tensor:
        """(N, vocabulary) logits after `prefix` of N runs with one layout, by one forward."""
        ids = torch.cat([run.input_ids for run in runs])
        ids = torch.cat([ids, ids.new_tensor([prefix] * len(runs)).view(len(runs), -1)], dim=1)
        extra: dict[str, Any] = {
            name: torch.cat([run.extra[name] for run in runs]) for name in runs[0].extra
        }
        for _ in prefix:  # Arguments with a value for each token are extended as in generation.
            extra = self.model._update_model_kwargs_for_generation(ModelOutput(), extra)
        if "logits_to_keep" in self._forward_arguments:
            extra["logits_to_keep"] = 1
        with self.computing(), self.noise(runs):
            output = self.model(
                input_ids=ids.long(),
                pixel_values=torch.cat([run.pixel_values for run in runs]),
                use_cache=False,
                **extra,
            )
        return output.logits[:, -1]

    @torch.no_grad()
    def generate_ids(self, inputs: Inputs, max_new_tokens: int = 8) -> list[int]:
        with self.computing(), self.noise([inputs]):
            ids = self.model.generate(
                input_ids=inputs.input_ids,
                attention_mask=torch.ones_like(inputs.input_ids),
                pixel_values=inputs.pixel_values,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                **inputs.extra,
            )
        return ids[0, inputs.input_ids.shape[1] :].tolist()

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        if prompt not in self._texts:
            self._texts[prompt] = self._process(self._blank(), prompt)[1].text
        text = self._texts[prompt]
        before = self._ids(text)
        # After a line's end or a marker, a chat template's answer begins without a space.
        ended = text[-1:].isspace() or before[-1] in self.processor.tokenizer.all_special_ids
        both = self._ids(text + ("" if ended else " ") + answer)
        if both[: len(before)] != before or len(both) == len(before):
            raise NoticeError(
                f"Behind the prompt {prompt!r}, the answer {answer!r} is not tokenized separately "
                "from the prompt, so it cannot be scored. Use another answer word."
            )
        return both[len(before) :]

    def unembedding(
        self, states: torch.Tensor, logits: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """The function from the last layer's outputs (..., D) to logits (..., vocabulary).

        A text model's configuration may name a scale or a soft cap that the model around it does
        not apply, so each possibility is tried.

        Args:
            states, logits: outputs of the last layer, (N, D), and the model's logits for them,
                (N, vocabulary).

        Returns:
            The function that gives these logits, or None if no known one does.
        """
        raw, lowest = self._raw_logits(states).to(logits.device), torch.finfo(logits.dtype).min
        never = (logits <= lowest).all(0)  # Tokens that the model never writes.
        # Loose, since a product of one row differs from one of many rows in the last bits. A wrong
        # function differs by far more.
        part = 0.02 if logits.element_size() < 4 else 1e-4
        allowed = part * logits[:, ~never].abs().max()
        for step in _last_steps(text_config(self.model.config)):
            if ((step(raw) - logits)[:, ~never].abs().max() <= allowed).item():
                step = step if not never.any() else _silenced(step, never, lowest)
                return lambda states: step(self._raw_logits(states))
        return None

    def _raw_logits(self, states: torch.Tensor) -> torch.Tensor:
        norm, head = self.text.norm, self.text.head
        return head(norm(states.to(_device(norm, states))).to(_device(head, states)))

    def text_tokens(self, prompt: str):
        text = self._text(prompt)
        start = text.rfind(prompt)
        encoded = self.processor.tokenizer(
            text, return_offsets_mapping=True, **self._special_tokens(text)
        )
        is_image = tuple(token == self.image_token_id for token in encoded["input_ids"])
        spans = tuple(
            None if image else _inside(offset, start, len(prompt))
            for image, offset in zip(is_image, encoded["offset_mapping"], strict=True)
        )
        return spans, is_image

    @property
    def attention_modules(self) -> Sequence[torch.nn.Module]:
        return self.text.attentions

    def image_attention(self, weights: torch.Tensor, inputs: Inputs):
        patches = weights[..., list(inputs.image_tokens)]
        return patches, torch.zeros_like(patches[..., 0])

    @property
    def patches_point(self) -> HookPoint:
        # The tower is unknown, so this is what stands in place of the image's tokens.
        return HookPoint(self.text.layers[0], "input", per_head=False)

    def patch_states(self, states: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        return states[list(inputs.image_tokens)]

    def query_point(self, component: str, layer: int) -> HookPoint:
        attention: Any = self.text.attentions[layer]
        if component != "self_attention" or not hasattr(attention, "q_proj"):
            raise self._error(
                f"{component} of {type(attention).__name__} has no q_proj of its own, so its "
                "queries cannot be patched"
            )
        return HookPoint(attention.q_proj, "output", per_head=True)

    @property
    def tower_layers(self) -> torch.nn.ModuleList:
        raise self._error("its vision tower cannot be patched")

    def image_states(self, hidden: torch.Tensor) -> torch.Tensor:
        raise self._error("its vision tower cannot be patched")

    def noise_point(self, place: str) -> HookPoint:
        raise self._error("noise on its image is not supported")

    def _process(self, image: Image.Image, prompt: str):
        """What the processor makes of an image and a prompt, and what its tokenizer was given."""
        processor, text = copy(self.processor), self._text(prompt)
        processor.tokenizer = heard = _Listener(self.processor.tokenizer)
        encoded = processor(
            images=[image], text=[text], return_tensors="pt", **self._special_tokens(text)
        )
        return encoded, heard

    def _text(self, prompt: str) -> str:
        if getattr(self.processor, "chat_template", None) is None:
            return self.without_template.format(image=self.processor.image_token, prompt=prompt)
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        return self.processor.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=False
        )

    def _special_tokens(self, text: str) -> dict[str, bool]:
        """Most chat templates write the first token themselves; then it is not added again."""
        first = self.processor.tokenizer.bos_token
        return {"add_special_tokens": False} if first and text.startswith(first) else {}

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, **self._special_tokens(text))["input_ids"]

    def _blank(self) -> Image.Image:
        return Image.new("RGB", (self.image_size, self.image_size))

    def _image_shape(self, config) -> tuple[int, int]:
        """(image_size, grid), the grid as the processor lays out a blank image."""
        size = getattr(getattr(config, "vision_config", None), "image_size", None)
        size = size[0] if isinstance(size, (list, tuple)) else size
        self.image_size = size or DYNAMIC_SIZE
        if size is None or self.processor is None:
            return self.image_size, 0
        inputs = self.inputs(self._blank(), "?")
        one_crop = inputs.pixel_values.numel() == 3 * size * size
        return size, square_side(inputs.image_tokens) if one_crop else 0

    def _stacks(self, config) -> dict[str, Stack]:
        components = ("self_attention", "mlp", "layer_output")
        return {"text": Stack(components, len(self.text.layers), self.text.n_heads)}

    def _hook_point(self, component: str, layer: int) -> HookPoint:
        if component == "self_attention":
            return HookPoint(self.text.projections[layer], "input", per_head=not self.no_heads)
        modules = self.text.mlps if component == "mlp" else self.text.layers
        return HookPoint(modules[layer], "output", per_head=False)

    def _error(self, why: str) -> NoticeError:
        return refusal(self.name, why)


class _Listener:
    """A tokenizer that keeps the text that a processor gives it after expanding the image token."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name: str):
        return getattr(self._tokenizer, name)

    def __call__(self, text, **settings):
        (self.text,) = [text] if isinstance(text, str) else text
        special = {key: value for key, value in settings.items() if key == "add_special_tokens"}
        encoded = self._tokenizer(self.text, return_offsets_mapping=True, **special)
        self.ids, self.offsets = encoded["input_ids"], encoded["offset_mapping"]
        return self._tokenizer(text, **settings)


def square_side(image_tokens: tuple[bool, ...]) -> int:
    """Image tokens per side if they are one block of a square number; otherwise 0."""
    count, first = sum(image_tokens), image_tokens.index(True)
    square = isqrt(count) ** 2 == count and all(image_tokens[first : first + count])
    return isqrt(count) if square else 0


def _device(module: torch.nn.Module, states: torch.Tensor) -> torch.device:
    """A module's device, or that of its input if it has no weights."""
    weights = next(module.parameters(), None)
    return states.device if weights is None else weights.device


def _silenced(step, never: torch.Tensor, lowest: float):
    """A last step that gives some tokens the lowest number."""
    return lambda logits: step(logits).masked_fill(never.to(logits.device), lowest)


def _last_steps(config) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """The steps that may follow the head, by a text model's configuration; the first is none."""
    yield lambda logits: logits
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        yield lambda logits: cap * torch.tanh(logits / cap)
    scale = getattr(config, "logit_scale", None)
    if scale:
        yield lambda logits: scale * logits
    divisor = getattr(config, "logits_scaling", None)
    if divisor:
        yield lambda logits: logits / divisor


def _image_token_id(config, name: str) -> int:
    for key in ("image_token_id", "image_token_index"):
        if getattr(config, key, None) is not None:
            return getattr(config, key)
    raise refusal(name, "its configuration names no image_token_id")


def _inside(offset: tuple[int, int], start: int, length: int) -> Span | None:
    """A character range of the text as a range of the prompt; None if it lies outside."""
    low, high = max(offset[0] - start, 0), min(offset[1] - start, length)
    return (low, high) if low < high else None
