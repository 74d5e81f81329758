"""Symmetric token replacement, with a tokenizer that splits some words in two."""

from dataclasses import replace
from itertools import permutations, product

import pytest
from test_pairs import a_pair

from notice_lib import NoticeError, PairSet, replace_tokens
from notice_lib.pairs import symmetric
from notice_lib.pairs.prompts import option_spans

WORDS = ("red", "blue", "green", "pink", "grey", "crimson", "violet", "white")
NEAR = {"red": frozenset({"pink"}), "pink": frozenset({"red"}), "grey": frozenset({"white"})}
NEAR["white"] = frozenset({"grey"})


def layout(prompt, spans):
    """Words of more than five letters are two tokens."""
    roles = []
    for span, role in zip(spans, ("correct", "incorrect", "or"), strict=True):
        roles.append((span[0], [role] * (2 if span[1] - span[0] > 5 else 1)))
    return [role for _, token in sorted(roles) for role in token]


def a_set(words=WORDS, near=NEAR, **changes) -> PairSet:
    pairs = (a_pair("p1", **changes), a_pair("p2", **changes))
    return PairSet(pairs, {"colour": tuple(words)}, near)


def words_in(prompt):
    first, _, second = prompt.removesuffix("?").split()[-3:]
    return first, second


def test_every_draw_keeps_the_rules():
    pairs = a_set()
    drawn = {words_in(replace_tokens(pairs[0], pairs, layout, seed)) for seed in range(200)}
    # pink is near red, violet and crimson are two tokens, grey and white are near each other
    allowed = {"green", "grey", "white"}
    expected = {(a, b) for a, b in product(allowed, allowed) if a != b} - {
        ("grey", "white"),
        ("white", "grey"),
    }
    assert drawn == expected


def test_words_that_are_true_or_in_the_prompt_are_never_drawn():
    pairs = a_set(shown=("red", "blue", "green"), near={})
    drawn = {words_in(replace_tokens(pairs[0], pairs, layout, seed)) for seed in range(100)}
    assert {word for two in drawn for word in two} == {"pink", "grey", "white"}
    pairs = a_set(near={}, prompt="Is this white bottle red or blue?")
    drawn = {words_in(replace_tokens(pairs[0], pairs, layout, seed)) for seed in range(100)}
    assert "white" not in {word for two in drawn for word in two}


def test_long_words_are_replaced_by_long_words():
    pairs = a_set(
        words=(*WORDS, "orange"),
        correct="crimson",
        prompt="Is this bottle crimson or blue?",
        shown=("crimson", "blue"),
    )
    for seed in range(20):
        prompt = replace_tokens(pairs[0], pairs, layout, seed)
        first, second = words_in(prompt)
        assert first in ("violet", "orange")
        assert len(second) < 6
        assert prompt == f"Is this bottle {first} or {second}?"
        assert layout(prompt, option_spans(prompt, first, second)) == ["correct"] * 2 + [
            "or",
            "incorrect",
        ]


def test_a_draw_depends_on_the_pair_and_the_seed_alone():
    pairs = a_set(near={})
    alone = replace(pairs, pairs=pairs.pairs[:1])
    for seed in range(10):
        one = replace_tokens(pairs[0], pairs, layout, seed)
        assert one == replace_tokens(pairs[0], alone, layout, seed)
    both = [[replace_tokens(p, pairs, layout, seed) for seed in range(10)] for p in pairs]
    assert both[0] != both[1]


def test_a_pair_without_replacement_is_named():
    pairs = a_set(words=("red", "blue", "green", "crimson", "violet"))
    with pytest.raises(NoticeError, match=r"Pair p1: no two words of the slot 'colour'"):
        replace_tokens(pairs[0], pairs, layout)


def test_a_word_in_another_case_is_the_same_word():
    pairs = a_set(("red", "blue", "Red", "BLUE", "green", "Green", "white"), {})
    drawn = {words_in(replace_tokens(pairs[0], pairs, layout, seed)) for seed in range(100)}
    assert {word.lower() for two in drawn for word in two} == {"green", "white"}
    assert all(first.lower() != second.lower() for first, second in drawn)


def test_answers_of_several_words_and_what_is_near_them_are_never_drawn():
    """Such an answer is none of the words of the prompt, and `shown` need not have it."""
    near = {"sky blue": {"ice blue"}, "dark red": {"deep red"}}
    pairs = a_set(
        (
            "sky blue",
            "ice blue",
            "hot pink",
            "dark red",
            "Dark Red",
            "deep red",
            "pale grey",
            "jet black",
        ),
        {word: frozenset(others) for word, others in symmetric(near).items()},
        correct="sky blue",
        incorrect="dark red",
        prompt="Is this sky blue or dark red?",
        shown=("Hot Pink",),
    )
    prompts = {replace_tokens(pairs[0], pairs, layout, seed) for seed in range(20)}
    assert prompts == {f"Is this {a} or {b}?" for a, b in permutations(("pale grey", "jet black"))}
