"""MIT-States: from the published folders to pairs."""

from collections import Counter

import pytest
from layouts import a_picture, first_option, write_folders

from notice_lib import NoticeError
from notice_lib.datasets.build import select
from notice_lib.datasets.mit_states import NEAR_SYNONYMS, STATES, read_mit_states

FOLDERS = {
    "rusty bottle": 4,
    "wet bottle": 3,
    "worn bottle": 3,
    "broken bottle": 3,
    "bent bottle": 3,
    "dark bottle": 3,
    "painted bottle": 3,
    "sliced eggs": 3,
    "large eggs": 3,
    "old bottle": 3,
    "adj bottle": 5,
}


def release(root, folders=FOLDERS, separator=" "):
    named = {name.replace(" ", separator): count for name, count in folders.items()}
    write_folders(root / "release_dataset" / "images", named)
    return root


def test_pairs_are_of_one_noun_and_one_group(tmp_path):
    built = read_mit_states(release(tmp_path))
    groups = {state: group for group, states in STATES.items() for state in states}
    for pair in built.pairs:
        clean, corrupt = (
            path.parent.name.split(" ") for path in (pair.clean_image, pair.corrupt_image)
        )
        assert (pair.correct, pair.incorrect) == (clean[0], corrupt[0])
        assert clean[1] == corrupt[1]
        assert pair.slot == groups[pair.correct] == groups[pair.incorrect]
        assert pair.incorrect not in NEAR_SYNONYMS.get(pair.correct, ())
        first = first_option(pair)
        second = {pair.correct, pair.incorrect}.difference({first}).pop()
        start = "Are these eggs" if clean[1] == "eggs" else "Is this bottle"
        assert pair.prompt == f"{start} {first} or {second}?"
        assert (pair.task, pair.split) == ("states", "heldout")
    assert {pair.slot for pair in built.pairs} == {"colour", "shape", "texture"}
    assert built.steps[:2] == [
        ("images: files", 36),
        ("images: of a colour, shape or texture", 28),
    ]
    words = {word for pair in built.pairs for word in (pair.correct, pair.incorrect)}
    assert not words & {"old", "adj"}


def test_spaces_underscores_and_capitals_give_the_same_pairs(tmp_path):
    spaces = read_mit_states(release(tmp_path / "a")).pairs
    underscores = read_mit_states(release(tmp_path / "b", separator="_")).pairs
    capitals = {name.title(): count for name, count in FOLDERS.items()}
    for other in (underscores, read_mit_states(release(tmp_path / "c", capitals)).pairs):
        assert [(p.pair_id, p.prompt) for p in spaces] == [(p.pair_id, p.prompt) for p in other]


def test_a_noun_may_have_several_words(tmp_path):
    folders = {"rusty garden_hose": 2, "wet garden_hose": 2}
    pairs = read_mit_states(release(tmp_path, folders)).pairs
    assert "garden hose rusty or wet?" in {pair.prompt.removeprefix("Is this ") for pair in pairs}


def test_any_of_three_folders_may_be_named(tmp_path):
    release(tmp_path)
    whole = read_mit_states(tmp_path).pairs
    for folder in ("release_dataset", "release_dataset/images"):
        assert read_mit_states(tmp_path / folder).pairs == whole


def test_a_broken_download_is_counted(tmp_path):
    folder = release(tmp_path) / "release_dataset" / "images" / "rusty bottle"
    (folder / "0.jpg").write_bytes(b"")
    (folder / "1.jpg").write_text("not found")
    (folder / "2.jpg").write_bytes(a_picture(0, "JPEG")[:200])
    (folder / "Thumbs.db").write_bytes(b"\0" * 100)
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "größe 图.jpg").write_bytes(a_picture(999, "JPEG"))
    built = read_mit_states(tmp_path)
    assert len(built.left_out) == 4
    assert dict(built.steps)["images: files"] == 38
    assert dict(built.steps)["images: that decode and show something"] == 26
    assert "größe 图.jpg" in {pair.clean_image.name for pair in built.pairs}


def test_a_picture_of_two_states_is_in_no_question_about_them(tmp_path):
    folder = release(tmp_path) / "release_dataset" / "images"
    (folder / "rusty bottle" / "0.jpg").write_bytes((folder / "wet bottle" / "0.jpg").read_bytes())
    built = read_mit_states(tmp_path)
    assert set(built.left_out.values()) == {"is labelled rusty bottle and wet bottle"}
    assert len(built.left_out) == 2


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_wrong_folder_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoticeError, match=f"{name}.*the folder `images` of the unpacked"):
        read_mit_states(tmp_path / name)


def test_a_noun_in_one_state_has_no_partner(tmp_path):
    folders = {"rusty bottle": 3, "wet eggs": 2}
    with pytest.raises(NoticeError, match="No image has a partner among 5 usable ones"):
        read_mit_states(release(tmp_path, folders))


def test_the_papers_preset_is_balanced(tmp_path):
    sample, _ = select(read_mit_states(release(tmp_path)).pairs, preset="paper")
    counts = Counter((pair.slot, pair.order) for pair in sample)
    for slot in STATES:
        assert counts[slot, "correct_first"] == counts[slot, "incorrect_first"] <= 250


def test_near_synonyms_are_symmetric_and_every_state_has_alternatives():
    for a, near in NEAR_SYNONYMS.items():
        assert a not in near
        assert all(a in NEAR_SYNONYMS[b] for b in near)
    words = [word for states in STATES.values() for word in states]
    assert len(words) == len(set(words))
    assert set(NEAR_SYNONYMS) <= set(words)
    for states in STATES.values():
        for state in states:
            assert len(set(states) - {state} - NEAR_SYNONYMS.get(state, set())) >= 5
