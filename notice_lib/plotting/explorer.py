"""A widget to choose a pair, a corruption and a site, and see its attention and its effect.

It needs ipywidgets (`pip install ipywidgets`, or the extra `book`), which Jupyter and Colab have.
"""

from dataclasses import dataclass
from html import escape
from textwrap import fill

import ipywidgets as widgets
import numpy as np
import pandas as pd

from ..errors import NoticeError
from ..heads.attention import attention_maps, minus_average, shares
from ..models.base import VLM
from ..pairs import PairSet
from ..patching import Site, effects, site_grid, sweep
from .look import (
    COLOURS,
    COMPONENTS,
    WIDTH,
    AltFigure,
    described,
    draw_frames,
    draw_scale,
    largest,
    number,
    style,
)
from .maps import draw_heads, draw_roles, extremes, head_means, head_name, role_means
from .pictures import alt_of_overlay, draw_overlay, draw_picture

POSITIONS = ("correct", "or", "incorrect", "last")
"""Token roles that every prompt has."""


@dataclass(frozen=True)
class Choice:
    """What to show: the index of a pair, a corruption, and a site at a token role."""

    pair: int
    corruption: str
    site: Site


class Bench:
    """Computes choices on a model and pairs, and remembers the results.

    Args:
        model: a model of `load_model`.
        pairs: pairs to choose from.
        seed: random seed of the replacement words under text corruption.
    """

    def __init__(self, model: VLM, pairs: PairSet, seed: int = 0):
        self.model = model
        self.pairs = pairs
        self.seed = seed
        self._known: dict[tuple, object] = {}

    def has_heads(self, component: str) -> bool:
        return self.model.hook_point(component, 0).per_head

    def effects(self, choice: Choice) -> pd.DataFrame:
        """Return one pair's effects at sites of the chosen kind.

        For a head, these are all heads of the component at the same position; for a whole module,
        all layers at all of `POSITIONS`.

        Raises:
            NoticeError: the pair cannot be run, e.g. no replacement words fit its tokens.
        """
        component, per_head = choice.site.component, choice.site.head is not None
        positions = (choice.site.position,) if per_head else POSITIONS

        def compute():
            pair = self.pairs[choice.pair]
            sites = [
                site
                for position in positions
                for site in site_grid(self.model, [component], per_head=per_head, position=position)
            ]
            one = self.pairs.filter(lambda other: other.pair_id == pair.pair_id)
            swept = sweep(self.model, one, sites, choice.corruption, seed=self.seed, strict=True)
            return effects(swept.table())

        return self._once((choice.pair, choice.corruption, component, positions, per_head), compute)

    def attention(self, choice: Choice) -> np.ndarray | None:
        """Return the site's attention to image patches in the clean run, minus the average.

        Returns:
            (grid, grid) shares of the attention to all image patches, minus their average over
            layers and heads; for a whole module the mean over its heads. None if the component
            does not attend to the image.
        """
        site = choice.site
        if site.component != self.model.image_component:
            return None

        def compute():
            maps = attention_maps(self.model, [self.pairs[choice.pair]], query=site.position)
            return minus_average(shares(maps.patches))[0]

        heads = self._once((choice.pair, site.position), compute)[site.layer]
        shown = heads.mean(0) if site.head is None else heads[site.head]
        return shown.reshape(self.model.grid, self.model.grid)

    def effect(self, choice: Choice) -> pd.Series:
        """Return the row of `effects` for the chosen site."""
        table, site = self.effects(choice), choice.site
        head = -1 if site.head is None else site.head
        at = (table["layer"] == site.layer) & (table["head"] == head)
        return table[at & (table["role"] == site.position)].iloc[0]

    def figure(self, choice: Choice) -> AltFigure:
        """Draw both images, the site's attention, and its effect among those of its kind."""
        return self._once(("figure", choice), lambda: _figure(self, choice))

    def strongest(self, choice: Choice) -> Choice:
        """Return the choice moved to the layer and head of the largest absolute effect."""
        table = self.effects(choice)
        top = table.loc[table["effect"].abs().idxmax()]
        site = Site(
            choice.site.component, int(top["layer"]), int(top["head"]), choice.site.position
        )
        return Choice(choice.pair, choice.corruption, site)

    def _once(self, key: tuple, compute):
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


class Explorer(widgets.VBox):
    """A widget to choose a pair, a corruption, a component, a token, a layer and a head.

    It needs a live kernel, in Jupyter or in Colab. A page without a kernel shows the figure of the
    first choice instead. The first choice is the head with the largest effect on the first pair,
    in the component that attends to the image.

    Args:
        model: a model of `load_model`.
        pairs: pairs to choose from.
        corruption: first corruption, "image" or "text".
        position: first token role, one of `POSITIONS`.
        seed: random seed of the replacement words under text corruption.

    Attributes:
        pair, corruption, component, position, layer, head: the controls; set their `value` to move
            the explorer from code.
        figure: the figure that it shows.
    """

    def __init__(
        self,
        model: VLM,
        pairs: PairSet,
        corruption: str = "image",
        position: str = "correct",
        seed: int = 0,
    ):
        self.bench = Bench(model, pairs, seed)
        start = Choice(0, corruption, Site(model.image_component, 0, 0, position))
        site = self.bench.strongest(start).site
        names = [(f"{i + 1}. {pair.prompt}", i) for i, pair in enumerate(pairs)]
        components = [(COMPONENTS.get(name, name), name) for name in model.components]
        self.pair = _choose("pair", names, 0)
        self.corruption = _choose("corruption", ["image", "text"], corruption)
        self.component = _choose("component", components, site.component)
        self.position = _choose("token", POSITIONS, position)
        self.layer = _choose("layer", list(range(model.n_layers)), site.layer)
        self.head = _choose("head", self._heads(), site.head)
        controls = [
            self.pair, self.corruption, self.component, self.position, self.layer, self.head
        ]  # fmt: skip
        for control in controls:
            control.observe(self._changed, names="value")
        self.picture = widgets.HTML()
        self.messages = widgets.Output()
        self._draw()
        rows = widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__([rows, self.picture, self.messages])

    @property
    def choice(self) -> Choice:
        """The choice that the controls show."""
        site = Site(self.component.value, self.layer.value, self.head.value, self.position.value)
        return Choice(self.pair.value, self.corruption.value, site)

    @property
    def figure(self) -> AltFigure:
        return self.bench.figure(self.choice)

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """Return the widget, and the figure for pages without widgets."""
        return super()._repr_mimebundle_(**kwargs) | {"text/html": self.picture.value}

    def _heads(self) -> list:
        whole = [("whole module", None)]
        if not self.bench.has_heads(self.component.value):
            return whole
        return whole + [(str(head), head) for head in range(self.bench.model.n_heads)]

    def _changed(self, change) -> None:
        heads = self._heads()
        if change["owner"] is self.component and list(self.head.options) != heads:
            self.head.options = heads
        with self.messages:  # catches progress bars and errors
            self._draw()

    def _draw(self) -> None:
        try:
            self.picture.value = self.figure.img()
        except NoticeError as error:
            self.picture.value = f"<p>{escape(str(error))}</p>"


def _choose(name: str, options, value) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=options, value=value, description=name, layout=widgets.Layout(max_width="100%")
    )


def _figure(bench: Bench, choice: Choice) -> AltFigure:
    pair, site = bench.pairs[choice.pair], choice.site
    row = bench.effect(choice)
    headline = _headline(row, site)
    same = choice.corruption == "text"
    prompts = [pair.prompt, f"→ {row.corrupt_prompt}"] if same else [pair.prompt]
    with style():
        figure = AltFigure(figsize=(WIDTH, WIDTH + 1.4))
        (clean, corrupt), (seen, among) = figure.subplots(2, 2)
    figure.suptitle("\n".join(fill(line, 52) for line in (*prompts, *headline)))
    draw_picture(clean, pair.image("clean"))
    draw_picture(corrupt, pair.image("clean" if same else "corrupt"))
    clean.set_xlabel(f"clean: {pair.correct}", color=COLOURS["clean"])
    corrupt.set_xlabel(
        "corrupt: same picture" if same else f"corrupt: {pair.incorrect}",
        color=COLOURS["corrupt"],
    )
    told = [
        _draw_attention(figure, seen, bench, choice),
        _draw_effects(figure, among, bench, choice),
    ]
    answers = f"Clean: {pair.correct}, corrupt: {pair.incorrect}."
    return described(figure, " ".join([*prompts, answers, f"{': '.join(headline)}.", *told]))


def _headline(row: pd.Series, site: Site) -> tuple[str, str]:
    """Name the site and its effect."""
    name = f"layer {site.layer}" if site.head is None else head_name(site.layer, site.head)
    where = f"{name}, {COMPONENTS.get(site.component, site.component)} at {site.position}"
    what = f"{number(row.effect)} logits"
    if pd.isna(row.fraction_recovered):
        return where, what
    return where, f"{what}, {number(100 * row.fraction_recovered)} % recovered"


def _draw_attention(figure, axes, bench: Bench, choice: Choice) -> str:
    """Draw where the site attends, and return it in words."""
    difference = bench.attention(choice)
    if difference is None:
        axes.set_axis_off()
        component = COMPONENTS.get(choice.site.component, choice.site.component)
        axes.text(0.5, 0.5, f"{component} does not\nattend to the image", ha="center", size=11)
        return f"{component} does not attend to the image."
    pair = bench.pairs[choice.pair]
    panel = pair.image("clean"), difference, pair.masks("clean").get("differs")
    drawn = draw_overlay(axes, *panel, largest([difference]))
    axes.set_title("where it attends")
    draw_scale(figure, drawn, axes, "attention minus\naverage (share)", ticks=3)
    return f"Attention minus the average: {alt_of_overlay(*panel)}"


def _draw_effects(figure, axes, bench: Bench, choice: Choice) -> str:
    """Draw the site's effect among those of its kind, and return them in words."""
    site, table = choice.site, bench.effects(choice)
    if site.head is None:
        means = role_means(table)[site.component]
        drawn = draw_roles(axes, means, largest([means]))
        at = (means.index.get_loc(site.position), means.columns.get_loc(site.layer))
        draw_frames(axes, [at])
        axes.set(title="effects", ylabel="token")
        told = "Effects of the whole module"
    else:
        means = head_means(table)
        drawn = draw_heads(axes, means, largest([means]), [(site.layer, site.head)])
        axes.set(title="effects of all heads", ylabel="head")
        told = "Effects of all heads"
    draw_scale(figure, drawn, axes, "effect\n(logits)", ticks=3)
    return f"{told}: {extremes(means)}."
