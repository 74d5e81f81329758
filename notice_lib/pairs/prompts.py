"""Two-choice questions: where the options stand in the text, and how to exchange them.

Everything here works on characters; `notice_lib.models` turns characters into tokens with the
tokenizer's offsets, so no code ever counts words.
"""

import re
import unicodedata
from typing import NamedTuple

from ..errors import NoticeError

Span = tuple[int, int]


class OptionSpans(NamedTuple):
    """Character ranges (start, end) in a prompt."""

    correct: Span
    incorrect: Span
    either_or: Span  # the word "or" between the two


def option_spans(prompt: str, correct: str, incorrect: str) -> OptionSpans:
    """Find both options and the "or" between them, as whole words, whatever the case.

    A word may occur elsewhere in the prompt too: the two occurrences nearest to each other with an
    "or" in between are the options.

    Raises:
        NoticeError: the prompt does not offer the two options with an "or" between them.
    """
    found = [
        (second[0] - first[1], a, b, middle)
        for a in word_spans(prompt, correct)
        for b in word_spans(prompt, incorrect)
        for first, second in [sorted((a, b))]
        for middle in word_spans(prompt, "or", first[1], second[0])
    ]
    if not found:
        raise NoticeError(
            f"The prompt {prompt!r} does not offer {correct!r} or {incorrect!r}: both options must "
            'stand in it as whole words with "or" between them.'
        )
    _, a, b, middle = min(found)
    return OptionSpans(a, b, middle)


def spelled(prompt: str, spans: OptionSpans) -> tuple[str, str]:
    """The correct and the incorrect option in the prompt's own upper or lower case."""
    return prompt[slice(*spans.correct)], prompt[slice(*spans.incorrect)]


def replace_options(prompt: str, spans: OptionSpans, correct: str, incorrect: str) -> str:
    """The prompt with other words in the places of the two options."""
    edits = sorted([(spans.correct, correct), (spans.incorrect, incorrect)], reverse=True)
    for (start, end), word in edits:
        prompt = prompt[:start] + word + prompt[end:]
    return prompt


def visible(text: str) -> str:
    """A text in Unicode's composed form, without signs that show nothing (category Cf).

    A zero-width space or a soft hyphen within a word is another word to a tokenizer.
    """
    shown = (letter for letter in text if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFC", "".join(shown))


def words_of(prompt: str) -> set[str]:
    """The prompt's words in lower case."""
    return set(re.findall(r"[^\W\d_]+", prompt.lower()))


def word_spans(text: str, word: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Where a word, or several, stands in a text as a whole, whatever the case."""
    end = len(text) if end is None else end
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
    return [match.span() for match in pattern.finditer(text, start, end)]
