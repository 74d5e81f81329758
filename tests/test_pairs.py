"""Pairs and sets of pairs: what is a pair, and what is said of what is none.

Files are written as spreadsheets, careless editors and attackers write them; reading them gives a
set or a NoticeError, never anything else.
"""

import csv
import json
import re
import tracemalloc
import warnings
from cProfile import Profile
from dataclasses import replace
from pathlib import Path
from pstats import Stats

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from notice_lib import NoticeError, PairSet, SemanticPair, load_pairs
from notice_lib.pairs import COLUMNS
from notice_lib.pairs.masks import write_masks


def a_pair(pair_id="p1", folder=Path("nowhere"), **changes) -> SemanticPair:
    return SemanticPair(
        **{
            "pair_id": pair_id,
            "scene_id": "s1",
            "task": "states",
            "slot": "colour",
            "split": "seen",
            "distractor": False,
            "clean_image": folder / "red.png",
            "corrupt_image": folder / "blue.png",
            "clean_masks": folder / "mask.png",
            "corrupt_masks": None,
            "prompt": "Is this bottle red or blue?",
            "correct": "red",
            "incorrect": "blue",
            "order": "correct_first",
            "shown": ("blue", "red"),
        }
        | changes
    )


RUSTY = {"correct": "rusty", "prompt": "Is it rusty or blue?", "order": "correct_first"}
REVERSED = {"prompt": "Is this bottle blue or red?", "order": "incorrect_first"}


@pytest.fixture
def stored(tmp_path) -> Path:
    """A folder with a set of two pairs."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(source / f"{name}.png")
    write_masks(source / "mask.png", {"object": np.eye(8, dtype=bool)})
    pairs = (a_pair("p1", source), a_pair("p2", source, **REVERSED))
    words = {"colour": ("blue", "green", "red")}
    PairSet(pairs, words, {"red": frozenset({"green"})}).save(tmp_path / "set")
    return tmp_path / "set"


def rewrite(folder, change):
    """Change every row of a stored set in place."""
    with open(folder / "pairs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [change(dict(row)) for row in rows]
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_set_survives_its_folder(stored):
    pairs = PairSet.load(stored)
    assert [pair.pair_id for pair in pairs] == ["p1", "p2"]
    assert pairs[0].image("clean").getpixel((0, 0)) == (255, 0, 0)
    assert pairs[1].image("corrupt").getpixel((0, 0)) == (0, 0, 255)
    assert pairs[0].masks("clean")["object"].sum() == 8
    assert pairs[0].masks("corrupt") == {}
    assert pairs.slots == {"colour": ("blue", "green", "red")}
    assert pairs.near_synonyms == {"red": frozenset({"green"}), "green": frozenset({"red"})}
    again = stored.parent / "again"
    pairs.save(again)
    assert (again / "pairs.csv").read_bytes() == (stored / "pairs.csv").read_bytes()
    assert load_pairs(again, n=1).pairs[0].shown == ("blue", "red")
    with pytest.raises(NoticeError, match="holds a pair set already"):
        pairs.save(again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"incorrect": "Red"}, "both answers are 'red'"),
        ({"order": "incorrect_first"}, "order is 'incorrect_first', but the prompt reads"),
        ({"order": "first"}, "must be one of"),
        ({"split": "train"}, "must be one of"),
        ({"correct": "green"}, "does not offer 'green' or 'blue'"),
        ({"correct": " "}, "its id and both answers must be given"),
        ({"prompt": "red or blue? " * 100}, "the prompt has 1300 characters; .* at most 1000"),
    ],
)
def test_what_is_no_pair_is_refused(changes, message):
    with pytest.raises(NoticeError, match=message) as error:
        a_pair(**changes)
    assert "p1" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | RUSTY, "Pair p1: the answer 'rusty' is not a colour"),
        (lambda row: row | {"clean_image": "images/none.png"}, "line 2: .*none.png is missing"),
        (lambda row: row | {"clean_image": ""}, "line 2: clean_image and corrupt_image must"),
        (
            lambda row: row | {"clean_masks": "../../secret"},
            "line 2: .*secret. leads to .*, outside of the folder",
        ),
        (
            lambda row: row | {"clean_image": "/etc/passwd"},
            "line 2: '/etc/passwd' leads to /etc/passwd, outside",
        ),
        (lambda row: row | {"clean_image": "images"}, "line 2: .*images is missing"),
        (lambda row: row | {"clean_image": "images/\0"}, "line 2: .* is not a path"),
        (lambda row: row | {"clean_image": "a" * 9999}, r"line 2: .* is (not a path|missing)"),
        (
            lambda row: row | {"shown": '["red", 2]'},
            "line 2: shown is .* which is not a JSON list of words",
        ),
        (
            lambda row: row | {"shown": '["red"'},
            "line 2: shown is .* which is not a JSON list of words",
        ),
        (lambda row: row | {"pair_id": ""}, "line 2: Pair '': its id and both answers"),
        (
            lambda row: row | {"distractor": "maybe"},
            "line 2: distractor is 'maybe'; it must be true",
        ),
        (lambda row: row | {"pair_id": "p"}, "Two pairs have the id 'p'"),
        (lambda row: {k: v for k, v in row.items() if k != "slot"}, "lacks the columns slot"),
    ],
)
def test_a_wrong_row_is_named(stored, change, message):
    rewrite(stored, change)
    with pytest.raises(NoticeError, match=message):
        PairSet.load(stored)


def edit(folder, old: bytes, new: bytes):
    """Change the bytes of a stored pairs.csv."""
    content = (folder / "pairs.csv").read_bytes()
    assert old in content
    (folder / "pairs.csv").write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"bottle", b"b\xf6ttle", r"pairs\.csv is not text in UTF-8"),
        (b"pair_id", b"\xff\xfep\0a\0", r"pairs\.csv is not text in UTF-8"),
        (b"pair_id", b"id", r"pairs\.csv lacks the columns pair_id"),
        (
            b"scene_id,task",
            b"scene_id,scene_id,task",
            r"pairs\.csv has two columns for scene_id: scene_id, scene_id",
        ),
        (b"colour", b"colour,hue", "line 2: it has 1. fields, but the table has 15 columns"),
        (b"Is this", b'"Is this', r"pairs\.csv cannot be read as CSV"),
        (b"Is this", b"x" * 200_000, r"pairs\.csv cannot be read as CSV \(field larger"),
        (b"p1,s1", b"p1\rs1", "line 2: it has 1 fields, but the table has 15 columns"),
    ],
)
def test_a_table_that_is_none_is_named(stored, old, new, message):
    edit(stored, old, new)
    with pytest.raises(NoticeError, match=message):
        PairSet.load(stored)


def test_an_empty_table_and_an_empty_set(stored):
    (stored / "pairs.csv").write_bytes(b"")
    with pytest.raises(
        NoticeError, match=r"lacks the columns pair_id, .* `notice pairs table` builds"
    ):
        PairSet.load(stored)
    (stored / "pairs.csv").write_text(",".join(COLUMNS))
    assert len(PairSet.load(stored)) == 0


def test_a_byte_order_mark_is_no_part_of_a_name(stored):
    for name in ("pairs.csv", "vocabulary.json"):
        content = (stored / name).read_bytes()
        (stored / name).write_bytes(b"\xef\xbb\xbf" + content)
    assert [pair.pair_id for pair in PairSet.load(stored)] == ["p1", "p2"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sep": ";"},
        {"sep": "\t"},
        {"index": False},
        {"quoting": csv.QUOTE_ALL},
        {"quoting": csv.QUOTE_NONNUMERIC, "index": False, "sep": ";"},
    ],
)
def test_a_table_that_pandas_saved_again_is_the_same_set(stored, settings):
    usual = PairSet.load(stored)
    table = pd.read_csv(stored / "pairs.csv").iloc[:, ::-1]
    table.to_csv(stored / "pairs.csv", encoding="utf-8-sig", **settings)
    text = (stored / "pairs.csv").read_text(encoding="utf-8-sig")
    assert "False" in text and "false" not in text
    with warnings.catch_warnings(record=True) as told:
        assert PairSet.load(stored) == usual
    assert len(told) == ("sep" in settings)


def test_answers_are_spelled_as_the_prompt_writes_them(stored):
    """Other letters are other tokens than those of the options that a model is offered."""
    usual = PairSet.load(stored)
    rewrite(stored, lambda row: row | {"correct": row["correct"].title()})
    assert "Red" in (stored / "pairs.csv").read_text(encoding="utf-8")
    assert PairSet.load(stored) == usual


def test_a_table_that_a_spreadsheet_saved_again_is_the_same_set(stored):
    """With rows and columns left blank, numbers as floats, and slashes of Windows."""
    usual = PairSet.load(stored)
    rewrite(
        stored,
        lambda row: (
            {name.title(): text for name, text in row.items()}
            | {"Distractor": "0.0", "Clean_Image": row["clean_image"].replace("/", "\\"), "": ""}
        ),
    )
    with open(stored / "pairs.csv", "a", encoding="utf-8") as file:
        file.write("," * len(COLUMNS) + "\n")
    with pytest.warns(UserWarning) as told:
        assert PairSet.load(stored) == usual
    assert {"such as 'Pair_Id'", "1 rows without text", "1 files are read"} <= {
        part for part in ("such as 'Pair_Id'", "1 rows without text", "1 files are read")
        for warning in told if part in str(warning.message)
    }  # fmt: skip


def test_pictures_that_show_nothing_are_said_when_they_are_opened(stored):
    with pytest.warns(
        UserWarning, match=r"red\.png shows nothing: .* RGB \(255, 0, 0\): it is the"
    ):
        PairSet.load(stored)[0].image("clean")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON in UTF-8"),
        ("{'slots': {}}", "is not JSON in UTF-8"),
        ("[" * 100_000, "is not JSON in UTF-8"),
        ('{"slots": {"colour": ["\\ud800"]}}', "is not JSON in UTF-8"),
        ("\udcff", "is not JSON in UTF-8"),
        ("[]", "must be objects of lists of words"),
        ('{"slots": ["red"]}', "must be objects of lists of words"),
        ('{"slots": {"colour": "red"}}', "must be objects of lists of words"),
        ('{"slots": {"colour": ["red", null]}}', "must be objects of lists of words"),
        ('{"slots": {"colour": ["red", ""]}}', "must be objects of lists of words"),
        ('{"near_synonyms": {"red": [["scarlet"]]}}', "must be objects of lists of words"),
    ],
)
def test_a_vocabulary_that_is_none_is_named(stored, text, message):
    (stored / "vocabulary.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(NoticeError, match=rf"vocabulary\.json.* {message}"):
        PairSet.load(stored)


def test_links_do_not_lead_out_of_the_folder(stored, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    red = stored / "images" / "red.png"
    red.rename(stored / "images" / "moved.png")
    red.symlink_to("moved.png")
    (tmp_path / "other name").symlink_to(stored)
    assert PairSet.load(tmp_path / "other name")[0].image("clean").getpixel((0, 0)) == (255, 0, 0)
    red.unlink()
    red.symlink_to(secret)
    with pytest.raises(
        NoticeError, match=r"line 2: 'images/red\.png' leads to .*secret\.png, outside"
    ):
        PairSet.load(stored)
    red.unlink()
    red.symlink_to(red)
    with pytest.raises(NoticeError, match=r"line 2: .*(is not a path|is missing)"):
        PairSet.load(stored)


def test_a_set_is_saved_whole_or_not_at_all(tmp_path):
    """Files of one name, odd names, and what a stopped save left behind."""
    folders = [tmp_path / name for name in ("broken bottle", "rusty bottle")]
    colours = ("red", "blue")
    for folder, colour in zip(folders, colours, strict=True):
        folder.mkdir()
        for name in ("1.png", "Ünïcödé 犬.png", "back\\slash\n.png"):
            Image.new("RGB", (8, 8), colour).save(folder / name)
    names = ("1.png", "Ünïcödé 犬.png", "back\\slash\n.png")
    pairs = [
        a_pair(f"p{i}", clean_image=folders[0] / name, corrupt_image=folders[1] / name)
        for i, name in enumerate(names)
    ]
    pairs = [replace(pair, clean_masks=None) for pair in pairs]
    target = tmp_path / "set"
    (target / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), "green").save(target / "images" / "1.png")
    gone = replace(pairs[0], pair_id="gone", corrupt_image=tmp_path / "gone.png")
    with pytest.raises(NoticeError, match=r"gone\.png is missing, the corrupt_image of pair gone"):
        PairSet((*pairs, gone)).save(target)
    assert not (target / "pairs.csv").exists()
    PairSet(tuple(pairs)).save(target)
    for pair in PairSet.load(target):
        assert pair.image("clean").getpixel((0, 0)) == (255, 0, 0)
        assert pair.image("corrupt").getpixel((0, 0)) == (0, 0, 255)
    assert not list(target.rglob("*.part"))


def test_names_that_differ_in_case_only_are_no_names_of_two_files(tmp_path):
    """A folder on macOS or Windows would have one file of both."""
    names = {"red": "STRASSE.PNG", "blue": "Straße.png"}
    for colour, name in names.items():
        (tmp_path / colour).mkdir()
        Image.new("RGB", (8, 8), colour).save(tmp_path / colour / name)
    images = (tmp_path / colour / name for colour, name in names.items())
    fields = dict(zip(("clean_image", "corrupt_image"), images, strict=True))
    PairSet((a_pair(clean_masks=None, **fields),)).save(tmp_path / "set")
    saved = sorted(path.name for path in (tmp_path / "set" / "images").iterdir())
    assert len({name.casefold() for name in saved}) == len(saved) == 2
    assert saved[0] == "STRASSE.PNG" and re.fullmatch(r"Straße-[0-9a-f]{16}\.png", saved[1])


# Text that UTF-8 can write.
texts = st.text(st.characters(codec="utf-8"), max_size=8)
words = st.one_of(
    st.sampled_from(["red", "blue", "ice cream", "犬", "naïve", "[red]", '"', "a,b", "a\rb", "="]),
    texts.filter(lambda text: text.strip() and "\0" not in text),
)


@st.composite
def pair_sets(draw, folder=Path("nowhere")):
    """Sets with hostile but valid words, ids and vocabularies."""
    pairs = []
    for pair_id in draw(st.lists(words, max_size=4, unique=True)):
        one, other = draw(st.lists(words, min_size=2, max_size=2, unique_by=str.lower))
        correct, incorrect = draw(st.permutations([one, other]))
        order = "correct_first" if correct == one else "incorrect_first"
        own = {name: draw(texts.filter(lambda t: "\0" not in t)) for name in ("scene_id", "task")}
        changes = {"correct": correct, "incorrect": incorrect, "order": order, **own}
        changes |= {"shown": tuple(draw(st.lists(words, max_size=3))), "slot": draw(words)}
        changes |= {"distractor": draw(st.booleans()), "prompt": f"{one} or {other}"}
        try:
            pairs.append(a_pair(pair_id, folder, **changes))
        except NoticeError:  # e.g. an answer that is not a whole word beside the "or"
            continue
    slots = {}
    for pair in pairs:
        slots.setdefault(pair.slot, []).extend([pair.correct, pair.incorrect])
    near = draw(st.lists(st.lists(words, min_size=2, max_size=2, unique=True), max_size=2))
    closed = {word: frozenset(b for pair in near for b in pair if word in pair) for word in
              {word for pair in near for word in pair}}  # fmt: skip
    if draw(st.booleans()):
        slots = {}
    return PairSet(tuple(pairs), {slot: tuple(listed) for slot, listed in slots.items()}, closed)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Path:
    """A folder with the files that rows may name."""
    folder = tmp_path_factory.mktemp("fuzzed")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(folder / "images" / f"{name}.png")
    write_masks(folder / "masks" / "mask.png", {"object": np.eye(8, dtype=bool)})
    return folder


def load_or_refuse(folder):
    try:
        pairs = PairSet.load(folder)
    except NoticeError as error:
        assert str(folder) in str(error) or "Pair" in str(error) or "Two pairs" in str(error)
        return None
    for pair in pairs:
        assert pair.clean_image.is_relative_to(folder) and pair.corrupt_image.is_file()
        assert pair.prompt[slice(*pair.spans.correct)].lower() == pair.correct.lower()
    return pairs


HEADER = ",".join(COLUMNS).encode()
ROW = (
    b'p1,s1,states,colour,seen,false,images/red.png,images/blue.png,masks/mask.png,,'
    b'Is this bottle red or blue?,red,blue,correct_first,"[""blue"", ""red""]"'
)  # fmt: skip


fields = {
    "distractor": st.sampled_from(["true", "false", "True"]),
    "split": st.sampled_from(["seen", "heldout"]),
    "order": st.sampled_from(["correct_first", "incorrect_first"]),
    "correct": st.sampled_from(["red", "blue", "or", "e", ""]),
    "incorrect": st.sampled_from(["red", "blue", "re", "?"]),
    "prompt": st.sampled_from(["red or blue?", "blue or red", "or or or", "red or " * 120]),
}
paths = st.sampled_from(
    ["images/red.png", "images/../images/blue.png", "images", ".", "..", "../x", "/", "~", "\0",
     "images/red.png/x", "images//red.png", "C:red.png", "", "a" * 300]
)  # fmt: skip


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                name: fields.get(name, paths if "_image" in name or "_masks" in name else texts)
                | texts
                for name in COLUMNS
            }
        ),
        max_size=3,
    )
)
@settings(max_examples=200, deadline=None)
def test_any_rows(fuzzed, rows):
    (fuzzed / "vocabulary.json").unlink(missing_ok=True)
    with open(fuzzed / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    load_or_refuse(fuzzed)


plain = st.none() | st.booleans() | st.floats() | st.text(max_size=4) | st.just("red")
keys = st.sampled_from(["slots", "near_synonyms", "colour"]) | st.text(max_size=3)
json_values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
)


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_any_json_as_a_vocabulary(fuzzed, value):
    (fuzzed / "pairs.csv").write_bytes(HEADER + b"\n" + ROW)
    (fuzzed / "vocabulary.json").write_text(json.dumps(value))
    pairs = load_or_refuse(fuzzed)
    if pairs:
        json.dumps([pairs.slots, *map(sorted, pairs.near_synonyms.values())]).encode()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_saved_is_what_is_loaded(fuzzed, tmp_path_factory, data):
    pairs = data.draw(pair_sets())
    located = [
        replace(
            pair,
            clean_image=fuzzed / "images" / "red.png",
            corrupt_image=fuzzed / "images" / "blue.png",
            clean_masks=fuzzed / "masks" / "mask.png",
        )
        for pair in pairs
    ]
    folder = tmp_path_factory.mktemp("saved")
    replace(pairs, pairs=tuple(located)).save(folder)
    found = PairSet.load(folder)
    assert found.slots == pairs.slots
    assert found.near_synonyms == pairs.near_synonyms
    names = [name for name in COLUMNS if not name.endswith(("_image", "_masks"))]
    for one, other in zip(found, pairs, strict=True):
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


def test_answers_of_several_words_survive(stored, tmp_path):
    changes = {
        "prompt": "Is the girl eating ice cream or toast?",
        "correct": "ice cream",
        "incorrect": "toast",
        "shown": ("ice cream", "toast", "[sic]"),
    }
    pair = replace(PairSet.load(stored)[0], **changes)
    PairSet((pair,)).save(tmp_path / "new")
    (found,) = PairSet.load(tmp_path / "new")
    assert found.shown == pair.shown and found.correct == "ice cream"


def test_work_and_memory_grow_with_the_rows(stored):
    """Up to ten thousand; no image is opened."""
    source = PairSet.load(stored)[0]
    words = [f"word{i}" for i in range(100)]

    def measured(n):
        """Calls of functions and bytes a row."""
        pairs = [
            replace(source, pair_id=f"p{i}", correct=word, prompt=f"Is it {word} or blue?")
            for i, word in enumerate(words * (n // 100))
        ]
        folder = stored.parent / f"{n} rows"
        PairSet(tuple(pairs), {"colour": (*words, "blue")}).save(folder)
        with Profile() as calls:
            assert len(PairSet.load(folder)) == n
        tracemalloc.start()
        PairSet.load(folder)
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return Stats(calls).total_calls / n, memory / n

    measured(100)
    (calls, held), (more_calls, more_held) = measured(1000), measured(10_000)
    assert more_calls < 1.2 * calls and more_held < 1.2 * held
    assert more_calls < 1000 and more_held < 3000


def test_images_that_are_none_are_named(stored):
    (stored / "images" / "red.png").write_bytes(b"no image at all")
    pair = PairSet.load(stored)[0]
    with pytest.raises(
        NoticeError,
        match=r"red\.png is not an image of a known kind: .* the clean image of pair p1",
    ):
        pair.image("clean")
    (stored / "images" / "red.png").unlink()
    with pytest.raises(NoticeError, match=r"red\.png is missing: it is the clean image of pair p1"):
        pair.image("clean")


def test_a_folder_without_pairs_is_named(tmp_path):
    with pytest.raises(NoticeError, match=r"is not a pair set: it has no pairs\.csv"):
        load_pairs(tmp_path)
    with pytest.raises(NoticeError, match="svo, states, faces, natural, or a folder"):
        load_pairs("imagenet")


def many(n_red=6, n_blue=3) -> PairSet:
    pairs = [a_pair(f"r{i}") for i in range(n_red)]
    pairs += [a_pair(f"b{i}", **REVERSED) for i in range(n_blue)]
    return PairSet(tuple(pairs))


def test_filter_balance_and_sample():
    pairs = many()
    assert len(pairs.filter(lambda pair: pair.order == "correct_first")) == 6
    balanced = pairs.balance(["order"], seed=1)
    assert [pair.order for pair in balanced].count("correct_first") == 3
    assert len(balanced) == 6
    sample = pairs.sample(4, seed=2)
    assert [pair.order for pair in sample].count("correct_first") == 2
    ids = [pair.pair_id for pair in sample]
    assert len(set(ids)) == 4
    assert ids == [pair.pair_id for pair in pairs.sample(4, seed=2)]
    assert ids != [pair.pair_id for pair in pairs.sample(4, seed=3)]
    assert len(pairs.sample(100)) == len(pairs)


def test_the_table_has_a_row_a_pair():
    table = many().table()
    assert len(table) == 9
    assert table["order"].value_counts().to_dict() == {"correct_first": 6, "incorrect_first": 3}


def test_balancing_needs_no_field_but_the_pairs_own():
    with pytest.raises(AttributeError):
        many().balance(["colour"])
    assert replace(many(), pairs=()).balance().pairs == ()


def test_a_data_folder_that_lacks_a_set_says_what_builds_it(tmp_path):
    load_pairs("svo", n=4).save(tmp_path / "svo")
    assert len(load_pairs("svo", data=tmp_path)) == 4
    with pytest.raises(NoticeError, match=r"has no pair set 'faces'.*`notice pairs` builds"):
        load_pairs("faces", data=tmp_path)
