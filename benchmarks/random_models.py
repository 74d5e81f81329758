"""Models of real sizes with random weights, their processors, and pairs of random pictures.

A model's speed does not depend on its weights, so nothing is downloaded.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from notice_lib import PairSet, SemanticPair, Site, site_grid
from notice_lib.models.base import VLM
from notice_lib.models.blip import Blip
from notice_lib.models.llava import Llava

ANIMALS = ("dog", "cat", "horse", "goat", "cow", "bird", "sheep", "pig")
WORDS = (*ANIMALS, "is", "the", "or", "in", "house", "here", "there", "USER", "ASSISTANT", ":")

BLIP_PROMPT = "is the dog or the cat here"
"""A prompt of 9 tokens, including [CLS] and [SEP]."""
LLAVA_PROMPT = "is the dog or the cat in the house"
"""A prompt with 11 text tokens behind the image, including "ASSISTANT:"."""

# The configuration of Salesforce/blip-vqa-base, except for initializer_range: with the vision
# tower's value, 1e-10, random weights would ignore the image.
BLIP_VQA_BASE = {
    "text_config": {"num_attention_heads": 12},
    "vision_config": {"initializer_range": 0.02},
}

# 8 layers of 8 heads, and 576 image tokens. The vision tower does about a tenth of the work of a
# forward (in LLaVA-1.5-7B, a twentieth).
LLAVA_8X8 = {
    "text_config": {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
    },
    "vision_config": {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 336,
        "patch_size": 14,
    },
}

# llava-hf/llava-1.5-7b-hf: Vicuna 7B behind CLIP ViT-L/14 at 336 px.
LLAVA_7B = {
    "text_config": {"vocab_size": 32064, "max_position_embeddings": 4096},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "vision_feature_layer": -2,
}

TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": 64,
}
TINY_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.02,
}
TINY_BLIP = {
    "text_config": TINY_TEXT
    | {"encoder_hidden_size": 32, "bos_token_id": 62, "sep_token_id": 3, "eos_token_id": 3},
    "vision_config": TINY_VISION,
}
TINY_LLAVA = {
    "text_config": TINY_TEXT | {"num_key_value_heads": 2},
    "vision_config": TINY_VISION | {"projection_dim": 32},
}


def blip(config: dict, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Blip:
    """A BLIP for question answering with seeded random weights."""
    torch.manual_seed(0)
    full = BlipConfig(**config, initializer_range=0.02)
    side = full.vision_config.image_size
    with torch.device(device):
        model = BlipForQuestionAnswering(full).to(dtype)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*specials, *(word.lower() for word in WORDS)]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    pictures = BlipImageProcessorPil(size={"height": side, "width": side})
    return Blip(model, BlipProcessor(pictures, tokenizer), name="random BLIP")


def llava(config: dict, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Llava:
    """A LLaVA with seeded random weights.

    It is created in `dtype` on `device`; the 7B model needs 14 GB in bfloat16.
    """
    torch.manual_seed(0)
    tokenizer = word_tokenizer(image_token="<image>")
    vision = CLIPVisionConfig(**config["vision_config"])
    full = LlavaConfig(
        text_config={"model_type": "llama"} | config["text_config"],
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=config.get("vision_feature_layer", -1),
        vision_feature_select_strategy="default",
    )
    full._attn_implementation = "sdpa"
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(full)
    finally:
        torch.set_default_dtype(default)
    side = {"height": vision.image_size, "width": vision.image_size}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=side, crop_size=side),
        tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    return Llava(model, processor, name="random LLaVA")


def word_tokenizer(*markers: str, **named: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are whole words and punctuation marks, with <s> at the start.

    Args:
        *markers: further special tokens.
        **named: further special tokens that become attributes of the tokenizer.
    """
    specials = ["<unk>", "<s>", "</s>", "<pad>", *named.values(), *markers]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*specials, *WORDS])}, "<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken(token, special=True) for token in specials])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named,
    )


def heads_behind_the_image(model: VLM, prompt: str, image: Image.Image | None = None) -> list[Site]:
    """Every head at every token behind the image.

    The image determines the number of image tokens. By default it is blank and of the model's size.
    """
    image = image or Image.new("RGB", (model.image_size, model.image_size))
    is_image = model.inputs(image, prompt).image_tokens
    first = len(is_image) - is_image[::-1].index(True)
    return [
        site
        for position in range(first, len(is_image))
        for site in site_grid(model, ["self_attention"], per_head=True, position=position)
    ]


def random_pairs(folder: str | Path, prompt: str, n: int = 1) -> PairSet:
    """Make n pairs, each with two pictures of noise (640 x 480), and write the pictures."""
    random = np.random.default_rng(0)
    pairs = []
    for i in range(n):
        paths = [Path(folder) / f"{i}_{run}.png" for run in ("clean", "corrupt")]
        for path in paths:
            noise = random.integers(0, 256, (480, 640, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path, compress_level=1)
        pairs.append(
            SemanticPair(
                pair_id=f"pair-{i}",
                scene_id=f"scene-{i}",
                task="noise",
                slot="animal",
                split="seen",
                distractor=False,
                clean_image=paths[0],
                corrupt_image=paths[1],
                clean_masks=None,
                corrupt_masks=None,
                prompt=prompt,
                correct="dog",
                incorrect="cat",
                order="correct_first",
            )
        )
    return PairSet(tuple(pairs), slots={"animal": ANIMALS})
