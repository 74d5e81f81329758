"""What the inpainting model was measured to do, and its model card."""

import tempfile
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

from notice_lib import load_model, load_pairs
from notice_lib.corruption.generative import REPAINTED, check_pairs, generative_pairs
from notice_lib.corruption.inpainters import load_inpainter

MINIS = ("blip-mini", "llava-mini")
SETS = ("svo", "states", "faces")
SLOTS = ("subject", "object", "colour", "shape", "texture", "emotion")


def one_a_scene(name, seed):
    """One pair of every scene of a set that can be painted: they are independent."""
    pairs = load_pairs(name).filter(lambda p: p.slot in REPAINTED and not p.distractor)
    return pairs.sample(len({pair.scene_id for pair in pairs}), seed, by=["scene_id"])


def evaluate(folder, each=None, seed=0):
    """One row a scene: its slot and split, and whether each mini answers as intended.

    Args:
        folder: the inpainting model.
        each: as many scenes of each set; None takes all.
    """
    inpainter = load_inpainter(folder, "cpu")
    models = [load_model(name, "cpu") for name in MINIS]
    tables = []
    for name in SETS:
        pairs = one_a_scene(name, seed)
        if each:
            pairs = pairs.sample(each, seed)
        with tempfile.TemporaryDirectory() as scratch:
            made = generative_pairs(pairs, inpainter, Path(scratch) / name, seed)
            checked = [check_pairs(model, made) for model in models]
        table = checked[0][["pair_id", "task", "slot", "split", "outside"]].copy()
        for mini, found in zip(MINIS, checked, strict=True):
            table[mini] = found.intended
        table["both"] = table[list(MINIS)].all(axis=1)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def summary(table):
    """{"all" | slot: {split: {"n", "outside", mini: hits, "both": hits}}}, in scenes."""
    present = [slot for slot in SLOTS if slot in set(table.slot)]
    parts = {"all": table} | {slot: table[table.slot == slot] for slot in present}
    return {
        name: {
            split: {"n": len(rows), "outside": int(rows.outside.max())}
            | {column: int(rows[column].sum()) for column in (*MINIS, "both")}
            for split, rows in {"all": part, **dict(list(part.groupby("split")))}.items()
        }
        for name, part in parts.items()
    }


CARD = """# inpaint-mini

A small inpainting model for the rendered scenes of `data/embedded`: it paints a box of a picture
as a caption says ("the goat pulling the car", "this bottle rusty", "this person feeling sad"). It
makes the corrupt pictures of generative semantic pairs (`book/12_noise.md`) and knows
nothing else. The class is diffusers' `UNet2DConditionModel`, with a `DDIMScheduler`; {weights:,}
weights in float16 safetensors. Licence as the repository's.

```python
from notice_lib import generative_pairs, load_inpainter, load_pairs

pairs = load_pairs("states", n=8).filter(lambda pair: not pair.distractor)
painted = generative_pairs(pairs, load_inpainter("inpaint-mini"), "results/painted", seed=0)
```

## What goes in and out

A square window, {margin} times the box's side, resized to {size} x {size} pixels. In: the noisy
picture, the window with the box blanked, and the box, all in 2 x 2 blocks of pixels as channels.
The caption is a bag of {words} words (`words.json`) through a linear layer onto the time
embedding. Out: the clean picture. 12 DDIM steps, each guided away (by {guidance:g}) from the
picture that it would paint for the other option; the box is pasted into the picture, all else
stays to the bit.

## Training

    python tools/train_inpainter.py

{scenes:,} pairs of scenes of the split "seen" that differ in one word, in both directions (45 %
svo, 32 % states, 23 % faces; no verbs, no distractors), mirrored half of the time. The surroundings
are those of one scene, the picture in the box and the caption those of the other: the box is made
from the first alone, so what sticks out of it is cut. Squared error of the clean picture, a tenth
as much outside the box; AdamW at 1e-3, a cosine from 40 % of a stage on; the moving average of
the weights is kept. {steps:,} steps of {batch} windows took {minutes:.0f} minutes of one core,
and the error was still falling ({loss:.3f} in the last 100 steps).

Hardware: {hardware}; versions: {versions}.

## What was measured

One pair of each of {n} scenes of `data/embedded` (those that can be painted, or a random part of
them), at the first draw (seed 0). A picture passes when the model's own answer to it is the other
option. Brackets: 95 % interval (Wilson). Outside the boxes {outside} pixels changed.

| scenes | n | blip-mini | llava-mini | both | both, seen compositions | both, held out |
|---|---|---|---|---|---|---|
{rows}

{verdict} {tried}

## Limits

- Its pictures are smudged: it was trained for a short time, and has 64 pixels for a window of up to
  192. Longer training is the first thing to try.
- The painter and the models that judge it learned from one renderer.
- No verbs (another verb moves the whole scene), and no scenes with two things of a kind.
"""


def write(folder, metrics, **facts):
    """Write `folder`/README.md.

    Args:
        metrics: {"training": {"steps", "batch", "minutes", "loss", "hardware", "versions"},
            "results": of `summary`, "tried": a sentence on what else was tried, or absent}.
        facts: weights, words, size, margin, scenes and guidance, numbers of the card.
    """
    results, training = metrics["results"], metrics["training"]
    whole = results["all"]["all"]
    share = whole["both"] / whole["n"]
    text = CARD.format(
        **facts,
        **training
        | {"versions": ", ".join(f"{name} {n}" for name, n in training["versions"].items())},
        n=whole["n"],
        tried=metrics.get("tried", ""),
        outside=whole["outside"],
        rows="\n".join(_row(name, cells) for name, cells in results.items()),
        verdict=f"The aim was 80 % answered as intended by both; reached are {share:.1%}.",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _row(name, cells):
    whole = cells["all"]
    shown = [_share(whole[column], whole["n"]) for column in (*MINIS, "both")]
    for split in ("seen", "heldout"):
        part = cells.get(split)
        shown.append(_share(part["both"], part["n"]) if part else "none drawn")
    return f"| {name} | {whole['n']} | {' | '.join(shown)} |"


def _share(hits, n):
    low, high = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return f"{100 * hits / n:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
