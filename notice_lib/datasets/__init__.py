"""Pair sets: the embedded ones, and those that are built from published data or your own."""

from .load import EMBEDDED, load_pairs

__all__ = ["EMBEDDED", "load_pairs"]
