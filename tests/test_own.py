"""One's own images: a table of labels, a table of pairs, a data set of Hugging Face."""

import io
import re
import unicodedata
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from layouts import a_picture, first_option, write_csv, write_folders
from PIL import Image

from notice_lib import NoticeError, load_pairs
from notice_lib.datasets.hub import open_dataset, read_dataset, roots_of
from notice_lib.datasets.own import is_table_of_pairs, read_labels, read_pairs, template
from notice_lib.pairs.masks import write_masks

LABELS = ("image", "attribute", "rest", "slot")
PAIRS = ("clean_image", "corrupt_image", "prompt", "correct", "incorrect")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six different images, named 0 to 5."""
    return write_folders(tmp_path, {"photos": 6}, ending=".png") / "photos"


def labels_of(photos, *rows, columns=LABELS):
    return write_csv(photos / "labels.csv", columns, *rows)


ROWS = [
    ("0.png", "red", "bottle", "colour"),
    ("1.png", "blue", "bottle", "colour"),
    ("2.png", "red", "shoe", "colour"),
    ("3.png", "light blue", "shoe", "colour"),
    ("0.png", "bent", "bottle", "shape"),
    ("1.png", "straight", "bottle", "shape"),
]


def test_a_table_of_labels_gives_pairs(photos):
    built = read_labels(labels_of(photos, *ROWS))
    assert built.steps[:2] == [("rows: of the table", 6), ("images: labels", 6)]
    assert len(built.pairs) == 12
    asked = {pair.prompt for pair in built.pairs}
    assert {"Is this shoe red or light blue?", "Is this bottle straight or bent?"} <= asked
    for pair in built.pairs:
        names = {pair.clean_image.name, pair.corrupt_image.name}
        assert names in ({"0.png", "1.png"}, {"2.png", "3.png"})
        assert (pair.task, pair.split, pair.clean_masks) == ("own", "heldout", None)
    assert built.pairs.slots == {
        "colour": ("blue", "light blue", "red"),
        "shape": ("bent", "straight"),
    }


def test_the_order_of_the_rows_does_not_matter(photos):
    one = read_labels(labels_of(photos, *ROWS), seed=3).pairs
    other = read_labels(labels_of(photos, *ROWS[::-1], ROWS[0]), seed=3).pairs
    assert one == other


def test_a_question_of_ones_own(photos):
    rows = [("0.png", "happy"), ("1.png", "{rest}"), ("2.png", "sad")]
    table = labels_of(photos, *rows, columns=LABELS[:2])
    pairs = read_labels(table, question="Feels it {first}, or {second}?", task="mine").pairs
    assert {pair.task for pair in pairs} == {"mine"}
    assert {"Feels it happy, or sad?", "Feels it {rest}, or happy?"} & {p.prompt for p in pairs}
    assert read_labels(table).pairs[0].prompt.startswith("Is this ")
    assert "  " not in read_labels(table).pairs[0].prompt
    with pytest.raises(NoticeError, match=r"'Is it \{first\}\?' must have"):
        template("Is it {first}?")


def test_masks_are_found_by_the_names_of_images(photos, tmp_path):
    (tmp_path / "masks").mkdir()
    write_masks(tmp_path / "masks" / "0.png", {"object": np.eye(8, dtype=bool)})
    built = read_labels(labels_of(photos, *ROWS[:2]), masks=tmp_path / "masks")
    for pair in built.pairs:
        run, other = ("clean", "corrupt") if pair.clean_image.stem == "0" else ("corrupt", "clean")
        assert pair.masks(run)["object"].sum() == 8
        assert pair.masks(other) == {}
    Image.new("RGB", (8, 8)).save(tmp_path / "masks" / "1.png")
    with pytest.raises(NoticeError, match=r"1\.png does not hold masks"):
        read_labels(labels_of(photos, *ROWS[:2]), masks=tmp_path / "masks")
    with pytest.raises(NoticeError, match=r"no folder .*nowhere: name the one with the masks"):
        read_labels(labels_of(photos, *ROWS[:2]), masks=tmp_path / "nowhere")


def test_masks_of_another_size_are_named(photos, tmp_path):
    (tmp_path / "masks").mkdir()
    write_masks(tmp_path / "masks" / "0.png", {"object": np.ones((8, 9), bool)})
    message = r"masks/0\.png holds masks of 9 x 8 pixels, but .*photos/0\.png has 8 x 8"
    with pytest.raises(NoticeError, match=message):
        read_labels(labels_of(photos, *ROWS[:2]), masks=tmp_path / "masks")
    write_masks(photos / "m.png", {"object": np.ones((9, 8), bool)})
    table = pairs_table(photos, (*ONE, "m.png"), columns=(*PAIRS, "corrupt_masks"))
    with pytest.raises(NoticeError, match=r"m\.png holds masks of 8 x 9 pixels"):
        read_pairs(table)


def test_masks_of_a_turned_photograph_are_upright(photos, tmp_path):
    (tmp_path / "masks").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photos / "0.png") as image:
        image.resize((8, 6)).save(photos / "0.png", exif=exif)
    write_masks(tmp_path / "masks" / "0.png", {"object": np.ones((8, 6), bool)})
    built = read_labels(labels_of(photos, *ROWS[:2]), masks=tmp_path / "masks")
    assert built.pairs[0].image("clean").size in ((6, 8), (8, 8))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("0.png", "", "bottle", "colour")], "line 2: attribute is empty"),
        ([("", "red", "bottle", "colour")], "line 2: image is empty"),
        ([ROWS[0], ("9.png", "red", "", "")], r"line 3: .*9\.png is missing"),
        ([("../../x.png", "red", "", "")], "line 2: '../../x.png' leads to .*, outside"),
        ([("/etc/passwd", "red", "", "")], "line 2: '/etc/passwd' leads to /etc/passwd, outside"),
        (
            [ROWS[0], ("0.png", "blue", "bottle", "colour")],
            "line 3: .*line 2 labels .* 'red' and 'bottle'",
        ),
        (
            [ROWS[0], ("0.png", "red", "shoe", "colour")],
            "line 3: .*line 2 labels .* 'red' and 'bottle'",
        ),
        ([("0.png", "red", "a,b", "colour")], "line 2: it has 5 fields, but the table has 4"),
        ([("0.png", "red")], "line 2: it has 2 fields, but the table has 4"),
        ([ROWS[0], ROWS[2]], "No image has a partner among 2 usable ones of 2"),
        ([], "No image has a partner among 0 usable ones of 0"),
    ],
)
def test_a_wrong_row_of_labels_is_named(photos, rows, message):
    with pytest.raises(NoticeError, match=message):
        read_labels(labels_of(photos, *rows))


def test_a_wrong_table_is_named(photos, tmp_path):
    with pytest.raises(NoticeError, match=r"lacks the columns attribute\. It has image, what, "):
        read_labels(labels_of(photos, columns=("image", "what")))
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    for read in (read_labels, read_pairs):
        with pytest.raises(NoticeError, match=r"empty\.csv lacks the columns"):
            read(empty)
        with pytest.raises(NoticeError, match=r"none\.csv"):
            read(tmp_path / "none.csv")
        with pytest.raises(NoticeError, match=r"no folder .*nowhere: name the one with the images"):
            read(empty, tmp_path / "nowhere")
    (tmp_path / "latin.csv").write_bytes("image,attribute\nä,ö\n".encode("latin-1"))
    with pytest.raises(NoticeError, match="not text in UTF-8"):
        read_labels(tmp_path / "latin.csv")


# Tables as people have them.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file_name;label\n0.png;red\n1.png;blue\n;\n", "semicolons; .*'file_name' .*1 rows"),
        ("\ufeffPath,Class\n0.png,red\n1.png,blue\n", "'Path' is read as image; column 'Class'"),
        ("image, attribute\n0.png, red\n1.png, blue\n", None),
        (",image,attribute,,\n0,0.png,red ,,\n1,1.png,blue,,\n,,,,\n", "1 rows without text"),
        ("image,attribute\n0.PNG,red\n1,blue\n", "2 files are read by names that differ"),
    ],
)
def test_a_table_from_elsewhere_gives_the_same_pairs(photos, recwarn, text, told):
    usual = read_labels(labels_of(photos, *ROWS[:2], columns=LABELS)).pairs
    usual = [(p.clean_image, p.correct, p.order) for p in usual]
    table = photos / "other.csv"
    table.write_text(text, encoding="utf-8")
    assert [(p.clean_image, p.correct, p.order) for p in read_labels(table).pairs] == usual
    said = " ".join(str(warning.message) for warning in recwarn)
    assert re.search(told, said) if told else said == ""


def test_labels_in_another_case_are_the_same_label(photos):
    rows = [("0.png", "Red"), ("0.png", "red"), ("1.png", "red"), ("2.png", "blue")]
    with pytest.warns(UserWarning, match="read as one: 'Red', 'red' as 'red'"):
        built = read_labels(labels_of(photos, *rows, columns=LABELS[:2]))
    assert built.pairs.slots == {"attribute": ("blue", "red")}
    assert dict(built.steps)["images: labels"] == 3


@pytest.mark.parametrize(
    "gap",
    ["", " ", "\u200b", "nan", "NaN", "<NA>", "#N/A", "NA", "N/A", "n/a", "None", "null", "NULL"],
)
def test_a_missing_label_is_not_a_word(photos, gap):
    with pytest.raises(NoticeError, match="line 3: attribute is empty"):
        read_labels(labels_of(photos, ("0.png", "red"), ("1.png", gap), columns=LABELS[:2]))
    rows = [("0.png", "red", gap, gap), ("1.png", "blue", gap, gap)]
    built = read_labels(labels_of(photos, *rows))
    assert {pair.prompt for pair in built.pairs} == {"Is this red or blue?", "Is this blue or red?"}
    assert built.pairs.slots == {"attribute": ("blue", "red")}


def test_a_missing_label_is_said_by_its_mark(photos):
    with pytest.raises(NoticeError, match=r"line 2: attribute is empty but for ' NA'\. Fill it in"):
        read_labels(labels_of(photos, ("0.png", " NA"), columns=LABELS[:2]))


def test_none_of_them_may_be_a_word(photos):
    built = read_labels(labels_of(photos, ("0.png", "none"), ("1.png", "some"), columns=LABELS[:2]))
    assert built.pairs.slots == {"attribute": ("none", "some")}


def test_whole_numbers_as_labels_have_no_decimal_point(photos):
    rows = [("0.png", "1.0"), ("1.png", "2"), ("2.png", "1"), ("3.png", "2.5")]
    built = read_labels(labels_of(photos, *rows, columns=LABELS[:2]))
    assert built.pairs.slots == {"attribute": ("1", "2", "2.5")}


def test_a_list_in_a_table_is_no_label(photos):
    table = labels_of(photos, ("0.png", "\"['red', 'big']\""), ("1.png", "red"), columns=LABELS[:2])
    with pytest.raises(NoticeError, match=r"The label \"\['red', 'big'\]\" is a list"):
        read_labels(table)


def test_numbers_that_a_spreadsheet_wrote_as_floats_are_the_prompts(photos):
    row = ("0.png", "1.png", "Are there 1 or 2 dogs?", "1.0", "2.0")
    built = read_pairs(pairs_table(photos, row))
    assert built.pairs.slots == {"attribute": ("1", "2")}
    row = ("0.png", "1.png", "Is it 1.0 or 2.0?", "1.0", "2.0")
    assert read_pairs(pairs_table(photos, row)).pairs[0].correct == "1.0"


def test_damaged_images_are_left_out(photos):
    (photos / "2.png").write_bytes((photos / "2.png").read_bytes()[:60])
    (photos / "3.png").write_text("nothing")
    built = read_labels(labels_of(photos, *ROWS[:4]))
    assert dict(built.steps)["images: that decode and show something"] == 2
    assert sorted(built.left_out) == [photos / "2.png", photos / "3.png"]


# Tables of ready pairs.

ONE = ("0.png", "1.png", "Is the dog or the goat pulling?", "dog", "goat")
TWO = ("2.png", "3.png", "Is it pulling or pushing?", "pushing", "pulling")


def pairs_table(photos, *rows, columns=PAIRS):
    return write_csv(photos / "pairs-table.csv", columns, *rows)


def test_a_table_of_pairs_gives_all_four_of_each(photos):
    built = read_pairs(pairs_table(photos, ONE, TWO), task="mine")
    assert built.steps == [
        ("rows: of the table", 2),
        ("rows: with two images that decode and differ", 2),
        ("scenes: two images, one question", 2),
    ]
    truth = {"0.png": "dog", "1.png": "goat", "2.png": "pushing", "3.png": "pulling"}
    for pair in built.pairs:
        assert truth[pair.clean_image.name] == pair.correct
        assert truth[pair.corrupt_image.name] == pair.incorrect
        assert (first_option(pair) == pair.correct) == (pair.order == "correct_first")
    assert Counter(pair.prompt for pair in built.pairs) == {
        "Is the dog or the goat pulling?": 2,
        "Is the goat or the dog pulling?": 2,
        "Is it pulling or pushing?": 2,
        "Is it pushing or pulling?": 2,
    }


def test_rows_that_say_the_same_again_are_counted(photos):
    turned = ("1.png", "0.png", "Is the goat or the dog pulling?", "goat", "dog")
    (photos / "copy.png").write_bytes((photos / "0.png").read_bytes())
    copied = ("copy.png", *ONE[1:])
    built = read_pairs(pairs_table(photos, ONE, ONE, turned, copied, TWO))
    assert [left for _, left in built.steps] == [5, 5, 2]
    opposite = ("1.png", "0.png", "Is the goat or the dog pulling?", "dog", "goat")
    with pytest.raises(NoticeError, match=r"line 3 says the opposite of .*line 2"):
        read_pairs(pairs_table(photos, ONE, opposite))
    other_question = ("0.png", "1.png", "Is the dog or the goat pushing?", "goat", "dog")
    assert len(read_pairs(pairs_table(photos, ONE, other_question)).pairs) == 8


def test_columns_that_may_be_there(photos):
    write_masks(photos / "m.png", {"subject": np.eye(8, dtype=bool)})
    columns = (*PAIRS, "slot", "scene", "clean_masks", "corrupt_masks")
    row = (*ONE, "subject", "yard", "m.png", "")
    pair = read_pairs(pairs_table(photos, row, columns=columns)).pairs[0]
    assert (pair.slot, pair.scene_id) == ("subject", "yard")
    assert pair.masks("clean")["subject"].sum() == 8
    assert pair.corrupt_masks is None
    with pytest.raises(NoticeError, match="yard and yard have the same id"):
        read_pairs(pairs_table(photos, row, (*TWO, "verb", "yard", "", ""), columns=columns))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("0.png", "1.png", "A dog?", "dog", "goat"), "line 2: The prompt 'A dog\\?' does not"),
        (("0.png", "9.png", *ONE[2:]), r"line 2: .*9\.png is missing"),
        (("0.png", "../labels.csv", *ONE[2:]), "line 2: .* leads to .*, outside"),
        (("0.png", "0.png", *ONE[2:]), "none of its 1 rows has two usable images"),
        (("0.png", "1.png", "dog or Dog", "dog", "Dog"), "answers of a scene are 'dog' and 'Dog'"),
        (("0.png", "1.png", "", "dog", "goat"), "line 2: prompt is empty"),
    ],
)
def test_a_wrong_pair_is_named(photos, row, message):
    (photos.parent / "labels.csv").write_text("")
    with pytest.raises(NoticeError, match=message):
        read_pairs(pairs_table(photos, row))


def test_answers_may_have_another_unicode_form_than_the_prompt(photos):
    decomposed = unicodedata.normalize("NFD", "Is it crème or rosé?")
    row = ("0.png", "1.png", decomposed, "crème", unicodedata.normalize("NFD", "rosé"))
    built = read_pairs(pairs_table(photos, row))
    assert built.pairs.slots == {"attribute": ("crème", "rosé")}


def test_answers_are_spelled_as_the_prompt_writes_them(photos):
    """Other letters are other tokens, and the mirrored prompt must not have them either."""
    built = read_pairs(pairs_table(photos, ("0.png", "1.png", "Is it red or BLUE?", "Red", "Blue")))
    assert built.pairs.slots == {"attribute": ("BLUE", "red")}
    assert {pair.prompt for pair in built.pairs} == {"Is it red or BLUE?", "Is it BLUE or red?"}
    assert {pair.correct for pair in built.pairs} == {"red", "BLUE"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("light blue", "light-blue"),
        ("cat", "the cat"),
        ("cat", "\uff43\uff41\uff54"),
        ("cat", "c\u200bat"),
        ("cat", "Cat"),
    ],
)
def test_answers_that_are_the_same_words_are_refused(photos, one, other):
    row = ("0.png", "1.png", f"Is it {one} or {other}?", one, other)
    with pytest.raises(NoticeError, match=r"line 2: The answers .* the same words to a model"):
        read_pairs(pairs_table(photos, row))


def test_signs_that_do_not_show_are_no_part_of_a_word(photos):
    row = ("0.png", "1.png", "\ufeffIs it r\u200bed or blue?", "red", "bl\u00adue")
    built = read_pairs(pairs_table(photos, row))
    assert {pair.prompt for pair in built.pairs} == {"Is it red or blue?", "Is it blue or red?"}
    rows = [("0.png", "r\u200bed"), ("1.png", "red"), ("2.png", "blue\ufeff")]
    built = read_labels(labels_of(photos, *rows, columns=LABELS[:2]))
    assert built.pairs.slots == {"attribute": ("blue", "red")}


def test_damaged_images_of_pairs_are_left_out(photos):
    (photos / "2.png").write_bytes(b"")
    built = read_pairs(pairs_table(photos, ONE, TWO))
    assert [left for _, left in built.steps] == [2, 1, 1]
    assert list(built.left_out) == [photos / "2.png"]


def test_the_two_kinds_of_tables_are_told_apart(photos):
    assert is_table_of_pairs(pairs_table(photos, ONE))
    (photos / "excel.csv").write_text("\ufeffPrompt;Clean_Image\n", encoding="utf-8")
    assert is_table_of_pairs(photos / "excel.csv")
    assert not is_table_of_pairs(labels_of(photos, *ROWS))
    with pytest.raises(NoticeError, match="cannot be read"):
        is_table_of_pairs(photos / "none.csv")


# Whatever words are in a table, it gives pairs or a NoticeError.

WORDS = st.sampled_from(
    ["0.png", "1.png", "../x", "a" * 300, "red", "or", "Red", " ", "", "é", "[1]", '"', "{first}"]
)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_words_give_pairs_or_an_error_that_is_said(photos, data):
    columns = data.draw(st.sampled_from([LABELS, PAIRS, (*PAIRS, "clean_masks", "scene")]))
    cells = WORDS | st.text(st.characters(codec="utf-8"), max_size=8)
    rows = data.draw(st.lists(st.lists(cells, min_size=2, max_size=7), max_size=4))
    table = write_csv(photos / "any.csv", columns, *rows)
    for read in (read_labels, read_pairs):
        try:
            built = read(table)
        except NoticeError as error:
            assert str(error)
        else:
            assert len(built.pairs) % 4 == 0 < len(built.pairs)


def test_ten_thousand_rows(tmp_path):
    folder = write_folders(tmp_path, {"photos": 142}, ending=".png") / "photos"
    rows = [
        (f"{i}.png", f"{j}.png", f"Is it w{i} or w{j}?", f"w{i}", f"w{j}")
        for i in range(142)
        for j in range(i)
    ]
    built = read_pairs(pairs_table(folder, *rows[:10_000]))
    assert len(built.pairs) == 40_000
    labels = [(f"{i % 142}.png", f"w{i % 71}", "", f"slot {i // 142}") for i in range(10_000)]
    labels = [(name, f"{slot[5:]}{word}", rest, slot) for name, word, rest, slot in labels]
    built = read_labels(labels_of(folder, *labels))
    assert dict(built.steps)["images: without copies and contradictions"] == 10_000


# Data sets of Hugging Face.


def rows_of(count=12):
    names = ("bent", "rusty", "wet")
    return {
        "photo": [{"bytes": a_picture(i), "path": None} for i in range(count)],
        "state": [i % 3 for i in range(count)],
        "noun": ["bottle" if i % 2 else "shoe" for i in range(count)],
    }, datasets.Features(
        {
            "photo": datasets.Image(),
            "state": datasets.ClassLabel(names=names),
            "noun": datasets.Value("string"),
        }
    )


def of_hub(count=12) -> datasets.Dataset:
    rows, features = rows_of(count)
    return datasets.Dataset.from_dict(rows, features=features)


class Rows(list):
    """Rows in memory, whose images stay as they are."""

    column_names = ("image", "label")
    features = None

    def select_columns(self, _):
        return self

    with_format = select_columns


NAMES = {"image": "photo", "attribute": "state", "rest": "noun"}


def test_a_data_set_gives_pairs(tmp_path):
    built = read_dataset(of_hub(), tmp_path / "a", **NAMES)
    assert built.steps[:2] == [
        ("rows: of the data set", 12),
        ("rows: with an image and a label", 12),
    ]
    content = {a_picture(i): i for i in range(12)}
    for pair in built.pairs:
        i, j = (content[p.read_bytes()] for p in (pair.clean_image, pair.corrupt_image))
        assert (pair.correct, pair.incorrect) == tuple(
            ("bent", "rusty", "wet")[k % 3] for k in (i, j)
        )
        assert i % 2 == j % 2 == (" bottle " in pair.prompt)
        assert pair.clean_image.suffix == ".png"
    streamed = read_dataset(of_hub().to_iterable_dataset(), tmp_path / "b", **NAMES)
    shuffled = read_dataset(of_hub().shuffle(seed=1), tmp_path / "c", **NAMES)
    ids = [pair.pair_id for pair in built.pairs]
    assert ids == [pair.pair_id for pair in streamed.pairs]
    assert ids == [pair.pair_id for pair in shuffled.pairs]


def test_images_may_be_decoded_or_bytes(tmp_path):
    plain = {"image": [a_picture(i) for i in range(4)], "label": ["red", "blue"] * 2}
    encoded = read_dataset(datasets.Dataset.from_dict(plain), tmp_path / "a").pairs
    rows = []
    for content, word in zip(plain["image"], plain["label"], strict=True):
        (tmp_path / "one.png").write_bytes(content)
        with Image.open(tmp_path / "one.png") as image:
            rows.append({"image": image.copy(), "label": word})
    decoded = read_dataset(datasets.Dataset.from_list(rows), tmp_path / "b").pairs
    assert len(encoded) == len(decoded) > 0
    pixels = {pair.image("clean").tobytes() for pair in decoded}
    assert pixels == {pair.image("clean").tobytes() for pair in encoded}


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "I;16", "LA", "P"])
def test_decoded_images_of_any_mode_are_kept(tmp_path, mode):
    rows = []
    for i in range(4):
        with Image.open(io.BytesIO(a_picture(i))) as image:
            grey = image.convert("L") if mode == "I;16" else image
            rows.append({"image": grey.convert(mode), "label": ("wet", "dry")[i % 2]})
    built = read_dataset(Rows(rows), tmp_path)
    assert dict(built.steps)["images: that decode and show something"] == 4


def test_an_image_that_no_file_keeps_is_named(tmp_path):
    rows = [{"image": Image.new("HSV", (8, 8)), "label": "wet"}]
    with pytest.raises(NoticeError, match="Row 0, column 'image', holds an image of the mode HSV"):
        read_dataset(Rows(rows), tmp_path)
    rows = [{"image": Image.new("F", (8, 8)), "label": word} for word in ("wet", "dry")]
    with pytest.raises(NoticeError, match=r"For example, .* has floating-point pixels"):
        read_dataset(Rows(rows), tmp_path)


def test_paths_of_files_are_images(tmp_path, photos):
    rows = {"image": [str(photos / f"{i}.png") for i in range(4)], "label": ["wet", "dry"] * 2}
    built = read_dataset(datasets.Dataset.from_dict(rows), tmp_path / "images")
    assert {pair.clean_image.parent for pair in built.pairs} == {photos}
    with pytest.raises(NoticeError, match=r"names .*0\.png: a file outside of the data set"):
        read_dataset(datasets.Dataset.from_dict(rows), tmp_path, roots=[tmp_path / "images"])


def test_a_data_set_without_labels_says_what_was_read(tmp_path):
    message = (
        "among 0 .*What was read: rows: of the data set, 4; rows: with an image and a label, 0"
    )
    with pytest.raises(NoticeError, match=message):
        read_dataset(labelled_by("label", [-1] * 4, CLASSES), tmp_path)


def test_rows_without_label_and_without_image_are_left_out(tmp_path):
    rows, features = rows_of()
    rows["state"][0] = -1
    rows["state"][1] = None
    rows["photo"][2] = {"bytes": b"no image", "path": None}
    rows["photo"][4] = rows["photo"][3]
    rows["photo"][5] = None
    built = read_dataset(datasets.Dataset.from_dict(rows, features=features), tmp_path, **NAMES)
    assert [left for _, left in built.steps[:4]] == [12, 9, 8, 6]
    assert len(built.left_out) == 2  # bytes that are no image, and one file of two labels


def test_a_local_data_set_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    of_hub().save_to_disk(tmp_path / "disk")
    datasets.DatasetDict({"train": of_hub(), "test": of_hub(6)}).save_to_disk(tmp_path / "both")
    of_hub().to_parquet(tmp_path / "rows.parquet")
    for name in ("disk", "both", "rows.parquet"):
        built = read_dataset(open_dataset(str(tmp_path / name)), tmp_path / "images", **NAMES)
        assert built.steps[0] == ("rows: of the data set", 12)
    assert len(open_dataset(str(tmp_path / "both"), "test")) == 6
    write_folders(tmp_path / "folders", {"red": 3, "blue": 3}, ending=".png")
    pairs = read_dataset(open_dataset(str(tmp_path / "folders")), tmp_path / "images").pairs
    assert {pair.correct for pair in pairs} == {"red", "blue"}
    assert all(pair.clean_image.parent.name == pair.correct for pair in pairs)


def test_the_split_that_is_asked_for_is_the_one_that_is_read(tmp_path):
    both = datasets.DatasetDict({"train": of_hub(), "dev": of_hub(6)})
    both.save_to_disk(tmp_path / "both")
    datasets.load_from_disk(tmp_path / "both")["dev"].save_to_disk(tmp_path / "dev")
    of_hub().save_to_disk(tmp_path / "one")
    of_hub().to_parquet(tmp_path / "rows.parquet")
    assert len(open_dataset(str(tmp_path / "both"), "dev")) == 6
    named = datasets.Dataset.from_dict({"a": [1]}, split="dev")
    named.save_to_disk(tmp_path / "named")
    assert len(open_dataset(str(tmp_path / "named"), "dev")) == 1
    for name, splits in (("both", "train, dev"), ("one", "train"), ("named", "dev")):
        with pytest.raises(NoticeError, match=rf"no split 'test'\. Its splits are: {splits}\."):
            open_dataset(str(tmp_path / name), "test")
    with pytest.raises(NoticeError, match=r"no split 'train'\. Its splits are: dev\."):
        open_dataset(str(tmp_path / "named"))
    with pytest.raises(NoticeError, match=r"split 'test', cannot be opened: .*\['train'\]"):
        open_dataset(str(tmp_path / "rows.parquet"), "test")
    with pytest.raises(NoticeError, match=r"has the splits train, dev\. .*dataset\['train'\]"):
        read_dataset(both, tmp_path / "images", **NAMES)


def labelled_by(column, values, kind=None) -> datasets.Dataset:
    """Four images with a column of labels of some kind."""
    kinds = {"image": datasets.Image(), **({column: kind} if kind else {})}
    rows = {"image": [{"bytes": a_picture(i), "path": None} for i in range(4)], column: values}
    if kind is None:
        return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))


CLASSES = datasets.ClassLabel(names=["bent", "rusty"])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[0], [1], [0], []], datasets.List(CLASSES)),
        ([["bent"], ["rusty"], ["bent"], None], None),
        ([0.0, 1.0, 0.0, float("nan")], None),
        ([0, 1, 0, -1], None),
        (["bent", "rusty", "bent", "None"], None),
        ([1, 0, 1, None], CLASSES),
    ],
    ids=["class lists", "lists", "floats", "integers", "marks", "classes"],
)
def test_one_label_a_row_may_come_in_any_form(tmp_path, values, kind):
    built = read_dataset(labelled_by("label", values, kind), tmp_path)
    assert dict(built.steps)["rows: with an image and a label"] == 3
    words = {"0", "1"} if values[0] == 0 else {"bent", "rusty"}
    words = {"bent", "rusty"} if kind else words
    assert set(built.pairs.slots["attribute"]) == words


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (
            [[0], [0, 1], [1], [0]],
            datasets.List(CLASSES),
            r"Row 1, .*'label', holds \[0, 1\], a list",
        ),
        ([["bent"], ["a", "b"], [], []], None, r"Row 1, .*holds \['a', 'b'\], a list, where one"),
        ([{"name": "bent"}] * 4, None, r"Row 0, .*holds \{'name': 'bent'\}, a dict"),
        ([b"bent"] * 4, None, "Row 0, .*holds b'bent', a bytes"),
    ],
    ids=["class lists", "lists", "records", "bytes"],
)
def test_several_labels_in_a_row_are_named(tmp_path, values, kind, message):
    with pytest.raises(NoticeError, match=message):
        read_dataset(labelled_by("label", values, kind), tmp_path)


def test_a_format_for_tensors_changes_no_label(tmp_path):
    usual = read_dataset(of_hub(), tmp_path / "a", **NAMES).pairs
    for form in ("numpy", "torch"):
        found = read_dataset(of_hub().with_format(form), tmp_path / form, **NAMES).pairs
        assert [pair.prompt for pair in found] == [pair.prompt for pair in usual]


def test_what_is_no_data_set_is_said(tmp_path):
    with pytest.raises(NoticeError, match="nowhere', split 'train', cannot be opened"):
        open_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(NoticeError, match="lacks the columns picture; it has photo, state, noun"):
        read_dataset(of_hub(), tmp_path, **(NAMES | {"image": "picture"}))
    with pytest.raises(NoticeError, match="Row 0, column 'noun', names the file 'shoe', which ca"):
        read_dataset(of_hub(), tmp_path, **(NAMES | {"image": "noun", "rest": None}))


def test_masks_and_questions_of_embedded_pairs_come_back(tmp_path):
    """A table of the embedded pairs gives the embedded pairs."""
    source = load_pairs("svo", n=24, seed=1)
    one, *_ = source
    columns = (*PAIRS, "slot", "clean_masks", "corrupt_masks")
    names = {name: getattr(one, name) for name in (*PAIRS[:2], "clean_masks", "corrupt_masks")}
    folder = one.clean_image.parent.parent
    row = [
        names[name].relative_to(folder) if name in names else getattr(one, name) for name in columns
    ]
    table = write_csv(tmp_path / "table.csv", columns, row)
    built = read_pairs(table, folder)
    same = next(
        pair for pair in built.pairs if (pair.correct, pair.order) == (one.correct, one.order)
    )
    for name in (*names, "prompt", "incorrect", "slot"):
        assert getattr(same, name) == getattr(one, name)


def test_an_image_without_a_partner_is_named(tmp_path):
    rows = [("a.png", "wet", "road"), ("b.png", "dry", "road"), ("c.png", "wet", "bottle")]
    for seed, (name, _, _) in enumerate(rows):
        (tmp_path / name).write_bytes(a_picture(seed))
    built = read_labels(write_csv(tmp_path / "t.csv", ("image", "attribute", "rest"), *rows))
    assert dict(built.steps)["images: with a partner"] == 2
    ((name, reason),) = built.left_out.items()
    assert name == tmp_path / "c.png" and reason == "has no partner"


def test_only_known_places_stand_in_a_question():
    with pytest.raises(NoticeError, match=r"has \{noun\}, but only"):
        template("Is this {noun} {first} or {second}?")


def test_a_data_set_cannot_name_files_outside_of_it(tmp_path):
    (tmp_path / "private.png").write_bytes(a_picture(0))
    stranger = {"bytes": None, "path": str(tmp_path / "private.png")}
    features = datasets.Features(
        {"photo": datasets.Image(decode=False), "state": datasets.Value("string")}
    )
    rows = datasets.Dataset.from_dict(
        {"photo": [stranger] * 2, "state": ["wet", "dry"]}, features=features
    )
    link = tmp_path / "set" / "link.png"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "private.png")
    linked = datasets.Dataset.from_dict(
        {"photo": [{"bytes": None, "path": str(link)}] * 2, "state": ["wet", "dry"]},
        features=features,
    )
    for data, message in (
        (rows, r"Row 0, .*private\.png: a file outside of the data set\. Copy the file to"),
        (linked, r"link\.png, a link to .*private\.png: a file outside .*set"),
    ):
        with pytest.raises(NoticeError, match=message):
            read_dataset(
                data, tmp_path / "a", "photo", "state", roots=roots_of(str(link.parent)),
                question="Is this {first} or {second}?",
            )  # fmt: skip
