"""What the lab's section "Looks against matters" shows of a pair, computed ahead.

A browser's graph gives no attention, and other scenes' runs would be too much to load. So each
pair has its heads' attention maps, how much of them lies where, and the activations that stand in
for a head that is switched off.
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
from notice_lib.patching.ablation import means, written
from notice_lib.patching.donors import donor_runs
from notice_lib.patching.reference import record
from notice_lib.patching.runs import answer_of
from notice_lib.patching.sites import Site, place, stack_roles
from notice_lib.reproduction.experiments import read_tasks

MOST = 10
"""The top of the maps' scale, in even shares: a head's attention divided by all patches."""
DONORS = 5
"""Matched donors of each pair; each gives a run where its option is right, and one where not."""
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
    held = read_tasks()
    entries = {
        pair.pair_id: _entry(
            model, pair, of_slot(held[pair.task], pair), of_slot(right[pair.task], pair), folder
        )
        for pair in pairs
    }
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
    (out / "looks.json").write_text(json.dumps(index) + "\n", encoding="utf-8")


def of_slot(pairs: PairSet, pair: SemanticPair) -> PairSet:
    """The pairs whose questions ask for what a pair's question asks for."""
    return pairs.filter(lambda other: other.slot == pair.slot)


def _entry(model: VLM, pair: SemanticPair, held: PairSet, right: PairSet, folder: Path) -> dict:
    maps = attention_maps(model, [pair], model.effect_role)
    patches = maps.patches[0].astype(float)
    even = 1 / patches.shape[-1]
    shown = np.rint(255 * np.clip(patches / (MOST * even), 0, 1)).astype(np.uint8)
    (folder / f"{pair.pair_id}-maps.raw").write_bytes(shown.tobytes())
    donors, values = stand_ins(model, pair, held, right)
    (folder / f"{pair.pair_id}-values.raw").write_bytes(values.astype("<f4").tobytes())
    own = named(model, pair)
    others = other_masks(model, pair, held)
    mass = patches.sum(-1)
    share = patches / mass[..., None]
    return {
        "donors": donors,
        "on": np.flatnonzero(own).tolist(),
        "others": len(others),
        "others_area": round(float(others.mean()), 4),
        "picture": _listed(mass),
        "on_own": _listed(share @ own),
        "on_others": _listed((share @ others.T).mean(-1)),
    }


def stand_ins(
    model: VLM, pair: SemanticPair, held: PairSet, right: PairSet
) -> tuple[list[str], np.ndarray]:
    """A pair's donors, and (sources, layers, width) activations at its token of the effect role.

    The first source is the mean over `held`, as `ablate` takes it. Then come the donors' runs in
    which the option at this token is right, and those in which it is wrong, as `sweep` draws them.
    """
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    roles = stack_roles(model, inputs, pair.spans, answer_of(model, pair))
    sites = [
        Site(model.image_component, layer, None, model.effect_role)
        for layer in range(model.n_layers)
    ]
    points = [(site.component, site.layer) for site in sites]
    placed = place(model, sites, roles)
    tokens = {token for one in placed for site in one.sites for token in site.positions}
    if len(tokens) != 1:
        raise NoticeError(
            f"Pair {pair.pair_id}: {model.effect_role!r} has {len(tokens)} tokens, and the lab's "
            "section on looks has one. Choose another pair."
        )
    (token,) = tokens
    runs, names = [written(model, means(model, tuple(held), points), inputs, roles, placed)], []
    for run in ("clean", "corrupt"):
        donors = MatchedDonors(run, right, DONORS)
        found = donor_runs(model, right, pair, inputs, donors, SEED)
        names = [name for name, _ in found]  # the same for either run
        runs += [record(model, donor, points)[1] for _, donor in found]
    values = [[run[point][0, token].float().numpy() for point in points] for run in runs]
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
