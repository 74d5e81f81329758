"""Size, colours and alt text of all figures, and maps of signed values."""

import base64
import html
import io
from collections.abc import Iterable

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

WIDTH = 6.5
"""Width of all figures in inches; with one width, text has one size on the page."""

DENSITY = 112
"""Pixels of the page that an inch of a figure takes: its text is as large as the page's."""

SMALLEST = 0.74
"""Figures shrink to this share of their width; on narrower screens they scroll sideways."""

SHARPNESS = 2
"""Pixels of a figure's pictures for one of the page, since most screens show that many."""

INK = "#000000"
"""Colour of text and lines, matplotlib's own black; light on a dark page."""

ON_MAP = "#111111"
"""Black for marks on maps and pictures, which are as light on a dark page as on a white one."""

GREY = "#888888"
"""Colour of lines that guide the eye, on light and on dark pages."""

PAPER = "#fffffe"
"""Colour of what the ink stands on; white in pictures and maps is pure, so that it stays white."""

COLOURS = {"clean": "#0072B2", "corrupt": "#D55E00", "blank": "#777777", "text": "#009E73"}
"""Colours of Okabe and Ito, which colour-blind readers can tell apart."""

ON_DARK = {INK: "#e6e6e6", PAPER: "#121212", COLOURS["clean"].lower(): "#3d9bd8"}
"""What becomes of colours on a dark page; this blue is too dark for letters there."""

SERIES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#56B4E9", "v", (0, (5, 1, 1, 1, 1, 1))),
    (INK, "P", (0, (1, 1))),
)
"""Colour, marker and line style of each series; any of the three tells the series apart."""

TOWARDS = LinearSegmentedColormap.from_list(
    "towards", [COLOURS["corrupt"], "#FFFFFF", COLOURS["clean"]]
)
"""Blue is positive, which is towards the clean answer, orange negative, white zero."""

COMPONENTS = {
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "layer_output": "layer output",
    "mlp": "MLP",
    "vision_self_attention": "vision: self-attention",
    "vision_mlp": "vision: MLP",
    "vision_layer_output": "vision: layer output",
    "decoder_self_attention": "decoder: self-attention",
    "decoder_cross_attention": "decoder: cross-attention",
    "decoder_mlp": "decoder: MLP",
    "decoder_layer_output": "decoder: layer output",
}
"""Names of components in figures."""

UNIT = "effect (logits)"

CLEARLY = 0.1
"""Cells below this share of the scale's negative end are marked with a dash."""


def style():
    """Return the style of all figures as a context manager, for a `with` block around your own."""
    return mpl.rc_context(
        {
            "figure.dpi": DENSITY,
            "figure.facecolor": PAPER,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": 0.07,
            "figure.constrained_layout.h_pad": 0.07,
            "axes.facecolor": PAPER,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 11,
            "figure.titlesize": 11,
            "font.size": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "svg.hashsalt": "notice",  # The same figure is the same file.
        }
    )


class AltFigure(Figure):
    """A matplotlib figure with alt text.

    Notebooks and pages of the book get an `<img>` with the alt text, since the metadata of a cell
    cannot hold the numbers of a run, and neither myst-nb nor Colab reads an output's `alt`.

    Attributes:
        alt: text for readers who do not see the figure.
    """

    alt = ""

    def svg(self) -> str:
        """Return the figure as SVG, whose colours follow a page from light to dark (`ON_DARK`)."""
        file = io.StringIO()
        with style():
            self.savefig(file, format="svg", dpi=SHARPNESS * DENSITY, metadata={"Date": None})
        return following_the_page(file.getvalue())

    def img(self) -> str:
        """Return an HTML `<img>` with the figure as SVG and its alt text."""
        data = base64.b64encode(self.svg().encode()).decode()
        alt, width = html.escape(self.alt), round(self.get_figwidth() * DENSITY)
        return (
            f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}" width="{width}" '
            f'style="max-width: 100%; min-width: {SMALLEST * width:.0f}px; height: auto">'
        )

    def _ipython_display_(self) -> None:
        from IPython.display import publish_display_data

        publish_display_data({"text/html": self.img(), "text/plain": self.alt or repr(self)})


def following_the_page(svg: str) -> str:
    """Let the colours in `ON_DARK` of an SVG be other ones where the page around it is dark.

    An SVG in an `<img>` has the colour scheme of the page's element (CSS `color-scheme`), not of
    the reader's system, so that the figure follows the book's own switch.
    """
    names = {colour: f"--colour-{i}" for i, colour in enumerate(ON_DARK)}
    light = "; ".join(f"{name}: {colour}" for colour, name in names.items())
    dark = "; ".join(f"{names[colour]}: {other}" for colour, other in ON_DARK.items())
    for colour, name in names.items():
        svg = svg.replace(colour, f"var({name})")
    rules = (
        f":root {{{light}; fill: var({names[INK]})}} "  # matplotlib leaves black out
        f"@media (prefers-color-scheme: dark) {{:root {{{dark}}}}}"
    )
    return svg.replace("<defs>", f"<style>{rules}</style><defs>", 1)


def subplots(rows: int = 1, columns: int = 1, height: float = 3.0, **settings):
    """Return (figure, axes) in the book's style, for your own figures; see `described`.

    Args:
        height: height of the figure in inches.
        settings: further arguments of `matplotlib.figure.Figure.subplots`.
    """
    with style():
        figure = AltFigure(figsize=(WIDTH, height))
        return figure, figure.subplots(rows, columns, **settings)


def described(figure: AltFigure, alt: str) -> AltFigure:
    """Give a figure its alt text, and return it.

    Args:
        figure: a figure of `subplots`.
        alt: what is drawn and what one sees in it, with the numbers of this run.
    """
    figure.alt = alt
    return figure


def number(value: float) -> str:
    """Format a number with two significant digits and a sign, e.g. "+0.12".

    The minus is the mathematical one, which screen readers read aloud.
    """
    digits = f"{value:+.0f}" if abs(value) >= 9.95 else f"{value:+.2g}"
    return digits.replace("-", "\N{MINUS SIGN}")


def in_percent(share: float, digits: int = 0, sign: str = "") -> str:
    """Format a share in percent: 0.305 is "30 %", or "+30.5 %" with one digit and the sign "+"."""
    rounded = round(100 * float(share), digits)
    if not rounded:
        rounded, sign = 0.0, ""  # neither "-0" nor "+0"
    return f"{rounded:{sign}.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def largest(arrays: Iterable) -> float:
    """Return the largest absolute value of some arrays, for a range centred at zero."""
    value = max((np.nanmax(np.abs(array), initial=0.0) for array in arrays), default=0.0)
    return float(value) or 1.0


def draw_signed(axes, values: np.ndarray, limit: float):
    """Draw cells in colours from -limit to limit, and a dash in clearly negative ones.

    The dash tells the two ends of the colour map apart in grey prints, where both are dark. Cells
    without a value are hatched.
    """
    values = np.asarray(values, float)
    drawn = axes.imshow(values, cmap=TOWARDS, vmin=-limit, vmax=limit, aspect="auto")
    axes.patch.set(facecolor=PAPER, hatch="////", edgecolor="#BBBBBB", linewidth=0)
    axes.spines[:].set_visible(False)
    rows, columns = np.nonzero(values < -limit * CLEARLY)
    draw_dashes(axes, rows, columns)
    return drawn


def draw_dashes(axes, rows: np.ndarray, columns: np.ndarray, scale: float = 1.0) -> None:
    """Draw a dash in each of the given cells, which are `scale` wide in the axes' units."""
    outline = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    axes.hlines(
        rows, columns - 0.2 * scale, columns + 0.2 * scale,
        color=ON_MAP, linewidth=1.2, path_effects=outline,
    )  # fmt: skip


def draw_frames(axes, cells: Iterable[tuple[int, int]]) -> None:
    """Draw a frame around each of the given (row, column) cells."""
    outline = [patheffects.withStroke(linewidth=4, foreground="white")]
    for row, column in cells:
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=2, edgecolor=ON_MAP,
                path_effects=outline, zorder=3, clip_on=False,
            )
        )  # fmt: skip


def draw_scale(figure, drawn, axes, label: str, ticks: int = 5):
    """Draw a horizontal colour bar below the axes, with the dash on its negative side."""
    inch = 1 / figure.get_figheight()
    bar = figure.colorbar(
        drawn, ax=axes, label=label, orientation="horizontal", shrink=0.8, aspect=30,
        fraction=0.3 * inch, pad=0.1 * inch, ticks=MaxNLocator(ticks),
    )  # fmt: skip
    limit = drawn.norm.vmax
    draw_dashes(bar.ax, np.array([0.5]), np.array([-limit / 2]), scale=limit / 8)
    return bar


def draw_legend(figure, columns: int) -> None:
    """Draw the legend above the axes."""
    figure.legend(
        loc="outside upper center", ncols=columns, handlelength=3.2, frameon=False, fontsize=10
    )


def thinned(axis, labels: Iterable, most: int) -> None:
    """Label the ticks of cells; if they are many, only every second, third, ... one."""
    labels = list(labels)
    step = -(-len(labels) // most)
    axis.set_ticks(range(0, len(labels), step), labels[::step])
