"""Draw book/assets/readme.png: one activation, copied from a clean into a corrupt run.

The picture shows a real run: the answers are those of blip-mini, and the colours of the lower grid
show how far the patch moves each activation from the corrupt run towards the clean one.

Usage: python tools/draw_readme.py   (after a change of the checkpoint or of the pairs)
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import ConnectionPatch

from notice_lib import load_model, plotting
from notice_lib.demo import COMPONENT, find_example
from notice_lib.patching.reference import record
from notice_lib.patching.sites import PlacedSite

ROOT = Path(__file__).parents[1]
OUT = ROOT / "book" / "assets" / "readme.png"


def spread(model, pair, site):
    """Return (layers, tokens): how far the patch moves each layer output to the clean one."""
    points = [(COMPONENT, layer) for layer in range(model.n_layers)]
    source, base = (model.inputs(pair.image(run), pair.prompt) for run in ("clean", "corrupt"))
    _, clean = record(model, source, points)
    _, corrupt = record(model, base, points)
    module = model.hook_point(COMPONENT, site.layer).module

    def put(_, __, output):
        output = output.clone()
        output[0, site.positions[0]] = clean[COMPONENT, site.layer][0, site.positions[0]]
        return output

    with module.register_forward_hook(put):
        _, patched = record(model, base, points)
    # Activations are recorded before this hook changes them, so the patched one is set here.
    place = COMPONENT, site.layer
    patched[place][0, site.positions[0]] = clean[place][0, site.positions[0]]
    rows = []
    for point in points:
        gap = (clean[point] - corrupt[point])[0].norm(dim=-1)
        left = (clean[point] - patched[point])[0].norm(dim=-1)
        rows.append((1 - left / gap).clamp(0, 1))
    return torch.stack(rows).numpy()


def grid(axes, values, colours, cell):
    """Draw one run's activations, one column per token, layer 0 at the bottom; frame one cell."""
    low, high = (np.array(to_rgb(colour)) for colour in colours)
    pale = 1 - 0.16 * (1 - low)
    axes.imshow(pale + values[..., None] * (high - pale), origin="lower", aspect="auto")
    layers, tokens = values.shape
    axes.set_xticks(np.arange(tokens + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(layers + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_yticks([0, layers - 1], ["first", "last"])
    axes.set_ylabel("layer", labelpad=-14)
    axes.add_patch(
        plt.Rectangle(
            (cell[0] - 0.5, cell[1] - 0.5), 1, 1, fill=False, color="black",
            linewidth=1.8, zorder=3,
        )
    )  # fmt: skip


def picture(axes, image, title, colour):
    """Draw one of the two images, framed in its run's colour."""
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, color=colour, fontweight="bold")
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=3)


def answer(axes, lines):
    """Write the column of answers from (height, text, colour, size) of each line."""
    axes.axis("off")
    for height, text, colour, size in lines:
        weight = "bold" if size > 12 else "normal"
        axes.text(0.5, height, text, color=colour, fontsize=size, weight=weight, ha="center")


def draw(model, pair, site):
    """Draw the figure, 8 inches wide, whose grids show only the tokens of the question."""
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    asked = [i for i, span in enumerate(inputs.spans) if span is not None]
    words = [inputs.tokens[i] for i in asked]
    cell = (asked.index(site.positions[0]), site.layer)
    blue, red = plotting.COLOURS["clean"], plotting.COLOURS["corrupt"]
    source = np.zeros((model.n_layers, len(asked)))
    source[cell[1], cell[0]] = 1
    with plotting.style():
        figure, axes = plt.subplots(
            2,
            3,
            figsize=(8, 4.4),
            width_ratios=(1.5, 4.6, 1.3),
            dpi=220,
            gridspec_kw={"wspace": 0.03, "hspace": 0.1},
        )
        figure.suptitle(f"“{pair.prompt}”", fontsize=16)
        picture(axes[0, 0], pair.image("clean"), "clean picture", blue)
        picture(axes[1, 0], pair.image("corrupt"), "corrupt picture", red)
        grid(axes[0, 1], source, (blue, blue), cell)
        grid(axes[1, 1], spread(model, pair, site)[:, asked], (red, blue), cell)
        axes[0, 1].set_xticks(range(len(words)), words, fontsize=9)
        axes[0, 1].xaxis.tick_top()
        axes[1, 1].set_xticks([])
        axes[1, 1].set_xlabel("blue: what the copy brings over from the clean run")
        answer(axes[0, 2], [(0.6, "the model says", "#444", 11), (0.42, pair.correct, blue, 20)])
        answer(
            axes[1, 2],
            [
                (0.88, "without the copy", "#444", 11),
                (0.72, pair.incorrect, red, 16),
                (0.4, "with the copy", "#444", 11),
                (0.22, pair.correct, blue, 20),
            ],
        )
        figure.add_artist(
            ConnectionPatch(
                (cell[0] + 0.15, cell[1] - 0.6),
                (cell[0] + 0.15, cell[1] + 0.6),
                "data",
                "data",
                axesA=axes[0, 1],
                axesB=axes[1, 1],
                arrowstyle="-|>",
                mutation_scale=22,
                linewidth=2.5,
                color="black",
                connectionstyle="arc3,rad=-0.25",
                zorder=5,
            )
        )
        label = axes[0, 1].text(
            cell[0] + 0.8, -1.25, "copy one activation", fontsize=12, weight="bold", va="center"
        )
        label.set_in_layout(False)
    return figure


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    blip = load_model(sys.argv[1] if len(sys.argv) > 1 else "blip-mini", "cpu")
    example = find_example(blip)
    best = example.best
    site = PlacedSite(COMPONENT, best["layer"], None, (best["position"],), best["role"])
    draw(blip, example.pair, site).savefig(OUT)
    print(f"{OUT}: {example.pair.pair_id}, {site}")
