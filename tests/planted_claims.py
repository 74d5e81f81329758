"""Evidence with known truth: for each claim one set in which it holds by delta, and one in which it
holds nowhere by more than the minimum."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from notice_lib.heads.roles import RoleScenes
from notice_lib.reproduction.evidence import Cell, Evidence, RoleCell

LAYERS, HEADS = 6, 8
K = LAYERS * HEADS
WAY = 10.0
SPREAD = 0.01
"""Of a head's effect over scenes, as a fraction of the total effect."""
SLOTS = {"svo": ("subject", "object", "verb"), "states": ("colour", "shape"), "faces": ("emotion",)}
SCENES = 30
"""Of each slot."""
TESTED = (
    "excess",
    "excess_contrast",
    "attention_contrast",
    "outliers_excess",
    "outliers_attention",
)


def scenes_of(slot: str, n: int = SCENES) -> tuple[np.ndarray, np.ndarray]:
    """Names and halves."""
    return np.array([f"{slot}-{i}" for i in range(n)]), np.where(np.arange(n) % 2, "B", "A")


def cell(task, slot, how, means, rng, spread=SPREAD, n=SCENES) -> Cell:
    """Effects with these means (K,), as fractions of the total effect."""
    names, half = scenes_of(slot, n)
    values = means + rng.normal(0, spread, (n, len(means)))
    return Cell(task, slot, how, names, WAY * values, np.full(n, WAY), half)


def effect_cells(means, rng, corruptions=("image", "text"), spread=SPREAD) -> tuple[Cell, ...]:
    """means: (task, corruption) -> (K,)."""
    return tuple(
        cell(task, slot, how, means(task, how), rng, spread)
        for task, slots in SLOTS.items()
        for slot in slots
        for how in corruptions
    )


def nothing(*_) -> np.ndarray:
    return np.zeros(K)


def one_head(share: float) -> np.ndarray:
    means = np.zeros(K)
    means[-1] = share
    return means


def evidence(rng, **parts) -> Evidence:
    """Evidence in which nothing holds, but for the given parts."""
    empty = Evidence(
        tuple((layer, head) for layer in range(LAYERS) for head in range(HEADS)),
        effect_cells(nothing, rng),
        effect_cells(nothing, rng, ("image",)),
        (),
        sizes(rng),
        (),
        pd.DataFrame({"scene_id": [], "corrupt": [], "noisy": []}),
    )
    return replace(empty, **parts)


def sizes(rng, universal: int = 0) -> dict[tuple[str, str], np.ndarray]:
    """Mean |effect| of each head; the last heads of the last layer stand out everywhere."""
    found = {}
    for task in SLOTS:
        for how in ("image", "text"):
            found[task, how] = rng.exponential(1.0, K)
            found[task, how][K - universal :] += 20
    return found


def role_cell(task, slot, rng, role="", strength=0.0, spread=0.02, n=SCENES) -> RoleCell:
    """Heads that look anywhere, but the last, which does what a role asks for, by `strength`."""
    names, half = scenes_of(slot, n)
    tested = {name: rng.normal(0, spread, (n, K)) for name in TESTED}
    sign = {"object detection": 1, "object suppression": -1, "outlier suppression": -1, "": 0}[role]
    own = [name for name in tested if name.startswith("outliers") == role.startswith("outlier")]
    for name in own:
        tested[name][:, -1] += sign * strength
    return RoleCell(task, slot, Planted(names, tested), half)


class Planted(RoleScenes):
    """Role scenes whose tested numbers are given."""

    def __init__(self, names, tested):
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "given", tested)

    def __len__(self):
        return len(self.names)

    def of(self, scenes):
        return Planted(self.names[scenes], {name: own[scenes] for name, own in self.given.items()})

    def tested(self):
        return self.given


def role_cells(rng, role="", strength=0.0, spread=0.02) -> tuple[RoleCell, ...]:
    """In one slot of one task the last head has the role."""
    return tuple(
        role_cell(task, slot, rng, role if slot == "subject" else "", strength, spread)
        for task, slots in SLOTS.items()
        for slot in slots
    )


def depth_cells(rng, later: float, spread=0.05) -> tuple[Cell, ...]:
    """Six layers; in the later half, noise recovers `later` more than pairs do."""
    found = []
    for how, shift in (("image", 0.0), ("noise", later)):
        means = np.full(6, 0.3) + np.repeat([-shift / 2, shift / 2], 3)
        for task, slots in SLOTS.items():
            for slot in slots:
                found.append(cell(task, slot, how, means, rng, spread))
    return tuple(found)


def distances(rng, ratio: float) -> pd.DataFrame:
    n = 60
    corrupt = rng.lognormal(0, 0.3, n)
    noisy = corrupt * ratio * rng.lognormal(0, 0.3, n)
    return pd.DataFrame({"scene_id": range(n), "corrupt": corrupt, "noisy": noisy})


def everywhere(share: float, corruptions: tuple[str, ...]) -> Callable:
    return lambda task, how: one_head(share if how in corruptions else 0.0)


def but_one(share: float, least: float, corruptions: tuple[str, ...]) -> Callable:
    """As `everywhere`, but in one condition the effect is only at the minimum."""
    last = list(SLOTS)[-1], corruptions[-1]
    return lambda task, how: one_head(
        least if (task, how) == last else share if how in corruptions else 0.0
    )


BOTH, IMAGE, TEXT = ("image", "text"), ("image",), ("text",)


def universal(corruptions):
    return (
        lambda rng: evidence(rng, effects=effect_cells(everywhere(0.02, corruptions), rng)),
        lambda rng: evidence(rng, effects=effect_cells(but_one(0.02, 0.005, corruptions), rng)),
    )


def role(name):
    return (
        lambda rng: evidence(rng, roles=role_cells(rng, name, 0.05)),
        lambda rng: evidence(rng, roles=role_cells(rng, name, 0.01)),
    )


PROCEDURE = (lambda rng: evidence(rng, sizes=sizes(rng, 1)), lambda rng: evidence(rng))
NOISE_LATER = (
    lambda rng: evidence(rng, depth=depth_cells(rng, 0.05)),
    lambda rng: evidence(rng, depth=depth_cells(rng, 0.01)),
)
NOISE_OUT = (
    lambda rng: evidence(rng, distances=distances(rng, 2.0)),
    lambda rng: evidence(rng, distances=distances(rng, 1.5)),
)


def important(rng):
    """One head whose effect is so large that half of the scenes always show it."""
    return effect_cells(everywhere(0.05, IMAGE), rng, IMAGE)


PLANTED = {
    **{f"blip_{kind}": universal(own) for kind, own in
       (("multimodal", BOTH), ("vision", IMAGE), ("text", TEXT))},
    "llava_multimodal": universal(BOTH),
    **{f"blip_{kind}_procedure": PROCEDURE for kind in ("multimodal", "vision", "text")},
    "llava_multimodal_procedure": PROCEDURE,
    "blip_image_over_text": (
        lambda rng: evidence(rng, effects=effect_cells(
            lambda task, how: one_head(0.05 if how == "image" else 0.02), rng)),
        lambda rng: evidence(rng, effects=effect_cells(
            lambda task, how: one_head(0.025 if how == "image" else 0.02), rng)),
    ),
    "llava_last_over_option": (
        lambda rng: evidence(rng, effects=effect_cells(everywhere(0.06, IMAGE), rng),
                             option=effect_cells(everywhere(0.01, IMAGE), rng, IMAGE)),
        lambda rng: evidence(rng, effects=effect_cells(everywhere(0.06, IMAGE), rng),
                             option=effect_cells(everywhere(0.05, IMAGE), rng, IMAGE)),
    ),
    "blip_detection": role("object detection"),
    "blip_suppression": role("object suppression"),
    "blip_outliers": role("outlier suppression"),
    # The claim is an absence, true by delta where the important head's attention has nothing to do
    # with the object, and false where it has by the minimum.
    "llava_no_detection": (
        lambda rng: evidence(rng, effects=important(rng), roles=role_cells(rng, spread=0.008)),
        lambda rng: evidence(rng, effects=important(rng),
                             roles=role_cells(rng, "object detection", 0.01, 0.008)),
    ),
    "blip_noise_later": NOISE_LATER,
    "llava_noise_later": NOISE_LATER,
    "blip_noise_out": NOISE_OUT,
    "llava_noise_out": NOISE_OUT,
}  # fmt: skip
"""{key of a claim: (makes evidence in which it is true by delta, in which it is not)}."""
