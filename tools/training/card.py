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

INTRODUCTION = """# Small checkpoints

`blip-mini` is a `BlipForQuestionAnswering`, `llava-mini` is a `LlavaForConditionalGeneration`, and
`blip-mini-noise` is a `blip-mini` that was also trained on noisy pictures. They are the Hugging
Face classes of the paper's models, unmodified, but small. They answer questions about the rendered
scenes of `tools/scenes`, and nothing else. The weights are float16 safetensors of less than 8 MB
each, under the repository's licence.

The book uses seed 0, which this folder holds. Seeds 1 and 2 of the same recipe are in
`seeds/1` and `seeds/2`. `seeds/unlabelled` is a control: it never saw a label that says where
something is. `blip-mini-outliers` and `blip-mini-register` are twins of `blip-mini` with planted
outliers ([their card](blip-mini-outliers/README.md)). `inpaint-mini` has a
[card of its own](inpaint-mini/README.md).

```python
from transformers import AutoProcessor, BlipForQuestionAnswering
processor = AutoProcessor.from_pretrained("data/checkpoints/blip-mini", backend="pil")
model = BlipForQuestionAnswering.from_pretrained("data/checkpoints/blip-mini", dtype="float32")
inputs = processor(images=image, text="Is this bottle broken or rusty?", return_tensors="pt")
print(processor.decode(model.generate(**inputs, max_new_tokens=3)[0], skip_special_tokens=True))
```

LLaVA's prompt is `USER: <image>\\nIs this bottle broken or rusty? ASSISTANT:`.

## Shapes

| | image | patches | vision tower | text |
|---|---|---|---|---|
| BLIP | {blip.image_size} px | {blip.side} x {blip.side} | {layers} layers | 6 + 6 layers |
| LLaVA | {llava.image_size} px | {llava.side} x {llava.side} | {layers} layers | 6 layers |

Each layer has 8 heads, and the hidden size is 128. In BLIP, 6 layers are the question encoder's and
6 the answer decoder's.

BLIP's tokenizer is a lower-casing WordPiece. LLaVA's is a Unigram model with SentencePiece's
convention that a space belongs to the word after it. Each word of the scenes is one token. In LLaVA
the answer is the same token as the option in the prompt (`▁bottle`), and only this form is scored;
in BLIP it is the token `bottle`. Other text is split into characters (in LLaVA, also into bytes),
so ASCII text has no unknown tokens.
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
3. **Stage 3** ({steps[2]:,} steps of {further_batch} images with {per_image} questions each, at
   {rate:.0%} of the learning rate) asks as stage 2 does, about pictures in which further objects
   and animals have states. Without it, a model knows a state partly by the things it saw in it.
   The control `unlabelled` has no stage 3.

The loss is the cross-entropy of the answer, and the optimiser AdamW in bfloat16 (on a CPU that has
none, in float32). A word that would form a held-out composition is never an option. In
`blip-mini-noise`, half of the images of stage 2 get Gaussian noise on the embeddings of their
patches, of a strength between 0 and {noise:g} standard deviations.

The recipe was chosen by accuracy. [`sheets/tried.csv`](sheets/README.md) lists what was tried.
Seeds 1 and 2 were trained once, after the recipe had been committed.

Hardware of stages 1 and 2: {hardware}; of stage 3: {hardware_3}. Versions of stage 3, seed 0:
{versions}.
"""

LIMITS = """
## What training builds in, and limits

- Patch labels teach the tower what each patch shows. That heads of these models find the thing
  that a question names is therefore built in. The control `unlabelled` has no such labels.
- Questions without a true option are part of the training, and token replacement (STR) makes such
  questions. It is in distribution for these models, but not for the full-size ones.
- Held-out states of one of two things are answered less well than seen ones, more so by LLaVA.
- The pictures are clip art in one style. Nothing transfers to photographs. Held-out scenes contain
  new combinations of known words, and new faces, but no new words.
- Other hardware or versions change the last digits of the weights, and so the results slightly.
"""


def write(folder):
    """Write `folder`/README.md from the measurements of the checkpoints in it and in its seeds."""
    paths = [folder / name / "metrics.json" for name in evaluation.CLASSES]
    paths += sorted((folder / "seeds").glob("*/*/metrics.json"))
    runs = {_title(path.parent): json.loads(path.read_text()) for path in paths}
    first = runs["blip-mini, seed 0"]["training"]
    recipe = RECIPE.format(
        steps=first["recipe"]["steps"],
        unlabelled=runs["blip-mini, unlabelled"]["training"]["recipe"]["steps"],
        batch=batches.BATCH,
        further_batch=loops.FURTHER_BATCH,
        rate=loops.FURTHER_RATE,
        per_image=QUESTIONS_PER_IMAGE,
        neither=NEITHER,
        lure=LURE,
        noise=loops.MOST_NOISE,
        hardware=first.get("before", first)["hardware"],
        hardware_3=first["hardware"],
        versions=", ".join(f"{name} {number}" for name, number in first["versions"].items()),
    )
    introduction = INTRODUCTION.format(
        blip=models.BLIP_GRID, llava=models.LLAVA_GRID, layers=models.VISION_LAYERS
    )
    parts = [introduction, recipe, _accuracy(runs), _evidence(runs), LIMITS]
    (folder / "README.md").write_text("".join(parts), encoding="utf-8")


def _title(checkpoint):
    """The name of a checkpoint, and its seed or which control it is."""
    where = checkpoint.parent
    if where.parent.name != "seeds":
        return f"{checkpoint.name}, seed 0"
    return f"{checkpoint.name}, {'seed ' if where.name.isdigit() else ''}{where.name}"


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
