"""LLaVA: a decoder-only model in which the vision tower can be patched, and noise added, too."""

from typing import Any

import torch

from ..errors import NoticeError
from ..pairs.prompts import OptionSpans
from .base import TOWER_COMPONENTS, VLM, Stack
from .decoder import DecoderOnly
from .hooks import HookPoint
from .inputs import Inputs


class Llava(DecoderOnly):
    """Adapter over `transformers.LlavaForConditionalGeneration` with a tower of CLIP or SigLIP.

    In addition to what `DecoderOnly` patches, there are (H heads side by side)::

        model.vision_tower                  image -> (1, class token + patches, D_v)
            encoder.layers[l]               output: vision_layer_output
                self_attn.out_proj          input:  vision_self_attention, H heads
                mlp                         output: vision_mlp
        model.multi_modal_projector         -> one token for each patch, in place of <image>

    SigLIP has no class token. CLIP's is dropped before the projector, unless
    `vision_feature_select_strategy` is "full". Then it is the first of the image's tokens, with the
    role "class".

    Raises:
        NoticeError: the configuration drops the first token of a tower without a class token.
    """

    family = "llava"
    without_template = "USER: {image}\n{prompt} ASSISTANT:"
    """The chat format of LLaVA-1.5 (Liu et al., 2024)."""

    @staticmethod
    def understands(model: Any) -> bool:
        """Whether this adapter can patch the tower.

        `DecoderOnly` takes the other towers (Pixtral's, whose tokens depend on the image's size),
        and models that read several of the tower's layers.
        """
        layers = getattr(getattr(_tower(model), "encoder", None), "layers", [])
        known = all(hasattr(layer, "mlp") and hasattr(layer.self_attn, "out_proj")
                    for layer in layers)  # fmt: skip
        return bool(layers) and known and isinstance(model.config.vision_feature_layer, int)

    @property
    def class_tokens(self) -> int:  # type: ignore[override]  # It is read from the tower, never set.
        """1 with CLIP's tower, 0 with SigLIP's."""
        return int(hasattr(_tower(self.model).embeddings, "class_embedding"))

    @property
    def _class_is_read(self) -> bool:
        """Whether the class token is among the image's tokens in the text."""
        return self.class_tokens == 1 and self._dropped == 0

    @property
    def _dropped(self) -> int:
        """How many of the tower's first tokens the text does not see."""
        return int(self.model.config.vision_feature_select_strategy == "default")

    def roles(self, inputs: Inputs, spans: OptionSpans) -> tuple[str, ...]:
        roles = list(super().roles(inputs, spans))
        if self._class_is_read:
            roles[inputs.image_tokens.index(True)] = "class"
        return tuple(roles)

    def image_attention(self, weights: torch.Tensor, inputs: Inputs):
        image, nothing = super().image_attention(weights, inputs)
        return (image[..., 1:], image[..., 0]) if self._class_is_read else (image, nothing)

    @property
    def patches_point(self) -> HookPoint:
        return HookPoint(self.model.model.multi_modal_projector, "input", per_head=False)

    def patch_states(self, states: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        return states[self.class_tokens - self._dropped :]

    @property
    def tower_layers(self) -> torch.nn.ModuleList:
        return _tower(self.model).encoder.layers[: self.stacks["vision"].n_layers]

    def image_states(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.model.multi_modal_projector(hidden[:, self._dropped :])

    def noise_point(self, place: str) -> HookPoint:
        if place == "patch_embeddings":
            return HookPoint(_tower(self.model).embeddings, "output", per_head=False)
        return HookPoint(self.model.model.multi_modal_projector, "input", per_head=False)

    def _image_shape(self, config) -> tuple[int, int]:
        return VLM._image_shape(self, config)  # The tower has a fixed size here.

    def _stacks(self, config) -> dict[str, Stack]:
        feature, vision = config.vision_feature_layer, config.vision_config
        if self.class_tokens < self._dropped:
            raise NoticeError(
                f"{self}: {type(_tower(self.model)).__name__} has no class token, but "
                'vision_feature_select_strategy="default" drops the first token. Set it to "full" '
                "in config.json and processor_config.json."
            )
        # transformers counts hidden states: 0 is the embeddings' output, -1 the last layer's.
        read = feature if feature >= 0 else vision.num_hidden_layers + 1 + feature
        tower = Stack(TOWER_COMPONENTS, read, vision.num_attention_heads)
        return {"vision": tower} | super()._stacks(config)

    def _hook_point(self, component: str, layer: int) -> HookPoint:
        if self.stack_of(component) == "text":
            return super()._hook_point(component, layer)
        block: Any = self.tower_layers[layer]
        if component == "vision_self_attention":
            return HookPoint(block.self_attn.out_proj, "input", per_head=True)
        module = block.mlp if component == "vision_mlp" else block
        return HookPoint(module, "output", per_head=False)


def _tower(model: Any) -> Any:
    tower = model.model.vision_tower
    # transformers up to 5.x wraps CLIP's layers in `vision_model`, later versions do not.
    return getattr(tower, "vision_model", tower)
