"""Options are found by characters, and as whole words."""

import pytest

from notice_lib import NoticeError
from notice_lib.pairs.prompts import option_spans, replace_options, words_of


def texts(prompt, correct, incorrect):
    return [prompt[a:b] for a, b in option_spans(prompt, correct, incorrect)]


def test_options_and_the_or_between():
    assert texts("Is the Dog or the goat pulling the car?", "goat", "dog") == ["goat", "Dog", "or"]


def test_a_word_inside_another_is_not_an_option():
    """The published code finds "man" in "woman"."""
    prompt = "Is the woman or the man chasing the manor?"
    spans = option_spans(prompt, "man", "woman")
    assert spans.correct == (20, 23)
    assert spans.incorrect == (7, 12)


def test_options_are_the_nearest_pair_around_an_or():
    prompt = "Is the dog pulling the car or the dog?"
    assert option_spans(prompt, "dog", "car").correct == (34, 37)


@pytest.mark.parametrize(
    "prompt", ["Is the dog happy?", "Is it a dog, a goat?", "Is it a dogs or goat?", ""]
)
def test_a_prompt_without_the_options_is_refused(prompt):
    with pytest.raises(NoticeError, match="does not offer 'dog' or 'goat'"):
        option_spans(prompt, "dog", "goat")


@pytest.mark.parametrize("correct", ["dog", "goat"])
def test_replacing_keeps_everything_else(correct):
    prompt = "Is the dog or the goat pulling the dog?"
    incorrect = {"dog": "goat", "goat": "dog"}[correct]
    spans = option_spans(prompt, correct, incorrect)
    new = replace_options(prompt, spans, "elephant", "cow")
    expected = {
        "dog": "Is the elephant or the cow pulling the dog?",
        "goat": "Is the cow or the elephant pulling the dog?",
    }
    assert new == expected[correct]


def test_words():
    assert words_of("Is THIS bottle-opener élan?") == {"is", "this", "bottle", "opener", "élan"}
