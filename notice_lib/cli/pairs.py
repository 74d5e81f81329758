"""The commands `notice pairs ...`: show pair sets, and build them from data sets or images."""

import shlex
import sys
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from .. import choices
from ..errors import NoticeError
from .options import Device, Number, Seed, Set

app = typer.Typer(
    no_args_is_help=True,
    help="Show a pair set, or build one from published images or from your own.\n\n"
    "Example: notice pairs mit_states --images release_dataset --out mine/states",
)


Part = Literal["train", "validation", "test"]
Out = Annotated[Path, typer.Option(help="Folder for the pairs and their card, e.g. mine/states.")]
Model = Annotated[
    str | None,
    typer.Option(help="Keep only pairs that this model answers correctly with both images."),
]
Size = Annotated[
    Literal["paper"] | None, typer.Option("--preset", help="paper: the paper's sample sizes.")
]
Quantization = Annotated[
    choices.Quantization | None,
    typer.Option(help="nf4 loads the model's weights in 4 bits, as the published code does."),
]
Task = Annotated[
    str,
    typer.Option(
        help="Name of the task; pairs named states, say, work in the chapters about states."
    ),
]
Question = Annotated[
    str | None,
    typer.Option(help='Question to ask; by default "Is this {rest} {first} or {second}?".'),
]
Near = Annotated[
    list[str] | None,
    typer.Option(help="Words that are too close to make a pair, e.g. tiny,small (repeatable)."),
]
By = Annotated[
    choices.Criterion,
    typer.Option(
        help="What counts as answered correctly: the model's own answer, or the option it prefers."
    ),
]
Licence = Annotated[str, typer.Option(help="Licence of the images, which the card names.")]


@app.command()
def show(
    name: Set,
    n: Number = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write these pairs into a folder.")] = None,
):
    """Count the pairs of a set by slot, split and answer order, or write a part of it.

    Example: notice pairs show svo --n 100 --out svo-100
    """
    from ..datasets import load_pairs

    pairs = load_pairs(name, n, seed)
    _print_counts(pairs)
    if out:
        pairs.save(out)
        print(f"Written to {out}.")


@app.command("svo_probes")
def svo_probes(
    csv: Annotated[Path, typer.Option(help="The published svo_probes.csv.")],
    out: Out,
    images: Annotated[Path | None, typer.Option(help="Folder with the images.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for downloads of missing images.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Column of the CSV that holds your own questions.")
    ] = None,
    model: Model = None,
    preset: Size = None,
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    quantization: Quantization = None,
    by: By = "generated",
):
    """Build pairs from SVO-Probes: "Is the dog or the goat pulling the car?"

    Example: notice pairs svo_probes --csv svo_probes.csv --cache images --out mine/svo
    --model Salesforce/blip-vqa-base --preset paper
    """
    from ..datasets.svo_probes import grammatical_question, read_svo_probes

    vlm = _prepare(out, model, device, quantization)
    built = read_svo_probes(csv, images, cache, question or grammatical_question)
    _write(built, out, vlm, preset, n, seed, by)


@app.command("mit_states")
def mit_states(
    images: Annotated[Path, typer.Option(help="Folder of the unpacked release_dataset.")],
    out: Out,
    model: Model = None,
    preset: Size = None,
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    quantization: Quantization = None,
    by: By = "generated",
):
    """Build pairs from MIT-States: "Is this bottle rusty or broken?"

    Example: notice pairs mit_states --images release_dataset --out mine/states --preset paper
    """
    from ..datasets.mit_states import read_mit_states

    vlm = _prepare(out, model, device, quantization)
    _write(read_mit_states(images, seed), out, vlm, preset, n, seed, by)


@app.command("facial_expressions")
def facial_expressions(
    images: Annotated[
        Path, typer.Option(help="Folder of the unpacked images, with the folder train in it.")
    ],
    out: Out,
    part: Annotated[
        Part, typer.Option(help="Part of the data set; the paper uses train.")
    ] = "train",
    model: Model = None,
    preset: Size = None,
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    quantization: Quantization = None,
    by: By = "generated",
):
    """Build pairs from facial expressions: "Is this person feeling happy or sad?"

    Example: notice pairs facial_expressions --images images --out mine/faces --preset paper
    """
    from ..datasets.faces import read_facial_expressions

    vlm = _prepare(out, model, device, quantization)
    _write(read_facial_expressions(images, part, seed), out, vlm, preset, n, seed, by)


@app.command()
def table(
    csv: Annotated[
        Path,
        typer.Argument(
            help="Has image, attribute; or clean_image, corrupt_image, prompt, correct, incorrect."
        ),
    ],
    out: Out,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images; by default that of the table.")
    ] = None,
    question: Question = None,
    masks: Annotated[Path | None, typer.Option(help="Folder with masks of the images.")] = None,
    near: Near = None,
    task: Task = "own",
    licence: Licence = "",
    model: Model = None,
    preset: Size = None,
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    quantization: Quantization = None,
    by: By = "generated",
):
    """Build pairs from your own images and a table of their labels or of ready pairs.

    A table of labels has the columns image and attribute, and optionally rest (what the question
    names) and slot. A table of ready pairs has clean_image, corrupt_image, prompt, correct and
    incorrect, and optionally slot, scene, clean_masks and corrupt_masks; the options --question,
    --masks and --near do not apply to it.

    Example: notice pairs table labels.csv --images photos --out mine/states --task states
    """
    from ..datasets import own

    vlm = _prepare(out, model, device, quantization)
    source = own.own_source(licence)
    if own.is_table_of_pairs(csv):
        if question or masks or near:
            raise NoticeError(
                f"{csv} holds ready pairs, which bring their own questions and masks: leave out "
                "--question, --masks and --near."
            )
        built = own.read_pairs(csv, images, task, source)
    else:
        asked = question or own.QUESTION
        built = own.read_labels(csv, images, asked, task, masks, _near(near), seed, source)
    _write(built, out, vlm, preset, n, seed, by)


@app.command()
def hub(
    name: Annotated[str, typer.Argument(help="A hub id, a folder, or a Parquet file.")],
    out: Out,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    image: Annotated[str, typer.Option(help="Column with the images.")] = "image",
    attribute: Annotated[str, typer.Option(help="Column with what the images show.")] = "label",
    rest: Annotated[
        str | None, typer.Option(help="Column with what both images of a pair share.")
    ] = None,
    slot: Annotated[
        str | None, typer.Option(help="Column with the group of the attribute.")
    ] = None,
    question: Question = None,
    near: Near = None,
    task: Task = "own",
    licence: Licence = "",
    model: Model = None,
    preset: Size = None,
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    quantization: Quantization = None,
    by: By = "generated",
):
    """Build pairs from a Hugging Face data set (install the extra hub).

    Two images that share the rest and differ in the attribute make a pair.

    Example: notice pairs hub beans --attribute labels --question "Is this leaf {first} or
    {second}?" --out mine/states --task states
    """
    from ..datasets.hub import open_dataset, read_dataset, roots_of
    from ..datasets.own import QUESTION, own_source

    vlm = _prepare(out, model, device, quantization)
    with TemporaryDirectory() as folder:
        built = read_dataset(
            open_dataset(name, split), folder, image, attribute, rest, slot, question or QUESTION,
            task, _near(near), seed, own_source(licence, f"the data set {name}"),
            roots_of(name),
        )  # fmt: skip
        _write(built, out, vlm, preset, n, seed, by)


def _prepare(out: Path, model: str | None, device: str | None, quantization: Quantization):
    """Load the model if one is named; refuse a used folder before anything takes long."""
    from ..datasets.card import refuse_used
    from ..loading import load_model

    refuse_used(out)
    if not model:
        return None
    return load_model(model, device, quantization=quantization)


def _write(
    built, out: Path, vlm, preset: str | None, n: int | None, seed: int, by: choices.Criterion
) -> None:
    from ..datasets.card import write_set

    command = shlex.join(["notice", *sys.argv[1:]])
    _print_counts(write_set(out, built, vlm, preset, n, seed, command, by))
    print(f"Written to {out}; its README.md says what was done.")


def _near(groups: list[str] | None) -> dict[str, list[str]]:
    """Map each word of a group to the others."""
    near: dict[str, list[str]] = {}
    for group in groups or ():
        words = [word.strip() for word in group.split(",")]
        if len(words) < 2:
            raise NoticeError(
                f"--near {group!r} is a single word; give two or more, as in tiny,small."
            )
        for word, other in permutations(words, 2):
            near.setdefault(word, []).append(other)
    return near


def _print_counts(pairs) -> None:
    by = ["task", "slot", "split", "distractor"]
    print(pairs.table().value_counts([*by, "order"]).unstack(fill_value=0).to_string())
    print(f"{len(pairs)} pairs")
