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


def test_train_and_validation(tmp_path):
    portraits(tmp_path)
    portraits(tmp_path, "validation", start=500)
    for given in (tmp_path, tmp_path / "images"):
        for part in ("train", "validation"):
            pairs = read_facial_expressions(given, part).pairs
            assert {pair.clean_image.parent.parent.name for pair in pairs} == {part}
    with pytest.raises(NoticeError, match="has no folder 'test'"):
        read_facial_expressions(tmp_path, "test")


def test_a_missing_or_a_strange_class_is_named(tmp_path):
    folder = portraits(tmp_path) / "images" / "train"
    (folder / "disgust").rename(folder / "Disgust")
    with pytest.raises(NoticeError, match=r"missing: disgust; not among them: Disgust\)"):
        read_facial_expressions(tmp_path)
    (folder / "Disgust").rename(folder / "disgust")
    (folder / ".cache").mkdir()
    (folder / "__MACOSX").mkdir()
    assert len(read_facial_expressions(tmp_path).pairs) > 80
    (folder / "disgust").rename(tmp_path / "elsewhere")
    with pytest.raises(NoticeError, match=r"missing: disgust; not among them: none\)"):
        read_facial_expressions(tmp_path)


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
