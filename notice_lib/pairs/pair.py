"""Semantic pairs: a clean and a corrupt image that differ in one property, with their question.

`notice_lib.pairs.files` says how a `PairSet` is stored. Images are opened when they are asked for.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import NoticeError
from . import files as pair_files
from .images import open_image
from .masks import patch_mask, read_masks
from .prompts import OptionSpans, option_spans, spelled

ORDERS = ("correct_first", "incorrect_first")
SPLITS = ("seen", "heldout")
MAX_PROMPT = 1000
"""Characters of a question. It also bounds the work of finding the options in a hostile one."""


@dataclass(frozen=True)
class SemanticPair:
    """One Semantic Image Pair (SIP) and its two-choice question (paper, section 3).

    `clean_image` shows the correct answer, `corrupt_image` the incorrect one; `prompt` offers both.
    Pairs of one `scene_id` (answer orders, directions) show the same two images and are dependent.
    """

    pair_id: str
    scene_id: str
    task: str
    slot: str
    split: str
    distractor: bool
    clean_image: Path
    corrupt_image: Path
    clean_masks: Path | None
    corrupt_masks: Path | None
    prompt: str
    correct: str
    incorrect: str
    order: str
    shown: tuple[str, ...] = ()
    """Every word of the pair's slot that is true of the clean or the corrupt image."""

    def __post_init__(self):
        if not (self.pair_id and self.correct.strip() and self.incorrect.strip()):
            raise NoticeError(f"Pair {self.pair_id!r}: its id and both answers must be given.")
        if len(self.prompt) > MAX_PROMPT:
            raise NoticeError(
                f"Pair {self.pair_id}: the prompt has {len(self.prompt)} characters; a question of "
                f"two options has at most {MAX_PROMPT}."
            )
        if self.correct.lower() == self.incorrect.lower():
            raise NoticeError(f"Pair {self.pair_id}: both answers are {self.correct!r}.")
        if self.order not in ORDERS or self.split not in SPLITS:
            raise NoticeError(
                f"Pair {self.pair_id}: order {self.order!r} must be one of {ORDERS}, "
                f"split {self.split!r} one of {SPLITS}."
            )
        try:
            spans = self.spans
        except NoticeError as error:
            raise NoticeError(f"Pair {self.pair_id}: {error}") from None
        if (spans.correct < spans.incorrect) != (self.order == "correct_first"):
            raise NoticeError(
                f"Pair {self.pair_id}: order is {self.order!r}, but the prompt reads "
                f"{self.prompt!r} with {self.correct!r} as the correct answer."
            )

    @property
    def spans(self) -> OptionSpans:
        """Where the options stand in the prompt, in characters."""
        return option_spans(self.prompt, self.correct, self.incorrect)

    def image(self, run: str) -> Image.Image:
        """The image of the "clean" or "corrupt" run, RGB.

        Raises:
            NoticeError: the file is missing, damaged or too large (`images`).
        """
        path: Path = getattr(self, self._column(run, "image"))
        return open_image(path, f"the {run} image of pair {self.pair_id}")

    def masks(self, run: str) -> dict[str, np.ndarray]:
        """Named boolean masks (height, width) of one image; empty if it has no file of masks.

        Names: differs (what the pair changes), subject, object, distractor.
        """
        path: Path | None = getattr(self, self._column(run, "masks"))
        return read_masks(path) if path else {}

    def patch_masks(self, run: str, grid: int, image_size: int) -> dict[str, np.ndarray]:
        """The masks on the model's patches: {name: (grid, grid) boolean}."""
        return {name: patch_mask(mask, grid, image_size) for name, mask in self.masks(run).items()}

    def _column(self, run: str, what: str) -> str:
        if run not in ("clean", "corrupt"):
            raise NoticeError(f"A pair has a 'clean' and a 'corrupt' run, not {run!r}.")
        return f"{run}_{what}"


@dataclass(frozen=True)
class PairSet:
    """An ordered set of pairs with unique ids, and the words of their slots.

    Attributes:
        pairs: the pairs, in order.
        slots: {slot: words}, from which token replacement draws.
        near_synonyms: {word: words too close to it}, symmetric.
    """

    pairs: tuple[SemanticPair, ...]
    slots: dict[str, tuple[str, ...]] = field(default_factory=dict)
    near_synonyms: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self):
        seen = set()
        words = {slot: frozenset(listed) for slot, listed in self.slots.items()}
        for pair in self.pairs:
            if pair.pair_id in seen:
                raise NoticeError(f"Two pairs have the id {pair.pair_id!r}; ids must be unique.")
            seen.add(pair.pair_id)
            for answer in (pair.correct, pair.incorrect):
                if pair.slot in words and answer not in words[pair.slot]:
                    some = ", ".join(self.slots[pair.slot][:20])
                    raise NoticeError(
                        f"Pair {pair.pair_id}: the answer {answer!r} is not a {pair.slot} of the "
                        f"vocabulary ({some}). Correct the row or add the word."
                    )

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[SemanticPair]:
        return iter(self.pairs)

    def __getitem__(self, index: int) -> SemanticPair:
        return self.pairs[index]

    def filter(self, keep: Callable[[SemanticPair], bool]) -> "PairSet":
        """The pairs for which `keep(pair)` is true, in order."""
        return replace(self, pairs=tuple(pair for pair in self if keep(pair)))

    def sample(self, n: int, seed: int = 0, by: Iterable[str] = ("slot", "order")) -> "PairSet":
        """At most `n` pairs drawn without replacement, in their old order.

        The draw takes turns between the combinations of the fields `by`, so that even a small
        sample holds every slot and both answer orders about equally often.
        """
        by = tuple(by)
        turn: dict[int, int] = {}
        drawn: Counter[tuple] = Counter()
        for i in np.random.default_rng(seed).permutation(len(self)):
            cell = tuple(getattr(self.pairs[i], name) for name in by)
            turn[i] = drawn[cell]
            drawn[cell] += 1
        chosen = sorted(turn, key=turn.__getitem__)[:n]
        return replace(self, pairs=tuple(self.pairs[i] for i in sorted(chosen)))

    def balance(self, by: Iterable[str] = ("slot", "order"), seed: int = 0) -> "PairSet":
        """As many pairs of each combination of the fields `by` as the rarest one has."""
        by = tuple(by)
        cells: dict[tuple, list[int]] = {}
        for i, pair in enumerate(self):
            cells.setdefault(tuple(getattr(pair, name) for name in by), []).append(i)
        size = min(map(len, cells.values()), default=0)
        rng = np.random.default_rng(seed)
        kept = [i for _, cell in sorted(cells.items()) for i in rng.permutation(cell)[:size]]
        return replace(self, pairs=tuple(self.pairs[i] for i in sorted(kept)))

    def table(self) -> pd.DataFrame:
        """One row a pair, columns as in `pairs.csv`."""
        return pd.DataFrame([asdict(pair) for pair in self], columns=COLUMNS)

    def save(self, folder: str | Path) -> None:
        """Write the set as a folder that `PairSet.load` reads.

        Images and masks are copied under their own names; of two files with one name the second
        gets part of its hash as well. The table is written last, so a folder without `pairs.csv`
        is an unfinished one.

        Raises:
            NoticeError: the folder holds a set already, or an image or a mask is missing.
        """
        near = {word: sorted(others) for word, others in self.near_synonyms.items()}
        rows = [{name: getattr(pair, name) for name in COLUMNS} for pair in self]
        pair_files.write(Path(folder), COLUMNS, rows, {"slots": self.slots, "near_synonyms": near})

    @classmethod
    def load(cls, folder: str | Path) -> "PairSet":
        """Read a folder as `save` writes it; answers are spelled as the prompt writes them.

        Time and memory grow in proportion to the rows; no image is opened.

        Raises:
            NoticeError: a file or column is missing, a file is not what its name says, or a row is
                not a pair; names file, line and remedy.
        """
        folder = Path(folder)
        pairs = []
        for where, values in pair_files.read_rows(folder, COLUMNS):
            try:
                pairs.append(_as_prompted(SemanticPair(**values)))
            except NoticeError as error:
                raise NoticeError(f"{where}: {error}") from None
        listed, near = pair_files.read_vocabulary(folder)
        slots = {slot: tuple(words) for slot, words in listed.items()}
        return cls(tuple(pairs), slots, symmetric(near))


def _as_prompted(pair: SemanticPair) -> SemanticPair:
    """The pair with its answers in the prompt's own case, whose tokens a model is offered."""
    correct, incorrect = spelled(pair.prompt, pair.spans)
    if (correct, incorrect) == (pair.correct, pair.incorrect):
        return pair
    return replace(pair, correct=correct, incorrect=incorrect)


def symmetric(near_synonyms: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Near-synonyms in both directions: if a lists b, then b lists a.

    Raises:
        NoticeError: a word has one text instead of a list of words.
    """
    closed: dict[str, set[str]] = {}
    for word, others in near_synonyms.items():
        if isinstance(others, str):
            raise NoticeError(
                f"The near-synonyms of {word!r} are the text {others!r}. Give a list, such as "
                f"[{others!r}]."
            )
        for other in others:
            closed.setdefault(word, set()).add(other)
            closed.setdefault(other, set()).add(word)
    return {word: frozenset(others) for word, others in closed.items()}


COLUMNS = [column.name for column in fields(SemanticPair)]
