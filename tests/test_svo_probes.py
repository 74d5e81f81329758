"""The SVO-Probes loader, on an invented table with the published quirks and on drawn images."""

import csv
import hashlib
import http.server
import json
import random
import shutil
import threading
import time
import tracemalloc
import unicodedata
from collections import Counter
from functools import partial
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings, strategies as st
from layouts import a_picture
from PIL import Image

from notice_lib import (
    NoticeError,
    PairSet,
    load_model,
    load_pairs,
    replace_tokens,
    site_grid,
    sweep,
)
from notice_lib.datasets.downloads import download_images
from notice_lib.datasets.svo_probes import read_svo_probes
from notice_lib.datasets.svo_words import NEAR_SYNONYMS

FIXTURE = Path(__file__).parent / "fixtures" / "svo_probes.csv"
ROW = {
    "sentence": "A girl is standing on grass.",
    "pos_triplet": "girl,stand,grass",
    "neg_triplet": "dog,stand,grass",
    "pos_url": "http://example.invalid/a/girl.png",
    "neg_url": "http://example.invalid/b/dog.png",
    "pos_image_id": "0",
    "neg_image_id": "1",
    "subj_neg": "True",
    "verb_neg": "False",
    "obj_neg": "False",
}
SIT = {"neg_triplet": "girl,sit,grass", "subj_neg": "False", "verb_neg": "True"}
SAND = {"neg_triplet": "girl,stand,sand", "subj_neg": "False", "obj_neg": "True"}
OTHER = {"pos_image_id": "10", "neg_image_id": "11"}
"""Two other images."""
WHICH = ("pos", "neg")
STANDING = "Is the girl standing or sitting on the grass?"
SITTING = "Is the girl sitting or standing on the grass?"


def write_table(path, rows, columns=tuple(ROW)) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def draw(path: Path, i: int) -> None:
    path.write_bytes(a_picture(i))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Seventy images that differ, named by their ids."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(70):
        draw(folder / f"{i}.png", i)
    return folder


@pytest.fixture
def build(tmp_path, images):
    """The loader on rows, each given by what it has other than ROW."""

    def built(*changes, columns=tuple(ROW), folder=images, **options):
        rows = [ROW | change for change in changes]
        table = write_table(tmp_path / "svo_probes.csv", rows, columns)
        return read_svo_probes(table, folder, **options)

    return built


def prompts(built) -> set[str]:
    return {pair.prompt for pair in built.pairs}


def lost(built) -> list[str]:
    """The checks that lose a row."""
    left = [number for _, number in built.steps]
    return [built.steps[i][0] for i in range(1, len(left)) if left[i] < left[i - 1]]


def test_the_invented_table(images):
    built = read_svo_probes(FIXTURE, images)
    assert built.steps == [
        ("rows: in the table", 30),
        ("rows: one slot is marked as different", 29),
        ("rows: both triplets have three words", 28),
        ("rows: the triplets differ in that slot alone", 28),
        ("rows: no word is 'person'", 27),
        ("rows: the two words are not near-synonyms", 24),
        ("rows: a question could be formed", 24),
        ("rows: both images are at hand", 24),
        ("rows: two images, neither of which shows both words", 24),
        ("scenes: two images, one question, each once", 23),
    ]
    assert built.left_out == {}
    assert built.pairs.slots == {
        "subject": ("boy", "cat", "child", "dog", "girl", "man", "woman"),
        "verb": ("jumping", "riding", "running", "sitting", "standing", "walking"),
        "object": ("beach", "field", "grass", "snow", "street", "water"),
    }
    counts = Counter((pair.slot, pair.order) for pair in built.pairs)
    assert counts == {
        (slot, order): 2 * scenes
        for slot, scenes in (("subject", 8), ("verb", 9), ("object", 6))
        for order in ("correct_first", "incorrect_first")
    }


def test_a_row_gives_four_pairs(build):
    pairs = build(SIT).pairs
    assert {(p.clean_image.name, p.correct, p.order, p.prompt) for p in pairs} == {
        ("0.png", "standing", "correct_first", STANDING),
        ("0.png", "standing", "incorrect_first", SITTING),
        ("1.png", "sitting", "correct_first", SITTING),
        ("1.png", "sitting", "incorrect_first", STANDING),
    }
    assert {p.shown for p in pairs} == {("sitting", "standing")}
    assert {(p.task, p.slot, p.split, p.distractor) for p in pairs} == {
        ("svo", "verb", "heldout", False)
    }


def test_columns_come_in_any_order_and_some_may_be_missing(build, tmp_path, images):
    usual = build(SIT).pairs
    assert build(SIT, columns=tuple(ROW)[::-1]).pairs == usual
    assert build(SIT, columns=tuple(ROW)[1:]).pairs == usual  # grass is "on" without a sentence
    text = (tmp_path / "svo_probes.csv").read_text().replace(",pos_url,", ", pos_url ,", 1)
    marked = tmp_path / "marked.csv"
    marked.write_text("\ufeff" + text, encoding="utf-8")
    assert read_svo_probes(marked, images).pairs == usual
    pandas.read_csv(tmp_path / "svo_probes.csv").to_csv(tmp_path / "again.csv", sep=";")
    with pytest.warns(UserWarning, match="separated by semicolons"):
        assert read_svo_probes(tmp_path / "again.csv", images).pairs == usual
    folder = tmp_path / "by address"
    folder.mkdir()
    shutil.copy(images / "0.png", folder / "girl.png")
    shutil.copy(images / "1.png", folder / "dog.png")
    without_ids = [name for name in ROW if "image_id" not in name]
    assert prompts(build(SIT, columns=without_ids, folder=folder)) == {STANDING, SITTING}


@pytest.mark.parametrize(
    "negative",
    [
        "['girl,sit,grass']",
        "['girl,sit,grass', 'dog,sit,grass']",
        "['dog,sit,grass', 'girl,sit,grass']",  # the first differs in two slots
        "['[]', 'girl,sit,grass']",
        '["girl,sit,grass"]',
        " Girl , SITS ,  grass ",
    ],
)
def test_negative_triplets_as_published(build, negative):
    assert prompts(build(SIT | {"neg_triplet": negative})) == {STANDING, SITTING}


THREE_WORDS = "rows: both triplets have three words"
ALONE = "rows: the triplets differ in that slot alone"
PERSON = "rows: no word is 'person'"
NEAR = "rows: the two words are not near-synonyms"
ONE_SLOT = "rows: one slot is marked as different"


@pytest.mark.parametrize(
    "change, check",
    [
        ({"neg_triplet": "['[]']"}, THREE_WORDS),
        ({"neg_triplet": "[]"}, THREE_WORDS),
        ({"neg_triplet": ""}, THREE_WORDS),
        ({"neg_triplet": "dog,stand"}, THREE_WORDS),
        ({"neg_triplet": "dog,stand,grass,tree"}, THREE_WORDS),
        ({"pos_triplet": "girl,,grass"}, THREE_WORDS),
        ({"pos_triplet": "girl,<b>,grass"}, THREE_WORDS),
        ({"neg_triplet": "dog,sit,grass"}, ALONE),
        ({"neg_triplet": "girl,stand,grass"}, ALONE),
        ({"neg_triplet": "girl,stands,grass"}, ALONE),
        ({"neg_triplet": "person,stand,grass"}, PERSON),
        ({"pos_triplet": "girl,hold,person", "neg_triplet": "dog,hold,person"}, PERSON),
        ({"neg_triplet": "child,stand,grass"}, NEAR),
        ({"pos_triplet": "t-shirt,stand,grass", "neg_triplet": "t shirt,stand,grass"}, NEAR),
        ({"verb_neg": "True"}, ONE_SLOT),
        ({"subj_neg": "False"}, ONE_SLOT),
        ({"obj_neg": "maybe"}, ONE_SLOT),
        (
            {"pos_triplet": "girl,have,dog", "neg_triplet": "boy,have,dog"},
            "rows: a question could be formed",
        ),
        ({"neg_image_id": "none", "neg_url": ""}, "rows: both images are at hand"),
        ({"neg_image_id": "0"}, "rows: two images, neither of which shows both words"),
    ],
)
def test_what_cannot_be_used_is_counted_by_reason(build, change, check):
    built = build(SIT | OTHER, change)
    assert lost(built) == [check]
    assert len(built.pairs) == 4


@pytest.mark.parametrize(
    "yes, no", [("true", "false"), ("TRUE", "FALSE"), ("1", "0"), ("1.0", ""), (" t ", "F")]
)
def test_flags_in_several_spellings(build, yes, no):
    assert prompts(build(SIT | {"subj_neg": no, "verb_neg": yes, "obj_neg": no})) == {
        STANDING,
        SITTING,
    }


def test_a_scene_comes_once(build, tmp_path, images):
    for i in (0, 1):
        shutil.copy(images / f"{i}.png", images / f"copy of {i}.png")
    turned = {"pos_triplet": "dog,stand,grass", "neg_triplet": "girl,stand,grass"}
    turned |= {"pos_image_id": "1", "neg_image_id": "0"}
    copies = {"pos_image_id": "copy of 0", "neg_image_id": "copy of 1"}
    built = build({}, {}, turned, copies)
    assert built.steps[-2:] == [
        ("rows: two images, neither of which shows both words", 4),
        ("scenes: two images, one question, each once", 1),
    ]


def test_an_image_that_shows_both_words_is_not_asked_about(build):
    """Image 1 shows a dog that stands on grass, and in another row a girl that does."""
    also = SAND | {"pos_image_id": "1", "neg_image_id": "12"}
    built = build({}, also)
    assert lost(built) == ["rows: two images, neither of which shows both words"]
    assert {pair.slot for pair in built.pairs} == {"object"}


def test_what_other_rows_tell_of_an_image_is_shown(build):
    """So token replacement does not offer it."""
    horse = {"pos_triplet": "horse,run,sand", "neg_triplet": "horse,run,field", **SAND, **OTHER}
    horse |= {"pos_triplet": "horse,run,sand", "neg_triplet": "horse,run,water"}
    horse["pos_image_id"] = "1"
    by_slot = {pair.slot: pair.shown for pair in build({}, horse).pairs}
    assert by_slot["subject"] == ("dog", "girl", "horse")
    assert by_slot["object"] == ("grass", "sand", "water")


def damaged(path: Path, how: str) -> None:
    if how == "no image":
        path.write_text("<html>Not found</html>")
    elif how == "empty":
        path.write_bytes(b"")
    else:
        noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
        noise.save(path)
        path.write_bytes(path.read_bytes()[:4000])


@pytest.mark.parametrize("how", ["no image", "empty", "truncated"])
def test_a_file_that_is_no_image_is_left_out_with_its_reason(build, tmp_path, images, how):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    damaged(folder / "1.png", how)
    built = build({}, SIT | OTHER, folder=folder)
    assert lost(built) == ["rows: both images are at hand"]
    assert list(built.left_out) == [folder / "1.png"]
    assert all(built.left_out.values())
    assert len(built.pairs) == 4


@pytest.mark.parametrize("kind", ["id", "sha256", "md5", "last part"])
def test_images_are_found_by_names_of_one_kind(build, tmp_path, images, kind):
    folder = tmp_path / "images"
    folder.mkdir()
    names = {"id": ["0.JPG", "1.webp"], "last part": ["girl.png", "dog.png"]}.get(kind) or [
        hashlib.new(kind, ROW[which].encode()).hexdigest() for which in ("pos_url", "neg_url")
    ]
    for i, name in enumerate(names):
        shutil.copy(images / f"{i}.png", folder / name)
        (folder / f"{name}.json").write_text("{}")  # as download tools leave beside images
        (folder / f"{i}.json").write_text("{}")
    built = build({}, folder=folder)
    assert [pair.clean_image.name for pair in built.pairs] == [names[0]] * 2 + [names[1]] * 2


@pytest.mark.parametrize(
    "names",
    [
        ("000/000/001/000.jpg", "000/000/001/001.jpg"),
        ("000001000.png", "000001001.JPEG"),
        ("001/000.webp", "001/001.webp"),
        ("positive/000001000.jpg", "negative/000001001.jpg"),
        ("batch 1/1000.jpg", "batch 2/1001.jpg"),
        ("00001/000001000.jpg", "00002/000001001.jpg"),
        ("girl.jpg", "sub/dog.webp"),
        ("a/girl.png", "b/dog.png"),
    ],
)
def test_images_are_found_in_folders_and_with_zeros(build, tmp_path, images, names):
    folder = tmp_path / "images"
    for i, name in enumerate((*names, ".hidden/1000.jpg", "__MACOSX/1000.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / f"{i}.png", folder / name)
    built = build({"pos_image_id": "1000", "neg_image_id": "1001.0"}, folder=folder)
    assert [pair.clean_image for pair in built.pairs] == [folder / names[0]] * 2 + [
        folder / names[1]
    ] * 2


def test_the_number_nought_may_have_zeros_before_it(build, tmp_path, images):
    for i in (0, 1):
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(images / f"{i}.png", tmp_path / "images" / f"00{i}.jpg")
    built = build({}, folder=tmp_path / "images")
    assert {pair.clean_image.name for pair in built.pairs} == {"000.jpg", "001.jpg"}


def test_the_end_of_a_number_is_not_taken_for_the_whole(build, tmp_path, images):
    """`001/000.png` is the image 1000, whose digits are spread over folders, and not 0."""
    (tmp_path / "images" / "001").mkdir(parents=True)
    for i in (0, 1):
        shutil.copy(images / f"{i}.png", tmp_path / "images" / "001" / f"00{i}.png")
    with pytest.raises(NoticeError, match="has none of the 2 images"):
        build({}, folder=tmp_path / "images")


def write_downloads(folder: Path, images: Path, addresses) -> None:
    """A folder as img2dataset writes it, with files that are named by their rows."""
    (folder / "00000").mkdir(parents=True)
    for row, address in enumerate(addresses):
        shutil.copy(images / f"{row}.png", folder / "00000" / f"{row:09}.jpg")
        told = {"url": address, "key": f"{row:09}", "status": "success"}
        (folder / "00000" / f"{row:09}.json").write_text(json.dumps(told))


def test_an_address_beside_an_image_counts_and_its_name_does_not(build, tmp_path, images):
    write_downloads(tmp_path / "images", images, [ROW["neg_url"], ROW["pos_url"]])
    built = build({}, folder=tmp_path / "images")
    shown = {pair.correct: pair.clean_image.name for pair in built.pairs}
    assert shown == {"girl": "000000001.jpg", "dog": "000000000.jpg"}


@pytest.mark.parametrize("place", ["", "00000"])
def test_images_of_other_addresses_are_not_taken_by_their_names(build, tmp_path, images, place):
    folder = tmp_path / "images"
    write_downloads(folder, images, ["http://example.invalid/x.png", "http://example.invalid/y"])
    with pytest.raises(NoticeError, match=r"has none of the 2 images .* beside a JSON file with"):
        build({}, folder=folder / place)
    ends = {f"{which}_url": f"http://a.test/00000000{i}.jpg" for i, which in enumerate(WHICH)}
    with pytest.raises(NoticeError, match=r"has none of the 2 images"):
        build(ends, folder=folder / place)


@pytest.mark.parametrize("told", ["[]", "{", '{"url": null}', '{"url": 3}', "[" * 99_999, "\xff"])
def test_a_file_beside_an_image_may_tell_no_address(build, tmp_path, images, told):
    shutil.copytree(images, tmp_path / "images")
    for i in (0, 1):
        (tmp_path / "images" / f"{i}.json").write_bytes(told.encode("latin-1"))
    assert len(build({}, folder=tmp_path / "images").pairs) == 4


def test_a_folder_that_has_none_says_what_was_looked_for(build, tmp_path, images):
    folder = tmp_path / "images"
    (folder / "x").mkdir(parents=True)
    for name in ("x/img-1.png", "x/img-2.png", "y.png", "z.png"):
        shutil.copy(images / "5.png", folder / name)
    with pytest.raises(NoticeError) as error:
        build({}, folder=folder)
    for part in (
        "has none of the 2 images", "0.jpg, 000000000000.jpg;", "girl.png",
        hashlib.sha256(ROW["pos_url"].encode()).hexdigest(), "x/img-1.png, x/img-2.png, y.png. ",
    ):  # fmt: skip
        assert part in str(error.value)


def test_pictures_of_one_colour_are_left_out_and_said(build, tmp_path, images):
    """The published code puts black pictures in the place of what it could not download."""
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    Image.new("RGB", (24, 24)).save(folder / "1.png")
    built = build({}, SIT | OTHER, folder=folder)
    assert lost(built) == ["rows: both images are at hand"]
    assert "shows nothing" in next(iter(built.left_out.values()))
    with pytest.raises(NoticeError, match=r"at hand, 0.* For example, .*1\.png shows nothing"):
        build({}, folder=folder)


def test_names_of_another_kind_are_not_taken(build, tmp_path, images):
    """A folder of ids: the address that ends in 0.png is another image's."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in (0, 1, 10):
        shutil.copy(images / f"{i}.png", folder)
    misleading = SIT | OTHER | {"neg_url": "http://example.invalid/0.png"}
    built = build({}, misleading, folder=folder)
    assert {pair.slot for pair in built.pairs} == {"subject"}
    assert built.left_out == {"http://example.invalid/0.png": "is the name of no file"}


def test_names_may_be_of_any_script(build, tmp_path, images):
    """However the file system and the address write an accent."""
    folder = tmp_path / "Bilder ü"
    folder.mkdir()
    shutil.copy(images / "0.png", folder / "犬.png")
    shutil.copy(images / "1.png", folder / unicodedata.normalize("NFD", "café é.png"))
    addresses = {
        "pos_url": "http://example.invalid/犬.png",
        "neg_url": "http://example.invalid/caf%C3%A9%20%C3%A9.png?x=1",
    }
    assert len(build(addresses, folder=folder).pairs) == 4


def test_a_name_that_could_be_two_images_is_not_guessed(build, tmp_path, images):
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(images / "0.png", folder / "girl.png")
    shutil.copy(images / "1.png", folder / "dog.png")
    namesake = {"neg_triplet": "['[]']", "pos_url": "http://elsewhere.invalid/dog.png"}
    with pytest.raises(NoticeError, match="both images are at hand, 0"):
        build({}, namesake, folder=folder)
    for name in ("0.png", "1.png", "1.jpg"):
        shutil.copy(images / "1.png", folder / name)
    with pytest.raises(NoticeError, match=r"1.jpg and .*1.png have one name"):
        build({}, folder=folder)


def test_an_id_does_not_leave_the_folder(build, tmp_path, images):
    inside = tmp_path / "a" / "images"
    shutil.copytree(images, inside)
    shutil.copy(images / "5.png", tmp_path / "a" / "secret.png")
    with pytest.raises(NoticeError, match="at hand, 0"):
        build({"neg_image_id": "../secret", "neg_url": "file:///../secret.png"}, folder=inside)


def bad_table(path: Path, kind: str) -> Path:
    text = FIXTURE.read_text()
    if kind == "columns":
        path.write_text(text.replace("neg_triplet", "negative", 1))
    elif kind == "encoding":
        path.write_bytes(text.encode() + b"\xff\xfe\n")
    elif kind == "header":
        path.write_text(text.splitlines()[0] + "\n")
    elif kind == "nothing":
        path.write_text("")
    elif kind == "long":
        path.write_text(text + '"' + "a" * 200_000 + '"\n')
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "kind, said",
    [
        ("nothing", r"lacks the columns pos_triplet, .*It is empty"),
        ("columns", "lacks the columns neg_triplet"),
        ("header", "has no rows"),
        ("encoding", "is not text in UTF-8"),
        ("long", r"cannot be read as CSV \(field larger"),
        ("missing", r"cannot be read \(No such file"),
        ("folder", r"cannot be read \(Is a directory"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, images, kind, said):
    with pytest.raises(NoticeError, match=said):
        read_svo_probes(bad_table(tmp_path / "table.csv", kind), images)


def test_what_is_not_given_is_asked_for(build, tmp_path):
    with pytest.raises(NoticeError, match="a folder of images, or a cache"):
        read_svo_probes(FIXTURE)
    with pytest.raises(NoticeError, match=r"There is no folder .*nowhere"):
        build({}, folder=tmp_path / "nowhere")
    with pytest.raises(NoticeError, match="lacks the columns rewritten"):
        build({}, question="rewritten")
    with pytest.raises(NoticeError, match=r"gives no scene.*three words, 0"):
        build({"neg_triplet": "['[]']"})


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_images_come_from_their_addresses(tmp_path, images):
    """A dead address leaves its row out; a folder of one's own comes first."""
    served = tmp_path / "served"
    served.mkdir()
    for i in (0, 10, 11):
        shutil.copy(images / f"{i}.png", served)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Quiet, directory=str(served))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    rows = [
        ROW | {"pos_url": f"{at}/{one}.png", "neg_url": f"{at}/{other}.png", **more}
        for one, other, more in ((0, 80, {}), (10, 11, SIT | OTHER), (0, 12, SAND))
    ]
    table = write_table(tmp_path / "table.csv", rows)
    addresses = [row[name] for row in rows for name in ("pos_url", "neg_url")]
    # The library's own call would refuse this machine's address; what is cached it takes.
    download_images(addresses, tmp_path / "cache", allow=lambda ip: True)
    server.shutdown()
    server.server_close()
    built = read_svo_probes(table, cache=tmp_path / "cache")
    assert built.steps[-3:] == [
        ("rows: both images are at hand", 1),
        ("rows: two images, neither of which shows both words", 1),
        ("scenes: two images, one question, each once", 1),
    ]
    assert set(built.left_out) == {f"{at}/80.png", f"{at}/12.png"}
    assert all("404" in reason for reason in built.left_out.values())
    assert {len(pair.clean_image.stem) for pair in built.pairs} == {64}
    own = tmp_path / "own"
    own.mkdir()
    for i in (10, 12):
        shutil.copy(images / f"{i}.png", own)
    built = read_svo_probes(table, own, tmp_path / "cache")
    assert set(built.left_out) == {f"{at}/80.png"}
    assert len(built.pairs) == 8
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning, match=r"empty has none of the 5 images .* has, .*no files"):
        assert len(read_svo_probes(table, tmp_path / "empty", tmp_path / "cache").pairs) == 4


def test_the_order_of_the_rows_does_not_matter(tmp_path, images):
    with open(FIXTURE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows += [row | {"sentence": "Another sentence."} for row in rows]
    usual = read_svo_probes(write_table(tmp_path / "0.csv", rows), images)
    for seed in (1, 2):
        random.Random(seed).shuffle(rows)
        other = read_svo_probes(write_table(tmp_path / f"{seed}.csv", rows), images)
        assert other.pairs == usual.pairs
        assert other.steps == usual.steps


def test_ids_depend_on_the_images_not_on_their_names(build, tmp_path, images):
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(images / "0.png", folder / "girl.png")
    shutil.copy(images / "1.png", folder / "dog.png")
    nameless = {"pos_image_id": "", "neg_image_id": ""}
    renamed = build(nameless, folder=folder).pairs
    assert [pair.pair_id for pair in renamed] == [pair.pair_id for pair in build({}).pairs]


def test_questions_of_ones_own(build):
    def ask(triplets, sentence, slot, first, second):
        assert sentence == ROW["sentence"]
        assert triplets[0].verb == "stand"
        if slot == "object":
            return None
        return f"In the picture, {first} or {second}?" if slot == "subject" else "What is it?"

    built = build({}, SIT | OTHER, SAND | {"neg_image_id": "12"}, question=ask)
    assert lost(built) == ["rows: a question could be formed"]
    assert built.steps[6][1] == 1
    assert prompts(built) == {"In the picture, girl or dog?", "In the picture, dog or girl?"}


@pytest.mark.parametrize(
    "prompt", ["Does she sit (sitting) or is she standing?", "Standing or sitting, which is it?"]
)
def test_a_column_of_rewritten_questions(build, prompt):
    given = {"rewritten": prompt}
    built = build(SIT | given, SIT | OTHER, columns=(*ROW, "rewritten"), question="rewritten")
    assert lost(built) == ["rows: a question could be formed"]
    assert prompt in prompts(built)
    assert len(prompts(built)) == 2
    by_order = {(pair.correct, pair.order): pair.prompt.lower() for pair in built.pairs}
    for correct, incorrect in (("standing", "sitting"), ("sitting", "standing")):
        first = by_order[correct, "correct_first"]
        assert first.index(correct) < first.index(incorrect)


def test_a_question_that_offers_the_wrong_option_first_is_none(build):
    with pytest.raises(NoticeError, match="a question could be formed, 0"):
        build({}, question=lambda *_: "Is it the girl or the dog?")


def test_near_synonyms_are_symmetric_and_can_be_replaced(build):
    for word, near in NEAR_SYNONYMS.items():
        assert word not in near
        assert all(word in NEAR_SYNONYMS[other] for other in near)
    girl_or_child = {"neg_triplet": "child,stand,grass"}
    assert len(build(girl_or_child, near_synonyms={}).pairs) == 4
    with pytest.raises(NoticeError, match="near-synonyms, 0"):
        build({}, near_synonyms={"girl": ["dog"]})


def random_rows(n: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    words = [
        ["boy", "girl", "man", "woman", "dog", "cat", "horse"],
        ["stand", "sit", "run", "walk", "jump", "ride", "hold", "carry"],
        ["beach", "grass", "snow", "street", "chair", "car", "horse", "bench"],
    ]
    rows = []
    for _ in range(n):
        positive = [rng.choice(slot) for slot in words]
        negative, differing = list(positive), rng.randrange(3)
        while negative == positive:
            negative[differing] = rng.choice(words[differing])
        one, other = rng.sample(range(60), 2)
        rows.append(
            {
                "sentence": f"A {positive[0]} is {positive[1]}ing on the {positive[2]}.",
                "pos_triplet": ",".join(positive),
                "neg_triplet": ",".join(negative),
                "pos_url": f"http://example.invalid/{one}.png",
                "neg_url": f"http://example.invalid/{other}.png",
                "pos_image_id": str(one),
                "neg_image_id": str(other),
                "subj_neg": differing == 0,
                "verb_neg": differing == 1,
                "obj_neg": differing == 2,
            }
        )
    return rows


def test_ten_thousand_rows_take_time_in_proportion(tmp_path, images):
    seconds = {}
    for n in (2_500, 10_000):
        table = write_table(tmp_path / f"{n}.csv", random_rows(n))
        start = time.process_time()
        built = read_svo_probes(table, images)
        seconds[n] = time.process_time() - start
        assert built.steps[0] == ("rows: in the table", n)
        assert len(built.pairs) > 2_000
    assert seconds[10_000] < 8 * seconds[2_500]  # a square would be 16
    assert seconds[10_000] < 20


def test_rows_that_are_not_used_take_no_memory(tmp_path, images):
    unused = [ROW | {"verb_neg": "True"}] * 10_000
    table = write_table(tmp_path / "table.csv", [ROW, *unused])
    assert table.stat().st_size > 1.5e6
    tracemalloc.start()
    read_svo_probes(table, images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


TEXT = st.text(max_size=12)
TRIPLET = st.one_of(
    TEXT,
    st.sampled_from([ROW["pos_triplet"], ROW["neg_triplet"], "['[]']", "['girl,sit,grass']"]),
    st.tuples(TEXT, TEXT, TEXT).map(",".join),
)
FLAG = st.one_of(TEXT, st.sampled_from(["True", "False", "1", "0", ""]))
ROWS = st.fixed_dictionaries(
    {
        "sentence": st.one_of(TEXT, st.just(ROW["sentence"])),
        "pos_triplet": TRIPLET,
        "neg_triplet": TRIPLET,
        "pos_url": TEXT,
        "neg_url": st.one_of(TEXT, st.just("http://[::1")),
        "pos_image_id": st.one_of(TEXT, st.sampled_from("0123")),
        "neg_image_id": st.one_of(TEXT, st.sampled_from("0123")),
        "subj_neg": FLAG,
        "verb_neg": FLAG,
        "obj_neg": FLAG,
    }
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS, max_size=6))
def test_any_rows_give_pairs_or_a_notice_error(images, tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    few = folder / "few images"
    if not few.exists():
        few.mkdir()
        for i in range(4):
            shutil.copy(images / f"{i}.png", few)
    table = write_table(folder / "fuzz.csv", rows)
    try:
        built = read_svo_probes(table, few)
    except NoticeError:
        return
    assert built.steps[0][1] == len(rows)
    assert len(built.pairs) == 4 * built.steps[-1][1] > 0


@pytest.fixture(scope="module", params=["blip-mini", "llava-mini"])
def model(request):
    return load_model(request.param, device="cpu")


def test_a_model_can_be_asked_and_swept(model, tmp_path, images):
    """From the table to a stored set, and through both small models' tokenizers."""
    read_svo_probes(FIXTURE, images).pairs.save(tmp_path / "data" / "svo")
    pairs = load_pairs("svo", data=tmp_path / "data")
    assert isinstance(pairs, PairSet)
    assert len(pairs) == 92
    for pair in pairs:
        tokens = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
        assert tokens.correct != tokens.incorrect
    few = pairs.filter(lambda pair: {pair.correct, pair.incorrect} == {"dog", "cat"}).sample(2)
    for pair in few:
        corrupt = replace_tokens(pair, pairs, model.token_layout)
        assert set(corrupt.split()) - set(pair.prompt.split()) < {"boy", "girl", "man", "woman"}
    sites = site_grid(model, ["layer_output"], position="correct")
    assert len(sweep(model, few, sites, corruption="image").table()) == 2 * len(sites)
