"""The model card of data/checkpoints, written from the metrics.json files."""

import json

from tools.training.loops import MOST_NOISE

MINIS = ("blip-mini", "llava-mini")
NOISY = "blip-mini-noise"
FAMILIES = ("svo", "states", "faces")
SEEDS = "seeds"  # folder of the measurements of the seeds that are not shipped

INTRODUCTION = """# Miniature checkpoints

`blip-mini` is a `BlipForQuestionAnswering`, `llava-mini` a `LlavaForConditionalGeneration`, and
`blip-mini-noise` is `blip-mini` trained on noisy pictures as well: the Hugging Face classes of the
models in the paper, unmodified, small enough to be trained on one CPU core and to be patched in
seconds. They answer questions with two options about the rendered scenes in `data/embedded` and
know nothing else. Weights are float16 safetensors, a few MB each; licence as the repository's.

```python
from transformers import AutoProcessor, BlipForQuestionAnswering
processor = AutoProcessor.from_pretrained("data/checkpoints/blip-mini", backend="pil")
model = BlipForQuestionAnswering.from_pretrained("data/checkpoints/blip-mini", dtype="float32")
inputs = processor(images=image, text="Is this bottle broken or rusty?", return_tensors="pt")
print(processor.decode(model.generate(**inputs, max_new_tokens=3)[0], skip_special_tokens=True))
```

LLaVA's prompt is `USER: <image>\\nIs this bottle broken or rusty? ASSISTANT:`.

## Shapes

Images of 96 px in 8 x 8 patches, hidden size 128, a vision tower of 4 layers x 8 heads, and 6
layers x 8 heads on the language side (BLIP: 6 in the question encoder and 6 in the answer decoder).

Tokenizers: BLIP's is a lower-casing WordPiece, LLaVA's a Unigram model with SentencePiece's
convention that a space belongs to the word after it. Each word of the scenes is one token. In
LLaVA the answer is the very token of the option in the prompt (`▁bottle`), and is scored in that
one form; in BLIP it is the token `bottle`. Other text falls apart into characters (and, in LLaVA,
bytes), so that ASCII never becomes an unknown token.
"""

RECIPE = """
## Recipe

    python tools/train_minis.py --seed {seed} --out data/checkpoints

The other seeds are trained by the same command with another seed and folder; only their
measurements are kept, in `seeds/`.

1. A pool of {scenes:,} scenes of the split "seen" is rendered (half svo; a third of the svo and
   states scenes have a distractor). The pool is the same for all seeds; a seed decides the initial
   weights, the order of the images and the questions.
2. The vision tower alone learns to say for every patch what it shows ({vision} steps of 64 images
   drawn evenly): role (background, subject, object, distractor), which thing, the verb it takes
   part in, the thing's state, the face's expression. The labels come from the renderer's masks.
3. Each model starts from that tower and learns to answer (BLIP {blip} steps, LLaVA {llava}; 64
   images x 3 questions): cross-entropy of the answer's token and, lightly, of the end token. AdamW,
   learning rate 1e-3 (0.3 of it for the tower), 5 % warm-up, constant to the middle, cosine;
   bfloat16 autocast. LLaVA's CLIP tower takes BLIP's weights; only the LayerNorm before its first
   layer, which BLIP lacks, is estimated.
4. `blip-mini-noise` differs from `blip-mini` in one thing: in step 3 half of the images get
   Gaussian noise on the embeddings of their patches, as `notice_lib.GaussianNoise` adds it, with a
   strength drawn between 0 and {noise:g} standard deviations. So such noise is in distribution for
   it. Chapter 12 of the book compares the two.
5. 20 % of the questions have no true option, and 5 % of the images are one plain colour: there
   both options are equally good answers. Scenes with a distractor come more often than in the
   pool, and its word is mostly the other option. A word that would make a held-out composition is
   never offered: it would always be false, and the model would learn that. Questions are never
   padded: BLIP groups them by length (Hugging Face's BLIP ignores the mask of a padded question in
   the answer decoder), LLaVA packs those of one image behind it.

Hardware of seed {seed}: {hardware}; versions: {versions}.
"""

LIMITS = """
## What the training builds in, and limits

- Supervision of patches teaches detection: heads that attend to the asked thing find it already
  marked. (In a prototype, verbs stayed at 65 % without it.) Do not read the localisation of the
  minis as a discovery about models trained on captions.
- Questions without a true option are part of the training, so that token replacement (STR), which
  produces such questions, is in distribution here. It is not for the full-size models.
- Where both options are in the picture, the minis tell the roles of an svo scene without error,
  but not which of two things is in which state: there they are near or below chance, always with
  one of the two options. A linear probe on the tower of seed 0 says why: it names 96 % of the
  nouns and 97 % of the states that stand alone, 68 % and 84 % of those in a scene of two things,
  which are smaller. The likely remedy is a longer stage 1 with more such scenes; asking also
  "Is the bottle or the bell rusty?" had changed nothing after 300 steps. Leave these pairs out
  (`distractor` and `states`), or use them as pairs that a model gets wrong.
- Clip art, one style, one wording per question: nothing transfers to photographs or to free
  questions. Held-out scenes are new combinations of known words and new faces, no new words.
- Other hardware or versions give other weights in the last digits, and so slightly other numbers.
"""


def write(folder):
    """Write `folder`/README.md from the measurements beside the checkpoints and in seeds/."""
    runs = {name: _runs(folder, name) for name in (*MINIS, NOISY)}
    blip, llava = (runs[name][0]["training"] for name in MINIS)
    recipe = RECIPE.format(
        seed=blip["seed"],
        scenes=blip["pool"]["scenes"],
        vision=blip["steps"]["vision"],
        blip=blip["steps"]["answers"],
        llava=llava["steps"]["answers"],
        noise=MOST_NOISE,
        hardware=blip["hardware"],
        versions=", ".join(f"{name} {number}" for name, number in blip["versions"].items()),
    )
    parts = [INTRODUCTION, recipe, _accuracy(runs), _evidence(runs), _minutes(runs), LIMITS]
    (folder / "README.md").write_text("".join(parts), encoding="utf-8")


def _runs(folder, name):
    """The measurements of all seeds of a model, the shipped one first."""
    paths = [folder / name / "metrics.json", *sorted((folder / SEEDS).glob(f"{name}-[0-9].json"))]
    return [json.loads(path.read_text()) for path in paths]


def _accuracy(runs):
    lines = [
        "\n## Accuracy\n",
        "\nOn `data/embedded`, without padding, through the classes above. Right means that the",
        "\nmost probable of all tokens is the right word. Cells: right option first / second.\n",
        "\n| model | family | scenes |",
    ]
    seeds = [run["training"]["seed"] for run in runs[MINIS[0]]]
    lines += [f" seed {seed}{' (shipped)' if i == 0 else ''} |" for i, seed in enumerate(seeds)]
    lines += ["\n|---|---|---|" + "---|" * len(seeds)]
    for name in runs:
        for family in FAMILIES:
            for split, kind in (("heldout", "plain"), ("heldout", "distractor"), ("seen", "plain")):
                group = f"{family}/{split}/{kind}"
                if group not in runs[name][0]["results"]["answers"]:
                    continue
                label = {"heldout": "held out", "seen": "seen"}[split]
                label += ", distractor" if kind == "distractor" else ""
                cells = [_orders(run["results"]["answers"], group) for run in runs[name]]
                cells += ["not trained"] * (len(seeds) - len(cells))
                lines.append(f"\n| {name} | {family} | {label} | {' | '.join(cells)} |")
    return "".join(lines) + "\n"


def _orders(answers, group):
    cells = [answers[f"{group}/{order}"] for order in ("correct_first", "incorrect_first")]
    text = " / ".join(f"{100 * cell['accuracy']:.1f}" for cell in cells)
    return f"{text} % (n = {sum(cell['n'] for cell in cells)})"


def _evidence(runs):
    lines = [
        "\n## Where no option is true\n",
        "\nThe same questions on a plain picture, and with both options replaced by words that",
        "\nare false of the picture: share of answers that are the 'correct' option (chance: 50 %)",
        "\nand share that are one of the two.\n",
        "\n| model | seed | grey | black | white | neither |\n|---|---|---|---|---|---|",
    ]
    for name in runs:
        for run in runs[name]:
            rows = [
                run["results"][key]
                for key in ("blank_grey", "blank_black", "blank_white", "neither")
            ]
            cells = " | ".join(
                f"{100 * row['accuracy']:.1f} %, {100 * row['listed']:.1f} % listed" for row in rows
            )
            lines.append(f"\n| {name} | {run['training']['seed']} | {cells} |")
    return "".join(lines) + "\n"


def _minutes(runs):
    lines = [
        "\n## Minutes\n",
        "\nOf the clock, for one process with one thread on a two-core machine that did other work",
        "\nat the same time; stage 1 is shared by the models of a seed. A step took about 0.17",
        "\n(stage 1), 0.74 (BLIP) and 0.68 s (LLaVA) of processor time: 20 minutes a seed.\n",
    ]
    lines += ["\n| seed | stage 1 | blip-mini | llava-mini |\n|---|---|---|---|"]
    for blip, llava in zip(*(runs[name] for name in MINIS), strict=True):
        first = blip["training"]
        lines.append(
            f"\n| {first['seed']} | {first['minutes']['vision']} | {first['minutes']['answers']} "
            f"| {llava['training']['minutes']['answers']} |"
        )
    noisy = runs[NOISY][0]["training"]
    lines.append(f"\n\n{NOISY}, seed {noisy['seed']}: {noisy['minutes']['answers']} after stage 1.")
    return "".join(lines) + "\n"
