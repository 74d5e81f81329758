"""Grounding and the probe, on heads whose truth is known."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted_heads import (
    GROUNDS,
    STARES,
    UNHEARD,
    Planted,
    exchanged,
    planted_pairs,
)

from notice_lib import NoticeError, PairSet, load_model, load_pairs
from notice_lib.heads import (
    distractor_suppression,
    grounding,
    object_probe,
    two_questions,
)
from notice_lib.heads.conditions import VERDICTS, verdicts
from notice_lib.heads.questions import known_things
from notice_lib.models.answers import answers, score
from notice_lib.pairs.masks import write_masks
from notice_lib.pairs.prompts import words_of
from notice_lib.patching import Cut, answer_of, cut_jobs, cut_logits, engine

SCENES = 14


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> PairSet:
    return planted_pairs(tmp_path_factory.mktemp("planted"), SCENES, SCENES)


@pytest.fixture(scope="module")
def two_things(pairs):
    return pairs.filter(lambda pair: not pair.distractor)


@pytest.fixture(scope="module")
def grounded(planted, two_things):
    return by_head(grounding(planted, two_things, [(0, h) for h in (GROUNDS, STARES, UNHEARD)]))


def by_head(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("head")


def test_the_planted_model_answers(planted, two_things):
    table = answers(planted, two_things)
    assert (table["logit_correct"] > table["logit_incorrect"] + 1).all()


def test_the_planted_head_grounds_and_nothing_else_does(grounded):
    assert grounded["grounds"].to_dict() == {GROUNDS: "yes", STARES: "no", UNHEARD: "no"}
    assert (grounded["scenes"] == SCENES).all() and (grounded["query"] == "correct").all()


def test_each_planted_head_fails_the_condition_that_it_was_planted_to_fail(grounded):
    conditions = [f"p_{name}" for name in ("follows", "cut_asked", "over_other", "over_background")]
    passed = (grounded[conditions] <= 0.05 / 3).to_numpy().tolist()
    assert passed == [[True] * 4, [False, True, True, True], [True, False, False, False]]
    # All of GROUNDS' attention is on the asked thing, and all that it says of it is lost.
    head = grounded.loc[GROUNDS]
    assert head["follows"] == pytest.approx(2, abs=1e-5)
    assert head[["cut_other", "cut_background"]].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert grounded.loc[STARES, "follows"] == pytest.approx(0, abs=1e-12)
    assert grounded.loc[UNHEARD, "cut_asked"] == pytest.approx(0, abs=1e-12)


def test_with_other_scenes_masks_nothing_grounds(planted, two_things):
    heads = [(0, h) for h in range(6)]
    for seed in range(2):
        table = grounding(planted, two_things, heads, masks="shuffled", seed=seed)
        assert "yes" not in set(table["grounds"])


def test_attention_is_counted_by_equal_areas(grounded, two_things):
    """A head that stares gives every patch of the two things the same: the smaller thing counts as
    if it had the larger one's patches."""
    areas = [pair.patch_masks("clean", 8, 64) for pair in two_things]
    sizes = np.array([[own["subject"].sum(), own["object"].sum()] for own in areas])
    assert len({tuple(row) for row in sizes.tolist()}) == 2  # 4 and 4, or 4 and 6
    head = grounded.loc[STARES, ["attention_asked", "attention_other", "attention_background"]]
    as_large = (sizes.max(1) / sizes.sum(1)).mean()
    assert head.tolist() == pytest.approx([as_large, as_large, 0], abs=1e-6)


def test_cuts_are_of_equal_area_and_hold_the_whole_thing(planted, two_things, monkeypatch):
    module, cuts = sys.modules["notice_lib.heads.grounding"], []

    def heard(model, inputs, answer, heads, tokens, areas):
        cuts.append(areas)
        return cut_jobs(model, inputs, answer, heads, tokens, areas)

    monkeypatch.setattr(module, "cut_jobs", heard)
    grounding(planted, two_things, [(0, GROUNDS)])
    couples = two_questions(two_things)
    assert len(cuts) == 2 * len(couples)
    for number, (first, _) in enumerate(couples):
        masks = first.patch_masks("clean", 8, 64)
        things = [set(np.flatnonzero(masks[name]).tolist()) for name in ("subject", "object")]
        size = max(map(len, things))
        for (asked, other, background), order in zip(
            cuts[2 * number : 2 * number + 2], ([0, 1], [1, 0]), strict=True
        ):
            assert len(asked) == len(other) == len(background) == size
            for cut, thing in ((asked, order[0]), (other, order[1])):
                assert things[thing] == set(cut) & (things[0] | things[1])
            assert len(set(background)) == size and not set(background) & (things[0] | things[1])


def test_costs_count_in_parts_of_the_answers_size(planted, two_things, grounded):
    """A cut that costs a little more than the least cost counts, and one that costs a little less
    does not. The size is above zero where the model is wrong, too."""
    head = grounded.loc[GROUNDS]
    part = head["cut_asked"] / head["L"]
    for factor, passes in ((0.99, True), (1.01, False)):
        found = grounding(planted, two_things, [(0, GROUNDS)], least_cost=factor * part)
        assert (found["p_cut_asked"].item() < 1) == passes
    both = PairSet(tuple(pair for couple in two_questions(two_things) for pair in couple))
    found = grounding(planted, exchanged(both), [(0, GROUNDS)])
    assert found["L"].item() < 0 and found["grounds"].item() == "no"


def test_background_is_what_shows_no_thing_at_all(planted, pairs):
    """A head that stares at all things alike gives none to the background, also where a third thing
    stands by."""
    found = grounding(planted, pairs, [(0, STARES)])
    assert found["scenes"].item() == 2 * SCENES
    assert found["attention_background"].item() == pytest.approx(0, abs=1e-6)


def test_there_is_as_much_background_as_the_larger_thing_has(planted, two_things, tmp_path):
    """Of eight rows of patches, two and three are the things', so that three are left; or one and
    four, so that three are too few."""
    rows = np.arange(64)[:, None].repeat(64, 1)
    for name, (subject, thing) in {"enough": (2, 3), "too little": (1, 4)}.items():
        masks = {"subject": rows < 8 * subject - 2, "object": rows >= 64 - 8 * thing + 2}
        write_masks(tmp_path / f"{name}.png", masks)
    names = dict.fromkeys(pair.scene_id for pair in two_things)
    of = dict(zip(names, ["enough"] * 3 + ["too little"] * 3, strict=False))
    some = tuple(
        replace(pair, clean_masks=tmp_path / f"{of[pair.scene_id]}.png")
        for pair in two_things
        if pair.scene_id in of
    )
    found = grounding(planted, replace(two_things, pairs=some), [(0, GROUNDS)])
    assert found["scenes"].item() == 3


def test_too_few_scenes_are_said_to_be_too_few(planted, two_things):
    few = two_things.filter(lambda pair: pair.scene_id < "planted-006")
    table = grounding(planted, few, [(0, GROUNDS), (0, STARES)])  # six scenes: 2 ** -5 > .05 / 2
    assert table["grounds"].tolist() == ["not testable"] * 2 and (table["scenes"] == 6).all()
    assert grounding(planted, few, [(0, GROUNDS)])["grounds"].item() == "yes"
    with pytest.raises(NoticeError, match="2 scenes have the masks"):
        grounding(planted, few.filter(lambda pair: pair.scene_id < "planted-002"), [(0, GROUNDS)])


def test_results_depend_on_the_seed_alone(planted, two_things, grounded):
    again = by_head(grounding(planted, two_things, [(0, h) for h in (GROUNDS, STARES, UNHEARD)]))
    pd.testing.assert_frame_equal(again, grounded)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": []}, "No head was given"),
        ({"heads": [(0, 6)]}, "head=6.*0 to 5"),
        ({"heads": [(1, 0)]}, "Layer 1 is out of range"),
        ({"heads": [(0, 0)], "query": "noun"}, "A query is one of"),
        ({"heads": [(0, 0)], "masks": "none"}, "masks is 'own' or 'shuffled'"),
    ],
)
@pytest.mark.parametrize("measure", [grounding, distractor_suppression])
def test_what_cannot_be_measured_is_refused(planted, pairs, measure, arguments, message):
    with pytest.raises(NoticeError, match=message):
        measure(planted, pairs, **arguments)


def test_sets_without_two_questions_or_matches_are_refused(planted, pairs, two_things):
    without = replace(two_things, slots={})
    with pytest.raises(NoticeError, match="No two questions about one picture"):
        grounding(planted, without, [(0, 0)])
    with pytest.raises(NoticeError, match="No scene with a distractor has a match"):
        distractor_suppression(planted, two_things, [(0, 0)])
    with pytest.raises(NoticeError, match="No pair has a thing"):
        object_probe(planted, two_things.filter(lambda pair: False))


# Two questions


def test_a_question_is_turned_to_the_other_thing():
    svo = load_pairs("svo")
    couples = two_questions(svo)
    named = {pair.pair_id for pair in svo if pair.slot != "verb"}
    assert {first.pair_id for first, _ in couples} == named
    first, second = couples[0]
    assert first.prompt == "Is the cow or the turtle pushing the drum?"
    assert second.prompt == f"Is the cow pushing the drum or the {second.incorrect}?"
    assert (second.slot, second.correct) == ("object", "drum")
    for first, second in couples:
        assert second.clean_image == first.clean_image and second.order == first.order
        assert second.incorrect in svo.slots[second.slot]
        words, others = words_of(first.prompt), words_of(second.prompt)
        assert second.correct in words and first.correct in others
        assert second.incorrect not in words and first.incorrect not in others
        assert {first.slot, second.slot} == {"subject", "object"}
    assert two_questions(svo) == couples
    assert two_questions(svo, seed=1) != couples


def test_questions_that_the_set_has_are_taken_as_they_are():
    svo = load_pairs("svo").filter(lambda pair: pair.slot == "subject")
    built = two_questions(svo.sample(4))
    both = PairSet(tuple(pair for couple in built for pair in couple), svo.slots)
    assert two_questions(both) == built


def test_states_and_faces_have_no_second_question():
    assert two_questions(load_pairs("states")) == [] == two_questions(load_pairs("faces"))


def test_near_synonyms_are_no_options_of_one_question():
    svo = load_pairs("svo").filter(lambda pair: pair.slot == "subject")
    everything_but = frozenset(svo.slots["object"]) - {"car"}
    (first, second), *_ = two_questions(replace(svo, near_synonyms={"drum": everything_but}))
    assert first.prompt.endswith("the drum?") and second.incorrect == "car"
    none_left = replace(svo, near_synonyms={"drum": frozenset(svo.slots["object"])})
    assert all(b.correct != "drum" for _, b in two_questions(none_left))


def test_known_things_are_those_of_the_prompt():
    svo = load_pairs("svo")
    things = {pair.slot: known_things(svo, pair) for pair in svo}
    assert {slot: set(known) for slot, known in things.items()} == {
        "subject": {"subject", "object"},
        "object": {"subject", "object"},
        "verb": {"subject", "object"},
    }
    faces = load_pairs("faces")
    assert known_things(faces, faces[0]) == {"emotion": "surprised"}


# Cuts on real classes


@pytest.mark.parametrize(("name", "attention"), [("blip-mini", "eager"), ("llava-mini", "sdpa")])
def test_many_cuts_at_once_are_the_cuts_one_by_one(name, attention):
    model = load_model(name, device="cpu", dtype="float64", attention=attention, check=False)
    pair = load_pairs("svo")[0]
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    answer, heads = answer_of(model, pair), [(0, 1), (0, 2), (3, 1), (5, 3)]
    tokens, areas = (len(inputs) - 3, len(inputs) - 1), [(3, 4, 5), tuple(range(30, 50))]
    outcomes = engine.patch(model, cut_jobs(model, inputs, answer, heads, tokens, areas))
    for area, outcome in zip(areas, outcomes, strict=True):
        cuts = [Cut(layer, head, tokens, area) for layer, head in heads]
        alone = torch.stack([score(cut_logits(model, inputs, [cut]), answer) for cut in cuts])
        torch.testing.assert_close(outcome.patched, alone, atol=1e-11, rtol=0)
        plain = score(model.logits(inputs), answer)
        torch.testing.assert_close(outcome.base, plain, atol=1e-11, rtol=0)
        assert (alone[:, 0] - plain[0]).abs().min() > 1e-8


# The probe


def test_the_probe_reads_what_patches_show(planted, pairs):
    table = object_probe(planted, pairs)
    assert table["component"].unique().tolist() == ["vision_layer_output"]
    assert table["slot"].tolist() == ["subject", "object"]
    assert (table["accuracy"] == 1).all() and (table["p"] < 0.01).all()
    assert ((table["chance"] > 0.1) & (table["chance"] < 0.4)).all()  # four words


def test_the_probe_reads_nothing_where_the_layer_holds_nothing(planted, pairs, monkeypatch):
    tower = planted.model.tower
    shapes = tower.forward

    def anything(pixels):
        seeded = torch.Generator().manual_seed(int(pixels.sum()))
        return torch.rand(shapes(pixels).shape, generator=seeded).double()

    monkeypatch.setattr(tower, "forward", anything)
    table = object_probe(planted, pairs)
    assert (table["p"] > 0.05).all() and (table["accuracy"] < 0.6).all()


def test_scenes_of_the_test_are_not_trained_on(planted, two_things):
    """Where every scene has words of its own, nothing can be learned from the others."""
    words = {pair.scene_id: f"word{i}" for i, pair in enumerate(two_things)}
    renamed = tuple(
        replace(
            pair,
            pair_id=pair.pair_id,
            prompt=pair.prompt.replace(pair.correct, words[pair.scene_id]),
            correct=words[pair.scene_id],
        )
        for pair in two_things
    )
    table = object_probe(planted, PairSet(renamed), folds=2)
    assert table["accuracy"].tolist() == [0.0] and table["p"].item() == 1


def test_the_probe_of_llava_reads_the_tower_and_the_text():
    svo = load_pairs("svo").filter(lambda pair: pair.split == "heldout" and pair.slot == "subject")
    model = load_model("llava-mini", device="cpu", check=False)
    table = object_probe(model, svo, shuffles=50)
    layers = table[table["slot"] == "subject"].groupby("component", sort=False)["layer"].apply(list)
    six = list(range(6))
    assert layers.to_dict() == {"vision_layer_output": six, "layer_output": six}
    last = table[(table["component"] == "layer_output") & (table["layer"] == 5)]
    assert (last["accuracy"] > 0.5).all() and (last["chance"] < 0.2).all()
    with pytest.raises(NoticeError, match="cannot be cut into 100 folds"):
        object_probe(model, svo, folds=100)


# Verdicts


def simulated(rng, scenes, means, spread=1.0):
    return rng.normal(means, spread, (scenes, len(means)))


def test_verdicts_of_many_simulated_sets():
    """At most 5 % of the sets have a wrong yes, and at most 5 % a wrong no."""
    minima = {"a": 0.2, "b": 0.2}
    wrong_yes, wrong_no, right = 0, 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        conditions = {
            "a": simulated(rng, 24, [1.5, 1.5, 0.2, 0.2]),
            "b": simulated(rng, 24, [1.5, 0.2, 1.5, 0.2]),
        }
        found = verdicts(conditions, minima, seed)["verdict"].tolist()
        right += found[0] == "yes"
        wrong_yes += "yes" in found[1:]
        wrong_no += "no" in found
    assert wrong_yes <= 6 and wrong_no <= 6 and right >= 55


def test_verdicts_are_what_their_conditions_say():
    rng = np.random.default_rng(0)
    conditions = {
        "a": simulated(rng, 20, [1, 1, -1, 0.1], 0.1),
        "b": simulated(rng, 20, [1, 0.2, 1, 0.1], [0.1, 0.6, 0.1, 2]),
    }
    table = verdicts(conditions, {"a": 0.1, "b": 0.1})
    assert table["verdict"].tolist() == ["yes", "undecided", "no", "undecided"]
    assert table["p_a"].tolist()[2] == 1
    largest = table[["p_a", "p_b"]].max(axis=1)
    assert table["p"].tolist() == pytest.approx(np.minimum(1, 4 * largest).tolist())
    few = {name: values[:5] for name, values in conditions.items()}
    assert set(verdicts(few, {"a": 0.1, "b": 0.1})["verdict"]) == {"not testable"}
    assert set(table["verdict"]) <= set(VERDICTS.values())
    assert (table["needed"] >= 8).all()  # 1 + log2(4 / .05), rounded up
    with pytest.raises(NoticeError, match="minimum of 'a' is 0; it must be above 0"):
        verdicts(conditions, {"a": 0.0, "b": 0.1})
