"""What counts as answered correctly: the same words in another spelling, and nothing else."""

import warnings
from dataclasses import replace

import pytest

from notice_lib import NoticeError, PairSet, load_model, load_pairs
from notice_lib.models import answered_correctly, answers
from notice_lib.models.wording import is_option, normalised

PROMPT = "Is the ball red or light-blue?"


@pytest.fixture(scope="module", params=["blip-mini", "llava-mini"])
def model(request):
    return load_model(request.param, device="cpu", check=False)


@pytest.fixture(scope="module")
def blip():
    return load_model("blip-mini", device="cpu", check=False)


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("light - blue", "light-blue"),
        ("Light\u2011blue", "light blue"),
        ("green.", "green"),
        ("The green!", "green"),
        ("an apple", "Apple"),
        ("it ' s", "it's"),
        ("$ 1 , 000", "$1,000"),
        ("\u201cgreen\u201d", "green"),
        ("\uff47\uff52\uff45\uff45\uff4e", "green"),  # full width
        ("cafe\u0301", "caf\u00e9"),
        (" green \n", "green"),
        ("gr\u200been\ufeff", "green"),
    ],
)
def test_the_same_words_in_another_spelling_are_the_same(written, same):
    assert normalised(written) == normalised(same) != ""


@pytest.mark.parametrize(
    ("written", "other"),
    [("lightblue", "light-blue"), ("-5", "5"), ("c++", "c"), ("theatre", "atre"),
     ("a", ""), ("anna", "na"), ("not green", "green"), ("green or red", "green")],
)  # fmt: skip
def test_other_words_are_not(written, other):
    assert normalised(written) != normalised(other)


def coloured(correct: str, incorrect: str, n: int = 8) -> PairSet:
    """Pairs of embedded pictures whose options are these words, whatever the pictures show."""
    prompt = f"Is the ball {correct} or {incorrect}?"
    some = load_pairs("states").filter(lambda pair: pair.order == "correct_first")
    pictures, chosen = set(), []
    for pair in some:  # Each picture once, so that it shows one option.
        own = {pair.clean_image, pair.corrupt_image}
        if not own & pictures and len(chosen) < n:
            pictures |= own
            chosen.append(replace(pair, correct=correct, incorrect=incorrect, prompt=prompt))
    return PairSet(tuple(chosen), {chosen[0].slot: (correct, incorrect)}, {})


def let_say(model, pairs, monkeypatch, write):
    """Let the model write `write(the option that a picture shows)`, whatever it computes."""
    shown = {pair.image("clean").tobytes(): pair.correct for pair in pairs}
    shown |= {pair.image("corrupt").tobytes(): pair.incorrect for pair in pairs}
    inputs, last = model.inputs, []

    def remember(image, prompt):
        last[:] = [shown[image.tobytes()]]
        return inputs(image, prompt)

    def generate(given, max_new_tokens=8):
        ids = model.answer_ids(PROMPT, write(last[0]))
        return ids[:max_new_tokens]

    monkeypatch.setattr(model, "inputs", remember)
    monkeypatch.setattr(model, "generate_ids", generate)


@pytest.mark.parametrize(
    "options", [("light-blue", "red"), ("caf\u00e9", "bar"), ("it's", "that's")], ids=str
)
def test_a_model_that_is_always_right_keeps_all_its_pairs(model, monkeypatch, options):
    """BERT's decoder writes "light - blue" and "cafe"; an option may have more than 8 tokens."""
    pairs = coloured(*options)
    let_say(model, pairs, monkeypatch, lambda option: option)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(answered_correctly(model, pairs)) == len(pairs) == 8
    table = answers(model, pairs)
    assert table["is_correct"].all() and table["starts_as_scored"].all()


def test_a_correct_answer_that_begins_otherwise_is_counted_apart(model, monkeypatch):
    pairs = coloured("green", "red")
    let_say(model, pairs, monkeypatch, lambda option: f"the {option}.")
    with pytest.warns(UserWarning, match=r"In 8 of the 8 kept pairs.*'the green"):
        assert len(answered_correctly(model, pairs)) == 8
    table = answers(model, pairs)
    assert table["is_correct"].all() and not table["starts_as_scored"].any()


def test_if_few_are_kept_one_reads_what_was_said(model, monkeypatch):
    pairs = coloured("green", "red")
    let_say(model, pairs, monkeypatch, lambda option: f"{option} ball")
    with pytest.warns(UserWarning, match=r"0 of 8 pairs.*'green ball' for 'green' \(8 times\)"):
        assert len(answered_correctly(model, pairs)) == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_other_criterion_is_the_preferred_option(model):
    pairs = load_pairs("states").filter(lambda pair: pair.distractor).sample(40)
    tables = [answers(model, pairs, run).set_index("pair_id") for run in ("clean", "corrupt")]
    gaps = [table["logit_correct"] - table["logit_incorrect"] for table in tables]
    preferred = set(tables[0].index[(gaps[0] > 0) & (gaps[1] < 0)])
    kept = {pair.pair_id for pair in answered_correctly(model, pairs, by="preferred")}
    assert kept == preferred and 0 < len(kept) < len(pairs)
    with pytest.raises(NoticeError, match="by is 'generated' or 'preferred', not 'both'"):
        answered_correctly(model, pairs, by="both")


def test_options_that_the_rule_makes_equal_are_compared_as_they_are(blip):
    assert is_option(blip, PROMPT, "the green", "the green", "green")
    assert not is_option(blip, PROMPT, "green", "the green", "green")
    assert not is_option(blip, PROMPT, "", "green", "red")


def test_no_pairs_are_no_error(blip):
    none = load_pairs("faces").filter(lambda pair: False)
    assert len(answered_correctly(blip, none)) == 0
