"""Whatever bytes are in a file, reading it gives a value or a NoticeError."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from layouts import a_picture
from PIL import Image

from notice_lib import NoticeError, PairSet
from notice_lib.datasets.own import read_labels, read_pairs
from notice_lib.datasets.svo_probes import read_svo_probes
from notice_lib.pairs import COLUMNS
from notice_lib.pairs.images import FORMATS, check_image, open_image
from notice_lib.pairs.masks import read_masks, write_masks

SVO = Path(__file__).parent / "fixtures" / "svo_probes.csv"
PAIRS = (
    "{}\n"
    + (
        "p1,s1,states,colour,seen,false,images/0.png,images/1.png,masks/mask.png,,"
        'Is this bottle red or blue?,red,blue,correct_first,"[""blue"", ""red""]"\n'
    )
    * 2
)
LABELS = "image,attribute,rest\nimages/0.png,red,bottle\nimages/1.png,blue,bottle\n"
READY = (
    "clean_image,corrupt_image,prompt,correct,incorrect,clean_masks\n"
    "images/0.png,images/1.png,Is it red or blue?,red,blue,masks/mask.png\n"
)
VOCABULARY = {"slots": {"colour": ["red", "blue"]}, "near_synonyms": {"red": ["pink"]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A stored set, and a file of each kind that is read."""
    folder = tmp_path_factory.mktemp("set")
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for i in range(70):
        (folder / "images" / f"{i}.png").write_bytes(a_picture(i))
    write_masks(folder / "masks" / "mask.png", {"object": np.eye(8, dtype=bool)})
    (folder / "pairs.csv").write_text(
        PAIRS.format(",".join(COLUMNS)).replace("p1,", "p2,", 1), encoding="utf-8"
    )
    (folder / "vocabulary.json").write_text(json.dumps(VOCABULARY))
    (folder / "labels.csv").write_text(LABELS)
    (folder / "ready.csv").write_text(READY)
    shutil.copy(SVO, folder / "svo.csv")
    with Image.open(folder / "images" / "0.png") as image:
        for form in FORMATS:
            image.save(folder / f"picture.{form}", form)
        image.convert("P").save(folder / "palette.GIF")
    return folder


def load(path: Path) -> None:
    """A set; its files lie in the folder, and its vocabulary can be written again."""
    pairs = PairSet.load(path.parent)
    for pair in pairs:
        assert pair.clean_image.is_relative_to(path.parent) and pair.corrupt_image.is_file()
        assert pair.prompt[slice(*pair.spans.correct)].lower() == pair.correct.lower()
    json.dumps([pairs.slots, *map(sorted, pairs.near_synonyms.values())]).encode()


def look(path: Path) -> None:
    """A picture, which passes the check if and only if it opens."""
    if reason := check_image(path):
        if not reason.startswith("shows nothing"):
            with pytest.raises(NoticeError):
                open_image(path, "a test")
    else:
        assert open_image(path, "a test").mode == "RGB"


def four_each(built) -> None:
    assert len(built.pairs) % 4 == 0 < len(built.pairs)


READERS = {
    "pairs.csv": load,
    "vocabulary.json": load,
    "labels.csv": lambda path: four_each(read_labels(path)),
    "ready.csv": lambda path: four_each(read_pairs(path)),
    "svo.csv": lambda path: four_each(read_svo_probes(path, path.parent / "images")),
    "masks/mask.png": read_masks,
    "palette.GIF": look,
} | {f"picture.{form}": look for form in FORMATS}
EDITS = st.lists(st.tuples(st.integers(0, 6000), st.binary(max_size=5)), max_size=4)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", READERS)
@given(edits=EDITS, cut=st.none() | st.integers(0, 400), other=st.none() | st.binary(max_size=80))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_bytes_give_a_value_or_a_notice_error(folder, name, edits, cut, other):
    """Bytes are exchanged, the end is cut off, or all is something else."""
    path = folder / name
    whole = path.read_bytes()
    content = bytearray(whole)
    for place, new in edits:
        start = place % max(len(content), 1)
        content[start : start + len(new)] = new
    path.write_bytes(bytes(content)[:cut] if other is None else other)
    try:
        READERS[name](path)
    except NoticeError as error:
        assert str(error)
    finally:
        path.write_bytes(whole)
