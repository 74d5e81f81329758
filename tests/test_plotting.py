"""Figures draw exactly what the table says, with their names and units."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from test_pairs import a_pair

from notice_lib import NoticeError, plotting
from notice_lib.pairs.masks import write_masks

ROLES = ("start", "before", "before", "correct", "or", "incorrect", "last")


@pytest.fixture
def table():
    """Two pairs; the second has one token "before" where the first has two, and no "start"."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            (pair, component, layer, role, rng.normal())
            for pair, roles in (("p", ROLES), ("q", ROLES[2:]))
            for component in ("cross_attention", "mlp", "self_attention")
            for layer in range(3)
            for role in roles
        ],
        columns=["pair_id", "component", "layer", "role", "effect"],
    )


@pytest.fixture
def heads():
    """Three pairs, two layers of three heads; the second pair has two rows a head."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        [
            (pair, "cross_attention", layer, head, rng.normal())
            for pair in ("p", "q", "q", "r")
            for layer in range(2)
            for head in range(3)
        ],
        columns=["pair_id", "component", "layer", "head", "effect"],
    )


@pytest.fixture
def estimates():
    """Five heads with intervals, in two tasks."""
    table = pd.DataFrame(
        {
            "layer": [0, 0, 1, 1, 0],
            "head": [0, 1, 0, 1, 0],
            "task": ["svo"] * 4 + ["states"],
            "effect": [0.1, 0.5, -0.3, 0.2, 0.05],
            "low": [-0.1, 0.3, -0.4, 0.1, 0.01],
            "high": [0.3, 0.7, -0.2, 0.3, 0.09],
        }
    )
    return table.set_index(["layer", "head"])


@pytest.fixture
def pair(tmp_path):
    pixels = np.zeros((24, 24, 3), np.uint8)
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        pixels[:] = colour
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    corner = np.zeros((24, 24), bool)
    corner[:6, :6] = True
    write_masks(tmp_path / "mask.png", {"differs": corner, "object": ~corner})
    return a_pair(folder=tmp_path)


def panels(figure):
    """The axes that hold an image and are no colour bar."""
    return [axes for axes in figure.axes if axes.images]


def test_every_pair_weighs_the_same(table):
    mean = plotting.role_means(table)["mlp"].loc["before", 1]
    rows = table[(table.component == "mlp") & (table.role == "before") & (table.layer == 1)]
    one, other = (rows[rows.pair_id == name].effect for name in "pq")
    assert len(one) == 2 and len(other) == 1
    assert mean == pytest.approx((one.mean() + other.mean()) / 2, abs=1e-15)


def test_a_role_that_one_pair_lacks_is_the_mean_of_the_others(table):
    means = plotting.role_means(table)["mlp"]
    assert list(means.index) == ["start", "before", "correct", "or", "incorrect", "last"]
    row = table[(table.component == "mlp") & (table.role == "start") & (table.layer == 2)]
    assert len(row) == 1 and means.loc["start", 2] == row.effect.item()


def test_the_heat_map_draws_the_means(table):
    figure = plotting.heat_map(table, components=["mlp", "self_attention"])
    means = plotting.role_means(table)
    drawn = panels(figure)
    assert [axes.get_title() for axes in drawn] == ["MLP", "self-attention"]
    largest = max(means[name].abs().to_numpy().max() for name in ("mlp", "self_attention"))
    for axes, name in zip(drawn, ("mlp", "self_attention"), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), means[name])
        assert axes.images[0].get_clim() == (-largest, largest)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]
        assert axes.get_xlabel() == "layer"
    roles = [label.get_text() for label in drawn[0].get_yticklabels()]
    assert roles == list(means["mlp"].index)
    assert figure.axes[-1].get_xlabel() == "mean effect (logits)"


def test_all_components_are_drawn_in_the_order_of_the_layer(table):
    figure = plotting.heat_map(table)
    titles = [axes.get_title() for axes in panels(figure)]
    assert titles == ["self-attention", "cross-attention", "MLP"]


def test_the_range_can_be_given_and_zeros_can_be_drawn(table):
    figure = plotting.heat_map(table, limit=2.5)
    assert {axes.images[0].get_clim() for axes in panels(figure)} == {(-2.5, 2.5)}
    flat = plotting.heat_map(table.assign(effect=0.0))
    assert {axes.images[0].get_clim() for axes in panels(flat)} == {(-1.0, 1.0)}


def test_a_pair_is_drawn_with_its_answers(pair):
    figure = plotting.show_pair(pair)
    clean, corrupt = figure.axes
    assert clean.get_xlabel() == "clean: red" and corrupt.get_xlabel() == "corrupt: blue"
    assert tuple(clean.images[0].get_array()[0, 0]) == (255, 0, 0)
    assert tuple(corrupt.images[0].get_array()[0, 0]) == (0, 0, 255)
    assert figure.subfigs[0].get_suptitle() == "Is this bottle red or blue?"


def test_pairs_fill_a_grid(pair):
    assert len(plotting.show_pairs([pair] * 3).axes) == 6


def test_what_lies_outside_a_mask_is_faded(pair):
    figure = plotting.show_masks(pair)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["differs", "object"]
    differs = figure.axes[0].images[0].get_array()
    assert tuple(differs[0, 0]) == (1, 0, 0) and tuple(differs[20, 20]) == (1, 0.85, 0.85)


def test_patches_lie_where_they_are_in_the_image(pair):
    values = np.arange(16).reshape(4, 4) / 16
    figure = plotting.show_patches(pair.image("clean"), values, "share")
    patches = figure.axes[0].images[1]
    np.testing.assert_array_equal(patches.get_array(), values)
    assert patches.get_extent() == [-0.5, 23.5, 23.5, -0.5] and patches.get_clim()[0] == 0
    assert figure.axes[1].get_ylabel() == "share"
    lines = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_xdata()[0] > 0]
    assert lines == [5.5, 11.5, 17.5]
    faded = plotting.show_patches(pair.image("clean"), values > 0.5).axes
    assert len(faded) == 1
    np.testing.assert_array_equal(faded[0].images[1].get_array().mask, values > 0.5)


def test_strips_mark_the_mean_of_each_group():
    figure = plotting.strips({"a": [1.0, 3.0, np.nan], "b": [-1.0]}, "gap (logits)")
    axes = figure.axes[0]
    means = [line.get_xdata()[0] for line in axes.lines[2::2]]
    assert means == [2.0, -1.0] and axes.get_xlabel() == "gap (logits)"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_a_figure_is_shown_once(table, pair):
    """What pyplot still holds, a notebook shows a second time."""
    for figure in (plotting.heat_map(table), plotting.show_pair(pair)):
        assert to_hex(figure.get_facecolor()) == plotting.PAPER
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    "value, told", [(0.1234, "+0.12"), (-3.44, "\N{MINUS SIGN}3.4"), (123.4, "+123"), (9.96, "+10")]
)
def test_numbers_have_a_sign_and_two_digits(value, told):
    assert plotting.number(value) == told


def test_the_alt_text_of_a_heat_map_says_where_its_extremes_are(table):
    means = plotting.role_means(table)["mlp"]
    role, layer = means.stack().idxmax()
    told = f"to {plotting.number(means.loc[role, layer])} at {role}, layer {layer}."
    alt = plotting.heat_map(table, components=["mlp"]).alt
    assert alt.startswith("MLP: from ") and told in alt  # the finding first
    assert alt.endswith("columns layers; mean effect (logits) over 2 pairs.")


def test_maps_side_by_side_share_one_scale(table):
    double = table.assign(effect=2 * table.effect)
    figure = plotting.heat_maps({"image": table, "text": double}, components=["mlp"])
    image, text = panels(figure)
    assert [axes.get_title() for axes in (image, text)] == ["image", "text"]
    means = plotting.role_means(table)["mlp"]
    np.testing.assert_array_equal(image.images[0].get_array(), means)
    np.testing.assert_array_equal(text.images[0].get_array(), 2 * means)
    assert image.images[0].get_clim() == text.images[0].get_clim()
    assert text.images[0].get_clim()[1] == 2 * means.abs().to_numpy().max()


def test_maps_of_different_roles_share_their_rows(table):
    """A task may have a role that another has not: its row is left empty there, not shifted."""
    without = table[table["role"] != "or"].replace({"role": {"last": "image:differs"}})
    figure = plotting.heat_maps({"all": table, "some": without}, components=["mlp"])
    every, some = panels(figure)
    roles = [label.get_text() for label in every.get_yticklabels()]
    assert {"or", "last", "image:differs"} <= set(roles)
    means = plotting.role_means(without)["mlp"]
    drawn = some.images[0].get_array()
    assert drawn.shape == every.images[0].get_array().shape
    np.testing.assert_array_equal(drawn[roles.index("correct")], means.loc["correct"])
    assert np.ma.getmaskarray(np.ma.masked_invalid(drawn))[roles.index("or")].all()


def test_cells_clearly_below_zero_carry_a_dash(table):
    means = plotting.role_means(table)["mlp"].to_numpy()
    (axes,) = panels(plotting.heat_map(table, components=["mlp"]))
    (dashes,) = axes.collections
    middles = {tuple(segment.mean(0)[::-1]) for segment in dashes.get_segments()}
    below = means < -0.1 * np.abs(means).max()
    assert below.any() and middles == set(zip(*np.nonzero(below), strict=True))


def test_a_head_map_draws_signed_means_of_pairs(heads):
    means = plotting.head_means(heads)
    of_head = heads[(heads.layer == 1) & (heads["head"] == 2)]
    by_pair = of_head.groupby("pair_id").effect.mean()
    assert len(of_head) == 4 and means.loc[2, 1] == pytest.approx(by_pair.mean(), abs=1e-15)
    figure = plotting.head_map(heads, selected=[(1, 2), (0, 1)])
    (axes,) = panels(figure)
    np.testing.assert_array_equal(axes.images[0].get_array(), means)
    assert [frame.get_xy() for frame in axes.patches] == [(0.5, 1.5), (-0.5, 0.5)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "head")
    assert f"framed: L1.H2 ({plotting.number(means.loc[2, 1])})" in figure.alt
    assert "over 3 pairs" in figure.alt


def test_a_head_map_takes_selected_heads_from_the_table(estimates):
    found = estimates[estimates.task == "svo"].reset_index()
    found = found.assign(component="self_attention", selected=found.effect > 0.15)
    figure = plotting.head_map({"svo": found}, value="effect")
    (axes,) = panels(figure)
    assert [frame.get_xy() for frame in axes.patches] == [(-0.5, 0.5), (0.5, 0.5)]
    assert "pair" not in figure.alt


def test_a_head_map_refuses_what_is_not_one_map(heads, estimates):
    both = pd.concat([heads, heads.assign(component="mlp")])
    with pytest.raises(NoticeError, match="cross_attention, mlp"):
        plotting.head_means(both)
    with pytest.raises(NoticeError, match="-1 is a whole module"):
        plotting.head_means(heads.assign(head=-1))
    with pytest.raises(NoticeError, match="several rows"):
        plotting.head_means(estimates.reset_index().assign(component="mlp"), "effect")


def test_intervals_are_drawn_in_order(estimates):
    svo = estimates[estimates.task == "svo"]
    axes = plotting.intervals(svo, "effect (logits)", value="effect").axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["L0.H1", "L1.H1", "L0.H0", "L1.H0"]
    ends = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    rows = [segment[0, 1] for segment in axes.collections[0].get_segments()]
    drawn = {names[round(row)]: end for row, end in zip(rows, ends, strict=True)}
    assert drawn["L0.H1"] == [0.3, 0.7] and drawn["L1.H0"] == [-0.4, -0.2]
    alt = plotting.intervals(svo, "effect (logits)", value="effect").alt
    assert "3 of 4 intervals exclude 0. L0.H1: +0.5 [+0.3, +0.7];" in alt


def test_intervals_of_groups_stand_side_by_side(estimates):
    figure = plotting.intervals(estimates, "effect (logits)", value="effect", group="task")
    axes = figure.axes[0]
    svo, states = (
        line for line in axes.lines if len(line.get_xdata()) and line.get_label()[0] != "_"
    )
    assert (svo.get_label(), states.get_label()) == ("svo", "states")
    assert svo.get_marker() != states.get_marker() and svo.get_color() != states.get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["svo", "states"]
    (row,) = states.get_ydata()
    assert 0 < row - 2 < 0.5  # L0.H0 is the third name; the second group stands below the first


def test_intervals_name_the_missing_columns(estimates):
    with pytest.raises(NoticeError, match="lacks the columns high"):
        plotting.intervals(estimates.drop(columns="high"), "effect", value="effect")


def test_ends_named_after_the_value_come_first(estimates):
    named = estimates.assign(effect_low=-9.0, effect_high=9.0)
    alt = plotting.intervals(named, "effect (logits)", value="effect").alt
    assert "[\N{MINUS SIGN}9, +9]" in alt and "0 of 5 intervals" in alt


def test_names_in_a_scatter_plot_are_apart_and_inside():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([range(6), range(8)])
    a, b = (pd.Series(rng.normal(size=48) ** 3, index) for _ in "ab")
    marked = [*a.abs().nlargest(4).index, *b.abs().nlargest(4).index]
    figure = plotting.scatter(a, b, "a", "b", marked=dict.fromkeys(marked))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) >= 6
    for i, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:i])
        assert axes.bbox.padded(1).fully_containsx(box.x0) and axes.bbox.fully_containsx(box.x1)


def test_scatter_matches_sites_and_ranks_them():
    a = pd.Series([1.0, 2.0, 3.0, 4.0, np.nan], index=[(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)])
    b = pd.Series([40.0, 10.0, 30.0, 0.0, 5.0], index=[(1, 1), (0, 0), (0, 1), (5, 5), (1, 0)])
    figure = plotting.scatter(a, b, "a (logits)", "b (logits)", marked=[(0, 1)])
    axes = figure.axes[0]
    points = next(line for line in axes.lines if len(line.get_xdata()) == 4)
    assert points.get_xdata().tolist() == [1, 2, 3, 4]
    assert points.get_ydata().tolist() == [10, 30, 5, 40]
    assert axes.get_title() == "rank correlation +0.4, 4 sites"  # 1 - 6 * 6 / (4 * 15)
    assert [text.get_text() for text in axes.texts] == ["L0.H1"]
    assert "L0.H1 at +2, +30" in figure.alt
    with pytest.raises(NoticeError, match="share 1 index entries"):
        plotting.scatter(a, b[:1], "a", "b")


def test_any_site_can_be_named():
    a = pd.Series([3.0, 1.0, 2.0], pd.MultiIndex.from_product([["mlp"], ["or"], range(3)]))
    figure = plotting.scatter(a, a, "a", "b", marked=[("mlp", "or", 0)])
    assert [text.get_text() for text in figure.axes[0].texts] == ["mlp, or, 0"]


def test_curves_have_bands_and_can_be_told_apart():
    x = pd.Index([0, 2, 4])
    band = pd.DataFrame({"estimate": [1.0, 0.5, 0.2], "low": 0.0, "high": 1.0}, index=x)
    figure = plotting.curves(
        {"heads": band, "random": band[["estimate"]]}, "ablated heads", references={"chance": 0.5}
    )
    axes = figure.axes[0]
    heads, random = axes.lines[:2]
    assert heads.get_xdata().tolist() == [0, 2, 4] and heads.get_ydata().tolist() == [1, 0.5, 0.2]
    assert len(axes.collections) == 1
    assert heads.get_linestyle() != random.get_linestyle()
    assert "random: +1 at 0, +0.2 at 4. chance: a line at +0.5." in figure.alt
    with pytest.raises(NoticeError, match="at most 6"):
        plotting.curves(dict.fromkeys("abcdefg", band), "x")


def test_an_overlay_is_centred_at_zero_and_outlines_the_mask(pair):
    values = np.zeros((4, 4))
    values[0, 0], values[0, 1], values[3, 3] = 0.3, 0.1, -0.2
    mask = pair.masks("clean")["differs"]
    figure = plotting.overlay(pair.image("clean"), values, mask)
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[1].get_array(), values)
    assert axes.images[1].get_clim() == (-0.3, 0.3)
    dashes, *outline = axes.collections
    assert [segment.mean(0).tolist() for segment in dashes.get_segments()] == [[20.5, 20.5]]
    corners = np.concatenate(outline[0].get_paths()[0].to_polygons(closed_only=False))
    assert corners.max() == 5.5  # the mask is the first 6 x 6 of 24 x 24 pixels
    assert "75% of what is above zero lies in the outlined mask (6% of the picture)" in figure.alt
    assert "largest +0.3 at row 1, column 1, smallest" in figure.alt


def test_overlays_share_one_scale(pair):
    image, ones = pair.image("clean"), np.ones((2, 2))
    figure = plotting.overlays({"a": (image, ones, None), "b": (image, -3 * ones, None)})
    titled = {axes.get_title(): axes for axes in figure.axes if axes.images}
    assert {axes.images[1].get_clim() for axes in titled.values()} == {(-3, 3)}
    assert [*titled] == ["a", "b"]
