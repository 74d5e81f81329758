"""Models: load one by name, folder or hub id, and ask it."""

from .answers import answers
from .base import ROLES, VLM, AnswerTokens, HookPoint, Inputs
from .load import load_model

__all__ = ["ROLES", "VLM", "AnswerTokens", "HookPoint", "Inputs", "answers", "load_model"]
