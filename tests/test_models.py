"""The adapters over the two minis: what goes in, which token is what, and what comes out."""

import pandas as pd
import pytest
import torch

from notice_lib import NoticeError, load_model, load_pairs, run_inputs, site_grid, sweep
from notice_lib.models import answered_correctly, answers
from notice_lib.models.answers import RUNS
from notice_lib.patching import reference
from notice_lib.patching.runs import check_lengths
from notice_lib.patching.table import PATCHED_DTYPES, RUNS_DTYPES

MINIS = ("blip-mini", "llava-mini")


@pytest.fixture(scope="module", params=MINIS)
def model(request):
    return load_model(request.param, device="cpu")


@pytest.fixture(scope="module")
def blip():
    return load_model("blip-mini", device="cpu")


@pytest.fixture(scope="module")
def llava():
    return load_model("llava-mini", device="cpu")


def a_pair(task, slot, order="correct_first"):
    pairs = load_pairs(task).filter(lambda pair: (pair.slot, pair.order) == (slot, order))
    return pairs[0]


def text_roles(model, pair):
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    roles = model.roles(inputs, pair.spans)
    return [role for role in roles if role != "image"], roles


SUBJECT = "before before correct or between incorrect after after after after"
VERB = "before before before correct or incorrect after after after"
OBJECT = "before before before before before correct or between incorrect after"
STATE = "before before before correct or incorrect after"
FACE = "before before before before correct or incorrect after"


@pytest.mark.parametrize(
    ("task", "slot", "expected"),
    [
        ("svo", "subject", SUBJECT),
        ("svo", "verb", VERB),
        ("svo", "object", OBJECT),
        ("states", "colour", STATE),
        ("faces", "emotion", FACE),
    ],
)
def test_every_token_has_its_role(blip, llava, task, slot, expected):
    pair = a_pair(task, slot)
    swapped = a_pair(task, slot, "incorrect_first")
    there = str.maketrans({"\0": "correct"})
    mirrored = expected.replace("incorrect", "\0").replace("correct", "incorrect").translate(there)
    for one, roles in ((pair, expected.split()), (swapped, mirrored.split())):
        assert text_roles(blip, one)[0] == ["start", *roles, "last"]
        text, every = text_roles(llava, one)
        middle = [role for role in text if role not in ("start", "end", "last")]
        assert middle == roles
        assert text == sorted(text, key=lambda role: {"start": 0, "end": 2, "last": 3}.get(role, 1))
        assert every.count("image") == llava.grid**2
        assert every[-1] == "last"


def test_the_roles_stand_at_the_words(model):
    pair = a_pair("svo", "subject")
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    roles = model.roles(inputs, pair.spans)
    for role, word in (("correct", pair.correct), ("incorrect", pair.incorrect), ("or", "or")):
        tokens = [inputs.tokens[i] for i in range(len(inputs)) if roles[i] == role]
        assert len(tokens) == 1
        assert word in tokens[0].lower()


def test_logits_are_those_of_the_plain_hugging_face_classes(blip, llava):
    pair = a_pair("states", "colour")
    image = pair.image("clean")
    encoded = blip.processor(images=image, text=pair.prompt, return_tensors="pt")
    generated = blip.model.generate(
        **encoded, max_new_tokens=1, return_dict_in_generate=True, output_scores=True
    )
    ours = blip.logits(blip.inputs(image, pair.prompt))
    torch.testing.assert_close(ours, generated.scores[0][0], rtol=0, atol=1e-5)
    text = f"USER: <image>\n{pair.prompt} ASSISTANT:"
    encoded = llava.processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        theirs = llava.model(**encoded).logits[0, -1]
    ours = llava.logits(llava.inputs(image, pair.prompt))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_answers_are_told_apart_at_their_first_different_token(model):
    prompt = "Is this bottle red or blue?"
    tokens = model.answer_tokens(prompt, "red", "blue")
    assert tokens.prefix == ()
    assert (tokens.correct, tokens.incorrect) == (
        model.answer_ids(prompt, "red")[0],
        model.answer_ids(prompt, "blue")[0],
    )
    shared = model.answer_tokens(prompt, "qqz", "qqx")
    assert shared.prefix == tuple(model.answer_ids(prompt, "qqz")[: len(shared.prefix)]) != ()
    with pytest.raises(NoticeError, match="cannot tell the answers 'qq' and 'qqz' apart"):
        model.answer_tokens(prompt, "qq", "qqz")


def test_a_shared_prefix_is_fed_to_the_model(model):
    """The logits behind a prefix are those that generation sees after it."""
    pair = a_pair("faces", "emotion")
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    first = model.logits(inputs).argmax().item()
    second = model.logits(inputs, (first,)).argmax().item()
    expected = model.processor.decode([first, second], skip_special_tokens=True)
    assert second != first
    assert model.generate(inputs, max_new_tokens=2) == expected.strip().lower()


def test_answers_has_a_row_a_pair(model):
    pairs = load_pairs("faces", n=6)
    table = answers(model, pairs)
    assert table["pair_id"].tolist() == [pair.pair_id for pair in pairs]
    assert (table["is_correct"] == (table["answer"] == table["expected"])).all()
    prefers = table["logit_correct"] > table["logit_incorrect"]
    assert table["is_preferred"].tolist() == prefers.tolist()
    assert (table["starts_as_scored"] >= table["is_correct"]).all()
    corrupt = answers(model, pairs, run="corrupt")
    assert corrupt["expected"].tolist() == [pair.incorrect for pair in pairs]


@pytest.mark.parametrize("task", ["svo", "states", "faces"])
def test_the_minis_are_right_through_load_model(model, task):
    """A sample of what tests/test_checkpoints.py asks in full."""
    pairs = load_pairs(task).filter(lambda pair: pair.split == "heldout" and not pair.distractor)
    assert answers(model, pairs.sample(60))["is_correct"].mean() >= 0.97


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_the_sweep_is_the_plain_way(model, corruption, direction):
    pairs = load_pairs("svo", n=3)
    sites = site_grid(model, layers=[0, model.n_layers - 1], position="correct")
    sites += site_grid(model, ["self_attention"], layers=[2], per_head=True, position="last")
    settings = {"corruption": corruption, "direction": direction}
    fast = sweep(model, pairs, sites, **settings)
    slow = sweep(model, pairs, sites, **settings, engine=reference.patch)
    assert len(fast.patched) == len(pairs) * len(sites)
    assert fast.patched.dtypes.astype(str).to_dict() == PATCHED_DTYPES
    assert fast.runs.dtypes.astype(str).to_dict() == RUNS_DTYPES
    pd.testing.assert_frame_equal(fast.patched, slow.patched, rtol=0, atol=1e-4)
    pd.testing.assert_frame_equal(fast.runs, slow.runs, rtol=0, atol=1e-4)
    same = fast.runs["clean_prompt"] == fast.runs["corrupt_prompt"]
    assert same.all() if corruption == "image" else not same.any()
    base = {"denoise": "corrupt", "noise": "clean"}[direction]
    assert fast.table()["base_logit_correct"].equals(fast.table()[f"{base}_logit_correct"])


def test_text_corruption_keeps_every_position(model):
    pairs = load_pairs("states", n=8)
    for pair in pairs:
        clean, corrupt, prompt = run_inputs(model, pairs, pair, "text")
        changed = [i for i in range(len(clean)) if clean.input_ids[0, i] != corrupt.input_ids[0, i]]
        roles = model.roles(clean, pair.spans)
        assert {roles[i] for i in changed} == {"correct", "incorrect"}
        assert clean.pixel_values is corrupt.pixel_values
        assert not {pair.correct, pair.incorrect, *pair.shown} & set(prompt.rstrip("?").split())


def test_prompts_of_different_token_lengths_are_refused(model):
    pair = a_pair("states", "colour")
    image = pair.image("clean")
    short, long = (model.inputs(image, text) for text in (pair.prompt, f"Look! {pair.prompt}"))
    with pytest.raises(NoticeError, match=f"Pair {pair.pair_id}: the clean prompt has"):
        check_lengths(short, long, pair.pair_id)


def test_the_model_is_loaded_in_float32_without_torchvision(model):
    assert model.dtype == torch.float32
    assert "pil" in type(model.processor.image_processor).__name__.lower()


def test_each_question_about_a_picture_is_asked_once(blip, monkeypatch):
    """Those answered correctly are as `answers` tells; pairs of a scene share their questions."""
    lures = load_pairs("states").filter(lambda pair: pair.distractor)
    chosen = {pair.scene_id for pair in lures.sample(4)}
    pairs = lures.filter(lambda pair: pair.scene_id in chosen)
    right = [answers(blip, pairs, run).set_index("pair_id")["is_correct"] for run in RUNS]
    asked, generate = [], blip.generate_ids
    monkeypatch.setattr(blip, "generate_ids", lambda *given: asked.append(1) or generate(*given))
    kept = {pair.pair_id for pair in answered_correctly(blip, pairs)}
    assert kept == set(right[0].index[right[0] & right[1]]) and 0 < len(kept) < len(pairs)
    assert len(asked) <= len(pairs)
