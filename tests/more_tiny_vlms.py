"""Tiny vision-language models of more families: LLaVA with other text models and vision towers, and
whole families. The processor is None where the generic adapter refuses the module tree anyway.
"""

from functools import partial
from types import SimpleNamespace

import torch
from tiny_vlms import (
    CHATML,
    LLAVA_CHAT,
    SIDE,
    TEXT,
    VISION,
    _qwen,
    built,
    llava,
    llava_next,
    template,
    tokenizer,
)
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaProcessor,
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonProcessor,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionProcessor,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridProcessor,
    DeepseekVLProcessor,
    Emu3Config,
    Emu3ForConditionalGeneration,
    Florence2Config,
    Florence2ForConditionalGeneration,
    FuyuConfig,
    FuyuForCausalLM,
    FuyuProcessor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm4vProcessor,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    GotOcr2Processor,
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    Granite4VisionProcessor,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2Processor,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MllamaConfig,
    MllamaForConditionalGeneration,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2Processor,
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    PixtralVisionConfig,
    ProcessorMixin,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import (
    DeepseekVLImageProcessorPil,
)
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)
from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SIGLIP = VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
TEXT_MODELS = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 12},
    "mistral": {"sliding_window": 7},
    "ministral3": {"head_dim": 12, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "mscale": 1.0,
        "mscale_all_dim": 1.0, "beta_fast": 32.0, "beta_slow": 1.0, "llama_4_scaling_beta": 0.5,
        "original_max_position_embeddings": 8}},
    "gemma": {"head_dim": 12},
    "gemma2": {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 7,
               "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "phi3": {"original_max_position_embeddings": 512},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "olmo2": {},
    "cohere": {"logit_scale": 0.25, "use_qk_norm": True},
    "granite": {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5,
                "attention_multiplier": 0.2},
    "stablelm": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                     "partial_rotary_factor": 0.5}},
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                     "partial_rotary_factor": 0.5}},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 32},
    "qwen3_moe": EXPERTS | {"head_dim": 12},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 12,
                "sliding_window": 7,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "deepseek_v3": {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16,
                    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 10,
                    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
                    "topk_group": 1, "moe_intermediate_size": 32, "first_k_dense_replace": 1},
    "olmo": {},
    "bitnet": {},
    "diffllama": {"head_dim": 12},
    "falcon": {"tie_word_embeddings": False},
    "bloom": {"tie_word_embeddings": False},
}  # fmt: skip
"""What each text model of a LLaVA has beside the sizes that all have."""


class ImagesOfPixtral(ProcessorMixin):
    """As PixtralProcessor, which cannot be imported without torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, merge=1):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch = image_processor.patch_size["height"] * merge
        self.image_token = "[IMG]"
        self.image_token_id = tokenizer.convert_tokens_to_ids("[IMG]")

    def _process_images(self, images, **settings):
        return super()._process_images(images, **settings | {"patch_size": self.patch})

    def replace_image_token(self, image_inputs: dict, image_idx: int, **settings) -> str:
        height, width = image_inputs["image_sizes"][image_idx]
        rows = ["[IMG]" * (width // self.patch)] * (height // self.patch)
        return "[IMG_BREAK]".join(rows) + "[IMG_END]"


def llava_with(text_model_type: str, **text):
    """LLaVA with one of TEXT_MODELS."""
    own = TEXT_MODELS[text_model_type] | {"model_type": text_model_type, "pad_token_id": 3}
    return llava(**own | text)


def llava_siglip(**text):
    """Its tower has no class token."""
    model_class, config, processor = llava(**text)
    config.vision_config = SiglipVisionConfig(**SIGLIP)
    config.vision_feature_select_strategy = "full"
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(images, processor.tokenizer, 8, "full", LLAVA_CHAT)
    return model_class, config, processor


def llava_full(**text):
    """The class token of its tower is an image token, too."""
    model_class, config, processor = llava(**text)
    config.vision_feature_select_strategy = processor.vision_feature_select_strategy = "full"
    config.image_seq_length = 17
    return model_class, config, processor


def llava_pixtral(**text):
    """As many tokens as the image's size asks for, and a token of the text behind each row."""
    words = tokenizer("[IMG_BREAK]", "[IMG_END]", image_token="[IMG]")
    model_class, config, _ = llava(**{"model_type": "mistral", "vocab_size": len(words)} | text)
    config.vision_config = PixtralVisionConfig(**VISION)
    config.vision_feature_select_strategy, config.vision_feature_layer = "full", -1
    config.image_token_id = words.convert_tokens_to_ids("[IMG]")
    return model_class, config, _pixtral_processor(words)


def _pixtral_processor(words, merge: int = 1) -> ImagesOfPixtral:
    images = PixtralImageProcessorPil(
        size={"longest_edge": SIDE}, patch_size={"height": 8, "width": 8}
    )
    chat = template("<s>[INST]", "[IMG]", "[/INST]", "")
    return ImagesOfPixtral(images, words, chat_template=chat, merge=merge)


def llava_chatml(**text):
    words = tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>")
    model_class, config, processor = llava_with("qwen2", vocab_size=len(words), **text)
    chat = template(CHATML[0], "<image>\n", *CHATML[1:])
    processor = LlavaProcessor(
        processor.image_processor, words, 8, "default", chat, num_additional_image_tokens=1
    )
    return model_class, config, processor


def llava_without_chat(**text):
    """Its processor has no chat template."""
    model_class, config, processor = llava(**text)
    processor.chat_template = None
    return model_class, config, processor


def images_only(processor_class, images, words, chat, **attributes):
    """A processor without its part for videos, which needs torchvision."""

    class Images(processor_class):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    processor = Images(images, words, chat_template=chat)
    for name, value in attributes.items():
        setattr(processor, name, value)
    return processor


def _text(words, model_type: str = "llama", **own) -> dict:
    return TEXT | {"model_type": model_type, "vocab_size": len(words), "pad_token_id": 3} | own


def llava_onevision(**text):
    """The image as a whole, and again in tiles of a grid that depends on its size."""
    words = tokenizer("<|im_start|>", "<|im_end|>", "<video>", image_token="<image>")
    image, video = words.convert_tokens_to_ids(["<image>", "<video>"])
    grids = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = LlavaOnevisionConfig(
        text_config=_text(words, **{"model_type": "qwen2"} | text),
        vision_config=SIGLIP,
        image_token_id=image,
        video_token_id=video,
        image_grid_pinpoints=grids,
    )
    images = LlavaOnevisionImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=grids
    )
    processor = images_only(
        LlavaOnevisionProcessor, images, words, template(CHATML[0], "<image>\n", *CHATML[1:]),
        num_image_tokens=16, vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9", image_token="<image>", image_token_id=image,
        video_token="<video>", video_token_id=video,
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration, config, processor


def llava_next_video(**text):
    """Its images are LLaVA-NeXT's."""
    words = tokenizer("<video>", image_token="<image>")
    image, video = words.convert_tokens_to_ids(["<image>", "<video>"])
    _, base, images = llava_next()
    config = LlavaNextVideoConfig(
        text_config=_text(words, **text),
        vision_config=base.vision_config,
        image_token_id=image,
        video_token_id=video,
        image_grid_pinpoints=base.image_grid_pinpoints,
        image_seq_length=16,
    )
    processor = images_only(
        LlavaNextVideoProcessor, images.image_processor, words, LLAVA_CHAT,
        patch_size=8, num_additional_image_tokens=1, vision_feature_select_strategy="default",
        image_token="<image>", image_token_id=image, video_token="<video>", video_token_id=video,
    )  # fmt: skip
    return LlavaNextVideoForConditionalGeneration, config, processor


def vipllava(**text):
    """It reads several layers of its tower."""
    _, base, processor = llava()
    config = VipLlavaConfig(
        text_config=_text(processor.tokenizer, **text),
        vision_config=base.vision_config,
        image_token_id=base.image_token_id,
        vision_feature_layer=[-2, -1],
        image_seq_length=16,
    )
    return VipLlavaForConditionalGeneration, config, processor


def mistral3(**text):
    """Four patches of a Pixtral tower make one token."""
    words = tokenizer("[IMG_BREAK]", "[IMG_END]", image_token="[IMG]")
    config = Mistral3Config(
        text_config=_text(words, **{"model_type": "mistral", "sliding_window": None} | text),
        vision_config=PixtralVisionConfig(**VISION),
        image_token_id=words.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    return Mistral3ForConditionalGeneration, config, _pixtral_processor(words, merge=2)


def idefics2(**text):
    words = tokenizer(
        "<end_of_utterance>", image_token="<image>",
        image_boundary_token="<fake_token_around_image>",
    )  # fmt: skip
    config = Idefics2Config(
        text_config=_text(words, **{"model_type": "mistral"} | text),
        vision_config=VISION,
        perceiver_config={"hidden_size": 48, "resampler_n_latents": 4, "resampler_depth": 1,
                          "resampler_n_heads": 4, "resampler_head_dim": 12,
                          "num_key_value_heads": 2},
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = Idefics2ImageProcessorPil(size={"shortest_edge": SIDE, "longest_edge": SIDE})
    chat = template("User:", "<image>", "<end_of_utterance>\n", "Assistant:")
    processor = Idefics2Processor(images, words, image_seq_len=4, chat_template=chat)
    return Idefics2ForConditionalGeneration, config, processor


COHERE2 = {
    "model_type": "cohere2", "sliding_window": 7, "logit_scale": 0.25,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
"""Its layers of full attention have no positions."""


def aya_vision(**text):
    words = tokenizer(
        "<|START_OF_IMG|>", "<|END_OF_IMG|>", "TILE", "TILE_GLOBAL", "<image>",
        image_token="<|IMG_PATCH|>",
    )  # fmt: skip
    config = AyaVisionConfig(
        text_config=_text(words, **COHERE2 | text),
        vision_config=SIGLIP,
        image_token_id=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    images = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=1)
    chat = template("USER: ", "<image>", " ", "CHATBOT:")
    processor = AyaVisionProcessor(
        images, words, patch_size=8, img_size=SIDE, downsample_factor=2, chat_template=chat
    )
    return AyaVisionForConditionalGeneration, config, processor


def cohere2_vision(**text):
    words = tokenizer(
        boi_token="<|START_OF_IMG|>", eoi_token="<|END_OF_IMG|>", image_token="<|IMG_PATCH|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )  # fmt: skip
    config = Cohere2VisionConfig(
        text_config=_text(words, **COHERE2 | text),
        vision_config=SIGLIP,
        image_token_id=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        alignment_intermediate_size=64,
    )
    images = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=1)
    images.patch_size = 2  # tokens a side, as the processor reads it
    chat = template("USER: ", "<|IMG_PATCH|>", " ", "CHATBOT:")
    processor = Cohere2VisionProcessor(images, words, chat_template=chat)
    return Cohere2VisionForConditionalGeneration, config, processor


def janus(**text):
    words = tokenizer(boi_token="<boi>", eoi_token="<eoi>", image_token="<image>")
    config = JanusConfig(
        text_config=_text(words, **text),
        vision_config=VISION | {"num_image_tokens": 16, "projection_dim": 48, "mlp_ratio": 2.0},
        vq_config={"embed_dim": 4, "num_embeddings": 8, "latent_channels": 4, "base_channels": 32,
                   "channel_multiplier": [1, 1], "num_res_blocks": 1, "num_patches": 4,
                   "projection_dim": 48, "image_token_embed_dim": 48},
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = JanusImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = JanusProcessor(images, words, LLAVA_CHAT, num_image_tokens=16)
    return JanusForConditionalGeneration, config, processor


def deepseek_vl(**text):
    words = tokenizer(image_token="<image_placeholder>")
    config = DeepseekVLConfig(
        text_config=_text(words, **text),
        vision_config=SIGLIP,
        image_token_id=words.convert_tokens_to_ids("<image_placeholder>"),
    )
    images = DeepseekVLImageProcessorPil(size={"height": SIDE, "width": SIDE})
    chat = template("User: ", "<image_placeholder>", "\n\n", "Assistant:")
    processor = DeepseekVLProcessor(images, words, chat, num_image_tokens=16)
    return DeepseekVLForConditionalGeneration, config, processor


def ovis2(**text):
    """What stands between the tiles of an image is embedded by its tower, too."""
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    words = tokenizer("<image>", "<|im_start|>", "<|im_end|>", *marks, image_token="<IMG_ATOM>")
    config = Ovis2Config(
        text_config=_text(words, **{"model_type": "qwen2"} | text),
        vision_config=VISION | {"vocab_size": 40},
        image_token_id=words.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=words.convert_tokens_to_ids(marks),
        vocab_size=len(words),
        hidden_size=48,
    )
    images = Ovis2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    chat = template(CHATML[0], "<image>\n", *CHATML[1:])
    processor = Ovis2Processor(images, words, chat, image_seq_length=16)
    return Ovis2ForConditionalGeneration, config, processor


def aria(**text):
    """A mixture of experts; its images have 490 pixels a side."""
    words = tokenizer("<|im_start|>", "<|im_end|>", image_token="<|img|>")
    config = AriaConfig(
        text_config=_text(words, "aria_text", moe_num_experts=4, **text),
        vision_config=VISION
        | {"model_type": "idefics3_vision", "image_size": 490, "patch_size": 70},
        image_token_id=words.convert_tokens_to_ids("<|img|>"),
        projector_patch_to_query_dict={49: 4},
    )
    images = AriaImageProcessorPil(max_image_size=490, min_image_size=336)
    chat = template(CHATML[0], "<|img|>", *CHATML[1:])
    processor = AriaProcessor(images, words, chat, size_conversion={490: 4})
    processor.images_kwargs = {"max_image_size": 490, "split_image": False}
    return AriaForConditionalGeneration, config, processor


def glm4v(**text):
    return _glm4v(Glm4vConfig, Glm4vForConditionalGeneration, **text)


def glm4v_moe(**text):
    """Its first layer is dense, the others are mixtures of experts."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return _glm4v(Glm4vMoeConfig, Glm4vMoeForConditionalGeneration, **experts | text)


def _glm4v(config_class, model_class, **text):
    words = tokenizer(
        "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
        "<|video|>", "<|user|>", "<|assistant|>", image_token="<|image|>",
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 1]}  # fmt: skip
    marks = ("image", "video")
    config = config_class(
        text_config=TEXT | {"vocab_size": len(words), "pad_token_id": 3, "rope_parameters": rope}
        | text,
        vision_config={"depth": 2, "hidden_size": 32, "num_heads": 2, "image_size": SIDE,
                       "patch_size": 4, "spatial_merge_size": 2, "out_hidden_size": 48,
                       "intermediate_size": 64},
        **{f"{mark}_token_id": words.convert_tokens_to_ids(f"<|{mark}|>") for mark in marks},
        **{f"{mark}_start_token_id": words.convert_tokens_to_ids(f"<|begin_of_{mark}|>")
           for mark in marks},
        **{f"{mark}_end_token_id": words.convert_tokens_to_ids(f"<|end_of_{mark}|>")
           for mark in marks},
    )  # fmt: skip
    images = Glm4vImageProcessorPil(
        patch_size=4, size={"shortest_edge": 64, "longest_edge": 2 * SIDE**2}
    )
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    processor = images_only(
        Glm4vProcessor, images, words, template("<|user|>\n", image, "", "<|assistant|>\n"),
        image_token="<|image|>", image_token_id=config.image_token_id,
        video_token="<|video|>", video_token_id=config.video_token_id,
        video_start_id=config.video_start_token_id, video_end_id=config.video_end_token_id,
    )  # fmt: skip
    return model_class, config, processor


def got_ocr2(**text):
    words = tokenizer("<|im_start|>", "<|im_end|>", "<img>", "</img>", image_token="<imgpad>")
    config = GotOcr2Config(
        text_config=_text(words, **{"model_type": "qwen2"} | text),
        vision_config={"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2,
                       "num_attention_heads": 2, "image_size": 64, "patch_size": 4,
                       "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 48},
        image_token_id=words.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=16,
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size={"height": 64, "width": 64})
    chat = template(CHATML[0], "<imgpad>\n", *CHATML[1:])
    processor = GotOcr2Processor(images, words, chat)
    processor.num_image_tokens = 16
    return GotOcr2ForConditionalGeneration, config, processor


def fuyu(**text):
    """No vision tower: the pixels of its patches go through one linear map."""
    words = tokenizer("|SPEAKER|", "|NEWLINE|", "<0x04>")
    config = FuyuConfig(
        text_config=_text(words, "persimmon", **text),
        image_token_id=words.convert_tokens_to_ids("|SPEAKER|"),
        image_size=SIDE,
        patch_size=8,
    )
    images = FuyuImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, patch_size={"height": 8, "width": 8}
    )
    return FuyuForCausalLM, config, FuyuProcessor(images, words)


def deepseek_vl_hybrid(**text):
    """A second tower (SAM's) sees the image in a higher resolution."""
    _, base, low = deepseek_vl(**text)
    sam = {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "mlp_dim": 48,
           "num_attention_heads": 2, "image_size": 64, "patch_size": 4, "window_size": 4,
           "global_attn_indexes": [1]}  # fmt: skip
    config = DeepseekVLHybridConfig(
        text_config=base.text_config,
        vision_config=SIGLIP,
        high_res_vision_config=sam,
        image_token_id=base.image_token_id,
    )
    images = DeepseekVLHybridImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, high_res_size={"height": 64, "width": 64}
    )
    processor = DeepseekVLHybridProcessor(
        images, low.tokenizer, low.chat_template, num_image_tokens=16
    )
    return DeepseekVLHybridForConditionalGeneration, config, processor


class OneTile(ProcessorMixin):
    """What the processors of Llama 4 and Emu3 make of one tile; theirs need torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, expanded=""):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token, self.expanded = "<image>", expanded

    def _process_images(self, images, **settings):
        found, expanded = super()._process_images(images, **settings)
        return found | {"image_sizes": [[SIDE, SIDE]]}, expanded

    def replace_image_token(self, image_inputs: dict, image_idx: int, **settings) -> str:
        return self.expanded


def llama4(**text):
    """Mixtures of experts, attention in chunks, and layers without positions."""
    words = tokenizer(
        "<|image_start|>", "<|image_end|>", "<image>", "<|patch|>", "<|header_start|>", "<|eot|>"
    )
    vision = VISION | {"intermediate_size": 128, "vision_output_dim": 40,
                       "projector_input_dim": 40, "projector_output_dim": 40}  # fmt: skip
    config = Llama4Config(
        text_config=_text(
            words, **{"model_type": "llama4_text", "head_dim": 12, "intermediate_size_mlp": 64,
                      "num_local_experts": 4, "interleave_moe_layer_step": 2,
                      "no_rope_layers": [1, 0, 1], "attention_chunk_size": 7,
                      "floor_scale": 8, "pad_token_id": 3} | text
        ),
        vision_config=vision,
        image_token_index=words.convert_tokens_to_ids("<|patch|>"),
        boi_token_index=words.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=words.convert_tokens_to_ids("<|image_end|>"),
    )  # fmt: skip
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    chat = template("<s><|header_start|>user", "<image>", "<|eot|>", "<|header_start|>")
    expanded = "<|image_start|>" + 4 * "<|patch|>" + "<|image_end|>"
    processor = OneTile(images, words, chat_template=chat, expanded=expanded)
    return Llama4ForConditionalGeneration, config, processor


def qwen3_vl_moe(**text):
    """Qwen3-VL with mixtures of experts; adds features of the image behind its first layers."""
    vision = {"out_hidden_size": 48, "deepstack_visual_indexes": [0, 1],
              "num_position_embeddings": 64}  # fmt: skip
    return _qwen(
        Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, vision,
        **EXPERTS | {"head_dim": 12} | text,
    )  # fmt: skip


def qwen3_5(**text):
    """Two of its three layers attend linearly."""
    vision = {"out_hidden_size": 48, "num_position_embeddings": 64}
    own = {"head_dim": 12, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
           "linear_num_key_heads": 2, "linear_num_value_heads": 4,
           "layer_types": ["linear_attention", "linear_attention", "full_attention"]}  # fmt: skip
    model_class, config, _ = _qwen(
        Qwen3_5Config, Qwen3_5ForConditionalGeneration, vision, **own | text
    )
    return model_class, config, None


def lfm2_vl(**text):
    """Two of its three layers are convolutions."""
    config = Lfm2VlConfig(
        text_config=TEXT
        | {"model_type": "lfm2", "vocab_size": 99,
           "layer_types": ["conv", "full_attention", "conv"]} | text,
        vision_config=VISION | {"model_type": "siglip2_vision_model", "num_patches": 16},
        image_token_id=5,
        projector_hidden_size=48,
    )  # fmt: skip
    return Lfm2VlForConditionalGeneration, config, None


def mllama(**text):
    """Some of its layers attend to the image, which is no token."""
    config = MllamaConfig(
        text_config=TEXT
        | {"vocab_size": 99, "cross_attention_layers": [1], "pad_token_id": 3,
           "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}} | text,
        vision_config={"hidden_size": 32, "num_hidden_layers": 2, "num_global_layers": 1,
                       "attention_heads": 2, "intermediate_size": 48, "image_size": SIDE,
                       "patch_size": 8, "vision_output_dim": 64, "max_num_tiles": 1,
                       "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]},
        image_token_index=5,
    )  # fmt: skip
    return MllamaForConditionalGeneration, config, None


def kosmos2(**text):
    """Its configuration names no image token."""
    config = Kosmos2Config(
        text_config={"vocab_size": 99, "embed_dim": 48, "layers": 3, "ffn_dim": 64,
                     "attention_heads": 4, "max_position_embeddings": 128} | text,
        vision_config=VISION,
        latent_query_num=4,
    )  # fmt: skip
    return Kosmos2ForConditionalGeneration, config, None


def blip_2(**text):
    """Its text model is OPT, whose MLP is no module."""
    config = Blip2Config(
        text_config={"model_type": "opt", "vocab_size": 99, "hidden_size": 48, "ffn_dim": 64,
                     "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 3,
                     "word_embed_proj_dim": 48, "max_position_embeddings": 128} | text,
        vision_config=VISION,
        qformer_config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "intermediate_size": 48, "encoder_hidden_size": 32},
        num_query_tokens=4,
        image_token_index=5,
    )  # fmt: skip
    return Blip2ForConditionalGeneration, config, None


def florence2(**text):
    """An encoder with a decoder."""
    config = Florence2Config(
        text_config={"model_type": "bart", "vocab_size": 99, "d_model": 48, "encoder_layers": 2,
                     "decoder_layers": 3, "encoder_attention_heads": 4,
                     "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
                     "max_position_embeddings": 128} | text,
        vision_config={"depths": [1], "patch_size": [7], "patch_stride": [4],
                       "patch_padding": [3], "patch_prenorm": [False], "embed_dim": [32],
                       "num_heads": [2], "num_groups": [2], "window_size": 4,
                       "projection_dim": 48},
        image_token_id=5,
    )  # fmt: skip
    return Florence2ForConditionalGeneration, config, None


VQ = {"embed_dim": 4, "latent_channels": 4, "base_channels": 32, "num_res_blocks": 1,
      "channel_multiplier": [1, 1, 1, 1]}  # fmt: skip


def emu3(**text):
    """Its image becomes words of its vocabulary, and a mark behind each row."""
    visual = [f"<|visual token {i:06d}|>" for i in range(8)]
    words = tokenizer("<image>", "<|extra_200|>", "<|image start|>", "<|image end|>", *visual)
    marks = ["<image>", "<|extra_200|>", *visual]
    config = Emu3Config(
        text_config=TEXT | {"vocab_size": len(words), "pad_token_id": 3} | text,
        vq_config=VQ | {"codebook_size": 8, "hidden_size": 32, "attn_resolutions": []},
        vocabulary_map=dict(zip(marks, words.convert_tokens_to_ids(marks), strict=True)),
    )
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    expanded = "<|image start|>" + 20 * "<image>" + "<|image end|>"
    processor = OneTile(images, words, chat_template=LLAVA_CHAT, expanded=expanded)
    return Emu3ForConditionalGeneration, config, processor


def chameleon(**text):
    """Its image becomes words of its vocabulary, and its answers never are such words."""
    visual = [f"IMGIMG{letter}Z" for letter in "ABCDEFGH"]
    words = tokenizer(
        *visual, image_token="<image>", boi_token="<racm3:break>", eoi_token="<eoss>",
        sep_token="<reserved08706>",
    )  # fmt: skip
    marks = ["<image>", *visual]
    config = ChameleonConfig(
        **TEXT | {"vocab_size": len(words), "pad_token_id": 3} | text,
        vq_config=VQ | {"num_embeddings": 8, "resolution": SIDE},
        vocabulary_map=dict(zip(marks, words.convert_tokens_to_ids(marks), strict=True)),
    )
    images = ChameleonImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return (
        ChameleonForConditionalGeneration,
        config,
        ChameleonProcessor(images, words, image_seq_length=16),
    )


def granite4_vision(**text):
    """Adds features of the image in front of some layers."""
    grids = [[32, 64], [64, 32], [64, 64]]
    words = tokenizer(image_token="<image>")
    config = Granite4VisionConfig(
        text_config=TEXT
        | {"model_type": "granite4_vision_text", "vocab_size": len(words), "pad_token_id": 3}
        | TEXT_MODELS["granite"]
        | text,
        vision_config=SIGLIP | {"hidden_size": 64},
        qformer_config={"num_hidden_layers": 1, "intermediate_size": 48,
                        "cross_attention_frequency": 1, "max_position_embeddings": 64,
                        "vocab_size": 9, "model_type": "blip_2_qformer"},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        image_grid_pinpoints=grids,
        image_seq_length=4,
        downsample_rate="2/4",
        deepstack_layer_map=[[-2, 0]],
        spatial_target_layers=[1, 1, 2, 2],
    )  # fmt: skip
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=grids,
    )
    processor = Granite4VisionProcessor(images, words, 8, "full", LLAVA_CHAT, downsample_rate="2/4")
    return Granite4VisionForConditionalGeneration, config, processor


def phi4_multimodal(**text):
    """Its image token is named in the configuration of its tower only."""
    config = Phi4MultimodalConfig(
        **TEXT | {"vocab_size": 99, "pad_token_id": 3, "original_max_position_embeddings": 512}
        | text,
        vision_config=VISION | {"crop_size": SIDE, "image_token_id": 5},
        audio_config={"hidden_size": 16, "intermediate_size": 16, "num_blocks": 1,
                      "num_attention_heads": 2, "ext_pw_out_channel": 16,
                      "depthwise_separable_out_channel": 16, "nemo_conv_channels": 16,
                      "input_size": 16, "audio_token_id": 6},
    )  # fmt: skip
    return Phi4MultimodalForCausalLM, config, None


def gemma4(**text):
    """Each layer has embeddings of its own, and beside its embeddings are two norms."""
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = Gemma4Config(
        text_config=TEXT
        | {"vocab_size": 99, "head_dim": 12, "global_head_dim": 12, "sliding_window": 7,
           "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4,
           "vocab_size_per_layer_input": 99, "hidden_size_per_layer_input": 8,
           "rope_parameters": {"sliding_attention": rope, "full_attention": rope}} | text,
        vision_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                       "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
                       "patch_size": 8, "position_embedding_size": 64, "pooling_kernel_size": 2},
        image_token_id=5, boi_token_id=6, eoi_token_id=7, video_token_id=8, audio_token_id=9,
    )  # fmt: skip
    return Gemma4ForConditionalGeneration, config, None


NOT_BUILT = {
    "fast_vlm": "its vision tower needs timm",
    "perception_lm": "its vision tower needs timm",
    "gemma3n": "its vision tower needs timm",
}
"""Families that cannot be built here, and why."""


MORE_FAMILIES = {f"llava_{name}": partial(llava_with, name) for name in TEXT_MODELS} | {
    build.__name__: build
    for build in (
        llava_siglip, llava_full, llava_pixtral, llava_chatml, llava_without_chat,
        llava_onevision, llava_next_video, vipllava, mistral3, idefics2, aya_vision,
        cohere2_vision, janus, deepseek_vl, ovis2, aria, glm4v, glm4v_moe, got_ocr2, fuyu,
        deepseek_vl_hybrid, llama4, qwen3_vl_moe, qwen3_5, lfm2_vl, mllama, kosmos2,
        blip_2, florence2, emu3, chameleon, granite4_vision, phi4_multimodal, gemma4,
    )
}  # fmt: skip

EAGER_ONLY = ("llava_gemma2", "llava_gpt_oss", "llava_bloom", "got_ocr2")
"""transformers refuses to build these with attention "sdpa"."""


def more_tiny(
    family: str, dtype=torch.float64, attention: str = "eager", **settings
) -> SimpleNamespace:
    """As `tiny_vlms.tiny`; a mixture of experts computes one after the other, in any dtype."""
    model_class, config, processor = MORE_FAMILIES[family](**settings)
    config._experts_implementation = "eager"
    found = built(model_class, config, processor, dtype, attention)
    with torch.no_grad():  # Their weights are one tensor of three dimensions.
        for name, parameter in found.model.named_parameters():
            if "experts" in name and parameter.dim() == 3:
                parameter.mul_(parameter.shape[1] ** 0.5)
    return found
