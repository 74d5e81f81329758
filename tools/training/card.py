"""The model card of the small checkpoints, written from the metrics.json files beside them."""

import json

from tools.training import batches, evaluation, loops, models
from tools.training.questions import LURE, NEITHER, QUESTIONS_PER_IMAGE

FAMILIES = evaluation.FAMILIES
GROUPS = (
    ("heldout", "plain"),
    ("heldout", "distractor"),
    ("seen", "plain"),
    ("seen", "distractor"),
)
LABELS = {"heldout": "held out", "seen": "seen", "plain": "one thing", "distractor": "two things"}

INTRODUCTION = """# Small checkpoints, second edition

`blip-mini` is a `BlipForQuestionAnswering`, `llava-mini` is a `LlavaForConditionalGeneration`, and
`blip-mini-noise` is a `blip-mini` that was also trained on noisy pictures. They are the Hugging
Face classes of the paper's models, unmodified, but small. They answer questions about the rendered
scenes of `tools/scenes`, and nothing else. The weights are float16 safetensors of less than 8 MB
each, under the repository's licence.

The folders `0`, `1` and `2` are three seeds of one recipe. `unlabelled` is a control: it never saw
a label that says where something is.

These models are not yet those that the book's chapters use. The first edition, in the folder above
this one, is.

## Shapes

| | image | patches | vision tower | text |
|---|---|---|---|---|
| BLIP | {blip.image_size} px | {blip.side} x {blip.side} | {layers} layers | 6 + 6 layers |
| LLaVA | {llava.image_size} px | {llava.side} x {llava.side} | {layers} layers | 6 layers |

Each layer has 8 heads, and the hidden size is 128. In BLIP, 6 layers are the question encoder's and
6 the answer decoder's. Each word of the scenes is one token.
"""

RECIPE = """
## Recipe

    python tools/train_minis.py --seed 0 --out FOLDER --device cuda

1. **Stage 1** ({steps[0]:,} steps of {batch} images) trains the vision tower alone. For each patch
   it learns what the patch shows: a thing, its state, a face's expression, the verb that the thing
   takes part in, and whether it is that action's subject or object. The labels come from the
   renderer's masks. No label says that something is a distractor: whether a head avoids what the
   question does not ask for is left to the questions. In the control `unlabelled`, the whole model
   learns captions of pictures instead, for {unlabelled[0]:,} steps.
2. **Stage 2** ({steps[1]:,} steps of {batch} images with {per_image} questions each) trains the
   whole model. The first tenth of the steps learns captions. After that, 55 % of the questions
   have two options, as the paper's do. The others have three options or none, ask which of two
   things is in a state, or name a thing by what stands beside it, so that an answer is not found
   by matching an option's word with the picture. Of the questions with two options, {neither:.0%}
   have no true one, and where a picture has a distractor, it is the other option in {lure:.0%}. One
   picture in twenty is of one plain colour.

The loss is the cross-entropy of the answer, and the optimiser AdamW in bfloat16. A word that would
form a held-out composition is never an option. In `blip-mini-noise`, half of the images of stage 2
get Gaussian noise on the embeddings of their patches, of a strength between 0 and {noise:g}
standard deviations.

The recipe was chosen by accuracy. `../sheets/tried.csv` lists what was tried. Seeds 1 and 2 were
trained once, after the recipe had been committed.

Hardware: {hardware}. Versions of seed 0: {versions}.
"""

LIMITS = """
## What training builds in, and limits

- Patch labels teach the tower what each patch shows. That heads of these models find the thing
  that a question names is therefore built in. The control `unlabelled` has no such labels.
- Questions without a true option are part of the training, and token replacement (STR) makes such
  questions. It is in distribution for these models, but not for the full-size ones.
- States are known partly by the things that they were seen with: "bent" and "broken" are confused
  on things that were never seen so, and held-out states of one of two things are answered less
  well than seen ones. The recipe "further" goes on with pictures in which objects and animals have
  states, too. It was tried on seed 0 only (`../sheets/tried.csv`).
- The pictures are clip art in one style. Nothing transfers to photographs. Held-out scenes contain
  new combinations of known words, and new faces, but no new words.
- Other hardware or versions change the last digits of the weights, and so the results slightly.
"""


def write(folder):
    """Write `folder`/README.md from the measurements of the checkpoints in its folders."""
    runs = {
        f"{path.parent.name}, {_which(path.parent.parent.name)}": json.loads(path.read_text())
        for path in sorted(folder.glob("*/*/metrics.json"))
    }
    first = json.loads((folder / "0" / "blip-mini" / "metrics.json").read_text())["training"]
    control = folder / "unlabelled" / "blip-mini" / "metrics.json"
    recipe = RECIPE.format(
        steps=first["recipe"]["steps"],
        unlabelled=json.loads(control.read_text())["training"]["recipe"]["steps"],
        batch=batches.BATCH,
        per_image=QUESTIONS_PER_IMAGE,
        neither=NEITHER,
        lure=LURE,
        noise=loops.MOST_NOISE,
        hardware=first["hardware"],
        versions=", ".join(f"{name} {number}" for name, number in first["versions"].items()),
    )
    introduction = INTRODUCTION.format(
        blip=models.BLIP_GRID, llava=models.LLAVA_GRID, layers=models.VISION_LAYERS
    )
    parts = [introduction, recipe, _accuracy(runs), _evidence(runs), LIMITS]
    (folder / "README.md").write_text("".join(parts), encoding="utf-8")


def _which(folder):
    """What the models in a folder are: a seed, or a control."""
    return f"seed {folder}" if folder.isdigit() else folder


def _accuracy(runs):
    lines = [
        "\n## Accuracy\n",
        "\nOn `data/embedded`. An answer is correct if the most probable of all tokens is the",
        "\ncorrect word. Cells have the accuracy with the correct option first / second, in",
        "\npercent.\n",
        "\n| model | family | " + " | ".join(_label(group) for group in GROUPS) + " |",
        "\n|---|---|" + "---|" * len(GROUPS),
    ]
    for name, run in runs.items():
        for family in FAMILIES:
            cells = (_orders(run["results"]["answers"], f"{family}/{s}/{k}") for s, k in GROUPS)
            lines.append(f"\n| {name} | {family} | {' | '.join(cells)} |")
    return "".join(lines) + "\n"


def _label(group):
    return ", ".join(LABELS[part] for part in group)


def _orders(answers, group):
    if group not in answers:
        return "none"
    cells = [answers[f"{group}/{order}"] for order in ("correct_first", "incorrect_first")]
    return " / ".join(f"{100 * cell['accuracy']:.1f}" for cell in cells)


def _evidence(runs):
    lines = [
        "\n## Where no option is true\n",
        "\nThe same questions about a plain picture, and with both options replaced by words that",
        "\nare false of the picture (neither). Cells have the share of answers that are the first",
        "\noption, and that are one of the two (listed), in percent.\n",
        "\n| model | grey | black | white | neither |\n|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        keys = ("blank_grey", "blank_black", "blank_white", "neither")
        rows = [run["results"][key] for key in keys]
        cells = (f"{100 * r['first']:.1f}, {100 * r['listed']:.1f} listed" for r in rows)
        lines.append(f"\n| {name} | {' | '.join(cells)} |")
    return "".join(lines) + "\n"
