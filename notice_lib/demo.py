"""The demo: one pair, the model's two answers, and the patch that turns one into the other."""

from dataclasses import dataclass

import pandas as pd

from .datasets import load_pairs
from .errors import NoticeError
from .models import VLM, answered_correctly
from .pairs import SemanticPair
from .patching import effects, site_grid, sweep
from .patching.metrics import logit_difference
from .plotting.look import COLOURS, WIDTH, AltFigure, described, draw_frames, draw_scale, style
from .plotting.maps import draw_roles
from .plotting.pictures import draw_picture

COMPONENT = "layer_output"
CANDIDATES = 12


@dataclass(frozen=True)
class Example:
    """A pair whose corrupt answer one patch turns into the clean one.

    Attributes:
        model: name of the model, which answers the pair correctly with both pictures.
        pair: the pair.
        table: effects on this pair, one row for each layer and text token.
        best: the row of `table` whose patch is shown.
    """

    model: str
    pair: SemanticPair
    table: pd.DataFrame
    best: pd.Series

    @property
    def elsewhere(self) -> float:
        """The largest fraction recovered at any other token of the same layer."""
        layer = self.table[self.table["layer"] == self.best["layer"]]
        others = layer[layer["position"] != self.best["position"]]
        return others["fraction_recovered"].abs().max()


def find_example(model: VLM) -> Example:
    """Find the embedded pair whose answer one patch turns around at the lowest layer.

    The patch replaces a layer's output at one text token of the corrupt run by the clean run's. It
    turns the answer around if the clean answer gets more than half of the probability. Among
    patches at the same layer, the one with the largest logit difference is taken.

    Raises:
        NoticeError: no patch turns an answer around.
    """
    candidates = load_pairs("svo").filter(
        lambda pair: (
            pair.slot == "subject" and pair.order == "incorrect_first" and not pair.distractor
        )
    )
    pairs = answered_correctly(model, candidates.sample(CANDIDATES))
    table = effects(sweep(model, pairs, site_grid(model, [COMPONENT])).table())
    table["logit_difference"] = logit_difference(table)
    turned = table[table["prob_correct"] > 0.5]
    if turned.empty:
        raise NoticeError(f"No patch turns an answer of {model.name} around: try blip-mini.")
    best = turned.sort_values(["layer", "logit_difference"], ascending=[True, False]).iloc[0]
    of_pair = table["pair_id"] == best["pair_id"]
    (pair,) = pairs.filter(lambda pair: pair.pair_id == best["pair_id"])
    return Example(model.name, pair, table[of_pair], best)


def describe(example: Example) -> str:
    """Tell an example in seven lines."""
    pair, best = example.pair, example.best
    row = best.to_frame().T
    clean, corrupt = (logit_difference(row, run).item() for run in ("clean", "corrupt"))
    return f"""\
Question to {example.model}: {pair.prompt}
  clean picture              answer: {pair.correct}
  corrupt picture            answer: {pair.incorrect}
  corrupt picture, patched   answer: {pair.correct}
The patch copies one activation of the clean run: layer {best["layer"]}'s output at {_label(best["token"])!r}.
It moves logit({pair.correct}) - logit({pair.incorrect}) from {corrupt:+.1f} to \
{best["logit_difference"]:+.1f}; the clean run has {clean:+.1f}.
That recovers {best["fraction_recovered"]:.0%} of the difference; any other token of the layer, at \
most {example.elsewhere:.0%}."""  # noqa: E501


def draw(example: Example) -> AltFigure:
    """Draw both pictures with their answers, and the fraction recovered by token and layer."""
    pair, best = example.pair, example.best
    table = example.table.sort_values(["position", "layer"])
    recovered = table.pivot(index="position", columns="layer", values="fraction_recovered")
    tokens = [_label(token) for token in table.drop_duplicates("position")["token"]]
    with style():
        figure = AltFigure(figsize=(WIDTH, WIDTH * 1.55))
        parts = figure.subplot_mosaic(
            [["clean", "corrupt"], ["map", "map"]], height_ratios=(1, 1.5)
        )
    clean, corrupt, axes = parts.values()
    figure.suptitle(pair.prompt)
    draw_picture(clean, pair.image("clean"))
    draw_picture(corrupt, pair.image("corrupt"))
    clean.set_xlabel(f"clean: {pair.correct}", color=COLOURS["clean"])
    corrupt.set_xlabel(
        f"corrupt: {pair.incorrect}\nwith the patch: {pair.correct}", color=COLOURS["corrupt"]
    )
    drawn = draw_roles(axes, recovered.set_axis(tokens), 1.0)
    place = recovered.index.get_loc(best["position"]), recovered.columns.get_loc(best["layer"])
    draw_frames(axes, [place])
    axes.set(title="One layer's output, copied at one token", ylabel="token")
    draw_scale(figure, drawn, axes, "fraction recovered")
    return described(figure, f"Two pictures and a heat map.\n{describe(example)}")


def _label(token: str) -> str:
    """Show a token without the tokenizer's marks for spaces."""
    return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip() or "\N{OPEN BOX}"
