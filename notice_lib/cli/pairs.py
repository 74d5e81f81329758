"""The commands `notice pairs ...`: show pair sets, and build them from data sets."""

import shlex
import sys
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from ..errors import NoticeError
from .options import Number, Seed, Set

app = typer.Typer(
    no_args_is_help=True,
    help="Show a pair set, or build one from published images or your own.\n\n"
    "Example: notice pairs mit_states --images release_dataset --out mine/states",
)


Part = Literal["train", "validation"]
Out = Annotated[Path, typer.Option(help="Folder for the pairs and their card, e.g. mine/states.")]
Model = Annotated[
    str | None,
    typer.Option(help="Keep only pairs that this model answers correctly with both images."),
]
Size = Annotated[
    Literal["paper"] | None, typer.Option("--preset", help="paper: the paper's sample sizes.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda; a GPU if there is one.")]
Quantization = Annotated[
    str | None, typer.Option(help="nf4: the model's weights in 4 bits, as in the published code.")
]
Task = Annotated[str, typer.Option(help="A name; as states, chapters take these pairs for theirs.")]
Question = Annotated[
    str | None, typer.Option(help='By default "Is this {rest} {first} or {second}?".')
]
Near = Annotated[
    list[str] | None,
    typer.Option(help="Words that are no alternatives, e.g. tiny,small (repeatable)."),
]
Licence = Annotated[str, typer.Option(help="Of the images; for the card.")]


@app.command()
def show(
    name: Set,
    n: Number = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write these pairs as a folder.")] = None,
):
    """Count a pair set's pairs by slot, split and answer order; or write a part of it.

    Example: notice pairs show svo --n 100 --out svo-100
    """
    from ..datasets import load_pairs

    found = load_pairs(name, n, seed)
    _print_counts(found)
    if out:
        found.save(out)
        print(f"written to {out}")


@app.command("svo_probes")
def svo_probes(
    csv: Annotated[Path, typer.Option(help="svo_probes.csv as published.")],
    out: Out,
    images: Annotated[Path | None, typer.Option(help="Folder with the images.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder into which missing images are downloaded.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Column of the CSV with questions of your own.")
    ] = None,
    model: Model = None,
    preset: Size = None,
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    quantization: Quantization = None,
):
    """Build pairs from SVO-Probes: "Is the dog or the goat pulling the car?"

    Example: notice pairs svo_probes --csv svo_probes.csv --cache images --out mine/svo
    --model Salesforce/blip-vqa-base --preset paper
    """
    from ..datasets.svo_probes import grammatical_question, read_svo_probes

    vlm = _prepare(out, model, device, quantization)
    built = read_svo_probes(csv, images, cache, question or grammatical_question)
    _write(built, out, vlm, preset, n, seed)


@app.command("mit_states")
def mit_states(
    images: Annotated[Path, typer.Option(help="The unpacked release_dataset.")],
    out: Out,
    model: Model = None,
    preset: Size = None,
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    quantization: Quantization = None,
):
    """Build pairs from MIT-States: "Is this bottle rusty or broken?"

    Example: notice pairs mit_states --images release_dataset --out mine/states --preset paper
    """
    from ..datasets.mit_states import read_mit_states

    vlm = _prepare(out, model, device, quantization)
    _write(read_mit_states(images, seed), out, vlm, preset, n, seed)


@app.command("facial_expressions")
def facial_expressions(
    images: Annotated[Path, typer.Option(help="The unpacked images, with train in it.")],
    out: Out,
    part: Annotated[Part, typer.Option(help="The paper takes train.")] = "train",
    model: Model = None,
    preset: Size = None,
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    quantization: Quantization = None,
):
    """Build pairs from facial expressions: "Is this person feeling happy or sad?"

    Example: notice pairs facial_expressions --images images --out mine/faces --preset paper
    """
    from ..datasets.faces import read_facial_expressions

    vlm = _prepare(out, model, device, quantization)
    _write(read_facial_expressions(images, part, seed), out, vlm, preset, n, seed)


@app.command()
def table(
    csv: Annotated[
        Path,
        typer.Argument(
            help="With image, attribute; or clean_image, corrupt_image, prompt, correct, incorrect."
        ),
    ],
    out: Out,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images; by default the table's.")
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
):
    """Build pairs from your own images and a table of their labels, or of ready pairs.

    Labels: image, attribute, and perhaps rest (what the question names) and slot. Ready pairs:
    clean_image, corrupt_image, prompt, correct, incorrect, and perhaps slot, scene, clean_masks
    and corrupt_masks; they need no question, masks or near.

    Example: notice pairs table labels.csv --images photos --out mine/states --task states
    """
    from ..datasets import own

    vlm = _prepare(out, model, device, quantization)
    source = own.own_source(licence)
    if own.is_table_of_pairs(csv):
        if question or masks or near:
            raise NoticeError(
                f"{csv} holds ready pairs with questions and masks of their own: leave out "
                "--question, --masks and --near."
            )
        built = own.read_pairs(csv, images, task, source)
    else:
        asked = question or own.QUESTION
        built = own.read_labels(csv, images, asked, task, masks, _near(near), seed, source)
    _write(built, out, vlm, preset, n, seed)


@app.command()
def hub(
    name: Annotated[str, typer.Argument(help="A hub id, a folder, or a Parquet file.")],
    out: Out,
    split: Annotated[str, typer.Option(help="Which part of the data set.")] = "train",
    image: Annotated[str, typer.Option(help="Column of the images.")] = "image",
    attribute: Annotated[str, typer.Option(help="Column of what they show.")] = "label",
    rest: Annotated[
        str | None, typer.Option(help="Column of what both images of a pair share.")
    ] = None,
    slot: Annotated[str | None, typer.Option(help="Column of the attribute's group.")] = None,
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
):
    """Build pairs from a data set of the library `datasets` (install the extra hub).

    Images that share a rest (a column) and differ in attribute make pairs.

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
        _write(built, out, vlm, preset, n, seed)


def _prepare(out: Path, model: str | None, device: str | None, quantization: str | None):
    """The model, if there is one; what cannot work is said before anything takes long."""
    from ..datasets.card import refuse_used
    from ..loading import load_model

    refuse_used(out)
    if not model:
        return None
    # load_model itself refuses other words than nf4.
    return load_model(model, device, quantization=quantization)  # type: ignore[arg-type]


def _write(built, out: Path, vlm, preset: str | None, n: int | None, seed: int) -> None:
    from ..datasets.card import write_set

    command = shlex.join(["notice", *sys.argv[1:]])
    found = write_set(out, built, vlm, preset, n, seed, command)
    _print_counts(found)
    print(f"written to {out}; README.md there says what was done")


def _near(groups: list[str] | None) -> dict[str, list[str]]:
    """Each word of a group with the others."""
    near: dict[str, list[str]] = {}
    for group in groups or ():
        words = [word.strip() for word in group.split(",")]
        if len(words) < 2:
            raise NoticeError(f"--near {group!r} is one word; give two or more, as in tiny,small.")
        for word, other in permutations(words, 2):
            near.setdefault(word, []).append(other)
    return near


def _print_counts(pairs) -> None:
    by = ["task", "slot", "split", "distractor"]
    print(pairs.table().value_counts([*by, "order"]).unstack(fill_value=0).to_string())
    print(f"{len(pairs)} pairs")
