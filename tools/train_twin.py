"""Make twins of a small BLIP, with and without planted outliers, and measure them.

    python tools/train_twin.py --from data/checkpoints/blip-mini --out DIR

Three arms start from one checkpoint whose vision tower keeps one axis free, and are fine-tuned
alike (the text side only: the towers stay as they were made):

- sham: nothing is planted;
- planted: a few background patches carry a large vector along the axis (tools/training/outliers),
  and of some heads it is known how they meet it (tools/training/outlier_heads);
- planted-register: the same start behind a hook that moves the vector to [CLS]. Plain Hugging Face
  BLIP has no registers: without the hook (outliers.register) these weights meet pictures that they
  were not tuned on.

Each arm is a plain Hugging Face checkpoint, and metrics.json says what was measured, also of the
planted weights with the direction projected out. planted/outliers.json has the indices of the
outliers of every embedded picture. What was fitted is kept in --cache: a stopped run goes on there.
"""

import argparse
import copy
import hashlib
import json
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoProcessor, BlipForQuestionAnswering

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from notice_lib import heads, load_model, load_pairs  # noqa: E402
from notice_lib.models.blip import Blip  # noqa: E402
from tools.sheet import fresh_sets, one_each  # noqa: E402
from tools.training import (  # noqa: E402
    batches,
    evaluation,
    loops,
    memory,
    models,
    outlier_heads,
    outlier_lab,
    outliers,
    pool,
)
from tools.training.recipes import TWO_CHOICE, VARIED  # noqa: E402

ARMS = ("sham", "planted", "planted-register")
POOL_SEED, MEASURED_SEED, ASKED_SEED = 23, 7654, 98
QUIET = 100  # pictures by which the axis is chosen
SCALED_BY = 300  # pictures by which norms are set, and neurons replaced
ALL_HEADS = [divmod(i, models.HEADS) for i in range(models.TEXT_LAYERS * models.HEADS)]
MOST_LOST = 0.01  # accuracy of an arm, of the checkpoint's
# Of the learning rate, and images a step. An outlier's output on the axis is a hundred times that
# on others, so what reads it changes as much faster: at a tenth, known heads soon drift.
TUNING_RATE, BATCH = 0.02, 16


@dataclass(frozen=True)
class Start:
    """Where the arms start: models before fine-tuning, the axis, and the known heads."""

    sham: BlipForQuestionAnswering
    planted: BlipForQuestionAnswering
    axis: int
    known: outlier_heads.Known

    def of(self, arm):
        return copy.deepcopy(self.sham if arm == "sham" else self.planted)


def log(message):
    print(time.strftime("%H:%M:%S"), message, flush=True)


def read_checkpoint(folder):
    """The float32 model of a checkpoint.

    Raises:
        SystemExit: it is no BLIP whose pictures are those of the training pool.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    vision, grid = config.get("vision_config", {}), models.BLIP_GRID
    shape = vision.get("image_size"), vision.get("patch_size")
    if config.get("model_type") != "blip" or shape != (grid.image_size, grid.patch_size):
        raise SystemExit(
            f"{folder} holds no BLIP with pictures of {grid.image_size} pixels a side and patches "
            f"of {grid.patch_size}. Give a blip-mini that tools/train_minis.py trained."
        )
    return BlipForQuestionAnswering.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True
    ).eval()


def make_start(model, data, words, seed):
    """The Start of all arms, in closed form but for the rule (outliers.fit_rule)."""
    pixels = loops.to_tensor(torch.from_numpy(np.asarray(data.pixels)))
    roles = np.asarray(data.labels["role"])
    tower = model.vision_model
    axis = outliers.quiet_axis(tower, pixels[:QUIET])
    outliers.free_axis(tower, axis)
    sham = copy.deepcopy(model)
    states, given = outliers.read_last_layer(tower, pixels)
    allowed = outliers.away_from_things(roles, models.BLIP_GRID.side)
    forbidden = outliers.reached(data.scenes, models.BLIP_GRID)
    rule = outliers.fit_rule(states, allowed, forbidden, seed)
    outliers.plant(tower, axis, rule, states[:SCALED_BY], given[:SCALED_BY])
    asked = batches.QuestionBatches(data, words, [seed, 4], 1, TWO_CHOICE)[0]
    some = asked["images"]
    with torch.no_grad():
        planted, without = (m.vision_model(pixels[some])[0] for m in (model, sham))
    firing = rule.score(states[some].float()) > 0
    firing[:, 0] = False
    reading = outlier_heads.read(
        sham, pixels[some], asked, torch.from_numpy(roles[some] != pool.ROLES.index("background"))
    )
    known = outlier_heads.choose(reading)
    outlier_heads.as_background(model, axis, planted[firing], without[firing])
    size = planted[firing][:, axis].mean()
    spoiling = outlier_heads.contrary(sham, pixels[some], asked, *known.avoider)
    outlier_heads.steer(model, axis, size, known, reading, spoiling)
    return Start(sham, model, axis, known)


def digest(model):
    """A name for a model's weights."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()[:12]


def hooked(arm, tower, axis):
    """What an arm runs in."""
    return outliers.register(tower, axis) if arm == "planted-register" else nullcontext()


def fine_tune(arm, start, data, words, args):
    """The arm's model after fine-tuning on the same questions as the other arms, and minutes."""
    model = start.of(arm)
    model.vision_model.requires_grad_(False)
    parts = [(model.text_encoder, TUNING_RATE), (model.text_decoder, TUNING_RATE)]
    asked = batches.QuestionBatches(
        data, words, [args.seed, 5], args.steps, VARIED, size=args.batch
    )
    name = (
        f"twin-{arm}-{digest(model)}-{data.key}-{args.steps}-{args.batch}-{args.seed}.safetensors"
    )
    fit = loops.Fit(args.cache / name, args.seed, "cpu", 0, log)
    with hooked(arm, model.vision_model, start.axis):
        minutes = loops.train_questions(data, parts, loops.blip_logits(model), asked, fit)
    return model, minutes


def save(model, processor, folder, metrics):
    copy.deepcopy(model).half().save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


def accuracy(model, processor, items):
    given = evaluation.answer(model.eval(), processor, items)
    return float(np.mean([a == item.correct for a, item in zip(given, items, strict=True)]))


def measure(arms, start, plain, args):
    """All results as plain values, by arm; "checkpoint" is `plain`, from which all was made, and
    "projected" the planted arm without the direction.

    arms: {name: adapter}.
    """
    processor, planted = arms["planted"].processor, arms["planted"]
    items = evaluation.rendered_items(args.fresh, ASKED_SEED)
    without = copy.deepcopy(planted)
    outliers.project_out(without.model.vision_model, start.axis)
    adapters = {"checkpoint": Blip(plain, processor), "projected": without} | arms
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        sets = fresh_sets(Path(folder), MEASURED_SEED, args.scale)
        pairs = [pair for own in sets.values() for pair in one_each(own)]
        found = heads.outlier_pictures(planted, pairs)
        for arm, model in adapters.items():
            log(f"measuring {arm}")
            with hooked(arm, model.model.vision_model, start.axis):
                results[arm] = {"accuracy": accuracy(model.model, processor, items)}
                results[arm] |= looks(model, pairs, found, start)
        before = heads.outlier_pictures(Blip(start.of("planted"), processor), pairs)
        results["planted"]["before fine-tuning"] = attention(before.maps, found, start.known)
        results["planted"]["roles"] = roles_of(found.maps, start.known)
        judged = heads.outlier_avoidance(planted, without, found, ALL_HEADS, args.seed)
        results["planted"]["heads"] = judged.to_dict("records")
    return results


def looks(model, pairs, planted, start):
    """What patches stand out, and how the known heads look at the planted ones."""
    own = heads.outlier_pictures(model, pairs)
    return {
        "outliers": outlier_lab.describe(model, own, start.axis),
        "attention": attention(own.maps, planted, start.known),
    }


def attention(maps, planted, known):
    """The known heads' part of attention to patches that goes to the planted ones, and [CLS]'s part
    of all their attention; of the followers the means."""
    on, cls = outlier_lab.share_on(maps, planted.outliers), maps.cls.mean(0)
    return {
        name: {
            where: float(np.mean([values[at] for at in found]))
            for where, values in (("planted patches", on), ("[CLS]", cls))
        }
        for name, found in known.groups().items()
    }


def roles_of(maps, known):
    """What `head_roles` calls the known heads: it asks for less attention than an even share."""
    table = heads.head_roles(maps).set_index(["layer", "head"])["role"]
    return {name: [table[at] for at in found] for name, found in known.groups().items()}


def indices(model, data):
    """{picture: indices of its outliers, by rows from the upper left} of the embedded pictures."""
    found = {}
    for family in evaluation.FAMILIES:
        pairs = load_pairs(family, data=data)
        for pair in {pair.clean_image: pair for pair in pairs}.values():
            norms = heads.image_attention(model, model.inputs(pair.image("clean"), "?")).norms
            high = norms >= heads.overlap.HIGH_NORM * np.median(norms)
            name = Path(pair.clean_image).relative_to(data).as_posix()
            found[name] = np.flatnonzero(high).tolist()
    return dict(sorted(found.items()))


def report(results, known):
    """Print the results."""
    for arm, found in results.items():
        lost = results["checkpoint"]["accuracy"] - found["accuracy"]
        warning = ": more than one point below the checkpoint" if lost > MOST_LOST else ""
        print(f"\n{arm}: accuracy {found['accuracy']:.1%}{warning}")
        for name, value in found["outliers"].items():
            print(f"  {name}: {value:.3g}")
        for when in ("before fine-tuning", "attention"):
            for name, value in found.get(when, {}).items():
                print(f"  {when}, {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in value.items()))
    report_heads(results["planted"], known)


def report_heads(planted, known):
    """Print which heads keep away, and whether fine-tuning undid what was built in."""
    rows = {(row["layer"], row["head"]): row for row in planted["heads"]}
    print("\nkeeps away from outliers; columns: mean [95 % interval]")
    for name in ("avoider", "indifferent", "detecting"):
        row = rows[getattr(known, name)]
        numbers = ", ".join(
            f"{value} {row[value]:+.2f} [{row[value + '_low']:+.2f}, {row[value + '_high']:+.2f}]"
            for value in ("avoidance", "by_direction", "forced")
        )
        print(f"  {name} {getattr(known, name)}: {row['keeps_away']}; {numbers}; "
              f"by an even share: {planted['roles'][name][0]}")  # fmt: skip
    away = [at for at, row in rows.items() if row["keeps_away"] == "yes"]
    least = -heads.outliers.AVOIDANCE
    drawn = [at for at, row in rows.items() if max(row["avoidance"], row["by_direction"]) < least]
    print(f"  keep away: {away}; drawn onto them: {len(drawn)} of {len(rows)} heads")
    before, after = (
        planted[when]["followers"]["planted patches"]
        for when in ("before fine-tuning", "attention")
    )
    print(f"  the followers {'unlearned' if after < before / 2 else 'kept'} it: {before:.1%} of "
          f"their attention before fine-tuning, {after:.1%} after")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=2000, help="scenes to plant by and to tune on")
    parser.add_argument("--steps", type=int, default=300, help="of each arm's fine-tuning")
    parser.add_argument("--batch", type=int, default=BATCH, help="images a step")
    parser.add_argument("--fresh", type=int, default=100, help="scenes a family, for accuracy")
    parser.add_argument("--scale", type=float, default=0.2, help="of the sheet's scenes, for looks")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "embedded")
    parser.add_argument("--cache", type=Path, default=ROOT / "_build" / "training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    memory.keep()
    model = read_checkpoint(args.checkpoint)
    processor = AutoProcessor.from_pretrained(args.checkpoint, backend="pil")
    words = batches.blip_words(processor.tokenizer)
    data = pool.load_pool(args.pool, POOL_SEED, models.BLIP_GRID, args.cache, nouns=pool.FURTHER)
    log(f"planting by {len(data)} scenes")
    start = make_start(model, data, words, args.seed)
    log(f"axis {start.axis}, {start.known}")
    shared = {"seed": args.seed, "steps": args.steps, "axis": start.axis}
    training = {}
    for arm in ARMS:
        log(arm)
        tuned, minutes = fine_tune(arm, start, data, words, args)
        training[arm] = shared | {"minutes": minutes, "known heads": start.known.groups()}
        save(tuned, processor, args.out / arm, {"training": training[arm]})
    arms = {arm: load_model(args.out / arm, device="cpu") for arm in ARMS}
    results = measure(arms, start, read_checkpoint(args.checkpoint), args)
    for arm in ARMS:
        metrics = {"training": training[arm], "results": results[arm]}
        metrics |= {name: results[name] for name in ("checkpoint", "projected")}
        (args.out / arm / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    found = indices(arms["planted"], args.data)
    (args.out / "planted" / "outliers.json").write_text(json.dumps(found) + "\n")
    report(results, start.known)


if __name__ == "__main__":
    main()
