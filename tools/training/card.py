"""The model card of data/checkpoints, written from the metrics.json files."""

import json

from tools.training.loops import MOST_NOISE

MINIS = ("blip-mini", "llava-mini")
NOISY = "blip-mini-noise"
FAMILIES = ("svo", "states", "faces")
SEEDS = "seeds"  # Folder with the measurements of the seeds that are not shipped.

INTRODUCTION = """# Miniature checkpoints

`blip-mini` is a `BlipForQuestionAnswering`, `llava-mini` is a `LlavaForConditionalGeneration`,
and `blip-mini-noise` is a `blip-mini` that was also trained on noisy pictures. They use the
Hugging Face classes of the paper's models, unmodified, but are small enough to be trained on
one CPU core and to be patched in seconds. They can answer two-choice questions about the
rendered scenes in `data/embedded`, and nothing else. The weights are float16 safetensors of a
few MB each, under the repository's licence.

```python
from transformers import AutoProcessor, BlipForQuestionAnswering
processor = AutoProcessor.from_pretrained("data/checkpoints/blip-mini", backend="pil")
model = BlipForQuestionAnswering.from_pretrained("data/checkpoints/blip-mini", dtype="float32")
inputs = processor(images=image, text="Is this bottle broken or rusty?", return_tensors="pt")
print(processor.decode(model.generate(**inputs, max_new_tokens=3)[0], skip_special_tokens=True))
```

LLaVA's prompt is `USER: <image>\\nIs this bottle broken or rusty? ASSISTANT:`.

## Shapes

Images have 96 x 96 pixels and 8 x 8 patches. The hidden size is 128. The vision tower has 4
layers of 8 heads, and the text model has 6 layers of 8 heads (in BLIP, 6 in the question
encoder and 6 in the answer decoder).

BLIP's tokenizer is a lower-casing WordPiece. LLaVA's is a Unigram model with SentencePiece's
convention that a space belongs to the word after it. Each word of the scenes is one token. In
LLaVA the answer is the same token as the option in the prompt (`▁bottle`), and only this form
is scored; in BLIP it is the token `bottle`. Other text is split into characters (in LLaVA, also
into bytes), so ASCII text has no unknown tokens.
"""

RECIPE = """
## Recipe

    python tools/train_minis.py --seed {seed} --out data/checkpoints

The same command with another seed and folder trains the other seeds. Only their measurements
are kept, in `seeds/`.

1. A pool of {scenes:,} scenes of the split "seen" is rendered. Half of them are svo scenes, and
   a third of the svo and states scenes have a distractor. The pool is the same for all seeds. A
   seed determines the initial weights, the order of the images and the questions.
2. The vision tower alone learns to classify what every patch shows ({vision} steps of 64
   images, drawn evenly): its role (background, subject, object or distractor), the thing, the
   verb that the thing takes part in, the thing's state, and the face's expression. The labels
   come from the renderer's masks.
3. Each model starts from that tower and learns to answer questions (BLIP {blip} steps, LLaVA
   {llava} steps, of 64 images x 3 questions). The loss is the cross-entropy of the answer's
   token and, with a small weight, of the end token. The optimiser is AdamW with bfloat16
   autocast; the learning rate is 1e-3 (0.3 times that for the tower) after a warm-up of 5 %,
   constant until the middle, then follows a cosine. LLaVA's CLIP tower takes BLIP's weights;
   only the LayerNorm before its first layer, which BLIP lacks, is estimated.
4. `blip-mini-noise` differs from `blip-mini` only in step 3, where half of the images get
   Gaussian noise on the embeddings of their patches. `notice_lib.GaussianNoise` adds it, with a
   strength drawn between 0 and {noise:g} standard deviations. Such noise is therefore in
   distribution for this model. Chapter 12 of the book compares the two models.
5. 20 % of the questions have no true option, and 5 % of the images are of one plain colour. In
   these cases both options are equally good answers. Scenes with a distractor are drawn more
   often than they occur in the pool, and the distractor's word is usually the other option. A
   word that would form a held-out composition is never an option: it would always be false, and
   the model would learn this. Questions are never padded. BLIP groups them by length, since
   Hugging Face's BLIP ignores the mask of a padded question in the answer decoder; LLaVA packs
   the questions about one image behind it.

Hardware of seed {seed}: {hardware}; versions: {versions}.
"""

LIMITS = """
## Effects of the training, and limits

- The supervision of patches teaches detection: heads that attend to the thing that the question
  asks about find it already marked. (Without this supervision, a prototype answered only 65 %
  of the verbs correctly.) The localisation in these models is no discovery about models trained
  on captions.
- Questions without a true option are part of the training. Token replacement (STR) produces
  such questions, so it is in distribution for these models. It is not for the full-size models.
- If both options are in the picture, the models distinguish the roles in an svo scene without
  error, but they do not know which of two things is in which state. They answer these questions
  near or below chance, although always with one of the two options. A linear probe on the tower
  of seed 0 shows the reason: it recognises 96 % of the nouns and 97 % of the states of single
  things, but only 68 % and 84 % in scenes with two things, which are smaller. A longer stage 1
  with more such scenes would probably help; additional questions such as "Is the bottle or the
  bell rusty?" had no effect after 300 steps. Leave these pairs out (`distractor` and `states`),
  or use them as pairs that a model answers incorrectly.
- The pictures are clip art in one style, and each question has one wording. Nothing transfers
  to photographs or to free questions. Held-out scenes contain new combinations of known words,
  and new faces, but no new words.
- Other hardware or versions change the last digits of the weights, and so the results slightly.
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
        "\nOn `data/embedded`, without padding, with the classes above. An answer is correct if",
        "\nthe most probable of all tokens is the correct word. Cells show the accuracy on",
        "\nquestions with the correct option first / second.\n",
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
        "\nThe same questions were asked about a plain picture, and with both options replaced by",
        "\nwords that are false for the picture (neither). Cells show the share of answers that",
        "\nare the 'correct' option (chance: 50 %), and that are one of the two (listed).\n",
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
        "\nThese are minutes of wall-clock time for one process with one thread, on a two-core",
        "\nmachine that did other work at the same time. The models of a seed share stage 1. A",
        "\nstep took about 0.17 s (stage 1), 0.74 s (BLIP) and 0.68 s (LLaVA) of processor time,",
        "\nwhich makes 20 minutes per seed.\n",
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
