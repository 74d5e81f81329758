"""Semantic pairs: a clean and a corrupt image that differ in one property, with their question.

A `PairSet` is stored as a folder: `pairs.csv` (one row a pair), `images/`, `masks/` and
`vocabulary.json`. Paths in the table are relative to the folder and cannot leave it.
"""

import csv
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from .errors import NoticeError
from .masks import patch_mask, read_masks
from .prompts import OptionSpans, option_spans

ORDERS = ("correct_first", "incorrect_first")
SPLITS = ("seen", "heldout")
_PATHS = ("clean_image", "corrupt_image", "clean_masks", "corrupt_masks")


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
            NoticeError: the file is missing or does not decode.
        """
        return open_image(self._of(run, "image"), f"the {run} image of pair {self.pair_id}")

    def masks(self, run: str) -> dict[str, np.ndarray]:
        """Named masks (height, width) of one image; empty where nothing is known of it.

        Names: differs (what the pair changes), subject, object, distractor.
        """
        path = self._of(run, "masks")
        return read_masks(path) if path else {}

    def patch_masks(self, run: str, grid: int, image_size: int) -> dict[str, np.ndarray]:
        """The masks on the model's patches: {name: (grid, grid) boolean}."""
        return {name: patch_mask(mask, grid, image_size) for name, mask in self.masks(run).items()}

    def _of(self, run: str, what: str) -> Path | None:
        if run not in ("clean", "corrupt"):
            raise NoticeError(f"A pair has a 'clean' and a 'corrupt' run, not {run!r}.")
        return getattr(self, f"{run}_{what}")


def open_image(path: Path, what: str) -> Image.Image:
    """Decode one image to RGB; `what` says in an error what the file is."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise NoticeError(f"{path} is missing: it is {what}. Restore it or drop its row.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise NoticeError(
            f"{path} does not decode as an image ({error}): it is {what}. "
            "Replace it or drop its row."
        ) from None


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
        for pair in self.pairs:
            if pair.pair_id in seen:
                raise NoticeError(f"Two pairs have the id {pair.pair_id!r}; ids must be unique.")
            seen.add(pair.pair_id)
            words = self.slots.get(pair.slot)
            for answer in (pair.correct, pair.incorrect):
                if words is not None and answer not in words:
                    raise NoticeError(
                        f"Pair {pair.pair_id}: the answer {answer!r} is not a {pair.slot} of the "
                        f"vocabulary ({', '.join(words)}). Correct the row or add the word."
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
        turn, drawn = {}, Counter()
        for i in np.random.default_rng(seed).permutation(len(self)):
            cell = tuple(getattr(self.pairs[i], name) for name in by)
            turn[i] = drawn[cell]
            drawn[cell] += 1
        chosen = sorted(turn, key=turn.get)[:n]
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
            NoticeError: the folder holds a set already.
        """
        folder = Path(folder)
        if (folder / "pairs.csv").exists():
            raise NoticeError(f"{folder} holds a pair set already. Name an empty folder.")
        copied: dict[str, Path] = {}
        rows = []
        for pair in self:
            row = asdict(pair) | {
                "distractor": str(pair.distractor).lower(),
                "shown": " ".join(pair.shown),
            }
            for name in _PATHS:
                row[name] = _copy(row[name], folder, name.split("_")[1], copied)
            rows.append(row)
        folder.mkdir(parents=True, exist_ok=True)
        words = {
            "slots": self.slots,
            "near_synonyms": {word: sorted(near) for word, near in self.near_synonyms.items()},
        }
        (folder / "vocabulary.json").write_text(json.dumps(words, indent=1), encoding="utf-8")
        with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    @classmethod
    def load(cls, folder: str | Path) -> "PairSet":
        """Read a folder as `save` writes it.

        Raises:
            NoticeError: a file or column is missing, or a row is not a pair; names row and remedy.
        """
        folder = Path(folder).resolve()
        manifest = folder / "pairs.csv"
        if not manifest.is_file():
            raise NoticeError(f"{folder} is no pair set: it has no pairs.csv.")
        with open(manifest, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise NoticeError(f"{manifest} lacks the columns {', '.join(sorted(missing))}.")
            pairs = tuple(
                _pair(row, folder, f"{manifest}, line {reader.line_num}") for row in reader
            )
        vocabulary = folder / "vocabulary.json"
        words = json.loads(vocabulary.read_text(encoding="utf-8")) if vocabulary.exists() else {}
        return cls(
            pairs,
            {slot: tuple(values) for slot, values in words.get("slots", {}).items()},
            symmetric(words.get("near_synonyms", {})),
        )


def symmetric(near_synonyms: dict[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Near-synonyms in both directions: if a lists b, then b lists a."""
    closed: dict[str, set[str]] = {}
    for word, others in near_synonyms.items():
        for other in others:
            closed.setdefault(word, set()).add(other)
            closed.setdefault(other, set()).add(word)
    return {word: frozenset(others) for word, others in closed.items()}


COLUMNS = [column.name for column in fields(SemanticPair)]


def _copy(source: Path | None, folder: Path, kind: str, copied: dict[str, Path]) -> str:
    """Copy a file to folder/images or folder/masks; returns its path relative to the folder.

    A second file of one name (also where only the case differs) gets part of its hash as well.
    """
    if source is None:
        return ""
    place = "images" if kind == "image" else "masks"
    target = f"{place}/{source.name}"
    if copied.setdefault(target.casefold(), source) != source:
        with open(source, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target = f"{place}/{source.stem}-{digest[:16]}{source.suffix}"
    if not (folder / target).exists():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / target)
    return target


def _pair(row: dict[str, str], folder: Path, where: str) -> SemanticPair:
    """One row of pairs.csv; `where` names file and line in an error."""
    if None in row.values() or row["distractor"] not in ("true", "false"):
        raise NoticeError(f"{where}: a field is missing, or distractor is not true or false.")
    paths = {name: _inside(folder, row[name], where) for name in _PATHS}
    if paths["clean_image"] is None or paths["corrupt_image"] is None:
        raise NoticeError(f"{where}: clean_image and corrupt_image must both be given.")
    values = {name: row[name] for name in COLUMNS} | paths
    values |= {"distractor": row["distractor"] == "true", "shown": tuple(row["shown"].split())}
    try:
        return SemanticPair(**values)
    except NoticeError as error:
        raise NoticeError(f"{where}: {error}") from None


def _inside(folder: Path, name: str, where: str) -> Path | None:
    """A path of the table; it must exist and lie in the folder. Empty means none."""
    if not name:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise NoticeError(f"{where}: the path {name!r} leaves the folder of the set.")
    if not path.is_file():
        raise NoticeError(f"{where}: {path} is missing. Restore the file or drop the row.")
    return path
