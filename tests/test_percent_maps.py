"""Numbers in percent, and maps of them."""

import numpy as np
import pandas as pd
import pytest

from notice_lib import NoticeError, plotting

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    "share, digits, sign, told",
    [
        (0.305, 0, "", "30 %"),
        (0.305, 1, "+", "+30.5 %"),
        (-0.125, 1, "", f"{MINUS}12.5 %"),
        (-0.0001, 0, "", "0 %"),
        (-0.0001, 1, "+", "0.0 %"),
        (np.float32(1), 0, "", "100 %"),
    ],
)
def test_a_share_in_percent_has_a_minus_and_no_sign_at_zero(share, digits, sign, told):
    assert plotting.in_percent(share, digits, sign) == told


@pytest.fixture
def fractions():
    """Two tables of token role by layer; `start` is silent, `or` occurs in the first one only."""
    index = ["start", "correct", "or"]
    a = pd.DataFrame([[0.001, 0.0], [0.5, -0.2], [0.02, 0.004]], index=index)
    b = pd.DataFrame([[0.0, 0.0], [1.0, 0.3]], index=index[:2])
    return {"image": {"svo": a, "faces": b}, "text": {"svo": -a, "faces": b}}


def test_percent_maps_have_one_scale_and_print_percent(fractions):
    figure = plotting.percent_maps(fractions, "layer", "The finding.", silent=0.01)
    maps = [axes for axes in figure.axes if axes.images]
    assert {axes.images[0].get_clim() for axes in maps} == {(-100, 100)}
    assert [text.get_text() for text in maps[0].texts] == ["50", "\N{MINUS SIGN}20", "2"]
    assert [axes.get_title() for axes in maps] == ["svo", "faces", "", ""]
    assert [axes.get_ylabel() for axes in maps] == ["image", "", "text", ""]
    below = figure.get_supxlabel()
    assert below == "Left out, below 1 % everywhere: start.\nHatched: does not occur."
    assert figure.alt.startswith(
        "The finding. image, svo: from \N{MINUS SIGN}20 % at correct, layer 1 to +50 % at correct, "
        "layer 0."
    )
    assert "Left out, below 1 % everywhere: start." in figure.alt


def test_blue_is_towards_the_clean_answer_in_percent_maps():
    orange, white, blue = plotting.TOWARDS([0.0, 0.5, 1.0])[:, :3]
    assert blue[2] > blue[0] and orange[0] > orange[2] and white.min() > 0.99


def test_percent_maps_mark_heads_by_their_labels(fractions):
    heads = fractions["image"]["svo"].set_axis([4, 5, 6], axis=0)
    figure = plotting.percent_maps(
        {"image": {"svo": heads}},
        "layer",
        framed={("image", "svo"): {(5, 1)}},
        dotted={("image", "svo"): {(6, 0), (9, 9)}},
    )
    (axes,) = [axes for axes in figure.axes if axes.images]
    assert [patch.get_xy() for patch in axes.patches] == [(0.5, 0.5)]
    assert [line.get_xydata().round(2).tolist() for line in axes.lines] == [[[0.38, 1.64]]]
    assert figure.get_supxlabel() == ""


def test_no_maps_cannot_be_drawn():
    with pytest.raises(NoticeError, match=r"no maps to draw\. Give"):
        plotting.percent_maps({"image": {}}, "layer")


def test_titles_that_differ_are_repeated_and_a_given_limit_is_a_fraction(fractions):
    svo, faces = fractions["image"].values()
    figure = plotting.percent_maps(
        {"image": {"svo": svo}, "text": {"faces": faces, "svo": svo}}, "layer", limit=0.5
    )
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in maps] == ["svo", "faces", "svo"]
    assert {axes.images[0].get_clim() for axes in maps} == {(-50, 50)}
    assert [axes.get_visible() for axes in figure.axes[:4]] == [True, False, True, True]
    assert [label.get_text() for label in maps[0].get_yticklabels()] == ["start", "correct", "or"]
    assert figure.get_supxlabel() == "Hatched: does not occur."
    assert maps[-1].get_xlabel() == "layer"


def test_rows_that_are_silent_everywhere_leave_one():
    silent = pd.DataFrame([[0.001], [0.002]], index=["start", "or"])
    figure = plotting.percent_maps({"image": {"svo": silent}}, "layer", silent=0.01)
    (axes,) = [axes for axes in figure.axes if axes.images]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["start"]
    assert figure.get_supxlabel() == "Left out, below 1 % everywhere: or."


def test_many_columns_get_dashes_instead_of_numbers():
    wide = pd.DataFrame(np.linspace(-1, 1, 12)[None], index=["correct"])
    figure = plotting.percent_maps({"image": {"svo": wide}}, "layer")
    (axes,) = [axes for axes in figure.axes if axes.images]
    assert not axes.texts
    (dashes,) = axes.collections
    assert len(dashes.get_segments()) == 5
