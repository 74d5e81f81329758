"""Suppression of the distractor, and which scenes it compares, on heads whose truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted_heads import (
    AVOIDS,
    AVOIDS_UNHEARD,
    GROUNDS,
    NEEDED,
    STARES,
    Planted,
    exchanged,
    planted_pairs,
)

from notice_lib import PairSet, Site, ablate, load_pairs
from notice_lib.heads import as_units, distractor_suppression, gather, matched_scenes
from notice_lib.heads.chosen import THINGS
from notice_lib.pairs.masks import read_masks, write_masks

SCENES = 14
HEADS = [(0, h) for h in (AVOIDS, AVOIDS_UNHEARD, NEEDED, GROUNDS)]


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> PairSet:
    """As many scenes with a bystander as without."""
    return planted_pairs(tmp_path_factory.mktemp("planted"), SCENES, SCENES)


@pytest.fixture(scope="module")
def suppressed(planted, pairs):
    return distractor_suppression(planted, pairs, HEADS).set_index("head")


def test_the_head_that_avoids_the_distractor_and_is_needed_suppresses_it(suppressed):
    expected = {AVOIDS: "yes", AVOIDS_UNHEARD: "no", NEEDED: "no", GROUNDS: "no"}
    assert suppressed["suppresses"].to_dict() == expected
    passed = suppressed[["p_away", "p_more"]] <= 0.05 / 4
    assert passed.loc[AVOIDS_UNHEARD].tolist() == [True, False]
    assert passed.loc[NEEDED].tolist() == [False, True]
    assert suppressed.loc[AVOIDS, "attention_distractor"] == pytest.approx(0, abs=1e-6)
    assert suppressed.loc[AVOIDS_UNHEARD, "more"] == pytest.approx(0, abs=1e-12)
    difference = suppressed["loss_two"] - suppressed["loss_one"]
    assert difference.to_numpy() == pytest.approx(suppressed["more"].to_numpy())


def test_with_other_scenes_masks_nothing_suppresses(planted, pairs):
    heads = [(0, h) for h in range(6)]
    for seed in range(2):
        table = distractor_suppression(planted, pairs, heads, masks="shuffled", seed=seed)
        assert "yes" not in set(table["suppresses"])


def test_what_a_head_is_worth_counts_in_parts_of_the_answers_size(planted, pairs, suppressed):
    """A loss that is a little above the least cost counts, and one a little below does not. The
    size is above zero where the model is wrong, too."""
    head = suppressed.loc[AVOIDS]
    part = head["more"] / ((head["L_two"] + head["L_one"]) / 2)
    for factor, passes in ((0.99, True), (1.01, False)):
        found = distractor_suppression(planted, pairs, [(0, AVOIDS)], least_cost=factor * part)
        assert (found["p_more"].item() < 1) == passes
    found = distractor_suppression(planted, exchanged(pairs), [(0, AVOIDS)])
    assert found["L_two"].item() < 0 and found["L_one"].item() < 0
    assert found["suppresses"].item() == "no"


def test_background_is_what_shows_no_thing_at_all(planted, pairs):
    """A head that stares at all things alike gives none to the background."""
    found = distractor_suppression(planted, pairs, [(0, STARES)])
    assert found["attention_background"].item() == pytest.approx(0, abs=1e-6)
    masks = [pair.patch_masks("clean", 8, 64) for pair in pairs if pair.distractor]
    sizes = [{name: own[name].sum() for name in THINGS} for own in masks]
    share = np.mean([own["distractor"] / sum(own.values()) for own in sizes])
    assert found["attention_distractor"].item() == pytest.approx(share, abs=1e-6)


def test_a_scene_whose_bystander_has_no_patches_of_its_own_is_left_out(planted, pairs, tmp_path):
    """In one scene the subject's mask is also the bystander's."""
    seen = next(pair for pair in pairs if pair.distractor)
    masks = read_masks(seen.clean_masks)
    write_masks(tmp_path / "masks.png", masks | {"distractor": masks["subject"]})
    hidden = tuple(
        replace(pair, clean_masks=tmp_path / "masks.png")
        if pair.scene_id == seen.scene_id
        else pair
        for pair in pairs
    )
    found = distractor_suppression(planted, replace(pairs, pairs=hidden), [(0, AVOIDS)])
    assert found["scenes"].item() == SCENES - 1
    assert found["attention_background"].notna().item()


def test_the_unit_of_verbs_is_the_question(planted, pairs):
    """Scenes that ask the same are one; here of two subjects, as if they were verbs."""
    verbs = replace(pairs, pairs=tuple(replace(pair, slot="verb") for pair in pairs))
    units = len({pair.scene_id for pair in as_units(verbs) if pair.distractor})
    assert units < SCENES
    assert distractor_suppression(planted, verbs, [(0, AVOIDS)])["scenes"].item() == units


def renamed(pairs: PairSet, names: dict[str, str]) -> PairSet:
    return replace(
        pairs,
        pairs=tuple(
            replace(pair, scene_id=names.get(pair.scene_id, pair.scene_id)) for pair in pairs
        ),
    )


def test_scenes_that_are_not_compared_have_no_part_in_anything(planted, pairs):
    """Four scenes without a bystander have no partner, and two have the name of a scene with one:
    the head's mean, which an ablation writes, is over the compared pairs alone."""
    fewer = pairs.filter(lambda pair: pair.scene_id < f"planted-{2 * SCENES - 4:03d}")
    both = {f"planted-{SCENES + i:03d}": f"planted-{i:03d}" for i in range(SCENES - 4)}
    fewer = renamed(fewer, both)
    found = distractor_suppression(planted, fewer, HEADS)
    assert (found["scenes"] == SCENES - 4).all()
    matched = matched_scenes(fewer)
    ones = {scene for scene, _ in matched.values()}
    assert ones < {pair.scene_id for pair in fewer if not pair.distractor}
    alone = fewer.filter(lambda pair: pair.distractor or pair.scene_id in ones)
    again = distractor_suppression(planted, alone, HEADS)
    means = ["attention_distractor", "loss_two", "loss_one", "more", "L_two", "L_one"]
    np.testing.assert_allclose(found[means], again[means], atol=1e-12)


def asked_twice(pairs: PairSet, which) -> PairSet:
    """With a second question, for the object, about the chosen scenes."""
    others = ("box", "car", "cart", "drum")
    more = []
    for pair in filter(which, pairs):
        thing = next(word for word in others if f" {word}?" in pair.prompt)
        foil = next(word for word in others if word != thing)
        options = (thing, foil) if pair.order == "correct_first" else (foil, thing)
        prompt = f"Is the {pair.correct} pushing the {options[0]} or the {options[1]}?"
        more.append(
            replace(
                pair, pair_id=f"{pair.pair_id}-object", slot="object", prompt=prompt,
                correct=thing, incorrect=foil, shown=(thing,),
            )
        )  # fmt: skip
    return replace(pairs, pairs=(*pairs.pairs, *more))


def test_only_the_slots_that_have_a_match_are_compared(planted, pairs, suppressed):
    """The scenes with a bystander are asked for their objects, too, and no others are."""
    more = asked_twice(pairs, lambda pair: pair.distractor)
    found = distractor_suppression(planted, more, HEADS).set_index("head")
    pd.testing.assert_frame_equal(found, suppressed)


def test_a_scene_in_two_slots_is_one_scene_with_a_match_in_each(planted, pairs):
    """Losses are means over a scene's slots, and there are more scenes without a bystander."""
    some = pairs.filter(lambda pair: pair.scene_id < f"planted-{2 * SCENES - 7:03d}")
    both = asked_twice(some, lambda pair: True)
    matched = matched_scenes(both)
    assert {two for two, _ in matched} == {pair.scene_id for pair in some if pair.distractor}
    assert len(matched) == 2 * 7
    ones = [scene for scene, _ in matched.values()]
    assert len(set(ones)) == len(ones) == 14  # none is a match twice
    assert all(one[1] == two[1] for two, one in matched.items())

    found = distractor_suppression(planted, both, HEADS).set_index("head")
    assert (found["scenes"] == 7).all()
    compared = {(True, *two) for two in matched} | {(False, *one) for one in matched.values()}
    kept = both.filter(lambda pair: (pair.distractor, pair.scene_id, pair.slot) in compared)
    sites = [Site("cross_attention", *head, "correct") for head in HEADS]
    table = gather([ablate(planted, kept, sites)]).astype({"slot": str, "scene_id": str})
    loss = -table.groupby(["head", "distractor"])["effect"].mean().unstack()
    assert found["loss_two"].to_dict() == pytest.approx(loss[True].to_dict())
    assert found["loss_one"].to_dict() == pytest.approx(loss[False].to_dict())


# Matches


def test_matches_are_alike_and_taken_once():
    svo = load_pairs("svo")
    first = {}
    for pair in as_units(svo):
        first.setdefault((pair.scene_id, pair.slot), pair)
    matched = matched_scenes(svo)
    assert set(matched) == {(pair.scene_id, pair.slot) for pair in as_units(svo) if pair.distractor}
    assert len(set(matched.values())) == len(matched)
    for two, one in matched.items():
        a, b = first[two], first[one]
        assert (a.task, a.slot, a.split) == (b.task, b.slot, b.split)
        assert a.distractor and not b.distractor

    def shared(two, one) -> int:
        return len({*first[two].prompt.split()} & {*first[one].prompt.split()})

    keys = list(matched.values())
    ones = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))]
    by_chance = np.mean([shared(two, one) for two, one in zip(matched, ones, strict=True)])
    assert np.mean([shared(*match) for match in matched.items()]) > by_chance + 0.5


def test_the_scenes_of_one_verb_are_one_unit():
    """Three scenes ask the same of two verbs, and so do three others: one unit, and one match."""
    svo = load_pairs("svo").filter(lambda pair: pair.slot == "verb")
    scenes = list(dict.fromkeys(pair.scene_id for pair in svo))[:6]
    some = [
        replace(pair, distractor=scenes.index(pair.scene_id) < 3, prompt=svo[0].prompt,
                correct=svo[0].correct, incorrect=svo[0].incorrect)
        for pair in svo
        if pair.scene_id in scenes and pair.order == svo[0].order
    ]  # fmt: skip
    ((two, one),) = matched_scenes(replace(svo, pairs=tuple(some))).items()
    assert two == one and two[0].startswith("svo: ")
