"""BLIP for visual question answering: its question encoder reads the image by cross-attention."""

from typing import Any

import torch
from PIL import Image

from ..errors import NoticeError
from .base import TOWER_COMPONENTS, VLM, Stack
from .hooks import HookPoint
from .inputs import Inputs


class Blip(VLM):
    """Adapter over `transformers.BlipForQuestionAnswering`.

    The tree, with what is patched (H heads side by side)::

        vision_model                        image -> (1, 1 + patches, D)
            encoder.layers[l]               output: vision_layer_output
                self_attn.projection        input:  vision_self_attention, H heads
                mlp                         output: vision_mlp
        text_encoder.encoder.layer[l]       the question encoder
            attention.output.dense          input:  self_attention, H heads
            crossattention.output.dense     input:  cross_attention, H heads
            output.dense                    output: mlp
            output                          output: layer_output (after the residual and LayerNorm)
        text_decoder.bert.encoder.layer[l]  the answer, from a start token; as the question encoder:
                                            decoder_self_attention, decoder_cross_attention,
                                            decoder_mlp, decoder_layer_output

    The published code calls layer_output "output", and the paper's figures call it MLP.
    """

    family = "blip"
    image_component = "cross_attention"

    def inputs(self, image: Image.Image, prompt: str) -> Inputs:
        encoded = self.processor(images=image, text=prompt, return_tensors="pt")
        ids = encoded["input_ids"]
        spans, image_tokens = self.text_tokens(prompt)
        return Inputs(
            pixel_values=encoded["pixel_values"].to(self.device, self.dtype),
            input_ids=ids.to(self.device),
            spans=spans,
            tokens=tuple(self.processor.tokenizer.convert_ids_to_tokens(ids[0].tolist())),
            image_tokens=image_tokens,
        )

    @torch.no_grad()
    def logits(self, inputs: Inputs, prefix: tuple[int, ...] = ()) -> torch.Tensor:
        # The model's forward hides the answer's logits, so its three parts are called in turn.
        # There are no attention masks, since nothing is padded (and BLIP ignores the decoder's).
        start = torch.tensor([[self.model.decoder_start_token_id, *prefix]], device=self.device)
        with self.computing():
            with self.noise([inputs]):
                image = self.model.vision_model(pixel_values=inputs.pixel_values)[0]
            question = self.model.text_encoder(inputs.input_ids, encoder_hidden_states=image)[0]
            decoded = self.model.text_decoder(
                input_ids=start, encoder_hidden_states=question, use_cache=False
            )
        return decoded.logits[0, -1]

    @torch.no_grad()
    def generate_ids(self, inputs: Inputs, max_new_tokens: int = 8) -> list[int]:
        with self.computing(), self.noise([inputs]):
            ids = self.model.generate(
                input_ids=inputs.input_ids,
                pixel_values=inputs.pixel_values,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
        return ids[0, 1:].tolist()  # Without the start token.

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        return self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]

    def text_tokens(self, prompt: str):
        offsets = self.processor.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        spans = tuple((start, end) if end > start else None for start, end in offsets)
        return spans, (False,) * len(spans)

    @property
    def attention_modules(self) -> list[torch.nn.Module]:
        return [block.crossattention.self for block in self.model.text_encoder.encoder.layer]

    def image_attention(self, weights: torch.Tensor, inputs: Inputs):
        return weights[..., 1:], weights[..., 0]

    @property
    def patches_point(self) -> HookPoint:
        return HookPoint(self.tower_layers[-1], "output", per_head=False)

    def patch_states(self, states: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        return states[1:]

    def query_point(self, component: str, layer: int) -> HookPoint:
        block = self.model.text_encoder.encoder.layer[layer]
        attentions = {
            "self_attention": block.attention, "cross_attention": block.crossattention
        }  # fmt: skip
        if component not in attentions:
            raise NoticeError(
                f"The component {component!r} of BLIP has no queries that can be patched; use "
                "self_attention or cross_attention."
            )
        return HookPoint(attentions[component].self.query, "output", per_head=True)

    @property
    def tower_layers(self) -> torch.nn.ModuleList:
        return self.model.vision_model.encoder.layers

    def image_states(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.vision_model.post_layernorm(hidden)

    def noise_point(self, place: str) -> HookPoint:
        tower = self.model.vision_model
        module = tower.embeddings if place == "patch_embeddings" else tower.post_layernorm
        return HookPoint(module, "output", per_head=False)

    def _stacks(self, config) -> dict[str, Stack]:
        text, vision = config.text_config, config.vision_config
        components = ("self_attention", "cross_attention", "mlp", "layer_output")
        size = (text.num_hidden_layers, text.num_attention_heads)
        tower = (vision.num_hidden_layers, vision.num_attention_heads)
        return {
            "vision": Stack(TOWER_COMPONENTS, *tower),
            "text": Stack(components, *size),
            "decoder": Stack(tuple(f"decoder_{component}" for component in components), *size),
        }

    def _hook_point(self, component: str, layer: int) -> HookPoint:
        stack = self.stack_of(component)
        if stack == "vision":
            block: Any = self.tower_layers[layer]
            if component == "vision_self_attention":
                return HookPoint(block.self_attn.projection, "input", per_head=True)
            module = block.mlp if component == "vision_mlp" else block
            return HookPoint(module, "output", per_head=False)
        text = self.model.text_encoder if stack == "text" else self.model.text_decoder.bert
        block = text.encoder.layer[layer]
        match component.removeprefix("decoder_"):
            case "self_attention":
                return HookPoint(block.attention.output.dense, "input", per_head=True)
            case "cross_attention":
                return HookPoint(block.crossattention.output.dense, "input", per_head=True)
            case "mlp":
                return HookPoint(block.output.dense, "output", per_head=False)
        return HookPoint(block.output, "output", per_head=False)
