"""Checks of the book's exercises, one module a chapter.

A check takes the reader's answer and what the chapter has at hand, and returns a `Verdict`. It says
what is wrong with an answer and never what is right, so that students may have this package.
"""

__all__ = [
    "blip_llava",
    "circuits",
    "data",
    "engine",
    "errata",
    "first_patch",
    "modules_heads",
    "noise",
    "outliers",
    "own",
    "pairs",
    "primer",
    "report",
    "selection",
    "welcome",
    "what_heads_do",
    "worksheet",
]
