"""Matched donors: activations from other scenes that have none of a pair's words."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..choices import DonorWords, RunName, check_choice
from ..errors import NoticeError
from ..models.base import VLM
from ..models.inputs import Inputs
from ..pairs import PairSet, SemanticPair

DONORS = 5
"""Donors of each pair, unless told otherwise."""


@dataclass(frozen=True)
class MatchedDonors:
    """Activations come from other scenes' runs; each pair is patched from several of them.

    A donor is a pair of another scene, of the same task, slot and answer order, whose tokens have
    the same roles (`VLM.token_layout`) and both of whose runs have the same layout
    (`Inputs.layout`). So the correct options of the two pairs stand at the same tokens. No two
    donors of a pair are of one scene. They are drawn with the seed and the pair's id, so they are
    the same for either `run`.

    Attributes:
        run: which of the donor's runs activations come from. In its "clean" run the option that
            stands where the pair's correct option stands is true, in its "corrupt" run it is false.
        pool: the pairs that donors are drawn from; by default those of the sweep. It should have
            only pairs that the model answers correctly (`answered_correctly`).
        n: donors of each pair. A pair with fewer cannot be run: there is no second-best donor.
        words: "other": no option or shown word of the donor is one of the pair's, or a near-synonym
            of one. "same": the donor has the same correct and the same incorrect option.
    """

    run: RunName
    pool: PairSet | None = None
    n: int = DONORS
    words: DonorWords = "other"

    def __post_init__(self):
        check_choice("run", self.run, RunName)
        check_choice("words", self.words, DonorWords)
        if self.n < 1:
            raise NoticeError(f"A pair needs at least one donor, not {self.n}.")


def donor_runs(
    model: VLM, pool: PairSet, pair: SemanticPair, own: Inputs, donors: MatchedDonors, seed: int
) -> list[tuple[str, Inputs]]:
    """The id and the run of each of a pair's donors.

    Args:
        own: a run of the pair, whose layout the donors' runs must have.

    Raises:
        NoticeError: the pool has too few donors for the pair; names the pair and their number.
    """
    roles = model.token_layout(pair.prompt, pair.spans)
    rng = np.random.default_rng([seed, zlib.crc32(pair.pair_id.encode())])
    found: dict[str, tuple[str, Inputs]] = {}  # by scene
    for i in rng.permutation(len(pool)):
        other = pool[i]
        if other.scene_id in found or not _matches(pair, other, donors.words, pool):
            continue
        if model.token_layout(other.prompt, other.spans) != roles:
            continue
        runs = {run: model.inputs(other.image(run), other.prompt) for run in ("clean", "corrupt")}
        if any(run.layout != own.layout for run in runs.values()):
            continue
        found[other.scene_id] = other.pair_id, runs[donors.run]
        if len(found) == donors.n:
            return list(found.values())
    raise NoticeError(
        f"Pair {pair.pair_id}: {len(found)} other scenes have a matched donor with {donors.words} "
        f"words, but {donors.n} are needed. Give a larger pool, or ask for fewer donors."
    )


def _matches(pair: SemanticPair, other: SemanticPair, words: str, pool: PairSet) -> bool:
    """Whether another pair may be a donor, as far as its row tells."""
    alike = all(getattr(other, name) == getattr(pair, name) for name in ("task", "slot", "order"))
    if not alike or other.scene_id == pair.scene_id:
        return False
    if words == "same":
        return _lower(_options(other)) == _lower(_options(pair))
    own = {*_options(pair), *pair.shown}
    near = (pool.near_synonyms.get(word, ()) for word in own)
    taken = _lower(own.union(*near))
    return not set(taken) & set(_lower([*_options(other), *other.shown]))


def _options(pair: SemanticPair) -> tuple[str, str]:
    return pair.correct, pair.incorrect


def _lower(words: Iterable[str]) -> list[str]:
    return [word.lower() for word in words]
