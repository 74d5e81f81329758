"""When an answer in a model's words is one of two options: the same words in another spelling.

Both sides are normalised alike, after the convention of VQA's evaluation (Antol et al., "VQA:
Visual Question Answering", 2015), which compares answers without case, articles and punctuation.
Here:

1. Unicode's compatibility form (NFKC) without case ("STRASSE" is "straße"), without characters
   that are not seen (zero-width spaces and joiners), and with one form of apostrophe;
2. a hyphen or dash between words is a space: "light-blue" and "light - blue" are "light blue";
3. no spaces around other punctuation, as BERT's decoder writes them: "it ' s" is "it's";
4. no bullet before the answer, no quotation marks or brackets around it, and no punctuation after
   it: "- green", "(green)" and "green." are "green", but "- 5", as BERT's decoder writes "-5", is
   not "5";
5. no leading article: "the green" is "green".

An option may also be spelled as the tokenizer writes it, which matters for accents: BERT's reads
and writes "cafe" for "café". VQA's rules for contractions and number words are not used.

This decides which answers count as correct. It never decides which tokens are scored.
"""

import re
import unicodedata

from ..pairs.prompts import visible
from .base import VLM

_MARKS = (
    " \t\n.,;:!?\"'`*"
    "\u201a\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a\u300c\u300d\u300e\u300f"  # quotation marks
    "\u3001\u3002\u060c\u061b\u061f\u06d4\u0964\u00a1\u00bf"  # punctuation of other scripts
)
"""What is removed around an answer."""
_APOSTROPHES = str.maketrans(dict.fromkeys("`\u00b4\u02bc\u2018\u2019\u201b", "'"))
"""What is written for an apostrophe. NFKC would make two characters of U+00B4."""


def normalised(text: str) -> str:
    """A text by the rule above; empty if nothing but punctuation is in it."""
    text = unicodedata.normalize("NFKC", visible(text).translate(_APOSTROPHES)).casefold()
    text = re.sub(r"^\s*[-\u2010-\u2015\u2022*]\s+(?=[^\W\d])", "", text)
    text = re.sub(r"(?<=\w)\s*[-\u2010-\u2015]\s*(?=\w)", " ", text)
    text = re.sub(r"\s*([^\w\s])\s*", r"\1", text)
    text = " ".join(text.split()).strip(_MARKS)
    text = re.sub(r"^[(\[]([^()\[\]]*)[)\]]$", r"\1", text).strip(_MARKS)
    return re.sub(r"^(an?|the) (?=.)", "", text)


def same_words(one: str, other: str) -> bool:
    """Whether the rule makes two texts equal; of mere punctuation, only the same is."""
    return (normalised(one) or one) == (normalised(other) or other)


def is_option(model: VLM, prompt: str, answer: str, option: str, other: str) -> bool:
    """Whether an answer is the option and not the other one.

    If the rule makes the two options equal, the answer must be the option itself, in any case.
    """
    spellings = _spellings(model, prompt, option) - _spellings(model, prompt, other)
    if not spellings:
        return answer.lower() == option.lower()
    return normalised(answer) in spellings


def _spellings(model: VLM, prompt: str, option: str) -> set[str]:
    """An option as it is, and as the model's tokenizer writes it, both normalised."""
    written = model.decode(model.answer_ids(prompt, option))
    return {normalised(option), normalised(written)} - {""}
