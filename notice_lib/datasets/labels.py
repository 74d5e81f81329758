"""Labels as people write them: one spelling for each, no lists, nothing where one is missing."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from ..errors import NoticeError
from ..models.wording import normalised
from ..pairs.files import whole
from ..pairs.prompts import visible

MISSING = (
    "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "Null", "null", "None", "<NA>",
    "#N/A", "#N/A N/A", "#NA",
)  # fmt: skip
"""What programs write into an empty field. In other letters, such as "none", it may be a word."""
_LIST = re.compile(r"\[.*\]|\{.*[:,'\"].*\}|\(.*[,'\"].*\)", re.DOTALL)


def present(text: str) -> str:
    """A field without spaces around it; "" where it is empty or says that its value is missing."""
    return "" if _tidy(text) in ("", *MISSING) else text.strip()


def refuse_several(label: str) -> None:
    """Raise a NoticeError if a label lists several words, as in "red, blue" or "red|blue"."""
    if found := re.search("[,;|]", label):
        raise NoticeError(
            f"The label {label!r} lists several words, with {found[0]!r} between them. Give each "
            "image one label that can be the answer to a question."
        )


def fold(label: str) -> str:
    """What labels have in common that are the same words to a model (`models.wording`)."""
    tidy = _tidy(label)
    return normalised(tidy) or tidy


def one_spelling(labels: Iterable[str]) -> Callable[[str], str]:
    """A function from a label, however it is written, to its spelling among `labels`.

    Labels that are the same words to a model, such as "light-blue" and "Light blue", are one. It is
    written as most of them are; of equally many, in lower case, without hyphens and articles.
    Spaces are single, and whole numbers have no decimal point. A label that is not among them stays
    as it is.

    Warns:
        UserWarning: names the labels that are read as one.

    Raises:
        NoticeError: a label is a list or a record.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for label in labels:
        if _LIST.fullmatch(label):
            raise NoticeError(
                f"The label {label!r} is a list or a record, not a word. Give each image one word "
                "in each column."
            )
        counts[fold(label)][_tidy(label)] += 1
    chosen, merged = {}, []
    for folded, found in counts.items():
        # Small letters sort after capitals.
        chosen[folded] = max(found, key=lambda label: (found[label], label == folded, label))
        if len(found) > 1:
            merged.append(f"{', '.join(map(repr, sorted(found)))} as {chosen[folded]!r}")
    if merged:
        warnings.warn(
            f"Labels of the same words are read as one: {'; '.join(merged)}.", stacklevel=3
        )
    return lambda label: chosen.get(fold(label), label)


def _tidy(label: str) -> str:
    """A label with single spaces and nothing that does not show; a whole number without ".0"."""
    return whole(" ".join(visible(label).split()))
