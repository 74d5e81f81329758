"""Corruptions that keep the model in distribution: semantic image pairs and token replacement."""

from .sip import LabelledImage, semantic_image_pairs
from .token_replacement import replace_tokens

__all__ = ["LabelledImage", "replace_tokens", "semantic_image_pairs"]
