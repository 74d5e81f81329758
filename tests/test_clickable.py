"""Maps whose cells say more: where the cells are, what they say, and how a page shows it."""

import base64
import json
import re

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image

from notice_lib import NoticeError, plotting

FIRST = pd.DataFrame([[0.5, -0.2], [0.0, 0.1]], index=["or", "last"])
SECOND = -FIRST
LOOKS = np.arange(1.0, 17).reshape(2, 2, 2, 2)
PICTURE = Image.new("RGB", (64, 64), "red")


def notes(name, **more):
    """Notes on a map of the shape of FIRST: its name and the cell's row and column."""
    texts = FIRST.copy().astype(object)
    for row, column in np.ndindex(2, 2):
        texts.iloc[row, column] = f"{name} {row} {column} </script>"
    return plotting.CellNotes(texts, **more)


def figure():
    return plotting.percent_maps({"heads": {"first": FIRST, "second": SECOND}}, "layer")


@pytest.fixture
def page():
    """What a page gets: the HTML of a figure of two maps, of which one has a picture."""
    more = {"image": PICTURE, "looks": LOOKS, "about": "red"}
    InteractiveShell.instance()
    with capture_output() as seen:
        plotting.clickable(figure(), [notes("a"), notes("b", **more)])._ipython_display_()
    (output,) = seen.outputs
    return output.data["text/html"]


@pytest.fixture
def data(page):
    return json.loads(re.search(r"<script type=.application/json.>(.*?)</script>", page)[1])


def test_each_cell_lies_where_the_figure_draws_it(data):
    drawn = figure()
    drawn.img()
    width, height = 100 / drawn.bbox.width, 100 / drawn.bbox.height
    maps = [axes for axes in drawn.axes if axes.images]
    for axes, panel in zip(maps, data["panels"], strict=True):
        for at, (left, top, across, down, _) in enumerate(panel["cells"]):
            x, y = axes.transData.transform(divmod(at, 2)[::-1])  # the middle of the cell
            assert left + across / 2 == pytest.approx(x * width, abs=0.01)
            assert top + down / 2 == pytest.approx(100 - y * height, abs=0.01)
    (first, second, third, _) = data["panels"][0]["cells"]
    assert first[0] + first[2] == pytest.approx(second[0], abs=0.02)
    assert first[1] + first[3] == pytest.approx(third[1], abs=0.02)


def test_each_cell_says_its_own(data):
    said = [[cell[-1] for cell in panel["cells"]] for panel in data["panels"]]
    cells = ("0 0", "0 1", "1 0", "1 1")
    assert said == [[f"{name} {cell} </script>" for cell in cells] for name in "ab"]


def test_a_look_is_the_root_of_attention_in_bytes(data):
    assert "picture" not in data["panels"][0] and data["panels"][1]["picture"] == 0
    (picture,) = data["pictures"]
    assert picture["grid"] == 2 and picture["about"] == "red"
    assert picture["address"].startswith("data:image/webp;base64,")
    found = np.stack([np.frombuffer(base64.b64decode(look), np.uint8) for look in picture["looks"]])
    assert (found == np.rint(255 * np.sqrt(LOOKS.reshape(4, 4) / 16))).all()


def test_the_figure_itself_stays_as_it_is(page):
    assert page.startswith('<div class="clickable"><img alt="heads, first: from')


def test_maps_with_the_same_picture_share_it():
    drawn = figure()
    drawn.img()
    same = plotting.clickable(drawn, [notes("a", image=PICTURE), notes("b", image=PICTURE)])
    assert len(same.data()["pictures"]) == 1


@pytest.mark.parametrize("given", [[notes("a")], [notes("a"), plotting.CellNotes(FIRST.T[:1])]])
def test_notes_of_another_shape_are_refused(given):
    with pytest.raises(NoticeError, match="the shapes"):
        plotting.clickable(figure(), given)


def test_looks_of_another_shape_are_refused():
    with pytest.raises(NoticeError, match=r"look at has \[\(2, 2\), \(1, 2\)\]"):
        plotting.clickable(figure(), [notes("a"), notes("b", image=PICTURE, looks=LOOKS[:1])])
