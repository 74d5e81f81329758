"""Arguments that several commands have."""

from typing import Annotated

import typer

Set = Annotated[str, typer.Argument(help="svo, states, faces, natural, or a folder of pairs.")]
Number = Annotated[int | None, typer.Option("--n", min=1, help="How many pairs; all by default.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]
