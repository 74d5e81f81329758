"""Tiny decoder-only vision-language models of many families: real Hugging Face classes, configs and
processors, with seeded random weights. The tokenizer is llava-mini's, with each family's markers.
"""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from seeded import _fill as fill
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from benchmarks.random_families import ImagesOfInternVL, ImagesOfQwen2VL
from notice_lib.paths import data_dir

SIDE = 32
"""Pixels a side of the pictures and, where the family has one size, of the vision towers."""
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}


def tokenizer(*markers: str, **named: str):
    """llava-mini's tokenizer with more special tokens; `named` are attributes of it, too."""
    found = AutoTokenizer.from_pretrained(
        data_dir() / "checkpoints" / "llava-mini",
        extra_special_tokens=named,
    )
    found.add_special_tokens({"additional_special_tokens": [*markers, *named.values()]})
    return found


def template(before: str, image: str, after: str, answer: str) -> str:
    """A chat template of one message: the image and the text where its content has them."""
    return (
        "{% for m in messages %}" + before + "{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}" + image + "{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}"
        + after
        + "{% endfor %}{% if add_generation_prompt %}"
        + answer
        + "{% endif %}"
    )


CHATML = ("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n")


def qwen2_vl(**settings):
    return _qwen(Qwen2VLConfig, Qwen2VLForConditionalGeneration, {"embed_dim": 32}, **settings)


def qwen2_5_vl(**settings):
    vision = {"out_hidden_size": 48, "window_size": 32, "fullatt_block_indexes": [1]}
    return _qwen(Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, vision, **settings)


def qwen3_vl(**settings):
    """Adds features of the image behind its first layers: beyond the generic engine."""
    vision = {
        "out_hidden_size": 48,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    }
    text = {"head_dim": 12, **settings}
    return _qwen(Qwen3VLConfig, Qwen3VLForConditionalGeneration, vision, **text)


def _qwen(config_class, model_class, vision, **settings):
    words = tokenizer(
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>",
        image_token="<|image_pad|>",
    )  # fmt: skip
    config = config_class(
        text_config=TEXT
        | {
            "vocab_size": len(words),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 2, 2],
            },
        }
        | settings,
        vision_config={"depth": 2, "hidden_size": 48, "intermediate_size": 48, "num_heads": 2,
                       "patch_size": 4, "spatial_merge_size": 2} | vision,
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": SIDE**2}
    )
    chat = template(CHATML[0], "<|vision_start|><|image_pad|><|vision_end|>", *CHATML[1:])
    return model_class, config, ImagesOfQwen2VL(images, words, chat_template=chat)


def smolvlm(split: bool = True, classes=(SmolVLMConfig, SmolVLMForConditionalGeneration), **text):
    """SmolVLM and Idefics3 have one processor for images: cut into tiles, plus the whole."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = tokenizer(
        "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<|im_start|>", *tiles,
        image_token="<image>",
    )  # fmt: skip
    config_class, model_class = classes
    config = config_class(
        text_config=TEXT
        | {"model_type": "llama", "vocab_size": len(words), "pad_token_id": 3}
        | text,
        vision_config=VISION,
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=3,
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * SIDE if split else SIDE},
        max_image_size={"longest_edge": SIDE},
        do_image_splitting=split,
    )
    chat = template("<|im_start|>User:", "<image>", "<end_of_utterance>\n", "Assistant:")
    return model_class, config, Idefics3Processor(images, words, 4, chat_template=chat)


def idefics3(**settings):
    classes = Idefics3Config, Idefics3ForConditionalGeneration
    return smolvlm(split=False, classes=classes, **settings)


def paligemma(**text):
    """Its processor has no chat template; image and prompt see each other in both directions."""
    words = tokenizer(image_token="<image>")
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, words)
    config = PaliGemmaConfig(
        text_config=TEXT
        | {"model_type": "gemma", "vocab_size": len(words), "head_dim": 12, "pad_token_id": 3}
        | text,
        vision_config=VISION | {"model_type": "siglip_vision_model", "projection_dim": 48},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projection_dim=48,
    )
    return PaliGemmaForConditionalGeneration, config, processor


def paligemma2(**text):
    """With a sliding window in every other layer, and soft caps."""
    return paligemma(
        model_type="gemma2", sliding_window=9, query_pre_attn_scalar=12,
        final_logit_softcapping=3.0, attn_logit_softcapping=2.0, **text,
    )  # fmt: skip


def gemma3(**text):
    """Local and global layers with rotary embeddings of their own; the image's tokens see each
    other in both directions."""
    words = tokenizer(
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )
    config = Gemma3Config(
        text_config=TEXT
        | {"vocab_size": len(words), "head_dim": 12, "query_pre_attn_scalar": 12,
           "sliding_window": 7, "num_hidden_layers": 4,
           "layer_types": ["sliding_attention", "full_attention"] * 2} | text,
        vision_config=VISION | {"model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        image_token_id=words.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    chat = template("{{ bos_token }}user\n", "<start_of_image>", "\n", "model\n")
    processor = Gemma3Processor(images, words, chat_template=chat, image_seq_length=4)
    return Gemma3ForConditionalGeneration, config, processor


def internvl(tiles: int = 1, **text):
    words = tokenizer(
        "<|im_start|>", "<|im_end|>", "<video>", start_image_token="<img>",
        end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
    )  # fmt: skip
    config = InternVLConfig(
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(words)} | text,
        vision_config=VISION | {"image_size": [SIDE, SIDE], "patch_size": [8, 8]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    images = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, min_patches=1, max_patches=tiles
    )
    chat = template(CHATML[0], "<IMG_CONTEXT>\n", *CHATML[1:])
    return (
        InternVLForConditionalGeneration,
        config,
        ImagesOfInternVL(images, words, chat_template=chat),
    )


LLAVA_CHAT = template("USER: ", "<image>\n", " ", "ASSISTANT:")
"""The hub's template of LLaVA-1.5, for one message."""


def llava(**text):
    words = tokenizer(image_token="<image>")
    config = LlavaConfig(
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(words)} | text,
        vision_config=CLIPVisionConfig(**VISION, projection_dim=32),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    processor = LlavaProcessor(
        images, words, 8, "default", LLAVA_CHAT, num_additional_image_tokens=1
    )
    return LlavaForConditionalGeneration, config, processor


def llava_next(**text):
    """The image as a whole, and again in tiles of a grid that depends on its size."""
    words = tokenizer(image_token="<image>")
    grids = [[32, 64], [64, 32], [64, 64]]
    config = LlavaNextConfig(
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(words)} | text,
        vision_config=CLIPVisionConfig(**VISION, projection_dim=32),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
        image_seq_length=16,
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=grids,
    )
    processor = LlavaNextProcessor(
        images, words, 8, "default", LLAVA_CHAT, num_additional_image_tokens=1
    )
    return LlavaNextForConditionalGeneration, config, processor


FAMILIES = {
    build.__name__: build
    for build in (
        qwen2_vl, qwen2_5_vl, smolvlm, idefics3, paligemma, paligemma2, gemma3, internvl, llava,
        llava_next,
    )
}  # fmt: skip


def tiny(family: str, dtype=torch.float64, attention: str = "eager", **settings) -> SimpleNamespace:
    """A family's model and processor; settings change its text configuration."""
    return built(*FAMILIES[family](**settings), dtype, attention)


def built(model_class, config, processor, dtype, attention: str) -> SimpleNamespace:
    """The model of a configuration, with seeded weights."""
    config._attn_implementation = attention
    model = fill(model_class(config), {}).to(dtype)
    return SimpleNamespace(model=model, processor=processor, config=config)


def pictures(n: int = 2, side: int = SIDE) -> list[Image.Image]:
    random = np.random.RandomState(3)
    return [
        Image.fromarray(random.randint(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(n)
    ]
