"""The command line: what one would not keep a notebook open for."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer

from ..errors import NoticeError
from . import pairs as cli_pairs
from .options import Number, Seed, Set

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Patch activations of vision-language models on semantic pairs.",
)
app.add_typer(cli_pairs.app, name="pairs")


Corruption = Literal["image", "text", "noise"]
NoisePlace = Literal["patch_embeddings", "tower_output"]
Rule = Literal["signed", "max_t", "paper", "abs_of_mean"]
Engine = Annotated[
    Literal["fast", "reference"],
    typer.Option(help="reference: for models that the fast engine refuses."),
]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]

Name = Annotated[
    str, typer.Argument(help="blip-mini, llava-mini, a checkpoint's folder, or a hub id.")
]


@app.command()
def info(model: Annotated[str | None, typer.Argument(help="A model to describe, too.")] = None):
    """Show versions, the embedded pair sets and, if one is named, what a model offers.

    Example: notice info blip-mini
    """
    from ..datasets import EMBEDDED, load_pairs

    for package in ("notice-lib", "torch", "transformers"):
        print(f"{package:14}{version(package)}")
    for name in EMBEDDED:
        print(f"{name:14}{len(load_pairs(name))} pairs")
    if model is None:
        return
    from ..loading import load_model

    vlm = load_model(model)
    print(f"\n{model}: {type(vlm.model).__name__} on {vlm.device}, {vlm.dtype}")
    for name, stack in vlm.stacks.items():
        print(f"  {name}: {stack.n_layers} layers of {stack.n_heads} heads; components")
        print(f"    {', '.join(stack.components)}")
    print(f"  {vlm.image_size} pixels a side, {vlm.grid} x {vlm.grid} patches")


@app.command()
def sweep(
    model: Name,
    pairs: Set,
    out: Annotated[Path, typer.Argument(help="Folder for the results; a killed sweep goes on.")],
    component: Annotated[
        list[str] | None, typer.Option(help="May be given several times; all by default.")
    ] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="May be given several times; all by default.")
    ] = None,
    per_head: Annotated[bool, typer.Option("--per-head", help="Each head on its own.")] = False,
    position: Annotated[
        str,
        typer.Option(
            help="each (every text token in turn), an index, or a role: correct, last, image ..."
        ),
    ] = "each",
    corruption: Annotated[
        Corruption, typer.Option(help="What differs: image (SIP), text (STR), or Gaussian noise.")
    ] = "image",
    noise_at: Annotated[
        NoisePlace, typer.Option(help="Where noise is added.")
    ] = "patch_embeddings",
    noise_strength: Annotated[float, typer.Option(help="In standard deviations.")] = 3.0,
    noise_draws: Annotated[int, typer.Option(help="For each pair.")] = 10,
    donor: Annotated[
        Literal["own", "unrelated"],
        typer.Option(help="unrelated: copy from another scene, which makes a null."),
    ] = "own",
    direction: Annotated[
        Literal["denoise", "noise"], typer.Option(help="Clean into corrupt, or corrupt into clean.")
    ] = "denoise",
    n: Number = None,
    seed: Seed = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda; a GPU if there is one.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="float32 on a CPU by default.")] = None,
    engine: Engine = "fast",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a pair that fails.")] = False,
):
    """Patch every site of every pair, and keep the table in a folder.

    Run it again after a stop and it goes on. Several processes share the work:
    accelerate launch -m notice_lib sweep ...

    Example: notice sweep blip-mini svo results/heads --component cross_attention --per-head
    --position correct
    """
    import torch

    from ..corruption import GaussianNoise
    from ..datasets import load_pairs
    from ..loading import load_model
    from ..patching import effects, site_grid, sweep as run

    # Before the model: it gives each process its own GPU.
    state = _processes(device)
    vlm = load_model(model, device, getattr(torch, dtype) if dtype else None, engine=engine)
    sites = site_grid(
        vlm, component, layer, per_head, int(position) if position.isdigit() else position
    )
    found = run(
        vlm,
        load_pairs(pairs, n, seed),
        sites,
        GaussianNoise(noise_at, noise_strength, noise_draws)
        if corruption == "noise"
        else corruption,
        direction,
        donor,
        seed,
        out=out,
        strict=strict,
    )
    if state.is_main_process:
        _print_strongest(effects(found.table()))
        print(f"{len(found.runs)} pairs, {len(found.patched)} patched runs: {out}")


@app.command()
def heads(
    folders: Annotated[list[Path], typer.Argument(help="Finished sweeps of single heads.")],
    rule: Annotated[
        Rule,
        typer.Option(help="signed: mean effects, tested; max_t: stricter; paper: the paper's."),
    ] = "signed",
    level: Annotated[
        float, typer.Option(min=0, max=1, help="Share of false heads (max_t: chance of any).")
    ] = 0.05,
    minimum: Annotated[
        float,
        typer.Option(min=0, help="Smallest effect that counts, as a fraction recovered."),
    ] = 0.005,
    metric: Annotated[str, typer.Option(help="Column that is averaged.")] = "effect",
    role: Annotated[
        str | None, typer.Option(help="Only this token role, where sweeps have several.")
    ] = None,
    only_answered: Annotated[
        bool, typer.Option("--answered", help="Only pairs that the model answers correctly.")
    ] = False,
    null: Annotated[
        list[Path] | None,
        typer.Option(help="Sweep with unrelated donors: the rule runs on it, too. Repeatable."),
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="A CSV file: a row a head, all numbers.")] = None,
):
    """Select the heads that matter, in each task and in all of them.

    Give one folder of `notice sweep ... --per-head` for each task and corruption. Heads that are
    selected in every task are called universal: vision heads under image corruption, text heads
    under text corruption, multimodal ones under both.

    Effects are means over scenes, in the metric's unit, with a bootstrap interval; the percentage
    is the fraction recovered of the way from the unpatched run to the one that is copied from.

    Example: notice heads results/svo-image results/faces-image --out heads.csv
    """
    from .. import heads as selection
    from ..patching import read_sweep

    def read(folders):
        table = selection.gather(map(read_sweep, folders))
        return table[table["role"] == role] if role else table

    def select(table):
        return selection.head_effects(table, rule, metric, level, minimum, seed=seed)

    table = read(folders)
    table = selection.answered(table) if only_answered else table
    if table.empty:
        raise NoticeError("No row is left: no such role, or no pair that is answered correctly.")
    found = select(table)
    print(f"Rule {rule}: {selection.RULES[rule]}\n")
    _print_selected(found)
    universal = selection.universal_heads(found, level)
    _print_universal(universal)
    print(f"\n{selection.expected_by_chance(found, level).round(3).to_string(index=False)}")
    if null:
        counts = selection.expected_by_chance(select(selection.null_of(table, read(null))), level)
        print(f"\nOn the null:\n{counts.round(3).to_string(index=False)}")
    if out:
        universal.to_csv(out, index=False)
        print(f"\nwritten to {out}")


@app.command()
def reproduce(
    model: Annotated[
        str, typer.Option(help="blip-mini, llava-mini, a checkpoint's folder, or a hub id.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; a stopped run goes on.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="embedded, a folder with svo, states and faces, or one set's folder (repeatable)."
        ),
    ] = ("embedded",),  # type: ignore[assignment]  # typer needs list[str]; a tuple is safe
    n: Annotated[int | None, typer.Option("--n", min=1, help="Pairs of each task to ask.")] = None,
    module_pairs: Annotated[
        int, typer.Option(min=1, help="Pairs of each task whose every module is patched.")
    ] = 120,
    seed: Seed = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, auto (all GPUs); a GPU if there is one.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="float32 on a CPU by default.")] = None,
    quantization: Annotated[
        Literal["nf4"] | None,
        typer.Option(help="4-bit weights, as the published code has LLaVA."),
    ] = None,
    engine: Engine = "fast",
):
    """Run the paper's experiments and say of each claim whether this model shows its like.

    Only pairs that the model answers correctly with both pictures are used. The folder gets small
    tables, manifest.json and, in sweeps/, everything that was run. Several processes share the
    work: accelerate launch -m notice_lib reproduce ... In a checkout, ./run costs MODEL estimates
    how long it takes.

    Example: notice reproduce --model blip-mini --data embedded --out data/results/blip-mini
    """
    import torch

    from ..loading import load_model
    from ..reproduction import read_tasks, reproduce as run

    sets = {task: own.sample(n or len(own), seed) for task, own in read_tasks(data).items()}
    # Before the model: it gives each process its own GPU.
    state = _processes(device)
    vlm = load_model(
        model,
        device,
        getattr(torch, dtype) if dtype else None,
        quantization=quantization,
        engine=engine,
    )
    found = run(vlm, sets, out, seed, module_pairs)
    if state.is_main_process:
        print(found[["key", "estimate", "low", "high", "verdict"]].round(3).to_string(index=False))
        if missing := [task for task in ("svo", "states", "faces") if task not in sets]:
            print(f"Without {' and '.join(missing)}: claims of every task are about the others.")
        print(f"written to {out}")


def _processes(device: str | None):
    """This process among those that share the work; on GPUs they wait for each other up to a day,
    since one may have the slowest shard."""
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    if device == "cpu" or not torch.cuda.is_available():
        return PartialState(cpu=True)
    return PartialState(timeout=timedelta(days=1))


def _print_selected(found: pd.DataFrame) -> None:
    """A block a condition: its scenes, and the selected heads by size of their effect."""
    for (component, task, corruption), part in found.groupby(
        ["component", "task", "corruption"], observed=True
    ):
        chosen = part[part["selected"]].sort_values("effect", key=abs, ascending=False)
        print(
            f"{component}, {task}, {corruption} corruption: {len(chosen)} of {len(part)} heads, "
            f"{part['scenes'].iloc[0]} scenes"
        )
        for row in chosen.itertuples():
            print(
                f"  L{row.layer}.H{row.head}  {row.effect:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
                f"  {row.fraction_recovered:+.1%}"
            )


def _print_universal(heads: pd.DataFrame) -> None:
    """The universal heads with their mean effects."""
    chosen = heads[heads["kind"] != ""]
    names = ["component", "layer", "head", "kind", "image_effect", "text_effect", "agreement"]
    print(f"\nUniversal heads (selected in every task): {len(chosen)}")
    if len(chosen):
        print(chosen[names].round(3).to_string(index=False))


def _print_strongest(table: pd.DataFrame, rows: int = 10) -> None:
    """The sites with the largest mean logit difference, either sign."""
    keys = ["component", "layer", "head", "role"]
    means = table.groupby(keys, observed=True)["effect"].mean()
    strongest = means.reindex(means.abs().sort_values(ascending=False).index).head(rows)
    print("mean effect, in logits (head -1: the whole component)")
    print(strongest.round(3).to_string())


def main() -> None:
    """Entry point; bad input is one line on stderr and exit status 1."""
    try:
        app()
    except NoticeError as error:
        print(f"notice: {error}", file=sys.stderr)
        sys.exit(1)
