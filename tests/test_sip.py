"""Semantic image pairs from labelled images."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from notice_lib import LabelledImage, NoticeError, semantic_image_pairs

COLOURS = ("red", "crimson", "blue", "green")
TEXTURES = ("rusty", "striped")


def a_collection(n: int = 200, seed: int = 0) -> list[LabelledImage]:
    random = np.random.default_rng(seed)
    images = []
    for i in range(n):
        slot, words = (("colour", COLOURS), ("texture", TEXTURES))[random.integers(2)]
        noun = ("bottle", "shoe", "bell")[random.integers(3)]
        word = str(random.choice(words))
        images.append(LabelledImage(Path(f"images/{word} {noun}/{i}.jpg"), word, noun, slot))
    return images


def question(noun, first, second):
    return f"Is this {noun} {first} or {second}?"


def build(images, seed=0):
    return semantic_image_pairs(images, question, "states", {"crimson": ["red"]}, seed)


def test_each_pair_is_one():
    images = a_collection()
    pairs = build(images)
    label = {image.path: image for image in images}
    assert len(pairs) > 150
    for pair in pairs:
        clean, corrupt = label[pair.clean_image], label[pair.corrupt_image]
        assert (clean.rest, clean.slot) == (corrupt.rest, corrupt.slot)
        assert (pair.correct, pair.incorrect) == (clean.attribute, corrupt.attribute)
        assert {pair.correct, pair.incorrect} not in ({"red", "crimson"}, {"red"})
        first, second = pair.prompt.removesuffix("?").split()[-3::2]
        assert (first == pair.correct) == (pair.order == "correct_first")
        assert {first, second} == {pair.correct, pair.incorrect}


def test_no_duplicates_and_balanced_orders():
    pairs = build(a_collection())
    shown = [frozenset((pair.clean_image, pair.corrupt_image)) for pair in pairs]
    assert len(set(shown)) == len(shown)
    assert len({pair.clean_image for pair in pairs}) == len(pairs)
    for slot in ("colour", "texture"):
        orders = Counter(pair.order for pair in pairs if pair.slot == slot)
        assert abs(orders["correct_first"] - orders["incorrect_first"]) <= 1


def test_the_seed_decides_and_the_listing_order_does_not():
    images = a_collection()
    assert build(images).pairs == build(images[::-1]).pairs
    assert build(images).pairs != build(images, seed=1).pairs


def test_images_without_a_partner_are_left_out():
    images = [
        LabelledImage(Path("a"), "red", "bottle", "colour"),
        LabelledImage(Path("b"), "blue", "bottle", "colour"),
        LabelledImage(Path("c"), "blue", "shoe", "colour"),
        LabelledImage(Path("d"), "rusty", "shoe", "texture"),
    ]
    pairs = build(images)
    assert [{p.clean_image.name, p.corrupt_image.name} for p in pairs] == [{"a", "b"}]
    assert pairs.slots == {"colour": ("blue", "red"), "texture": ("rusty",)}
    with pytest.raises(NoticeError, match="No image has a partner"):
        build(images[2:])
    with pytest.raises(NoticeError, match="c is listed twice, as blue and red"):
        build([*images, LabelledImage(Path("c"), "red", "shoe", "colour")])


def test_a_path_may_be_text_and_a_label_must_be(tmp_path):
    image = LabelledImage("photos/a.png", "red", "", "colour")
    assert image.path == Path("photos/a.png")
    with pytest.raises(NoticeError, match=r"a\.png: attribute is 3, a int\. Give a text"):
        LabelledImage("photos/a.png", 3, "", "colour")


def test_near_synonyms_are_lists_of_words():
    with pytest.raises(NoticeError, match=r"of 'red' are the text 'pink'\. .*\['pink'\]"):
        semantic_image_pairs(a_collection(), question, "states", {"red": "pink"})


def test_ids_do_not_tell_where_the_images_lie():
    images = a_collection(40)
    moved = [replace(image, path=Path("/elsewhere") / image.path) for image in images]
    ids = [[pair.pair_id for pair in build(some)] for some in (images, moved)]
    assert ids[0] == ids[1]
