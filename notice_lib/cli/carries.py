"""The command `notice carries`: what heads carry."""

import re
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ..errors import NoticeError
from .options import Device, Dtype, Engine, Name, Number, Seed, Set, processes

SHOWN = 5
"""Heads of each task that are printed."""


def carries(
    model: Name,
    pairs: Set,
    out: Annotated[
        Path, typer.Argument(help="Folder for the results; an interrupted measurement resumes.")
    ],
    head: Annotated[
        list[str] | None, typer.Option(help="Head such as L5.H3 (repeatable); all by default.")
    ] = None,
    component: Annotated[
        str | None, typer.Option(help="By default the component that reads the image.")
    ] = None,
    position: Annotated[
        str | None,
        typer.Option(help="Token role; by default the one at which the paper patches heads."),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            help="Set or folder that other scenes come from; by default all pairs of the set, "
            "without the limit of --n."
        ),
    ] = None,
    donors: Annotated[int, typer.Option(min=1, help="Other scenes for each pair.")] = 5,
    sharing: Annotated[
        int, typer.Option(min=0, help="Other scenes for each pair that have the same options.")
    ] = 0,
    n: Number = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = "fast",
):
    """Measure what heads carry: which option was seen, or only that an option is the true one.

    A head's effect under image corruption is split into content, truth and removal, with runs of
    other scenes that have none of the pair's words. Only pairs that the model answers correctly
    with both pictures are used. Measure on other scenes than those on which you chose the heads.

    Example: notice carries blip-mini faces results/carried --head L5.H3 --head L1.H0
    """
    import torch

    from ..datasets import load_pairs
    from ..heads import carried
    from ..loading import load_model

    chosen = [_layer_and_head(name) for name in head or ()]
    # This comes before the model, since it gives each process its own GPU.
    state = processes(device)
    vlm = load_model(model, device, getattr(torch, dtype) if dtype else None, engine=engine)
    table = carried(
        vlm,
        load_pairs(pairs, n, seed),
        _sites(vlm, component or vlm.image_component, position or vlm.effect_role, chosen),
        load_pairs(pool or pairs),
        donors,
        sharing,
        seed=seed,
        out=out,
    )
    if state.is_main_process:
        table.to_csv(out / "carried.csv", index=False)
        _print(table)
        print(f"Written to {out / 'carried.csv'}.")


def _layer_and_head(name: str) -> tuple[int, int]:
    found = re.fullmatch(r"L(\d+)\.H(\d+)", name)
    if found is None:
        raise NoticeError(f"A head is named like L5.H3 (layer 5, head 3, from 0), not {name!r}.")
    return int(found[1]), int(found[2])


def _sites(vlm, component: str, position: str, chosen: list[tuple[int, int]]) -> list:
    from ..patching import Site, site_grid

    if not chosen:
        return site_grid(vlm, [component], per_head=True, position=position)
    return [Site(component, layer, head, position) for layer, head in chosen]


def _print(table: pd.DataFrame) -> None:
    """Print the strongest heads of each task: the effect's parts, and the content share."""
    for task, part in table.groupby("task"):
        row = part.iloc[0]
        print(f"{task}: {row.scenes} scenes, {row.pairs} pairs, {row.donors} donors a pair")
        for found in part.nlargest(SHOWN, "effect").itertuples():
            share = "undefined"
            if pd.notna(found.content_share):
                ends = f"[{found.content_share_low:.0%}, {found.content_share_high:.0%}]"
                share = f"{found.content_share:.0%} {ends}"
            print(
                f"  L{found.layer}.H{found.head}  effect {found.effect:+.3f} "
                f"({found.effect_fraction:+.1%}) = content {found.content:+.3f} "
                f"+ truth {found.truth:+.3f} + removal {found.removal:+.3f}; "
                f"content share {share}"
            )
