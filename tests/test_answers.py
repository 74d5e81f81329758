"""What counts as answered correctly: the same words in another spelling, and nothing else."""

import warnings
from dataclasses import replace

import pytest

from notice_lib import NoticeError, PairSet, load_model, load_pairs
from notice_lib.datasets.build import select
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
        ("it\u2019s", "it's"),
        ("it\u00b4s", "it's"),
        ("l\u2019eau", "l'eau"),
        ("l \u02bc eau", "l'eau"),
        ("- green", "green"),
        ("\u2022 Green", "green"),
        ("(green)", "green"),
        ("[The green.]", "green"),
        ("(green).", "green"),
        ("green\u3002", "green"),
        ("\u201egreen\u201c", "green"),
        ("gr\u200been\ufeff", "green"),
        ("\u200dlight\u00adblue", "lightblue"),
        ("STRASSE", "stra\u00dfe"),
    ],
)
def test_the_same_words_in_another_spelling_are_the_same(written, same):
    assert normalised(written) == normalised(same) != ""


@pytest.mark.parametrize(
    ("written", "other"),
    [("lightblue", "light-blue"), ("-5", "5"), ("- 5", "5"), ("f(x)", "fx"), ("it's", "its"),
     ("c++", "c"), ("theatre", "atre"),
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


def test_an_answer_is_written_to_its_end_where_the_option_is_longer(model, monkeypatch):
    """The option alone has more than 8 tokens, and the article comes before it."""
    options = "light-blue-green-red-grey-pink", "red"
    pairs = coloured(*options)
    longest = max(len(model.answer_ids(pairs[0].prompt, option)) for option in options)
    assert longest > 8
    let_say(model, pairs, monkeypatch, lambda option: f"the {option}")
    assert answers(model, pairs)["is_correct"].all()


def test_one_picture_is_asked_in_either_order_of_the_options(blip, monkeypatch):
    """The answer to one question is not taken for that to the other."""
    (pair, *_) = coloured("green", "red", 1)
    swapped = replace(pair, pair_id="swapped", order="incorrect_first",
                      prompt="Is the ball red or green?")  # fmt: skip
    monkeypatch.setattr(
        blip,
        "generate_ids",
        lambda given, limit=8: blip.answer_ids(
            PROMPT, "green" if given.tokens.index("green") < given.tokens.index("red") else "red"
        ),
    )
    pairs = PairSet((pair, swapped), {pair.slot: ("green", "red")}, {})
    assert answers(blip, pairs)["answer"].tolist() == ["green", "red"]


def test_if_few_are_kept_one_reads_what_was_said(model, monkeypatch):
    pairs = coloured("green", "red")
    let_say(model, pairs, monkeypatch, lambda option: f"{option} ball")
    with pytest.warns(UserWarning, match=r"0 of 8 pairs.*'green ball' for 'green' \(8 times\)"):
        assert len(answered_correctly(model, pairs)) == 0


def test_if_none_of_a_few_is_kept_one_reads_what_was_said(model, monkeypatch):
    pairs = coloured("green", "red", 7)
    let_say(model, pairs, monkeypatch, lambda option: f"{option} ball")
    with pytest.warns(UserWarning, match=r"0 of 7 pairs.*'green ball' for 'green' \(7 times\)"):
        assert len(answered_correctly(model, pairs)) == 0


def wrong_but_for(pair, model, monkeypatch):
    """Let the model say "ball" about every picture that is not one of the pair's."""
    known = {pair.image(run).tobytes() for run in ("clean", "corrupt")}
    inputs, generate, last = model.inputs, model.generate_ids, []

    def remember(image, prompt):
        last[:] = [image.tobytes()]
        return inputs(image, prompt)

    def answer(given, limit=8):
        return generate(given, limit) if last[0] in known else model.answer_ids(PROMPT, "ball")

    monkeypatch.setattr(model, "inputs", remember)
    monkeypatch.setattr(model, "generate_ids", answer)


def test_of_a_few_a_small_share_is_kept_in_silence(model, monkeypatch):
    pairs = coloured("green", "red", 7)
    let_say(model, pairs, monkeypatch, lambda option: option)
    wrong_but_for(pairs[0], model, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(answered_correctly(model, pairs)) == 1


def in_either_order(pairs):
    """The pairs, and as many with the options in the other order."""
    more = [
        replace(pair, pair_id=f"{pair.pair_id}-swapped", order="incorrect_first",
                prompt=f"Is the ball {pair.incorrect} or {pair.correct}?") for pair in pairs
    ]  # fmt: skip
    return PairSet((*pairs, *more), pairs.slots, {})


@pytest.mark.parametrize("n", [4, 12])
def test_a_selection_warns_once_for_all_that_was_drawn(model, monkeypatch, n):
    pairs = in_either_order(coloured("green", "red", 12))
    let_say(model, pairs, monkeypatch, lambda option: f"the {option}")
    with pytest.warns(UserWarning) as told:
        sample, _ = select(pairs, model, n=n)
    assert len(sample) == n
    (warning,) = [str(one.message) for one in told]
    assert f"In {n} of the {n} kept pairs" in warning
    assert told[0].filename == __file__


def test_a_selection_that_keeps_few_warns_over_all_its_rounds(model, monkeypatch):
    """One pair's pictures are answered correctly, whichever round it is drawn in."""
    pairs = in_either_order(coloured("green", "red", 12))
    let_say(model, pairs, monkeypatch, lambda option: option)
    wrong_but_for(pairs[0], model, monkeypatch)
    with pytest.warns(UserWarning) as told:
        sample, steps = select(pairs, model, n=4)
    assert len(sample) == 2 and steps[1][1] == 24
    (warning,) = [str(one.message) for one in told]
    assert "2 of 24 pairs" in warning and "'ball' for 'green'" in warning


def test_a_selection_of_nothing_says_what_the_model_said(model, monkeypatch):
    pairs = in_either_order(coloured("green", "red", 4))
    let_say(model, pairs, monkeypatch, lambda option: f"{option} ball")
    said = r"No pair is left: .*with both images\. It said '(green|red) ball' for '\w+' \(8 times\)"
    with pytest.raises(NoticeError, match=said):
        select(pairs, model, n=4)
    with pytest.raises(NoticeError, match="by is 'generated' or 'preferred', not 'both'"):
        select(pairs, model, by="both")


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
    assert is_option(blip, PROMPT, "the green", "The green", "green")
    assert is_option(blip, PROMPT, "strasse", "Strasse", "stra\u00dfe")
    assert not is_option(blip, PROMPT, "strasse", "stra\u00dfe", "Strasse")
    assert not is_option(blip, PROMPT, "green", "the green", "green")
    assert not is_option(blip, PROMPT, "", "green", "red")
    assert not is_option(blip, PROMPT, "", "?", "red")


def test_no_pairs_are_no_error(blip):
    none = load_pairs("faces").filter(lambda pair: False)
    assert len(answered_correctly(blip, none)) == 0
