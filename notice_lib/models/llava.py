"""LLaVA: the image's patches become tokens that a language model reads by self-attention."""

import torch
from PIL import Image

from ..errors import NoticeError
from ..prompts import Span
from .base import VLM, HookPoint, Inputs, Stack

TEMPLATE = "USER: {image}\n{prompt} ASSISTANT:"
"""The chat format of LLaVA-1.5 (Liu et al., 2024)."""


class Llava(VLM):
    """Adapter over `transformers.LlavaForConditionalGeneration`.

    The tree, with what is patched (H heads side by side)::

        model.vision_tower                  image -> (1, 1 + patches, D_v)
            encoder.layers[l]               output: vision_layer_output
                self_attn.out_proj          input:  vision_self_attention, H heads
                mlp                         output: vision_mlp
        model.multi_modal_projector         -> one token for each patch, in place of <image>
        model.language_model.layers[l]
            self_attn.o_proj                input:  self_attention, H heads
            mlp                             output: mlp
            (itself)                        output: layer_output (the residual stream after it)
        lm_head                             the answer, after "ASSISTANT:"
    """

    family = "llava"

    def inputs(self, image: Image.Image, prompt: str) -> Inputs:
        text = self._text(prompt)
        encoded = self.processor(images=image, text=text, return_tensors="pt")
        ids = encoded["input_ids"]
        is_image = (ids[0] == self.model.config.image_token_id).tolist()
        return Inputs(
            pixel_values=encoded["pixel_values"].to(self.device, self.dtype),
            input_ids=ids.to(self.device),
            spans=self._spans(text, prompt, ids[0].tolist(), is_image),
            tokens=tuple(self.processor.tokenizer.convert_ids_to_tokens(ids[0].tolist())),
            image_tokens=tuple(is_image),
        )

    @torch.no_grad()
    def logits(self, inputs: Inputs, prefix: tuple[int, ...] = ()) -> torch.Tensor:
        ids = torch.cat([inputs.input_ids, inputs.input_ids.new_tensor([prefix])], dim=1).long()
        with self.noise([inputs]):
            output = self.model(
                input_ids=ids, pixel_values=inputs.pixel_values, use_cache=False, logits_to_keep=1
            )
        return output.logits[0, -1]

    @torch.no_grad()
    def generate(self, inputs: Inputs, max_new_tokens: int = 8) -> str:
        with self.noise([inputs]):
            ids = self.model.generate(
                input_ids=inputs.input_ids,
                attention_mask=torch.ones_like(inputs.input_ids),
                pixel_values=inputs.pixel_values,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
        new = ids[0, inputs.input_ids.shape[1] :]
        return self.processor.decode(new, skip_special_tokens=True).strip().lower()

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        # Tokenized behind the prompt: a tokenizer may write a word otherwise when it stands alone.
        before = self.processor.tokenizer(self._text(prompt))["input_ids"]
        both = self.processor.tokenizer(f"{self._text(prompt)} {answer}")["input_ids"]
        if both[: len(before)] != before or len(both) == len(before):
            raise NoticeError(
                f"The answer {answer!r} changes the tokens of the prompt {prompt!r} before it, so "
                "it has no tokens of its own. Use another answer word."
            )
        return both[len(before) :]

    def _text(self, prompt: str) -> str:
        return TEMPLATE.format(image=self.processor.image_token, prompt=prompt)

    def _spans(self, text, prompt, ids, is_image):
        """Character ranges in the prompt, for the ids that the processor really made.

        The processor expands the image token; how often is read from its output. Everything else
        must be what the tokenizer makes of the unexpanded text.
        """
        plain = self.processor.tokenizer(text, return_offsets_mapping=True)
        rest = [token for token, image in zip(ids, is_image, strict=True) if not image]
        image_id = self.model.config.image_token_id
        if rest != [token for token in plain["input_ids"] if token != image_id]:
            raise NoticeError(
                "The processor does not tokenize the text around the image as its tokenizer does, "
                "so positions cannot be told. Use the processor that belongs to the model."
            )
        start = text.index(prompt)
        offsets = (
            offset
            for token, offset in zip(plain["input_ids"], plain["offset_mapping"], strict=True)
            if token != image_id
        )
        return tuple(
            None if image else inside(next(offsets), start, len(prompt)) for image in is_image
        )

    @property
    def tower_layers(self) -> torch.nn.ModuleList:
        return self._tower.encoder.layers[: self._read_layers]

    def image_states(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.model.config.vision_feature_select_strategy == "default":
            hidden = hidden[:, 1:]  # without the class token
        return self.model.model.multi_modal_projector(hidden)

    def noise_point(self, place: str) -> HookPoint:
        if place == "patch_embeddings":
            return HookPoint(self._tower.embeddings, "output", per_head=False)
        return HookPoint(self.model.model.multi_modal_projector, "input", per_head=False)

    @property
    def _tower(self) -> torch.nn.Module:
        tower = self.model.model.vision_tower
        # transformers up to 5.x wraps CLIP's layers in `vision_model`, later versions do not.
        return getattr(tower, "vision_model", tower)

    def _stacks(self, config) -> dict[str, Stack]:
        text, vision = config.text_config, config.vision_config
        feature = config.vision_feature_layer
        if not isinstance(feature, int):
            raise NoticeError(
                f"{self.name or 'This model'} reads several layers of its vision tower "
                f"({feature}); only models that read one are supported."
            )
        # Counted as transformers counts hidden states: 0 is the embeddings', -1 the last layer's.
        self._read_layers = feature if feature >= 0 else vision.num_hidden_layers + 1 + feature
        return {
            "vision": Stack(
                ("vision_self_attention", "vision_mlp", "vision_layer_output"),
                self._read_layers,
                vision.num_attention_heads,
            ),
            "text": Stack(
                ("self_attention", "mlp", "layer_output"),
                text.num_hidden_layers,
                text.num_attention_heads,
            ),
        }

    def _hook_point(self, component: str, layer: int) -> HookPoint:
        if self.stack_of(component) == "vision":
            block = self.tower_layers[layer]
            if component == "vision_self_attention":
                return HookPoint(block.self_attn.out_proj, "input", per_head=True)
            module = block.mlp if component == "vision_mlp" else block
            return HookPoint(module, "output", per_head=False)
        block = self.model.model.language_model.layers[layer]
        if component == "self_attention":
            return HookPoint(block.self_attn.o_proj, "input", per_head=True)
        module = block.mlp if component == "mlp" else block
        return HookPoint(module, "output", per_head=False)


def inside(offset: tuple[int, int], start: int, length: int) -> Span | None:
    """A character range of the text as a range of the prompt; None outside of it."""
    low, high = max(offset[0] - start, 0), min(offset[1] - start, length)
    return (low, high) if low < high else None
