"""Arguments and options that several commands share."""

from typing import Annotated

import typer

Set = Annotated[str, typer.Argument(help="svo, states, faces, natural, or a folder of pairs.")]
Number = Annotated[int | None, typer.Option("--n", min=1, help="Number of pairs; all by default.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")]
