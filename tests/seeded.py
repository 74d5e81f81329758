"""Seeded models with random weights: real Hugging Face classes, nothing downloaded.

The BLIP weights come from numpy's frozen RandomState, in sorted-name order, so that they are the
ones that the published code was run on (reference/README.md).
"""

import re

import numpy as np
import torch
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from notice_lib.models.blip import Blip
from notice_lib.models.inputs import Inputs
from notice_lib.models.llava import Llava

TIED = {
    "text_decoder.cls.predictions.decoder.weight": (
        "text_decoder.bert.embeddings.word_embeddings.weight"
    ),
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}
IMAGE_ID = 5


def seeded_blip(dtype: torch.dtype = torch.float64, vision=(), **text_shape) -> Blip:
    """4 layers x 4 heads, 64 px: the model of the published outputs; or changed in its shape."""
    text = {
        "vocab_size": 512,
        "hidden_size": 128,
        "encoder_hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": 510,
        "sep_token_id": 102,
        "pad_token_id": 0,
        "is_decoder": True,
        **text_shape,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        **dict(vision),
    }
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
    return Blip(_fill(model, TIED).to(dtype), name="seeded blip")


def seeded_llava(
    dtype: torch.dtype = torch.float64,
    kv_heads: int = 4,
    attention: str = "eager",
    feature_layer: int = -2,
    vision=(),
    **text_shape,
) -> Llava:
    """3 layers x 4 heads, 16 image tokens; kv_heads < 4 gives grouped-query attention."""
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 32,
        **dict(vision),
    }
    text = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 64,
        **text_shape,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower),
        text_config=LlamaConfig(**text),
        image_token_id=IMAGE_ID,
        vision_feature_layer=feature_layer,
        attn_implementation=attention,
    )
    model = LlavaForConditionalGeneration(config)
    return Llava(_fill(model, {}).to(dtype), name="seeded llava")


def blip_runs(
    dtype: torch.dtype = torch.float64, image_size: int = 64, length: int = 9
) -> dict[str, tuple[Inputs, Inputs]]:
    """{corruption: (clean, corrupt)} inputs, by default of the published outputs."""
    random = np.random.RandomState(1)
    images = _images(random, image_size, dtype)
    ids = random.randint(103, 492, size=(2, length))
    ids[:, 0], ids[:, -1] = 101, 102
    ids[1] = np.where(np.arange(length) == length // 2, ids[1], ids[0])
    return _runs(images, ids)


def llava_runs(
    dtype: torch.dtype = torch.float64, image_size: int = 32, length: int = 6
) -> dict[str, tuple[Inputs, Inputs]]:
    """{corruption: (clean, corrupt)}: 2 tokens, an image, `length` tokens of which one differs."""
    random = np.random.RandomState(2)
    images = _images(random, image_size, dtype)
    text = 2 + (image_size // 8) ** 2  # where it goes on behind the image
    ids = np.tile(random.randint(10, 96, size=text + length), (2, 1))
    ids[:, 2:text] = IMAGE_ID
    ids[1, text + length // 2 - 1] = 9
    return _runs(images, ids)


def _images(random, size: int, dtype: torch.dtype) -> torch.Tensor:
    values = random.standard_normal((2, 3, size, size)).astype(np.float32)
    return torch.from_numpy(values).to(dtype)


def _runs(images: torch.Tensor, ids: np.ndarray) -> dict[str, tuple[Inputs, Inputs]]:
    """As in a sweep, runs of one picture share its tensor."""
    pictures = images[:1], images[1:]

    def inputs(image, row):
        tokens = tuple(map(str, row))
        return Inputs(
            pictures[image],
            torch.from_numpy(row[None]).long(),
            spans=((0, 1),) * len(row),
            tokens=tokens,
            image_tokens=tuple(int(token) == IMAGE_ID for token in row),
        )

    clean = inputs(0, ids[0])
    return {"image": (clean, inputs(1, ids[0])), "text": (clean, inputs(0, ids[1]))}


def _fill(model: torch.nn.Module, tied: dict[str, str]) -> torch.nn.Module:
    """Give every parameter seeded values; larger queries and keys, so attention is not flat."""
    random = np.random.RandomState(0)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in sorted(parameters.items()):
            if name not in tied:
                parameter.copy_(_values(name, parameter, random))
        for name, source in tied.items():
            if name in parameters:
                parameters[name].copy_(parameters[source])
    return model.eval()


def _values(name: str, parameter: torch.Tensor, random) -> torch.Tensor:
    values = torch.from_numpy(random.standard_normal(parameter.numel()).astype(np.float32))
    values = values.view(parameter.shape)
    name = name.lower()
    if parameter.dim() == 1:
        return 1 + 0.1 * values if "norm" in name and name.endswith("weight") else 0.05 * values
    if "embedding" in name and "patch" not in name:
        return 0.05 * values
    values = values / parameter[0].numel() ** 0.5
    if re.search(r"(query|key|q_proj|k_proj)\.weight$", name):
        values = 1.5 * values
    if name.endswith("qkv.weight"):
        values[: 2 * (parameter.shape[0] // 3)] *= 1.5
    return values
