"""Models: what a family is to the rest of the library, and what a model answers."""

from .answers import answered_correctly, answers
from .base import ROLES, VLM, AnswerTokens, Inputs
from .hooks import HookPoint

__all__ = [
    "ROLES",
    "VLM",
    "AnswerTokens",
    "HookPoint",
    "Inputs",
    "answered_correctly",
    "answers",
]
