"""What one small model shows, on freshly rendered scenes: one table per checkpoint.

    python tools/sheet.py data/checkpoints/blip-mini --out data/checkpoints/sheets/blip-mini.csv

What is done is kept beside FILE, in FILE.parts, until the sheet is whole: a sheet that is stopped
goes on there. A sheet is for choosing a recipe and for comparing recipes, so its scenes have a seed
of their own (SEED) and no embedded pair is among them; the embedded pairs are measured once, at the
end.
Columns: measure, of (what it was measured on), value, low, high (95 % interval over scenes, where
there is one), n (scenes or questions).
"""

import argparse
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from notice_lib import (  # noqa: E402
    Site,
    answered_correctly,
    answers,
    effects,
    heads,
    load_model,
    load_pairs,
    plotting,
    site_grid,
    sweep,
)
from notice_lib.reproduction.evidence import cells, halves_of  # noqa: E402
from tools.build_embedded import QUICK, contents, write  # noqa: E402
from tools.plan_embedded import draw_cells  # noqa: E402
from tools.training import evaluation  # noqa: E402

SEED = 4321
CELLS = {
    "svo": {"subject": (60, 60), "verb": (60, 0), "object": (60, 60)},
    "states": {"colour": (60, 60), "shape": (60, 60), "texture": (60, 60)},
    "faces": {"emotion": (60, 0)},
}
"""Held-out scenes of each slot: (with one thing, with a distractor)."""
TOP = 5


def fresh_sets(folder: Path, seed: int, scale: float = 1.0) -> dict:
    """{task: pairs} of freshly rendered held-out scenes, written under a folder."""
    for number, (family, kinds) in enumerate(CELLS.items()):
        counts = {kind: tuple(round(scale * n) for n in pair) for kind, pair in kinds.items()}
        rng = np.random.default_rng([seed, number])
        pairs = list(draw_cells(family, counts, ("heldout",), rng, Counter()))
        for file, content in contents(family, pairs):
            write(folder / file, content, QUICK)
    return {family: load_pairs(family, data=folder) for family in CELLS}


def row(measure, of, value, low=np.nan, high=np.nan, n=0) -> dict:
    return {"measure": measure, "of": of, "value": value, "low": low, "high": high, "n": n}


def one_each(pairs):
    """One pair per scene, both orders in turn."""
    return pairs.sample(len({pair.scene_id for pair in pairs}), 0, by=["scene_id"])


def accuracy(model, sets):
    """Share of clean pictures whose question is answered correctly, in the model's own words."""
    asked = pd.concat([answers(model, one_each(pairs)) for pairs in sets.values()])
    asked["kind"] = np.where(asked["distractor"], "two things", "one thing")
    for keys in (["task", "kind"], ["slot", "kind"], ["task", "kind", "order"]):
        for of, part in asked.groupby(keys, observed=True):
            yield row("accuracy", ", ".join(of), part["is_correct"].mean(), n=len(part))


def without_evidence(model, sets):
    """What is said of blank pictures, and where neither option is true."""
    pairs = [pair for own in sets.values() for pair in one_each(own)]
    sizes = [abs(gap(model, pair, pair.image("clean"))) for pair in pairs]
    for name, level in evaluation.BLANKS.items():
        blank = Image.new("RGB", (model.image_size,) * 2, (level,) * 3)
        found = np.array([gap(model, pair, blank) for pair in pairs])
        correct_first = np.array([pair.order == "correct_first" for pair in pairs])
        share = np.abs(found).mean() / np.mean(sizes)
        yield row(
            "first option on blanks", name, ((found > 0) == correct_first).mean(), n=len(found)
        )
        yield row("mean |L| on blanks, of clean", name, share, n=len(found))
    items = evaluation.neither([item_of(pair) for pair in pairs])
    said = evaluation.answer(model.model, model.processor, items)
    listed = evaluation.without_evidence(items, said)["listed"]
    yield row("a listed option where neither is true", "all", listed, n=len(items))


def gap(model, pair, image) -> float:
    """L of a pair's question about an image."""
    inputs = model.inputs(image, pair.prompt)
    tokens = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    logits = model.logits(inputs, tokens.prefix)
    return float(logits[tokens.correct] - logits[tokens.incorrect])


def item_of(pair) -> evaluation.Item:
    return evaluation.Item(
        image=str(pair.clean_image),
        prompt=pair.prompt,
        correct=pair.correct,
        incorrect=pair.incorrect,
        family=pair.task,
        slot=pair.slot,
        split=pair.split,
        order=pair.order,
        distractor=pair.distractor,
        shown=frozenset(pair.shown),
    )


def strongest(table, half):
    """The head with the largest mean fraction recovered on half A, measured on half B."""
    names = table[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"]).to_numpy()
    for cell in cells(table[table["corruption"] == "image"], half):
        a, b = cell.of("A"), cell.of("B")
        head = int(np.argmax(a.values.mean(0)))
        values = b.values[:, [head]] / b.total.mean()
        low, high = heads.bootstrap_interval(values)
        of = f"{cell.task}, {cell.slot}: {plotting.head_name(*names[head])}"
        yield row("largest fraction recovered", of, values.mean(), low[0], high[0], len(values))


def rising(model, sets):
    """Over how many layers the fraction recovered rises from 10 to 90 % of its largest value."""
    sites = site_grid(model, ["layer_output"], position=model.effect_role)
    for task, pairs in sets.items():
        table = effects(sweep(model, one_each(pairs), sites).table())
        means = table.groupby("layer")["effect"].mean()
        yield row("layers from 10 to 90 %", task, rise(means), n=table["scene_id"].nunique())


def rise(means: pd.Series) -> float:
    """Layers, the index, between 10 and 90 % of the largest of `means`, linear between layers."""
    share = np.maximum.accumulate(means.to_numpy() / means.max())
    at = [np.interp(level, share, means.index.to_numpy(float)) for level in (0.1, 0.9)]
    return at[1] - at[0]


def carried(model, sets, pools, chosen, folder):
    """Content, truth and removal of the strongest heads, and K; donors come from the pools."""
    sites = [Site(model.image_component, layer, head, model.effect_role) for layer, head in chosen]
    for task, pairs in sets.items():
        measured = heads.carried(model, pairs, sites, pools[task], out=folder / f"carried-{task}")
        for found in measured.itertuples():
            of = f"{task}: {plotting.head_name(found.layer, found.head)}"
            for part in ("effect", "content", "truth", "removal"):
                name = f"{part}_fraction"
                ends = getattr(found, f"{name}_low"), getattr(found, f"{name}_high")
                yield row(
                    f"{part}, of the total effect", of, getattr(found, name), *ends, found.scenes
                )
            ends = found.content_share_low, found.content_share_high
            yield row("content share K", of, found.content_share, *ends, found.scenes)


def looks(model, sets, chosen):
    """Which of the strongest heads ground, and which suppress the distractor."""
    # Only svo pictures have two things that a question can ask for.
    for task, name, test, verdict in (
        ("svo", "grounds", heads.grounding, "grounds"),
        ("svo", "suppresses the distractor", heads.distractor_suppression, "suppresses"),
        ("states", "suppresses the distractor", heads.distractor_suppression, "suppresses"),
    ):
        for head in test(model, one_each(sets[task]), chosen).itertuples():
            head_name = plotting.head_name(head.layer, head.head)
            of = f"{task}: {head_name}, {getattr(head, verdict)}"
            yield row(name, of, float(getattr(head, verdict) == "yes"), n=head.scenes)


def outliers(model, sets):
    """Patches that stand out by norm, by attention, by both."""
    for task, pairs in sets.items():
        maps = heads.attention_maps(model, one_each(pairs), model.effect_role)
        for by, found in heads.outlier_patches(maps).table().iterrows():
            yield row(f"images with an outlier by {by}", task, found["images"], n=len(maps.pairs))
        norms = maps.norms / np.median(maps.norms, 1, keepdims=True)
        yield row("largest norm, in medians", task, norms.max(), n=len(maps.pairs))


def universal(table):
    """How many heads matter in every task, by both rules."""
    for rule in ("paper", "signed"):
        for found in heads.chance(table, rule).itertuples():
            yield row(f"universal heads, {rule} rule", found.kind, found.universal, n=found.heads)


def head_effects(model, sets, folder) -> pd.DataFrame:
    """The effects of all heads under both corruptions; the sweeps are kept in a folder."""
    sites = site_grid(model, [model.image_component], per_head=True, position=model.effect_role)
    return heads.gather(
        sweep(model, pairs, sites, corruption, out=folder / f"heads-{task}-{corruption}")
        for task, pairs in sets.items()
        for corruption in ("image", "text")
    )


def kept(file: Path, rows) -> pd.DataFrame:
    """The rows of one part: those in a file, or else measured now and written there."""
    if not file.exists():
        start = time.monotonic()
        table = pd.DataFrame(rows)
        table.to_csv(file.with_suffix(".part"), index=False)
        file.with_suffix(".part").rename(file)
        print(f"{file.stem}: {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return pd.read_csv(file)


def sheet(model, sets, folder: Path) -> pd.DataFrame:
    """The whole table of one model. What is done is kept in a folder."""
    plain = {
        task: answered_correctly(model, one_each(pairs.filter(lambda pair: not pair.distractor)))
        for task, pairs in sets.items()
    }
    table = head_effects(model, plain, folder)
    half = halves_of(plain)
    half_a = table[table["pair_id"].astype(str).map(half) == "A"]
    size = half_a[half_a["corruption"] == "image"].groupby(["layer", "head"])["effect"].mean()
    chosen = list(size.sort_values(ascending=False).index[:TOP])
    half_b = {
        task: pairs.filter(lambda pair: half[pair.pair_id] == "B") for task, pairs in plain.items()
    }
    scenes_of_b = {pair.scene_id for pairs in half_b.values() for pair in pairs}
    pools = {
        task: pairs.filter(lambda pair: pair.scene_id in scenes_of_b)
        for task, pairs in sets.items()
    }
    # These are generators: a part that is kept is not measured again.
    parts = {
        "accuracy": accuracy(model, sets),
        "without-evidence": without_evidence(model, sets),
        "strongest": strongest(table, half),
        "rising": rising(model, plain),
        "carried": carried(model, half_b, pools, chosen, folder),
        "looks": looks(model, sets, chosen),
        "outliers": outliers(model, sets),
        "universal": universal(table),
    }
    return pd.concat([kept(folder / f"{name}.csv", rows) for name, rows in parts.items()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a folder, or a name in data/checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    parser.add_argument("--seed", type=int, default=SEED, help="of the scenes")
    parser.add_argument("--scale", type=float, default=1.0, help="of the scenes, to try it out")
    args = parser.parse_args()
    # The sweeps in it refuse another model or other scenes.
    folder = args.out.with_suffix(".parts")
    sets = fresh_sets(folder / "scenes", args.seed, args.scale)
    found = sheet(load_model(args.checkpoint, attention="eager"), sets, folder)
    found.to_csv(args.out, index=False, float_format="%.4g")
    shutil.rmtree(folder)
    print(found.to_string(index=False))


if __name__ == "__main__":
    main()
