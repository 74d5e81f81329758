"""The renderer: pure, exact, and the one that made the stored pictures."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from PIL import Image
from test_embedded_data import FOLDER, SETS

from tools import scenes
from tools.build_embedded import digest, pictures, plan, stored_digest
from tools.scenes.canvas import Layer, composite, footprint


def some(family, n=12, distractor=False, seed=0):
    rng = np.random.default_rng(seed)
    return [scenes.sample(family, rng, distractor=distractor) for _ in range(n)]


@pytest.mark.parametrize("family", scenes.FAMILIES)
def test_a_render_is_a_pure_function_of_the_scene(family):
    for scene in some(family):
        first, masks = scenes.render(scene)
        second, again = scenes.render(replace(scene))
        assert first.shape == (scenes.SIZE, scenes.SIZE, 3) and first.dtype == np.uint8
        np.testing.assert_array_equal(first, second)
        assert masks.keys() == again.keys() <= set(scenes.ROLES)
        for name in masks:
            np.testing.assert_array_equal(masks[name], again[name])


@pytest.mark.parametrize("family", scenes.FAMILIES)
def test_samples_repeat_with_the_seed_and_cannot_be_changed(family):
    assert some(family, seed=3) == some(family, seed=3) != some(family, seed=4)
    with pytest.raises(FrozenInstanceError):
        some(family)[0].background = 1


@pytest.mark.parametrize("family", scenes.FAMILIES)
def test_every_word_changes_the_picture_inside_the_mask_only(family):
    for scene in some(family, 4):
        image, _ = scenes.render(scene)
        for word in scenes.options(scene):
            other = scenes.replace(scene, scene.slot, word)
            changed = (scenes.render(other)[0] != image).any(-1)
            assert changed.any()
            assert not (changed & ~scenes.differs(scene, other)).any(), (scene, word)


@pytest.mark.parametrize("family", scenes.DISTRACTOR_FAMILIES)
def test_swap_exchanges_two_things(family):
    for scene in some(family, distractor=True):
        other = scenes.swap(scene)
        assert scenes.swap(other) == scene
        assert scenes.shown(scene, scene.slot) == scenes.shown(other, other.slot)
        assert scenes.value(other) in scenes.shown(scene, scene.slot) - {scenes.value(scene)}
        assert scenes.value(other) not in scenes.options(scene)


def test_an_equal_scene_differs_nowhere():
    for family in scenes.FAMILIES:
        for scene in some(family, 3):
            assert not scenes.differs(scene, replace(scene)).any()


@pytest.mark.parametrize("family", scenes.FAMILIES)
def test_splits_are_disjoint(family):
    rng = np.random.default_rng(1)
    for split in ("seen", "heldout"):
        for _ in range(50):
            assert scenes.sample(family, rng, split=split).split == split


def test_held_out_words_are_seen_in_other_compositions():
    for noun in scenes.NOUNS:
        held = scenes.states.HELDOUT[noun]
        assert len(set(held)) == 4 and set(held) <= set(scenes.states.SLOT)
    for state in scenes.states.SLOT:
        held = sum(state in states for states in scenes.states.HELDOUT.values())
        assert 3 <= held <= 5


def test_faces_have_no_distractors():
    with pytest.raises(ValueError, match="no distractors"):
        scenes.sample("faces", np.random.default_rng(0), distractor=True)


def test_footprint_is_where_compositing_can_change_a_pixel():

    layer = Layer((), Image.new("RGBA", (8, 4), (255, 0, 0, 9)), (-3, scenes.SIZE - 2))
    before = Image.new("RGB", (scenes.SIZE, scenes.SIZE))
    changed = composite(before, [layer]).any(-1)
    np.testing.assert_array_equal(changed, footprint(layer))
    assert changed.sum() == 5 * 2


@pytest.mark.parametrize("name", SETS)
def test_stored_pictures_are_rendered_again_to_the_pixel(name):
    for pair in plan(name)[::12]:
        for side, (image, flags) in pictures(pair, exact=name != "natural").items():
            stored = FOLDER / name / "images" / f"{pair.scene_id}-{side}.webp"
            assert digest(Image.fromarray(image)) == stored_digest(stored), pair.scene_id
            stored = FOLDER / name / "masks" / f"{pair.scene_id}-{side}.png"
            assert digest(Image.fromarray(flags)) == stored_digest(stored), pair.scene_id
