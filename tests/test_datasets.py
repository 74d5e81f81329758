"""From scenes to a set on disk with its card: built, selected, written."""

import csv
import hashlib
import re
import warnings
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from layouts import a_picture, first_option, write_folders
from PIL import Image

from notice_lib import LabelledImage, NoticeError, PairSet, load_model, load_pairs
from notice_lib.corruption.sip import Scene, pairs_of
from notice_lib.datasets.build import Built, Source, select
from notice_lib.datasets.card import funnel, write_card, write_set
from notice_lib.datasets.labelled import build_pairs
from notice_lib.models import answered_correctly

SOURCE = Source("a test", "Nobody (2000)", "https://example.org", "Free.")
WORDS = {"subject": ["cat", "dog", "goat"], "verb": ["pulling", "pushing"]}


def a_scene(number: int, slot="subject", answers=("cat", "dog"), task="svo") -> Scene:
    one, other = answers
    return Scene(
        f"{task}-{number}",
        task,
        slot,
        (Path(f"{number}a.png"), Path(f"{number}b.png")),
        answers,
        (f"Is it {one} or {other}?", f"Is it {other} or {one}?"),
    )


def many(subjects=40, verbs=30) -> PairSet:
    scenes = [a_scene(i) for i in range(subjects)]
    scenes += [a_scene(1000 + i, "verb", ("pulling", "pushing")) for i in range(verbs)]
    return pairs_of(scenes, WORDS)


def test_a_scene_gives_four_pairs():
    pairs = pairs_of([replace(a_scene(1), masks=(Path("m.png"), None))], WORDS)
    assert [pair.pair_id for pair in pairs] == [
        f"svo-1-{direction}-{order}"
        for direction, order in product(("ab", "ba"), ("correct", "incorrect"))
    ]
    for pair in pairs:
        clean = "1a.png" if pair.correct == "cat" else "1b.png"
        assert pair.clean_image == Path(clean) != pair.corrupt_image
        assert (first_option(pair) == pair.correct) == (pair.order == "correct_first")
        assert (pair.clean_masks is not None) == (clean == "1a.png")
        assert (pair.split, pair.distractor, pair.shown) == ("heldout", False, ("cat", "dog"))
    assert pairs.slots["verb"] == ("pulling", "pushing")


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ([a_scene(1), a_scene(1)], "svo-1 and svo-1 have the same id"),
        ([a_scene(1), replace(a_scene(1), scene_id="other")], "svo-1 and other have .* question"),
        (
            [replace(a_scene(1), images=(Path("1a.png"),) * 2)],
            "svo-1: both images are 1a.png",
        ),
        ([a_scene(1, answers=("cat", "goat"))], "'cat' and 'goat' are near-synonyms"),
        ([a_scene(1, answers=("cat", "horse"))], "'horse' is not a subject of the vocabulary"),
        (
            [replace(a_scene(1), prompts=("Is it dog or cat?",) * 2)],
            "order is 'correct_first', but",
        ),
        ([replace(a_scene(1), prompts=("Is it a cat?",) * 2)], "does not offer 'cat' or 'dog'"),
    ],
)
def test_what_is_no_scene_is_refused(scenes, message):
    with pytest.raises(NoticeError, match=message):
        pairs_of(scenes, WORDS, {"goat": ["cat"]})


def test_the_other_direction_of_the_same_question_is_a_duplicate():
    one = a_scene(1)
    turned = replace(
        one,
        scene_id="turned",
        images=one.images[::-1],
        answers=one.answers[::-1],
        prompts=one.prompts[::-1],
    )
    with pytest.raises(NoticeError, match="svo-1 and turned"):
        pairs_of([one, turned], WORDS)


def cells(pairs, name="slot"):
    return Counter((getattr(pair, name), pair.order) for pair in pairs)


def test_a_sample_is_balanced_and_has_no_pair_twice():
    sample, steps = select(many(), n=24, seed=1)
    assert steps == [
        ("pairs: all", 280),
        ("pairs: equally many of either answer order in each group", 24),
    ]
    assert set(cells(sample).values()) == {6}
    assert Counter(pair.pair_id.split("-")[-2] for pair in sample) == {"ab": 12, "ba": 12}
    assert len({pair.pair_id for pair in sample}) == 24
    # No scene comes twice while others have not come.
    assert len({pair.scene_id for pair in sample}) == 24
    order = {pair.pair_id: i for i, pair in enumerate(many())}
    places = [order[pair.pair_id] for pair in sample]
    assert places == sorted(places)


def test_directions_are_balanced_whatever_the_ids():
    renamed = [replace(pair, pair_id=f"p{i}") for i, pair in enumerate(many())]
    sample, _ = select(replace(many(), pairs=tuple(renamed)), n=24, seed=1)
    assert Counter(pair.clean_image.stem[-1] for pair in sample) == {"a": 12, "b": 12}


def test_the_seed_decides_what_is_drawn():
    ids = [[pair.pair_id for pair in select(many(), n=20, seed=seed)[0]] for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


def test_without_a_number_orders_are_balanced_and_the_rest_is_kept():
    pairs = many().filter(lambda pair: pair.pair_id != "svo-0-ab-correct")
    sample, _ = select(pairs)
    assert len(sample) == 278
    assert set(cells(sample).values()) == {79, 60}


def test_the_papers_sizes():
    sample, _ = select(many(300, 60), preset="paper")
    counts = Counter((p.slot, p.pair_id.split("-")[-2], p.order) for p in sample)
    assert {count for (slot, *_), count in counts.items() if slot == "subject"} == {250}
    assert {count for (slot, *_), count in counts.items() if slot == "verb"} == {60}
    states = [replace(pair, task="states") for pair in many(300, 60)]
    sample, _ = select(PairSet(tuple(states)), preset="paper")
    assert cells(sample)["subject", "correct_first"] == 250
    faces = [replace(pair, task="faces") for pair in many(300, 300)]
    sample, _ = select(PairSet(tuple(faces)), preset="paper")
    assert set(cells(sample, "correct").values()) == {250}
    assert len(sample) == 250 * 2 * 4


def test_what_cannot_be_selected_is_said():
    for settings, message in (
        ({"preset": "all"}, "no preset 'all'; there is only paper"),
        ({"preset": "paper", "n": 3}, "Give a preset or n, not both"),
        ({"n": 1}, "n must be at least 2"),
    ):
        with pytest.raises(NoticeError, match=message):
            select(many(), **settings)
    own = PairSet(tuple(replace(pair, task="mine") for pair in many()))
    with pytest.raises(NoticeError, match="no sample size for mine"):
        select(own, preset="paper")
    with pytest.raises(NoticeError, match="No pair is left"):
        select(many().filter(lambda pair: pair.order == "correct_first"))


def test_only_what_the_model_answers_correctly_is_drawn():
    model, pairs = load_model("blip-mini"), load_pairs("states", n=14, seed=0)
    right = {pair.pair_id for pair in answered_correctly(model, pairs)}
    assert 4 < len(right) < 14
    sample, steps = select(pairs, model, n=4, seed=0)
    chosen = {pair.pair_id for pair in sample}
    assert chosen <= right
    counts = cells(sample)
    assert all(counts[slot, "correct_first"] == n for (slot, _), n in counts.items())
    names, left = zip(*steps, strict=True)
    assert names[1:3] == (
        "pairs: drawn, and asked of blip-mini",
        "pairs: answered correctly with both images",
    )
    # No more than needed is asked, and all that is answered correctly is kept where there is room.
    assert left[0] == 14 > left[1] >= left[2] >= left[3] == len(sample)
    preferred = {pair.pair_id for pair in answered_correctly(model, pairs, "preferred")}
    _, steps = select(pairs, model, by="preferred")
    assert steps[2] == ("pairs: correct option preferred with both images", len(preferred))
    everything, steps = select(pairs, model)
    assert steps[1][1] == 14
    assert steps[2][1] == len(right) >= len(everything)


# From labelled images.


def label(path: Path, attribute: str, rest="bottle", slot="colour") -> LabelledImage:
    return LabelledImage(path, attribute, rest, slot)


def ask(noun, first, second):
    return f"Is this {noun} {first} or {second}?"


def labelled(root: Path, **counts) -> list[LabelledImage]:
    write_folders(root, counts)
    return [label(path, path.parent.name) for path in sorted(root.glob("*/*"))]


def test_files_that_cannot_be_used_are_counted_and_named(tmp_path):
    images = labelled(tmp_path, red=4, blue=4)
    (tmp_path / "red" / "0.jpg").write_text("<html>404</html>")
    whole = (tmp_path / "red" / "1.jpg").read_bytes()
    (tmp_path / "red" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "red" / "2.jpg").write_bytes(b"")
    (tmp_path / "blue" / "1.jpg").write_bytes((tmp_path / "blue" / "0.jpg").read_bytes())
    built = build_pairs(images, ask, "states", SOURCE, steps=[("images: files", 8)])
    assert built.steps == [
        ("images: files", 8),
        ("images: that decode and show something", 5),
        ("images: without copies and contradictions", 4),
        ("images: with a partner", 4),
        ("scenes: two images, one question", 3),
    ]
    reasons = {str(name)[-10:]: reason for name, reason in built.left_out.items()}
    assert "a web page" in reasons[next(n for n in reasons if n.endswith("red/0.jpg"))]
    assert sum("decode" in reason for reason in reasons.values()) == 1
    assert sum("is a copy of" in reason for reason in reasons.values()) == 1
    assert len(reasons) == 4
    assert {pair.correct for pair in built.pairs} == {"red", "blue"}


def test_one_picture_under_two_labels_is_in_no_pair(tmp_path):
    images = labelled(tmp_path, red=3, blue=3)
    (tmp_path / "red" / "0.jpg").write_bytes((tmp_path / "blue" / "0.jpg").read_bytes())
    built = build_pairs(images, ask, "states", SOURCE)
    assert set(built.left_out.values()) == {"is labelled blue bottle and red bottle"}
    used = {pair.clean_image.read_bytes() for pair in built.pairs}
    assert (tmp_path / "red" / "0.jpg").read_bytes() not in used
    # In another slot the same picture may have another label.
    other = [label(image.path, f"{image.attribute}ish", slot="shape") for image in images[1:3]]
    other += [label(images[-1].path, "bent", slot="shape")]
    built = build_pairs([*images, *other], ask, "states", SOURCE)
    assert {pair.slot for pair in built.pairs} == {"colour", "shape"}


def test_names_and_places_of_files_do_not_matter(tmp_path):
    images = labelled(tmp_path / "one", red=5, blue=5, green=5)
    moved = []
    for i, image in enumerate(images):
        path = tmp_path / "ünï cödé 图" / f"{(i * 7) % 15}-photo.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image.path.read_bytes())
        moved.append(label(path, image.attribute))
    one, other = (build_pairs(x, ask, "s", SOURCE, seed=1).pairs for x in (images, moved[::-1]))
    assert [pair.pair_id for pair in one] == [pair.pair_id for pair in other]
    for a, b in zip(one, other, strict=True):
        assert a.clean_image.read_bytes() == b.clean_image.read_bytes()
        assert a.prompt == b.prompt
    different = build_pairs(images, ask, "s", SOURCE, seed=2).pairs
    assert [pair.pair_id for pair in one] != [pair.pair_id for pair in different]


def test_no_pair_comes_twice_and_partners_are_no_near_synonyms(tmp_path):
    images = labelled(tmp_path, red=8, crimson=8, blue=8, navy=8)
    near = {"crimson": ["red"], "navy": ["blue"]}
    pairs = build_pairs(images, ask, "s", SOURCE, near).pairs
    shown = Counter(frozenset((p.clean_image, p.corrupt_image)) for p in pairs)
    assert set(shown.values()) == {4}
    for pair in pairs:
        assert {pair.correct, pair.incorrect} not in ({"red", "crimson"}, {"blue", "navy"})
    assert pairs.near_synonyms["red"] == {"crimson"}


def test_labels_that_differ_in_case_only_are_one(tmp_path):
    write_folders(tmp_path, {"1": 2, "2": 2, "3": 2, "4": 1})
    words = ("red", "Red ", "sky  blue", "Sky blue")
    images = [
        LabelledImage(path, words[int(path.parent.name) - 1], noun, slot)
        for path, noun, slot in zip(
            sorted(tmp_path.glob("*/*")), ("Cup", "cup") * 4, ("Colour", "colour") * 4, strict=False
        )
    ]
    with pytest.warns(UserWarning, match="one: 'Red', 'red' as 'red'; 'Sky") as told:
        built = build_pairs(images, ask, "s", SOURCE, {"SKY BLUE": ["navy"]})
    assert len(told) == 3
    assert built.pairs.slots == {"Colour": ("red", "sky blue")}
    assert {pair.correct for pair in built.pairs} == {"red", "sky blue"}
    assert {pair.prompt.split()[2] for pair in built.pairs} == {"Cup"}
    assert built.pairs.near_synonyms["navy"] == {"sky blue"}


@pytest.mark.parametrize(
    "word",
    [
        "['red', 'blue']", '["red"]', "{'name': 'red'}", "[1, 4]", "('red', 'blue')", "('red',)",
        "{'red'}", "{1, 4}",
    ],
)  # fmt: skip
def test_a_list_is_no_label(tmp_path, word):
    images = labelled(tmp_path, red=2, blue=2)
    images[0] = replace(images[0], attribute=word)
    with pytest.raises(NoticeError, match=r"The label .* is a list or a record, not a word"):
        build_pairs(images, ask, "s", SOURCE)


@pytest.mark.parametrize("words", ["red|blue", "red, blue", "red;blue"])
def test_several_words_are_no_label(tmp_path, words):
    images = labelled(tmp_path, red=2, blue=2)
    images[0] = replace(images[0], attribute=words)
    sign = re.escape(re.search(r"\W", words)[0])
    with pytest.raises(NoticeError, match=rf"label .* lists several words, with '{sign}' between"):
        build_pairs(images, ask, "s", SOURCE)


def test_what_the_question_names_may_have_a_comma(tmp_path):
    images = [replace(one, rest="cup, on the left,") for one in labelled(tmp_path, red=1, blue=1)]
    assert "Is this cup, on the left, red" in build_pairs(images, ask, "s", SOURCE).pairs[0].prompt


@pytest.mark.parametrize(
    ("one", "other", "chosen"),
    [
        ("light-blue", "light blue", "light blue"),
        ("the cat", "cat", "cat"),
        ("\uff43\uff41\uff54", "cat", "cat"),
        ("c\u200bat", "cat", "cat"),
        ("?", "!", None),
    ],
)
def test_labels_of_the_same_words_are_one(tmp_path, one, other, chosen):
    words = {"a": one, "b": other, "c": "red"}
    images = [replace(i, attribute=words[i.attribute]) for i in labelled(tmp_path, a=2, b=2, c=1)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        built = build_pairs(images, ask, "s", SOURCE)
    assert set(built.pairs.slots["colour"]) == {"red"} | ({chosen} if chosen else {one, other})
    assert len(told) == (chosen is not None and one != "c\u200bat")


def test_files_that_lie_alike_are_counted_each(tmp_path):
    images = []
    for place in "ABC":
        root = write_folders(tmp_path / place, {"red/x": 2, "blue/x": 2}, start=4 * ord(place))
        Image.new("RGB", (8, 8)).save(root / "red" / "x" / "0.jpg")
        images += [label(path, path.parts[-3]) for path in sorted(root.glob("*/*/*"))]
    built = build_pairs(images, ask, "s", SOURCE)
    assert sorted(built.left_out) == [tmp_path / p / "red" / "x" / "0.jpg" for p in "ABC"]
    write_set(tmp_path / "set", built)
    table = (tmp_path / "set" / "left_out.csv").read_text()
    assert table.count('red/x/0.jpg,"shows nothing') == 3
    assert "Files left out: 3." in (tmp_path / "set" / "README.md").read_text()


def test_pictures_that_show_nothing_are_counted(tmp_path):
    images = labelled(tmp_path, red=2, blue=2)
    Image.new("RGB", (8, 8)).save(tmp_path / "red" / "0.jpg")
    built = build_pairs(images, ask, "s", SOURCE)
    assert built.steps[0] == ("images: that decode and show something", 3)
    ((name, reason),) = built.left_out.items()
    assert name == tmp_path / "red" / "0.jpg" and reason.startswith("shows nothing")
    Image.new("RGB", (8, 8)).save(tmp_path / "red" / "1.jpg")
    with pytest.raises(NoticeError, match=r"of 4: .* For example, .*0\.jpg shows nothing"):
        build_pairs(images, ask, "s", SOURCE)


def test_no_partner_is_an_error(tmp_path):
    images = labelled(tmp_path, red=2, crimson=2)
    with pytest.raises(NoticeError, match="No image has a partner among 4 usable ones of 4"):
        build_pairs(images, ask, "s", SOURCE, {"red": ["crimson"]})


# The card.


def built_of(tmp_path, counts=None) -> Built:
    images = labelled(tmp_path / "images", **(counts or {"red": 6, "blue": 6}))
    (tmp_path / "images" / "red" / "0.jpg").write_bytes(b"")
    return build_pairs(images, ask, "states", SOURCE, steps=[("images: files", 12)])


def test_a_set_is_written_with_its_card(tmp_path):
    built = built_of(tmp_path)
    written = write_set(tmp_path / "set", built, n=8, seed=4, command="notice pairs ... --n 8")
    assert PairSet.load(tmp_path / "set").table()["pair_id"].tolist() == [
        pair.pair_id for pair in written
    ]
    card = (tmp_path / "set" / "README.md").read_text()
    with open(tmp_path / "set" / "steps.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "left"]
    assert rows[1] == ["images: files", "12"]
    assert rows[-1] == ["pairs: equally many of either answer order in each group", "8"]
    for step, left in rows[1:]:
        assert f"| {step} | {left} |" in card
        assert f"{step}, {left}" in card.split("![")[1].split("](steps.png)")[0]
    for text in ("Nobody (2000)", "<https://example.org>", "Free.", "Seed 4", "torch 2."):
        assert text in card
    assert "```bash\nnotice pairs ... --n 8\n```" in card
    assert "| colour | 4 | 4 |" in card
    assert str(tmp_path) not in card
    left_out = (tmp_path / "set" / "left_out.csv").read_text()
    assert "images/red/0.jpg" in left_out
    assert str(tmp_path) not in left_out
    with Image.open(tmp_path / "set" / "steps.png") as figure:
        assert figure.width == 728
    with pytest.raises(NoticeError, match="holds a pair set already"):
        write_set(tmp_path / "set", built)


def test_nothing_is_written_when_nothing_is_selected(tmp_path):
    with pytest.raises(NoticeError, match="n must be"):
        write_set(tmp_path / "set", built_of(tmp_path), n=1)
    assert not (tmp_path / "set").exists()


def test_the_same_call_writes_the_same_files(tmp_path):
    built = built_of(tmp_path)
    hashes = []
    for name in ("one", "two"):
        write_set(tmp_path / name, built, n=8)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        hashes.append([(f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files])
    assert hashes[0] == hashes[1]


def test_a_card_needs_no_file_that_was_left_out(tmp_path):
    load_pairs("svo", n=2).save(tmp_path)
    write_card(tmp_path, load_pairs("svo", n=2), [("pairs: all", 2)], SOURCE, seed=0)
    assert not (tmp_path / "left_out.csv").exists()
    assert "left_out" not in (tmp_path / "README.md").read_text()


def test_the_figure_says_what_it_shows():
    figure = funnel([("rows: of the table", 36841), ("scenes: a | b", 0)])
    assert figure.alt == (
        "A bar for each step, how many were left: rows: of the table, 36,841; scenes: a | b, 0."
    )


def test_files_of_one_name_do_not_collide(tmp_path):
    built = built_of(tmp_path)
    write_set(tmp_path / "set", built)
    contents = {path.read_bytes() for path in (tmp_path / "set" / "images").iterdir()}
    assert len(contents) == len({pair.clean_image for pair in built.pairs}) == 11
    assert a_picture(1, "JPEG") in contents
