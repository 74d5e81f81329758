"""Tables as spreadsheets, pandas and people write them, and what is said of what is not clear."""

import re
import warnings

import pytest

from notice_lib import NoticeError
from notice_lib.pairs.tables import column_names, read_table, truth

ROWS = [{"image": "a.png", "label": "red"}, {"image": "b.png", "label": "sky, blue"}]
WITH_COMMA = b'image,label\na.png,red\nb.png,"sky, blue"\n'


def read(tmp_path, content: bytes, *required, optional=(), synonyms=None):
    """The rows, and what was warned of."""
    (tmp_path / "t.csv").write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        columns = required or ("image", "label")
        rows = [row for _, row in read_table(tmp_path / "t.csv", columns, optional, synonyms)]
    return rows, " ".join(str(warning.message) for warning in told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (WITH_COMMA, ""),
        (b"\xef\xbb\xbf" + WITH_COMMA, ""),
        (WITH_COMMA.replace(b"\n", b"\r\n"), ""),
        (WITH_COMMA.decode().encode("utf-16"), ""),
        (b'image;label\na.png;red\nb.png;"sky, blue"\n', "separated by semicolons."),
        (b"sep=;\nimage;label\na.png;red\nb.png;sky, blue\n", "separated by semicolons."),
        (b"image|label\na.png|red\nb.png|sky, blue\n", "separated by bars."),
        (b"image\tlabel\na.png\tred\nb.png\tsky, blue\n", "separated by tabs."),
        (b'image, label\na.png, red\nb.png, "sky, blue"\n', ""),
        (b'Image,LABEL \na.png,red\nb.png,"sky, blue"\n', "in any case, such as 'Image'."),
        (b',label,image\n0,red,a.png\n1,"sky, blue",b.png\n', ""),
        (b'image,label,,\na.png,red,,\n,,,\nb.png,"sky, blue",,\n,,,\n\n', "2 rows without text"),
        (b'image,label\na.png,red,,\nb.png,"sky, blue",\n', ""),
        (b"\n,,\n" + WITH_COMMA, ""),
        (b'"image","label"\n"a.png","red"\n"b.png","sky, blue"\n', ""),
        (b'"image";"label"\n"a.png";"red"\n"b.png";"sky, blue"\n', "separated by semicolons."),
        (b'"image"\t"label"\na.png\tred\nb.png\t"sky, blue"\n', "separated by tabs."),
        (b'"image"|label\na.png|red\nb.png|"sky, blue"\n', "separated by bars."),
        (b'"","image","label"\n"1","a.png","red"\n"2","b.png","sky, blue"\n', ""),  # R's
        (b'image, "label"\na.png, red\nb.png, "sky, blue"\n', ""),
    ],
)
def test_a_table_is_read_whoever_wrote_it(tmp_path, content, told):
    rows, said = read(tmp_path, content)
    assert rows == ROWS
    assert re.search(f"t.csv: .*{told}", said) if told else said == ""


def test_fields_come_as_they_are(tmp_path):
    """Spaces belong to a field, unless the header has them too."""
    rows, _ = read(tmp_path, b'image,label\n a.png ," b"\n')
    assert rows == [{"image": " a.png ", "label": " b"}]


def test_columns_that_may_be_missing_are_empty(tmp_path):
    rows, _ = read(tmp_path, b"image,more,slot\na,b,c\n", "image", optional=("slot", "rest"))
    assert rows == [{"image": "a", "slot": "c", "rest": ""}]


def test_other_names_are_read_where_one_is_meant(tmp_path):
    names = {"image": ("file_name", "path"), "label": ("class",)}
    rows, said = read(tmp_path, b"File Name,class\na.png,red\n", synonyms=names)
    assert rows == ROWS[:1]
    assert "column 'File Name' is read as image; column 'class' is read as label" in said
    rows, _ = read(tmp_path, b"path,image,label,class\n/x/a.png,a.png,red,0\n", synonyms=names)
    assert rows == ROWS[:1]
    with pytest.raises(NoticeError, match=r"lacks the columns label\..* label may also be class\."):
        read(tmp_path, b"path\na\n", synonyms=names)
    with pytest.raises(NoticeError, match=r"two columns for image: path, file_name\. Keep one"):
        read(tmp_path, b"path,file_name,label\n,,\n", synonyms=names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"lacks the columns image, label\. It is empty\. Correct"),
        (b"image;tag\n", r"lacks the columns label\. It has image, tag, separated by semicolons"),
        (b"image,label,Label\n", "has two columns for label: label, Label"),
        (b"image,label\na.png,red,big\n", "line 2: it has 3 fields, .* with ',' in it"),
        (b"image;label\na.png;red\nb.png\n", "line 3: it has 1 fields, .* with ';' in it"),
        (b"\n,,\n", r"lacks the columns image, label\. It is empty\. Correct"),
        (b"image,label\n\xff,b\n", "is not text in UTF-8"),
        (b'image,label\n"a,b\n', "cannot be read as CSV .* quotation mark"),
        (b'"image","label\na,b\n', "cannot be read as CSV .unexpected end of data.* not closed"),
        (b'"image";"label\na;b\n', "cannot be read as CSV .unexpected end of data.* not closed"),
        (b'image,"label\na,b\n', "cannot be read as CSV .unexpected end of data.* not closed"),
        (b'"image,label\na,b\n', "cannot be read as CSV .unexpected end of data.* not closed"),
        (b'{"image": "a.png"}\n', "is JSON, not a table"),
        (b"PK\x03\x04" + bytes(99), r"is a spreadsheet's own file\. Save it there as CSV"),
    ],
)
def test_what_is_not_clear_is_named(tmp_path, content, message):
    with pytest.raises(NoticeError, match=rf"t\.csv,? {message}"):
        read(tmp_path, content)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'sep=;\nimage;label\n\n"a\nb";c\n;\nd;e\n')
    with pytest.warns(UserWarning, match="semicolons; 1 rows without text are left out"):
        lines = [where for where, _ in read_table(tmp_path / "t.csv", ("image",))]
    assert [line.split("line ")[1] for line in lines] == ["5", "7"]


def test_names_of_columns_alone(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffClean_Image;Ä\n".encode())
    assert column_names(tmp_path / "t.csv") == ["clean_image", "ä"]
    with pytest.raises(NoticeError, match="cannot be read"):
        column_names(tmp_path)


def test_words_of_truth():
    assert {truth(word) for word in ("true", "TRUE", " True", "1", "1.0", "yes", "t")} == {True}
    assert {truth(word) for word in ("false", "False", "0", "0.0", "no ", "F")} == {False}
    assert {truth(word) for word in ("", "2", "maybe", "nan")} == {None}


def test_names_of_columns_may_have_another_unicode_form(tmp_path):
    """The name "rést", with its accent as a sign of its own."""
    rows, said = read(tmp_path, "re\u0301st,image\na,b\n".encode(), "r\u00e9st")
    assert rows == [{"r\u00e9st": "a"}]
    assert "such as 're\u0301st'" in said
