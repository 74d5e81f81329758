"""Decoder-only vision-language models of many families, of one size and with random weights.

All text models have the same width, layers and heads, and about as many image tokens. They differ
in what the families do differently: masks, positions, key-value heads, norms. Nothing is
downloaded.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from notice_lib.models.base import VLM
from notice_lib.models.decoder import DecoderOnly

from .random_models import LLAVA_8X8, TINY_TEXT, llava, word_tokenizer

PATCH = 14
"""Side of an image patch, in pixels."""
MERGED = 2
"""Families that merge patches turn this many patches along each side into one image token."""
TILES = 3
"""SmolVLM reads the whole picture, and this many tiles along each of its sides."""


@dataclass(frozen=True)
class Size:
    """The size of every family's model.

    Attributes:
        text: settings of the text model, which a family may change.
        tower: settings of the vision tower in families in which each patch becomes a token.
        merging_tower: settings of the vision tower in families that merge patches. It is smaller,
            which keeps its share of a forward the same.
        grid: approximate number of image tokens along each side, a multiple of `TILES`. The exact
            number depends on the picture's shape.
        window: number of tokens that a sliding-window layer sees.
    """

    text: dict
    tower: dict
    merging_tower: dict
    grid: int
    window: int

    @property
    def head_dim(self) -> int:
        return self.text["hidden_size"] // self.text["num_attention_heads"]

    @property
    def side(self) -> int:
        """Side of the image in pixels, in families in which each patch becomes a token."""
        return self.grid * PATCH

    @property
    def merging_side(self) -> int:
        return self.side * MERGED


TINY_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TINY = Size(TINY_TEXT | {"num_key_value_heads": 1}, TINY_TOWER, TINY_TOWER, grid=6, window=16)
REAL = Size(
    text=LLAVA_8X8["text_config"] | {"num_key_value_heads": 2},
    tower={
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    merging_tower={
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    grid=24,
    window=512,
)


class ImagesOfQwen2VL(Qwen2VLProcessor):
    """A processor for images only: the one for videos needs torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


class ImagesOfInternVL(InternVLProcessor):
    """A processor for images only: the one for videos needs torchvision."""

    def __init__(
        self, image_processor=None, tokenizer=None, image_seq_length=4, chat_template=None
    ):
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.image_seq_length = image_seq_length
        self.start_image_token, self.end_image_token = "<img>", "</img>"
        self.image_token, self.video_token = "<IMG_CONTEXT>", "<video>"
        self.multimodal_pattern = re.compile("(?P<image><IMG_CONTEXT>)|(?P<video><video>)")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.start_image_token_id = tokenizer.convert_tokens_to_ids(self.start_image_token)
        self.end_image_token_id = tokenizer.convert_tokens_to_ids(self.end_image_token)


def _template(before: str, image: str, after: str, answer: str) -> str:
    """A chat template for one message, with image and text in the order of its content."""
    return (
        "{% for m in messages %}" + before + "{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}" + image + "{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}"
        + after
        + "{% endfor %}{% if add_generation_prompt %}"
        + answer
        + "{% endif %}"
    )


def llava_llama(size: Size) -> VLM:
    """LLaVA-1.5, with as many key-value heads as heads."""
    heads = size.text["num_attention_heads"]
    return _llava(size, {"model_type": "llama", "num_key_value_heads": heads})


def llava_qwen2(size: Size) -> VLM:
    """LLaVA with the text model Qwen2, which has grouped key-value heads and biases."""
    return _llava(size, {"model_type": "qwen2"})


def _llava(size: Size, text: dict) -> VLM:
    vision = size.tower | {"image_size": size.side, "patch_size": PATCH}
    return llava({"text_config": size.text | text, "vision_config": vision})


def qwen2_vl(size: Size) -> VLM:
    """Qwen2-VL, with positions on three axes."""
    vision = {"embed_dim": size.merging_tower["hidden_size"], "hidden_size": _width(size)}
    return _qwen(Qwen2VLConfig, Qwen2VLForConditionalGeneration, size, vision)


def qwen2_5_vl(size: Size) -> VLM:
    """Qwen2.5-VL, with positions on three axes and windows in the vision tower."""
    vision = {
        "hidden_size": size.merging_tower["hidden_size"],
        "intermediate_size": size.merging_tower["intermediate_size"],
        "out_hidden_size": _width(size),
        "fullatt_block_indexes": [size.merging_tower["num_hidden_layers"] - 1],
    }
    return _qwen(Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, size, vision)


def _qwen(config_class, model_class, size: Size, vision: dict) -> VLM:
    words = word_tokenizer(
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>",
        image_token="<|image_pad|>",
    )  # fmt: skip
    half = size.head_dim // 2
    axes = [half // 4, 3 * half // 8, 3 * half // 8]
    rotary = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": axes}
    tower = {
        "depth": size.merging_tower["num_hidden_layers"],
        "num_heads": size.merging_tower["num_attention_heads"],
        "patch_size": PATCH,
        "spatial_merge_size": MERGED,
    }
    config = config_class(
        text_config=size.text | {"rope_parameters": rotary},
        vision_config=tower | vision,
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )
    pixels = size.merging_side**2
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGED,
        size={"shortest_edge": pixels, "longest_edge": pixels},  # These are areas, not edges.
    )
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    chat = _template("<|im_start|>user\n", image, "<|im_end|>\n", "<|im_start|>assistant\n")
    processor = ImagesOfQwen2VL(images, words, chat_template=chat)
    return _decoder(model_class, config, processor)


def gemma3(size: Size) -> VLM:
    """Gemma 3, with sliding-window and full layers and bidirectional attention in the image."""
    words = word_tokenizer(
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )
    kinds = [
        "full_attention" if layer % 6 == 1 else "sliding_attention"
        for layer in range(size.text["num_hidden_layers"])
    ]
    text = {
        "head_dim": size.head_dim,
        "query_pre_attn_scalar": size.head_dim,
        "sliding_window": size.window,
        "layer_types": kinds,
    }
    config = Gemma3Config(
        text_config=size.text | text,
        vision_config=_siglip(size.merging_tower, size.merging_side),
        mm_tokens_per_image=size.grid**2,
        image_token_id=words.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
    )
    images = Gemma3ImageProcessorPil(size=_square(size.merging_side))
    chat = _template("{{ bos_token }}user\n", "<start_of_image>", "\n", "model\n")
    processor = Gemma3Processor(
        images, words, chat_template=chat, image_seq_length=config.mm_tokens_per_image
    )
    made = _decoder(Gemma3ForConditionalGeneration, config, processor)
    # The projection starts as zeros, so the model would ignore the image.
    projector = made.model.model.multi_modal_projector
    torch.nn.init.normal_(projector.mm_input_projection_weight, std=0.02)
    return made


def paligemma(size: Size) -> VLM:
    """PaliGemma, with one key-value head, bidirectional attention in image and prompt, and no chat
    template."""
    words = word_tokenizer(image_token="<image>")
    images = SiglipImageProcessorPil(size=_square(size.side))
    images.image_seq_length = size.grid**2
    text = {
        "model_type": "gemma",
        "head_dim": size.head_dim,
        "num_key_value_heads": 1,
        "pad_token_id": words.pad_token_id,
    }
    config = PaliGemmaConfig(
        text_config=size.text | text,
        vision_config=_siglip(size.tower, size.side) | {"projection_dim": _width(size)},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projection_dim=_width(size),
    )
    processor = PaliGemmaProcessor(images, words)
    return _decoder(PaliGemmaForConditionalGeneration, config, processor)


def internvl(size: Size) -> VLM:
    """InternVL, with the text model Qwen2 behind an image of one tile."""
    words = word_tokenizer(
        "<|im_start|>", "<|im_end|>", "<video>", start_image_token="<img>",
        end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
    )  # fmt: skip
    side, tokens = size.merging_side, size.grid**2
    config = InternVLConfig(
        text_config=size.text | {"model_type": "qwen2"},
        vision_config=size.merging_tower
        | {"image_size": [side, side], "patch_size": [PATCH, PATCH]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        downsample_ratio=1 / MERGED,
        vision_feature_layer=-1,
    )
    images = GotOcr2ImageProcessorPil(size=_square(side), min_patches=1, max_patches=1)
    chat = _template(
        "<|im_start|>user\n", "<IMG_CONTEXT>\n", "<|im_end|>\n", "<|im_start|>assistant\n"
    )
    processor = ImagesOfInternVL(images, words, tokens, chat_template=chat)
    return _decoder(InternVLForConditionalGeneration, config, processor)


def smolvlm(size: Size) -> VLM:
    """SmolVLM, which like Idefics3 reads the picture in tiles with text between them, and once more
    as a whole."""
    rows = range(1, TILES + 1)
    words = word_tokenizer(
        "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<|im_start|>",
        *(f"<row_{row}_col_{column}>" for row in rows for column in rows),
        image_token="<image>",
    )  # fmt: skip
    tile = size.merging_side // TILES
    config = SmolVLMConfig(
        text_config=size.text | {"model_type": "llama", "pad_token_id": words.pad_token_id},
        vision_config=size.merging_tower | {"image_size": tile, "patch_size": PATCH},
        scale_factor=MERGED,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=words.pad_token_id,
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": TILES * tile}, max_image_size={"longest_edge": tile}
    )
    chat = _template("<|im_start|>User:", "<image>", "<end_of_utterance>\n", "Assistant:")
    tokens = (size.grid // TILES) ** 2
    processor = Idefics3Processor(images, words, tokens, chat_template=chat)
    return _decoder(SmolVLMForConditionalGeneration, config, processor)


FAMILIES: dict[str, Callable[[Size], VLM]] = {
    build.__name__: build
    for build in (
        llava_llama, llava_qwen2, qwen2_5_vl, qwen2_vl, gemma3, internvl, paligemma, smolvlm,
    )
}  # fmt: skip


def _decoder(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, processor: ProcessorMixin
) -> VLM:
    torch.manual_seed(0)
    config._attn_implementation = "sdpa"
    name = f"random {model_class.__name__}"
    return DecoderOnly(model_class(config), processor, name=name)


def _siglip(tower: dict, side: int) -> dict:
    return tower | {
        "model_type": "siglip_vision_model",
        "image_size": side,
        "patch_size": PATCH,
    }


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _width(size: Size) -> int:
    return size.text["hidden_size"]
