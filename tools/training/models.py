"""The two miniature models: configurations, tokenizers and processors.

Both are plain Hugging Face classes at a small size: hidden size 128; 6 vision layers; 6 layers of 8
heads on the language side (BLIP builds its question encoder and its answer decoder from one text
configuration, so it has 6 of each). LLaVA sees fewer patches than BLIP, since each of them is a
token of its language model.
"""

import string
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


@dataclass(frozen=True)
class Grid:
    """Square images of `image_size` pixels a side in patches of `patch_size` pixels a side."""

    image_size: int
    patch_size: int

    @property
    def side(self):
        """Patches a side."""
        return self.image_size // self.patch_size


BLIP_GRID, LLAVA_GRID = Grid(128, 8), Grid(96, 8)
HIDDEN = 128
HEADS = 8
VISION_LAYERS = 6
TEXT_LAYERS = 6
VISION_MLP = 512
TEXT_MLP = 256
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25

LLAVA_PROMPT = "USER: <image>\n{question} ASSISTANT:"

# Words beside those of the scenes, so that small variations of the prompts stay in vocabulary.
_COMMON = """
    is are was the a an this that it and or not of in on at to with by what which who how where
    there do does person man woman thing feeling doing picture image state colour color shape
    texture answer question yes no beside like
"""
COMMON_WORDS = tuple(_COMMON.split())


def build_blip_processor(words):
    """BlipProcessor whose lower-casing WordPiece holds every word of `words` whole.

    Anything else in ASCII falls back to single characters, so nothing becomes [UNK].
    """
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    letters = list(string.ascii_lowercase + string.digits)
    pieces = specials + list(string.punctuation) + letters + ["##" + c for c in letters]
    pieces += [w for w in _unique([*COMMON_WORDS, *words]) if w not in pieces]
    tokenizer = BertTokenizerFast(
        vocab={piece: i for i, piece in enumerate(pieces)},
        do_lower_case=True,
        bos_token="[DEC]",
        additional_special_tokens=["[ENC]"],
        model_max_length=32,
    )
    return BlipProcessor(BlipImageProcessorPil(**_image_settings(BLIP_GRID)), tokenizer)


def build_llava_processor(words):
    """LlavaProcessor with a Llama-like tokenizer: a space belongs to the word that follows it.

    An option is therefore one and the same token in the prompt ("broken or rusty") and as the
    answer after "ASSISTANT:" (" rusty"). Unknown text falls back to characters, then to bytes.
    """
    specials = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    characters = [c for c in string.printable if c not in string.whitespace] + ["\n"]
    whole = _unique(["USER", "ASSISTANT", *COMMON_WORDS, *words])
    whole = [w for w in whole if len(w) > 1]
    starts = ["▁" + w for w in whole + [w.capitalize() for w in COMMON_WORDS if len(w) > 1]]
    # After "\n" a sentence starts without a space.
    starts += [w.capitalize() for w in COMMON_WORDS if len(w) > 1]
    vocabulary = [(token, 0.0) for token in specials]
    vocabulary += [(f"<0x{byte:02X}>", -30.0) for byte in range(256)]
    vocabulary += [(c, -10.0) for c in ["▁", *characters]]
    vocabulary += [(token, -1.0) for token in _unique(starts)]

    backend = Tokenizer(Unigram(vocabulary, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
        ]
    )
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in specials])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=256,
    )
    image_processor = CLIPImageProcessorPil(
        **_image_settings(LLAVA_GRID), crop_size=_square(LLAVA_GRID.image_size)
    )
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=LLAVA_GRID.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )


def build_blip(tokenizer):
    """A freshly initialised BlipForQuestionAnswering for `tokenizer` (3.7 M parameters)."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "encoder_hidden_size": HIDDEN,
        "intermediate_size": TEXT_MLP,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": HEADS,
        "projection_dim": HIDDEN,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "pad_token_id": tokenizer.pad_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    vision = {
        "hidden_size": HIDDEN,
        "intermediate_size": VISION_MLP,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": HEADS,
        "projection_dim": HIDDEN,
        "image_size": BLIP_GRID.image_size,
        "patch_size": BLIP_GRID.patch_size,
        "initializer_range": 0.02,  # the default, 1e-10, makes an untrained tower blind
    }
    config = BlipConfig(
        text_config=text, vision_config=vision, projection_dim=HIDDEN, image_text_hidden_size=HIDDEN
    )
    model = BlipForQuestionAnswering(config)
    # Question and answer use the same words: start both embeddings from the same vectors.
    decoder_words = model.text_decoder.bert.embeddings.word_embeddings.weight
    decoder_words.data.copy_(model.text_encoder.embeddings.word_embeddings.weight.data)
    return model


def build_llava(tokenizer):
    """A freshly initialised LlavaForConditionalGeneration for `tokenizer` (2 M parameters)."""
    vision = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=VISION_MLP,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=HEADS,
        projection_dim=HIDDEN,
        image_size=LLAVA_GRID.image_size,
        patch_size=LLAVA_GRID.patch_size,
        hidden_act="gelu",  # as in BLIP's tower
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=TEXT_MLP,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=LLAVA_GRID.side**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlavaForConditionalGeneration(config)


def _image_settings(grid):
    return {
        "size": _square(grid.image_size),
        "image_mean": [PIXEL_MEAN] * 3,
        "image_std": [PIXEL_STD] * 3,
    }


def _square(side):
    return {"height": side, "width": side}


def _unique(words):
    return list(dict.fromkeys(words))
