"""Arguments and options that several commands share."""

from typing import Annotated, Literal

import typer

from ..choices import EngineName

Set = Annotated[str, typer.Argument(help="svo, states, faces, natural, or a folder of pairs.")]
Number = Annotated[int | None, typer.Option("--n", min=1, help="Number of pairs; all by default.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")]
Engine = Annotated[
    EngineName,
    typer.Option(help="reference works for models that the fast engine refuses, but is slow."),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"] | None,
    typer.Option(help="By default float32 on a CPU, and the checkpoint's own on a GPU."),
]

Name = Annotated[
    str, typer.Argument(help="blip-mini, llava-mini, the folder of a checkpoint, or a hub id.")
]


def processes(device: str | None):
    """Return the state of this process among those that share the work.

    On GPUs, processes wait for each other for up to a day, since shards differ in length.
    """
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    if device == "cpu" or not torch.cuda.is_available():
        return PartialState(cpu=True)
    return PartialState(timeout=timedelta(days=1))
