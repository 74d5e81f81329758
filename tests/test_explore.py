"""The explorer shows what the library computes, for whatever its controls say."""

from dataclasses import replace
from html import escape

import numpy as np
import pytest

from notice_lib import Site, effects, load_model, load_pairs, sweep
from notice_lib.heads.attention import attention_maps, minus_average, shares
from notice_lib.plotting import number
from notice_lib.plotting.explorer import Bench, Choice, Explorer


@pytest.fixture(scope="module")
def pairs():
    return load_pairs("svo", 3, seed=0)


@pytest.fixture(scope="module")
def blip():
    return load_model("blip-mini", "cpu")


@pytest.fixture(scope="module")
def explorer(blip, pairs):
    """Tests may leave it in any state."""
    return Explorer(blip, pairs)


@pytest.fixture(scope="module")
def bench(blip, pairs):
    return Bench(blip, pairs)


def effect(model, pairs, index, corruption, site):
    one = replace(pairs, pairs=(pairs[index],))
    return effects(sweep(model, one, [site], corruption).table()).effect.item()


def test_the_controls_lead_to_the_effect_of_their_site(explorer, blip, pairs):
    explorer.pair.value, explorer.position.value = 2, "incorrect"
    explorer.layer.value, explorer.head.value = 4, 7
    explorer.corruption.value = "text"
    site = Site("cross_attention", 4, 7, "incorrect")
    assert explorer.choice == Choice(2, "text", site)
    wanted = effect(blip, pairs, 2, "text", site)
    alt = explorer.figure.alt
    assert f"L4.H7, cross-attention at incorrect: {number(wanted)} logits" in alt
    assert f'alt="{escape(alt)}"' in explorer.picture.value


@pytest.mark.parametrize("component, head", [("cross_attention", 2), ("mlp", None)])
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_effects_are_those_of_a_sweep(bench, blip, pairs, component, head, corruption):
    choice = Choice(1, corruption, Site(component, 3, head, "correct"))
    wanted = effect(blip, pairs, 1, corruption, choice.site)
    assert bench.effect(choice).effect == pytest.approx(wanted, abs=1e-4)
    size = blip.n_layers * (4 if head is None else blip.n_heads)
    assert len(bench.effects(choice)) == size


def test_attention_is_the_heads_minus_the_average(bench, blip, pairs):
    maps = attention_maps(blip, [pairs[0]], query="correct")
    wanted = minus_average(shares(maps.patches))[0, 2].reshape(-1, blip.grid, blip.grid)
    of_head = bench.attention(Choice(0, "image", Site("cross_attention", 2, 5, "correct")))
    np.testing.assert_array_equal(of_head, wanted[5])
    of_all = bench.attention(Choice(0, "image", Site("cross_attention", 2, None, "correct")))
    np.testing.assert_allclose(of_all, wanted.mean(0), atol=1e-7)
    assert bench.attention(Choice(0, "image", Site("mlp", 2, None, "correct"))) is None


def test_the_figure_shows_where_the_head_attends_and_which_it_is(bench):
    choice = Choice(0, "image", Site("cross_attention", 2, 5, "correct"))
    titled = {axes.get_title(): axes for axes in bench.figure(choice).axes}
    drawn = titled["where it attends"].images[1].get_array()
    np.testing.assert_array_equal(drawn, bench.attention(choice))
    (frame,) = titled["effects of all heads"].patches
    assert frame.get_xy() == (1.5, 4.5)


def test_it_begins_at_the_strongest_head(bench, explorer, blip):
    start = Choice(0, "image", Site("cross_attention", 0, 0, "correct"))
    strongest = bench.strongest(start)
    others = bench.effects(start).effect
    assert abs(bench.effect(strongest).effect) == others.abs().max()


def test_a_component_without_heads_is_shown_whole(explorer, blip):
    explorer.component.value = "mlp"
    assert explorer.choice.site.head is None and len(explorer.head.options) == 1
    assert "MLP does not attend to the image." in explorer.figure.alt
    explorer.component.value = "cross_attention"
    assert len(explorer.head.options) == 1 + blip.n_heads


def test_what_was_seen_is_not_computed_again(bench):
    choice = Choice(0, "image", Site("cross_attention", 2, 5, "correct"))
    assert bench.figure(choice) is bench.figure(choice)
    elsewhere = Choice(0, "image", Site("cross_attention", 4, 1, "correct"))
    assert bench.effects(choice) is bench.effects(elsewhere)


def test_without_a_kernel_the_figure_stands_in(explorer):
    shown = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert shown["text/html"].startswith(f'<img alt="{escape(explorer.figure.alt)}"')


def test_a_pair_that_cannot_be_run_says_why(blip, pairs):
    explorer = Explorer(blip, replace(pairs, slots={}))
    explorer.corruption.value = "text"
    assert pairs[0].pair_id in explorer.picture.value and "<img" not in explorer.picture.value
    explorer.corruption.value = "image"
    assert "<img" in explorer.picture.value


def test_llava_attends_to_the_image_by_self_attention(pairs):
    llava = load_model("llava-mini", "cpu")
    shares = Bench(llava, pairs).attention(Choice(0, "image", Site("self_attention", 3, 1, "last")))
    assert shares.shape == (llava.grid, llava.grid) and abs(shares.sum()) < 1e-5
