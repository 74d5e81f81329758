"""A figure as notebooks and pages have it: alt text, sharpness, colours on light and dark pages."""

import base64
import re

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from notice_lib import plotting


def a_map():
    heads = pd.DataFrame(np.linspace(-0.2, 0.6, 12).reshape(3, 4))
    return plotting.percent_maps({"": {"heads": heads}}, "layer", "The finding.")


@pytest.fixture
def figure():
    return a_map()


def test_a_notebook_gets_the_figure_with_its_alt_text(figure):
    InteractiveShell.instance()
    with capture_output() as shown:
        figure._ipython_display_()
    InteractiveShell.clear_instance()
    (output,) = shown.outputs
    alt, source = re.match(r'<img alt="([^"]*)" src="([^"]*)"', output.data["text/html"]).groups()
    assert alt == figure.alt == output.data["text/plain"]
    svg = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
    assert svg == a_map().svg()  # The same figure is the same file.
    assert 'width="728"' in output.data["text/html"]
    # Two pixels of a map for one of the page: sharp on most screens.
    panel = figure.axes[0]
    wide = panel.get_position().width * 728
    widths = [float(found) for found in re.findall(r'<image .*?width="([\d.]+)"', svg, re.S)]
    assert 2 * wide == pytest.approx(max(widths) * 224 / 72, abs=4)


def test_a_figure_has_other_colours_on_a_dark_page_but_maps_do_not():
    figure, axes = plotting.subplots()
    axes.text(0.5, 0.5, "ink", color="black")
    axes.text(0.5, 0.2, "mark", color=plotting.ON_MAP)
    axes.plot([0, 1], color=plotting.COLOURS["clean"])
    axes.plot([1, 0], color=plotting.COLOURS["corrupt"])
    svg = figure.svg()
    rules, drawn = re.search("<style>(.*?)</style>(.*)", svg, re.S).groups()
    light, dark = rules.split("@media (prefers-color-scheme: dark)")
    names = {}
    for colour, other in plotting.ON_DARK.items():
        (name,) = re.findall(rf"(--colour-\d): {colour}", light)
        assert f"{name}: {other}" in dark and f"var({name})" in svg and colour not in drawn
        names[colour] = name
    assert f"fill: var({names[plotting.INK]})" in light  # what has no colour of its own is black
    assert plotting.ON_MAP in drawn and plotting.COLOURS["corrupt"].lower() in drawn


def test_alt_text_is_escaped():
    figure, _ = plotting.subplots()
    plotting.described(figure, 'a "b" < c & d')
    assert '<img alt="a &quot;b&quot; &lt; c &amp; d"' in figure.img()
