"""Labels as people write them: one spelling for each, and no lists."""

import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from ..errors import NoticeError


def fold(label: str) -> str:
    """What labels have in common that differ in case, spaces or Unicode form only."""
    return _tidy(label).casefold()


def one_spelling(labels: Iterable[str]) -> Callable[[str], str]:
    """A function from a label, however it is written, to its spelling among `labels`.

    That is the most frequent one with single spaces in Unicode's composed form; of equally frequent
    ones, the one in lower case. A label that is not among them stays as it is.

    Warns:
        UserWarning: names the labels that are read as one though they differ in case.

    Raises:
        NoticeError: a label is a list or a record.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for label in labels:
        if re.fullmatch(r"\[.*\]|\{.*:.*\}", label, re.DOTALL):
            raise NoticeError(
                f"The label {label!r} is a list or a record, not a word. Give each image one word "
                "in each column."
            )
        counts[fold(label)][_tidy(label)] += 1
    chosen, merged = {}, []
    for folded, found in counts.items():
        # Small letters sort behind capitals.
        chosen[folded] = max(found, key=lambda label: (found[label], label))
        if len(found) > 1:
            merged.append(f"{', '.join(map(repr, sorted(found)))} as {chosen[folded]!r}")
    if merged:
        warnings.warn(
            f"Labels that differ in case only are read as one: {'; '.join(merged)}.", stacklevel=3
        )
    return lambda label: chosen.get(fold(label), label)


def _tidy(label: str) -> str:
    """A label with single spaces, in Unicode's composed form."""
    return unicodedata.normalize("NFC", " ".join(label.split()))
