"""Pair sets by name: the embedded ones, or a folder of your own."""

from pathlib import Path

from ..errors import NoticeError
from ..pairs import PairSet
from ..paths import data_dir

EMBEDDED = ("svo", "states", "faces", "natural")
"""Three families of exact counterfactuals, and natural-like pairs of all three."""


def load_pairs(
    name: str | Path, n: int | None = None, seed: int = 0, data: str | Path = "embedded"
) -> PairSet:
    """Load an embedded pair set by its name, or any folder that `PairSet.save` wrote.

    Args:
        name: "svo", "states", "faces", "natural", or a folder.
        n: keep this many pairs, drawn without replacement and balanced over slots and answer
            orders as far as the number allows; None keeps all.
        seed: random seed of the draw.
        data: "embedded", or a folder that holds your own set under the same name, e.g. what
            `notice pairs svo_probes ... --out DATA/svo` wrote. This is how chapters run on other
            data.

    Raises:
        NoticeError: there is no such set.
    """
    if data != "embedded":
        folder = Path(data) / name
        if not folder.is_dir():
            raise NoticeError(
                f"{data} has no pair set {str(name)!r}. Chapters of several tasks need svo, states "
                "and faces; `notice pairs` builds them."
            )
    else:
        folder = data_dir() / "embedded" / name if name in EMBEDDED else Path(name)
    if not folder.is_dir():
        raise NoticeError(
            f"There is no pair set {str(folder)!r}: give one of {', '.join(EMBEDDED)}, or a folder."
        )
    pairs = PairSet.load(folder)
    if n is None:
        return pairs
    if n < 1:
        raise NoticeError(f"n must be at least 1, not {n}.")
    return pairs.sample(n, seed=seed)
