"""Semantic pairs: two pictures, one question, two answers; and what they are made of on disk."""

from .pair import COLUMNS, ORDERS, SPLITS, PairSet, SemanticPair, symmetric

__all__ = ["COLUMNS", "ORDERS", "SPLITS", "PairSet", "SemanticPair", "symmetric"]
