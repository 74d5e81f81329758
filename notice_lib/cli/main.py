"""The commands `notice ...`: runs that are too long for a notebook, and a quick look around."""

import errno
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer

from ..choices import CorruptionName, Direction, Donor, NoisePlace, Quantization
from ..errors import NoticeError
from ..files import refuse_unwritable, write_atomically
from . import pairs as cli_pairs
from .carries import carries
from .options import Device, Dtype, Engine, Name, Number, Seed, Set, processes

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Activation patching of vision-language models on semantic pairs.",
)
app.add_typer(cli_pairs.app, name="pairs")


Rule = Literal["signed", "max_t", "paper", "abs_of_mean"]


@app.command()
def info(model: Annotated[str | None, typer.Argument(help="Describe this model, too.")] = None):
    """Show versions, the embedded pair sets and, if you name a model, what can be patched in it.

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
        print(f"  {name}: {stack.n_layers} layers of {stack.n_heads} heads; components:")
        print(f"    {', '.join(stack.components)}")
    print(
        f"  images of {vlm.image_size} x {vlm.image_size} pixels, {vlm.grid} x {vlm.grid} patches"
    )


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="blip-mini or llava-mini.")] = "blip-mini",
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("notice-demo.png"),
):
    """Turn the answer of a small model around by patching one activation.

    It shows a pair of pictures, the model's answers, and the one activation that gives the corrupt
    picture the clean answer. It takes seconds and needs no network.

    Example: notice demo --model llava-mini --out llava.png
    """
    refuse_unwritable(out)
    from transformers.utils.logging import disable_progress_bar

    from ..demo import describe, draw, find_example
    from ..loading import load_model

    disable_progress_bar()
    vlm = load_model(model, "cpu")
    example = find_example(vlm)
    write_atomically(out, lambda path: draw(example).savefig(path, format="png"))
    print(describe(example))
    print(f"Picture: {out}")
    print("Next, patch every head of the component that reads the picture, on eight pairs:")
    print(f"  notice sweep {model} svo heads --n 8 --component {vlm.image_component} --per-head")


@app.command()
def sweep(
    model: Name,
    pairs: Set,
    out: Annotated[
        Path, typer.Argument(help="Folder for the results; an interrupted sweep resumes.")
    ],
    component: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Repeatable; all by default.")] = None,
    per_head: Annotated[
        bool, typer.Option("--per-head", help="Patch every head separately.")
    ] = False,
    position: Annotated[
        str,
        typer.Option(
            help="each (every text token in turn), an index, or a role such as correct or image."
        ),
    ] = "each",
    corruption: Annotated[
        CorruptionName,
        typer.Option(
            help="How the corrupt run differs: image (SIP), text (STR), or noise (Gaussian)."
        ),
    ] = "image",
    noise_at: Annotated[
        NoisePlace, typer.Option(help="Where the noise is added.")
    ] = "patch_embeddings",
    noise_strength: Annotated[
        float, typer.Option(help="Strength of the noise in standard deviations.")
    ] = 3.0,
    noise_draws: Annotated[int, typer.Option(help="Noise draws for each pair.")] = 10,
    donor: Annotated[
        Donor,
        typer.Option(help="unrelated copies from another scene, which gives a null distribution."),
    ] = "own",
    direction: Annotated[
        Direction,
        typer.Option(help="denoise: clean into corrupt; noise: corrupt into clean."),
    ] = "denoise",
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = "fast",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Stop at a pair that cannot be run, instead of leaving it out."
        ),
    ] = False,
):
    """Patch every site of every pair, and write the table into a folder.

    After an interruption, the same command resumes. Several processes can share the work:
    accelerate launch -m notice_lib sweep ...

    Example: notice sweep blip-mini svo results/heads --component cross_attention --per-head
    --position correct
    """
    import torch

    from ..corruption import GaussianNoise
    from ..datasets import load_pairs
    from ..loading import load_model
    from ..patching import effects, site_grid, sweep as run

    # This comes before the model, since it gives each process its own GPU.
    state = processes(device)
    vlm = load_model(model, device, getattr(torch, dtype) if dtype else None, engine=engine)
    sites = site_grid(
        vlm, component, layer, per_head, int(position) if position.isdecimal() else position
    )
    result = run(
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
        _print_strongest(effects(result.table()))
        print(f"{len(result.runs)} pairs, {len(result.patched)} patched runs, written to {out}.")


@app.command()
def heads(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of finished sweeps of single heads.")
    ],
    rule: Annotated[
        Rule,
        typer.Option(
            help="signed tests mean effects; max_t is stricter; paper is the paper's rule."
        ),
    ] = "signed",
    level: Annotated[
        float,
        typer.Option(min=0, max=1, help="Accepted share of false heads (max_t: chance of any)."),
    ] = 0.05,
    minimum: Annotated[
        float,
        typer.Option(min=0, help="Smallest fraction recovered that counts."),
    ] = 0.005,
    metric: Annotated[str, typer.Option(help="Column to average.")] = "effect",
    role: Annotated[
        str | None, typer.Option(help="Token role to keep, if the sweeps have several.")
    ] = None,
    only_answered: Annotated[
        bool, typer.Option("--answered", help="Keep only pairs that the model answers correctly.")
    ] = False,
    null: Annotated[
        list[Path] | None,
        typer.Option(
            help="Sweep with unrelated donors, to which the rule is applied as well (repeatable)."
        ),
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="CSV file to write, with one row per head.")
    ] = None,
):
    """Select the heads that matter, in each task and in all of them.

    Give one folder of `notice sweep ... --per-head` for each task and corruption. Heads that are
    selected in every task are called universal: vision heads under image corruption, text heads
    under text corruption, multimodal heads under both.

    Effects are means over scenes, in the metric's unit, with a bootstrap interval. The percentage
    is the fraction recovered: the effect as a share of the difference between the two unpatched
    runs.

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
        raise NoticeError(
            "No rows are left: the sweeps lack this role, or the model answers no pair correctly. "
            "Check --role, or leave out --answered."
        )
    selected = select(table)
    print(f"Rule {rule}: {selection.RULES[rule]}\n")
    _print_selected(selected)
    universal = selection.universal_heads(selected, level)
    _print_universal(universal)
    if rule in selection.NULLS:
        print(f"\n{selection.chance(table, rule).round(3).to_string(index=False)}")
    if null:
        unrelated = selection.universal_heads(select(selection.null_of(table, read(null))), level)
        counts = unrelated[list(selection.KINDS)].sum()
        print(f"\nUniversal heads of the null sweeps:\n{counts.to_string()}")
    if out:
        universal.to_csv(out, index=False)
        print(f"\nWritten to {out}.")


app.command()(carries)


@app.command()
def reproduce(
    model: Annotated[
        str, typer.Option(help="blip-mini, llava-mini, the folder of a checkpoint, or a hub id.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; an interrupted run resumes.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="embedded, a folder with svo, states and faces, or that of one set (repeatable)."
        ),
    ] = ("embedded",),  # type: ignore[assignment]  # typer needs list[str]; a tuple is safe
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Number of pairs of each task.")
    ] = None,
    module_pairs: Annotated[
        int,
        typer.Option(min=1, help="Number of pairs of each task in which every module is patched."),
    ] = 120,
    seed: Seed = 0,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, or auto (all GPUs); by default a GPU if there is one."),
    ] = None,
    dtype: Dtype = None,
    quantization: Annotated[
        Quantization | None,
        typer.Option(help="4-bit weights, which the published code uses for LLaVA."),
    ] = None,
    engine: Engine = "fast",
):
    """Run the paper's experiments, and judge each of its claims on this model.

    Only pairs that the model answers correctly with both pictures are used. The folder gets small
    tables, manifest.json and, in sweeps/, everything that was run. Several processes can share the
    work: accelerate launch -m notice_lib reproduce ... In a checkout, ./run costs MODEL estimates
    how long it takes.

    Example: notice reproduce --model blip-mini --data embedded --out data/results/blip-mini
    """
    import torch

    from ..loading import load_model
    from ..reproduction import read_tasks, reproduce as run

    sets = {task: pairs.sample(n or len(pairs), seed) for task, pairs in read_tasks(data).items()}
    # This comes before the model, since it gives each process its own GPU.
    state = processes(device)
    vlm = load_model(
        model,
        device,
        getattr(torch, dtype) if dtype else None,
        quantization=quantization,
        engine=engine,
    )
    claims = run(vlm, sets, out, seed, module_pairs)
    if state.is_main_process:
        print(claims[["key", "estimate", "low", "high", "verdict"]].round(3).to_string(index=False))
        if missing := [task for task in ("svo", "states", "faces") if task not in sets]:
            print(
                f"There are no pairs of {' or '.join(missing)}: verdicts are about the other tasks."
            )
        print(f"Written to {out}.")


def _print_selected(heads: pd.DataFrame) -> None:
    """Print, for each condition, the selected heads by the size of their effects."""
    for (component, task, corruption), part in heads.groupby(
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
    """Print the universal heads with their mean effects."""
    chosen = heads[heads["kind"] != ""]
    names = ["component", "layer", "head", "kind", "image_effect", "text_effect", "agreement"]
    print(f"\nUniversal heads (selected in every task): {len(chosen)}")
    if len(chosen):
        print(chosen[names].round(3).to_string(index=False))


def _print_strongest(table: pd.DataFrame, rows: int = 10) -> None:
    """Print the sites with the largest mean effects of either sign."""
    keys = ["component", "layer", "head", "role"]
    means = table.groupby(keys, observed=True)["effect"].mean()
    strongest = means.reindex(means.abs().sort_values(ascending=False).index).head(rows)
    print("Mean effect in logits (head -1 is the whole component):")
    print(strongest.round(3).to_string())


def main() -> None:
    """Run the command line; bad input or a full disk gives one line on stderr and exit status 1."""
    try:
        app()
    except NoticeError as error:
        print(f"notice: {error}", file=sys.stderr)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"notice: {error}. Free some space and run the command again.", file=sys.stderr)
    else:
        return
    sys.exit(1)
