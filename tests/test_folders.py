"""Files by the names that tables have for them."""

import unicodedata

import pytest

from notice_lib import NoticeError
from notice_lib.pairs.folders import Folder


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "B.JPG", "c.png", "deep/er/d.png", "note.txt", "straße.png"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for form in ("NFC", "NFD"):
        (tmp_path / "set" / unicodedata.normalize(form, f"{form} Ä.png")).touch()
    return Folder(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("b.jpg", "B.JPG"),
        ("a", "a.png"),
        ("b", "B.JPG"),
        ("deep\\er\\d.png", "deep/er/d.png"),
        ("Deep/er/D", "deep/er/d.png"),
        ("STRASSE.PNG", "straße.png"),
        (unicodedata.normalize("NFD", "NFC Ä.png"), unicodedata.normalize("NFC", "NFC Ä.png")),
        (unicodedata.normalize("NFC", "NFD Ä.png"), unicodedata.normalize("NFD", "NFD Ä.png")),
    ],
)
def test_a_name_that_can_mean_one_file_only_is_read(folder, name, meant):
    assert folder.file(name) == folder.root / meant
    assert "1 files are read by names that differ from theirs" in folder.told()


def test_exact_names_need_no_word(folder):
    for name in ("a.png", "./a.png", "deep/../a.png", str(folder.root / "a.png")):
        assert folder.file(name) == folder.root / "a.png"
    assert folder.told() is None


def test_two_files_that_could_be_meant_are_named(folder):
    (folder.root / "A.png").touch()
    assert folder.file("A.png").name == "A.png"
    with pytest.raises(NoticeError, match=r"'a\.PNG' could be A\.png, a\.png\. Name one"):
        folder.file("a.PNG")
    with pytest.raises(NoticeError, match=r"'a' could be A\.png, a\.png"):
        folder.file("a")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.png", r"set/x\.png is missing; .*set has B\.JPG, NFC Ä\.png, .*\. Restore the file"),
        ("deep/er/x.png", r"x\.png is missing; .*deep/er has d\.png\."),
        ("deep", r"set/deep is missing"),
        ("note", r"set/note is missing"),
        ("C:\\photos\\a.png", "is missing"),
        ("../set2/a.png", r"leads to .*/set2/a\.png, outside of the folder .*set\. Copy the file"),
        ("/etc/passwd", "'/etc/passwd' leads to /etc/passwd, outside"),
        ("\0", "is not a path"),
        ("a" * 999, "is not a path"),
        ("", "is missing"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(folder, name, message):
    with pytest.raises(NoticeError, match=message):
        folder.file(name)


def test_links_are_followed_within_the_folder_only(folder, tmp_path):
    (tmp_path / "secret.png").touch()
    (folder.root / "inner.png").symlink_to("a.png")
    (folder.root / "outer.png").symlink_to(tmp_path / "secret.png")
    assert folder.file("inner.png").name == "a.png"
    for name in ("outer.png", "OUTER.png"):
        with pytest.raises(NoticeError, match=r"leads to .*secret\.png, outside"):
            folder.file(name)
