"""LLaVA: the image's patches become tokens that a language model reads by self-attention."""

import torch
from PIL import Image

from ..errors import NoticeError
from .base import VLM, HookPoint, Inputs

TEMPLATE = "USER: {image}\n{prompt} ASSISTANT:"
"""The chat format of LLaVA-1.5 (Liu et al., 2024)."""


class Llava(VLM):
    """Adapter over `transformers.LlavaForConditionalGeneration`.

    The tree, with what is patched (language model, L layers of H heads)::

        model.vision_tower                  image -> (1, 1 + patches, D_v)
        model.multi_modal_projector         -> one token for each patch, in place of <image>
        model.language_model.layers[l]
            self_attn.o_proj                input:  self_attention, H heads side by side
            mlp                             output: mlp
            (itself)                        output: layer_output (the residual stream after it)
        lm_head                             the answer, after "ASSISTANT:"
    """

    family = "llava"
    components = ("self_attention", "mlp", "layer_output")

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
        output = self.model(
            input_ids=ids, pixel_values=inputs.pixel_values, use_cache=False, logits_to_keep=1
        )
        return output.logits[0, -1]

    @torch.no_grad()
    def generate(self, inputs: Inputs, max_new_tokens: int = 8) -> str:
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
            None if image else _inside(next(offsets), start, len(prompt)) for image in is_image
        )

    def _hook_point(self, component: str, layer: int) -> HookPoint:
        block = self.model.model.language_model.layers[layer]
        if component == "self_attention":
            return HookPoint(block.self_attn.o_proj, "input", per_head=True)
        if component == "mlp":
            return HookPoint(block.mlp, "output", per_head=False)
        return HookPoint(block, "output", per_head=False)


def _inside(offset: tuple[int, int], start: int, length: int) -> tuple[int, int] | None:
    """A character range of the text as a range of the prompt; None outside of it."""
    low, high = max(offset[0] - start, 0), min(offset[1] - start, length)
    return (low, high) if low < high else None
