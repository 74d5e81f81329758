"""Symmetric Token Replacement (STR): both options become other words of the same kind."""

import zlib
from collections.abc import Callable

import numpy as np

from ..errors import NoticeError
from ..pairs import PairSet, SemanticPair
from ..pairs.prompts import OptionSpans, replace_options, words_of

Layout = Callable[[str, OptionSpans], object]


def replace_tokens(pair: SemanticPair, vocabulary: PairSet, layout: Layout, seed: int = 0) -> str:
    """The corrupt prompt of a pair under text corruption.

    Each option is replaced by a word of its slot such that the prompt keeps its token layout, so
    every position keeps its role. A replacement is never a word of the prompt, never true of the
    clean or the corrupt image, never a near-synonym of an option, and the two differ and are not
    near-synonyms of each other.

    Args:
        vocabulary: the set whose slots and near-synonyms apply.
        layout: (prompt, option spans) -> what must stay equal; an adapter's `token_layout`. It
            depends on the tokenizer, which is why corrupt prompts are never stored with the data.
        seed: with the pair's id it fixes the draw, whatever other pairs there are.

    Raises:
        NoticeError: no two words of the slot fit; names the pair.

    Source: paper, section 3; published code, preprocessing/3_svo, 1_mit, 3_face.
    """
    spans = pair.spans
    wanted = layout(pair.prompt, spans)
    near = vocabulary.near_synonyms
    candidates = _candidates(pair, vocabulary)
    rng = np.random.default_rng([seed, zlib.crc32(pair.pair_id.encode())])
    shuffled = [candidates[i] for i in rng.permutation(len(candidates))]
    for first in shuffled:
        for second in shuffled:
            if first.lower() == second.lower() or second in near.get(first, ()):
                continue
            prompt = replace_options(pair.prompt, spans, first, second)
            if layout(prompt, _moved(spans, first, second)) == wanted:
                return prompt
    raise NoticeError(
        f"Pair {pair.pair_id}: no two words of the slot {pair.slot!r} can replace "
        f"{pair.correct!r} and {pair.incorrect!r} with the same number of tokens "
        f"({len(candidates)} candidates). Add words to the slot's vocabulary or drop the pair."
    )


def _candidates(pair: SemanticPair, vocabulary: PairSet) -> list[str]:
    """Words of the pair's slot that are neither in the prompt, nor true, nor near an option."""
    near = vocabulary.near_synonyms
    banned = {*words_of(pair.prompt), *pair.shown, pair.correct, pair.incorrect}
    banned |= near.get(pair.correct, frozenset()) | near.get(pair.incorrect, frozenset())
    banned = {word.lower() for word in banned}
    return sorted(
        word for word in vocabulary.slots.get(pair.slot, ()) if word.lower() not in banned
    )


def _moved(spans: OptionSpans, correct: str, incorrect: str) -> OptionSpans:
    """The spans after the options were replaced by words of other lengths."""
    grown = {
        spans.correct: len(correct) - (spans.correct[1] - spans.correct[0]),
        spans.incorrect: len(incorrect) - (spans.incorrect[1] - spans.incorrect[0]),
    }

    def move(span):
        shift = sum(extra for option, extra in grown.items() if option[1] <= span[0])
        return span[0] + shift, span[1] + shift + grown.get(span, 0)

    return OptionSpans(move(spans.correct), move(spans.incorrect), move(spans.either_or))
