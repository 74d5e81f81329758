"""What the lab's section "Looks against matters" shows of a pair, computed ahead.

A browser's graph gives no attention, and other scenes' runs would be too much to load. So each
pair has its heads' attention maps, from the token at which the model's heads have their effects,
how much of them lies where, and the activations that stand in for a head that is switched off.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from notice_lib import NoticeError
from notice_lib.heads.attention import attention_maps
from notice_lib.heads.overlap import NAMED
from notice_lib.models.base import VLM
from notice_lib.pairs import PairSet, SemanticPair
from notice_lib.patching import MatchedDonors
from notice_lib.patching.ablation import Values, means, written
from notice_lib.patching.donors import donor_runs
from notice_lib.patching.reference import record
from notice_lib.patching.runs import answer_of
from notice_lib.patching.sites import Site, place, stack_roles
from notice_lib.reproduction.experiments import read_tasks

MOST = 10
"""The top of the maps' scale, in even shares: a head's attention divided by all patches."""
DONORS = 5
"""Matched donors of each pair; each gives a run of either answer."""
SEED = 0


def write_looks(
    model: VLM, pairs: list[SemanticPair], right: Mapping[str, PairSet], out: Path
) -> None:
    """Write looks.json, and under looks/ two files of each pair.

    PAIR-maps.raw has attention to the patches, (layers, heads, patches) bytes: 255 is `MOST` even
    shares or more. PAIR-values.raw has activations that stand in for the pair's own at its token,
    (sources, layers, width) float32, little endian: the mean, then the donors' runs.

    Args:
        right: for each task, the held-out pairs that the model answers correctly, which are donors.

    Raises:
        NoticeError: a pair's effect role has several tokens; a pair has too few donors.
    """
    folder = out / "looks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tasks = read_tasks()
    held = {pair.slot: of_slot(tasks[pair.task], pair) for pair in pairs}
    averages = {slot: means(model, tuple(own), points(model)) for slot, own in held.items()}
    entries = {}
    for pair in pairs:
        donors, values = stand_ins(
            model, pair, averages[pair.slot], of_slot(right[pair.task], pair)
        )
        values.astype("<f4").tofile(folder / f"{pair.pair_id}-values.raw")
        patches = attention_maps(model, [pair], model.effect_role).patches[0].astype(float)
        as_bytes(patches).tofile(folder / f"{pair.pair_id}-maps.raw")
        entries[pair.pair_id] = {"donors": donors} | looked(model, pair, held[pair.slot], patches)
    index = {
        "component": model.image_component,
        "role": model.effect_role,
        "grid": model.grid,
        "most": MOST,
        "sources": {
            "mean": [0, 1],
            "right": [1, 1 + DONORS],
            "wrong": [1 + DONORS, 1 + 2 * DONORS],
        },
        "scenes": entries,
    }
    text = json.dumps(index, allow_nan=False)  # JavaScript reads none.
    (out / "looks.json").write_text(text + "\n", encoding="utf-8")


def of_slot(pairs: PairSet, pair: SemanticPair) -> PairSet:
    """The pairs whose questions ask for what a pair's question asks for."""
    return pairs.filter(lambda other: other.slot == pair.slot)


def as_bytes(patches: np.ndarray) -> np.ndarray:
    """The bytes of attention to patches, (layers, heads, patches)."""
    even_shares = patches * patches.shape[-1]
    return np.rint(255 * np.clip(even_shares / MOST, 0, 1)).astype(np.uint8)


def looked(model: VLM, pair: SemanticPair, held: PairSet, patches: np.ndarray) -> dict:
    """How much of each head's attention to patches, (layers, heads, patches), lies where."""
    own = named(model, pair)
    others = other_masks(model, pair, held)
    mass = patches.sum(-1)
    share = patches / mass[..., None]
    return {
        "on": np.flatnonzero(own).tolist(),
        "others": len(others),
        "others_area": round(float(others.mean()), 4),
        "picture": _listed(mass),
        "on_own": _listed(share @ own),
        "on_others": _listed((share @ others.T).mean(-1)),
    }


def points(model: VLM) -> list[tuple[str, int]]:
    """The modules whose heads the section is about: of one component, in every layer."""
    return [(model.image_component, layer) for layer in range(model.n_layers)]


def stand_ins(
    model: VLM, pair: SemanticPair, average: Values, right: PairSet
) -> tuple[list[str], np.ndarray]:
    """A pair's donors, and (sources, layers, width) activations at its token of the effect role.

    The first source is the average over many pairs, as `ablate` takes it. Then come the donors'
    runs in which the option where this pair's correct one stands is right, and those in which it
    is wrong, as `sweep` draws them.
    """
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    roles = stack_roles(model, inputs, pair.spans, answer_of(model, pair))
    sites = [Site(*point, None, model.effect_role) for point in points(model)]
    placed = place(model, sites, roles)
    tokens = {token for one in placed for site in one.sites for token in site.positions}
    if len(tokens) != 1:
        raise NoticeError(
            f"Pair {pair.pair_id}: {model.effect_role!r} has {len(tokens)} tokens, and the lab's "
            "section on looks has one. Choose another pair."
        )
    (token,) = tokens
    runs, names = [written(model, average, inputs, roles, placed)], []
    for run in ("clean", "corrupt"):
        donors = MatchedDonors(run, right, DONORS)
        found = donor_runs(model, right, pair, inputs, donors, SEED)
        names = [name for name, _ in found]  # the same for either run
        runs += [record(model, donor, points(model))[1] for _, donor in found]
    values = [[run[point][0, token].float().numpy() for point in points(model)] for run in runs]
    return names, np.array(values)


def named(model: VLM, pair: SemanticPair) -> np.ndarray:
    """(P,) which patches of the clean picture show what the question is about."""
    masks = pair.patch_masks("clean", model.grid, model.image_size)
    return np.any([masks[name] for name in NAMED[pair.slot]], axis=0).ravel()


def other_masks(model: VLM, pair: SemanticPair, held: PairSet) -> np.ndarray:
    """(N, P) the same patches of other scenes' clean pictures, of which each is taken once."""
    pictures = {
        other.clean_image: other
        for other in held
        if other.scene_id != pair.scene_id and other.distractor == pair.distractor
    }
    return np.stack([named(model, other) for other in pictures.values()])


def _listed(values: np.ndarray) -> list:
    """(layers, heads) as lists of short numbers."""
    return [[round(float(value), 4) for value in row] for row in values]
