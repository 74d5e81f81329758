"""Models: what a family is to the rest of the library, and what a model answers."""

from .answers import answered_correctly, answers
from .base import ROLES, VLM
from .hooks import HookPoint
from .inputs import AnswerTokens, Inputs

__all__ = [
    "ROLES",
    "VLM",
    "AnswerTokens",
    "HookPoint",
    "Inputs",
    "answered_correctly",
    "answers",
]
