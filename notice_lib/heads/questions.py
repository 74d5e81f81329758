"""Two questions about two things in the same picture, and which words a picture is known to show.

A pair of the slot subject or object asks for one thing and mentions the other: "Is the cow or the
turtle pushing the drum?" shows a cow (the correct option) and a drum. So the same words ask for the
other thing once the options have moved there: "Is the cow pushing the drum or the car?".
"""

import zlib
from collections import defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np

from ..pairs import PairSet, SemanticPair
from ..pairs.prompts import Span, word_spans, words_of
from .overlap import NAMED

OTHER = {"subject": "object", "object": "subject"}
"""Which slot a question mentions beside the one that it asks for."""


def known_things(pairs: PairSet, pair: SemanticPair) -> dict[str, str]:
    """{slot: word} of what the clean image shows in the place of one of its masks.

    The correct option of the pair's own slot, unless that is about two things at once (verbs); and
    the subject or object that the prompt mentions outside its options, if it mentions exactly one
    word of that slot's vocabulary.
    """
    own = {pair.slot: pair.correct} if len(NAMED.get(pair.slot, ())) == 1 else {}
    mentioned = {
        slot: found[0][0]
        for slot in OTHER
        if slot != pair.slot and len(found := _mentioned(pairs, pair, slot)) == 1
    }
    return own | mentioned


def two_questions(pairs: PairSet, seed: int = 0) -> list[tuple[SemanticPair, SemanticPair]]:
    """Couples of pairs whose clean images are the same picture, and which ask for different things.

    Where the set has several questions about one picture in one answer order, each two of them are
    a couple. Elsewhere the second question is built from the pair's own words (see above): the
    mentioned thing becomes its correct option, and the incorrect one is drawn, with the seed and
    the pair's id, from the words of the slot that are not in the prompt, not near-synonyms and not
    known to be in the picture. Of a built pair only the clean run means anything: its corrupt image
    still shows what the first question's incorrect option says.

    Returns:
        The couples, in the set's order. Pairs that give none are left out: questions about verbs,
        states and faces ask for one thing that no other word of their prompt names.
    """
    same: dict[tuple, list[SemanticPair]] = defaultdict(list)
    for pair in pairs:
        if len(NAMED.get(pair.slot, ())) == 1:
            same[pair.clean_image, pair.order].append(pair)
    couples: list[tuple[SemanticPair, SemanticPair]] = []
    for asked in same.values():
        if len(asked) > 1:
            couples += combinations(asked, 2)
        elif second := _second_question(pairs, asked[0], seed):
            couples.append((asked[0], second))
    return couples


def _second_question(pairs: PairSet, pair: SemanticPair, seed: int) -> SemanticPair | None:
    slot = OTHER.get(pair.slot, "")
    found = _mentioned(pairs, pair, slot)
    if len(found) != 1:
        return None
    ((word, span),) = found
    excluded = {word, *pair.shown} | words_of(pair.prompt) | pairs.near_synonyms.get(word, set())
    foils = [other for other in pairs.slots[slot] if other not in excluded]
    if not foils:
        return None
    rng = np.random.default_rng([seed, zlib.crc32(pair.pair_id.encode())])
    foil = foils[rng.integers(len(foils))]
    return replace(
        pair,
        pair_id=f"{pair.pair_id}-{slot}",
        slot=slot,
        prompt=_moved(pair, span, word, foil),
        correct=word,
        incorrect=foil,
        shown=(),
    )


def _moved(pair: SemanticPair, span: Span, word: str, foil: str) -> str:
    """The prompt with its options in the place of a mentioned word, and the correct option alone in
    theirs."""
    first, second = sorted((pair.spans.correct, pair.spans.incorrect))
    between = pair.prompt[first[1] : second[0]]
    options = (word, foil) if pair.order == "correct_first" else (foil, word)
    edits = [((first[0], second[1]), pair.correct), (span, between.join(options))]
    prompt = pair.prompt
    for (start, end), text in sorted(edits, reverse=True):
        prompt = prompt[:start] + text + prompt[end:]
    return prompt


def _mentioned(pairs: PairSet, pair: SemanticPair, slot: str) -> list[tuple[str, Span]]:
    """The words of a slot that the prompt has outside its options, and where."""
    first, second = sorted((pair.spans.correct, pair.spans.incorrect))
    return [
        (word, span)
        for word in pairs.slots.get(slot, ())
        for span in word_spans(pair.prompt, word)
        if span[1] <= first[0] or span[0] >= second[1]
    ]
