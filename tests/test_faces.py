"""Facial expressions: from the published folders to pairs."""

from collections import Counter

import pytest
from layouts import first_option, write_folders

from notice_lib import NoticeError
from notice_lib.datasets.build import select
from notice_lib.datasets.faces import EMOTIONS, read_facial_expressions


def portraits(root, part="train", start=0, count=4):
    write_folders(root / "images" / part, dict.fromkeys(EMOTIONS, count), start)
    return root


def test_the_folder_tells_the_emotion(tmp_path):
    built = read_facial_expressions(portraits(tmp_path))
    for pair in built.pairs:
        assert pair.correct == EMOTIONS[pair.clean_image.parent.name]
        assert pair.incorrect == EMOTIONS[pair.corrupt_image.parent.name]
        first = first_option(pair)
        second = {pair.correct, pair.incorrect}.difference({first}).pop()
        assert pair.prompt == f"Is this person feeling {first} or {second}?"
        assert (pair.task, pair.slot) == ("faces", "emotion")
    assert built.pairs.slots == {"emotion": tuple(sorted(EMOTIONS.values()))}
    assert {pair.correct for pair in built.pairs} == set(EMOTIONS.values())
    assert built.steps[0] == ("images: files", 28)


def test_the_name_of_a_parent_folder_does_not_matter(tmp_path):
    plain = read_facial_expressions(portraits(tmp_path / "plain")).pairs
    sad = read_facial_expressions(portraits(tmp_path / "sad happy fear" / "crusade")).pairs
    assert [(p.pair_id, p.correct) for p in sad] == [(p.pair_id, p.correct) for p in plain]


def test_each_part_is_read_from_its_folder(tmp_path):
    portraits(tmp_path)
    for i, part in enumerate(("validation", "test")):
        portraits(tmp_path, part, start=500 * i + 500)
    for given in (tmp_path, tmp_path / "images"):
        for part in ("train", "validation", "test"):
            pairs = read_facial_expressions(given, part).pairs
            assert {pair.clean_image.parent.parent.name for pair in pairs} == {part}
    assert len(read_facial_expressions(tmp_path / "images" / "test", "test").pairs) > 80
    with pytest.raises(NoticeError, match=r"no folder 'train'; it has angry, .*must\s+lie in"):
        read_facial_expressions(tmp_path / "images" / "test")
    with pytest.raises(NoticeError, match="no part 'dev'; name one of train, validation, test"):
        read_facial_expressions(tmp_path, "dev")


def test_parts_have_other_usual_names(tmp_path):
    portraits(tmp_path, "Val")
    assert len(read_facial_expressions(tmp_path, "validation").pairs) > 80
    with pytest.raises(NoticeError, match=r"images has no folder 'test'; it has Val\."):
        read_facial_expressions(tmp_path, "test")
    with pytest.raises(NoticeError, match=r"There is no folder .*nowhere\."):
        read_facial_expressions(tmp_path / "nowhere")


OTHER_NAMES = {
    "angry": "Anger 0_Angry angry(1)",
    "disgust": "disgusted Disgusting 1-disgust",
    "fear": "FEARFUL frightened scared afraid",
    "happy": "happiness joy Joyful 03.happy",
    "neutral": "Neutral Natural neutrality",
    "sad": "sadness Sad_2",
    "surprise": "surprised Suprise 7_surprise",
}


def test_an_archive_may_be_unpacked_into_a_folder_of_its_name(tmp_path):
    (tmp_path / "Images").mkdir()
    portraits(tmp_path / "Images")
    assert len(read_facial_expressions(tmp_path).pairs) > 80


@pytest.mark.parametrize("number", range(4))
def test_emotions_have_other_usual_names(tmp_path, number):
    usual = read_facial_expressions(portraits(tmp_path / "a")).pairs
    folder = portraits(tmp_path / "b") / "images" / "train"
    for name, others in OTHER_NAMES.items():
        (folder / name).rename(folder / (others.split()[number:] or [name])[0])
    other = read_facial_expressions(tmp_path / "b").pairs
    assert [(p.pair_id, p.correct, p.prompt) for p in other] == [
        (p.pair_id, p.correct, p.prompt) for p in usual
    ]


def test_what_is_not_asked_about_is_left_out_and_counted(tmp_path):
    folder = portraits(tmp_path) / "images" / "train"
    usual = read_facial_expressions(tmp_path).pairs
    for name in (".cache", "__MACOSX"):
        (folder / name).mkdir()
    write_folders(folder, {"Contempt": 2, "not_happy": 1}, start=900)
    with pytest.warns(UserWarning, match="the folders Contempt, not_happy, which are named"):
        built = read_facial_expressions(tmp_path)
    assert built.pairs == usual
    assert built.steps[:2] == [
        ("images: files", 31),
        ("images: of an emotion that is asked about", 28),
    ]


def test_some_of_the_emotions_are_enough(tmp_path):
    write_folders(tmp_path / "train", {"happy": 3, "sad": 3})
    assert {pair.correct for pair in read_facial_expressions(tmp_path).pairs} == {"happy", "sad"}
    write_folders(tmp_path / "test", {"happy": 3, "1": 3})
    with pytest.raises(NoticeError, match=r"two emotions or more, .*It has 1, happy\. Rename"):
        read_facial_expressions(tmp_path, "test")


def test_a_face_of_two_emotions_is_in_no_pair(tmp_path):
    folder = portraits(tmp_path) / "images" / "train"
    (folder / "sad" / "0.jpg").write_bytes((folder / "happy" / "0.jpg").read_bytes())
    (folder / "fear" / "1.jpg").write_bytes((folder / "fear" / "0.jpg").read_bytes())
    built = read_facial_expressions(tmp_path)
    assert Counter(reason.split(" train")[0] for reason in built.left_out.values()) == {
        "is labelled happy and sad": 2,
        "is a copy of": 1,
    }


def test_the_papers_preset_takes_each_emotion_in_both_orders(tmp_path):
    sample, _ = select(read_facial_expressions(portraits(tmp_path)).pairs, preset="paper")
    counts = Counter((pair.correct, pair.order) for pair in sample)
    for emotion in EMOTIONS.values():
        assert 4 <= counts[emotion, "correct_first"] == counts[emotion, "incorrect_first"] <= 250
