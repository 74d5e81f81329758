"""SVO-Probes: photographs of who does what to what, "Is the dog or the goat pulling the car?"

Layout as published: a CSV of rows with a positive and a negative image, which differ in subject,
verb or object, and the images' addresses. The images themselves are not published; many addresses
are dead by now.
"""

import hashlib
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

from ..corruption.sip import Scene, pairs_of
from ..errors import NoticeError
from ..models.wording import same_words
from ..pairs import symmetric
from ..pairs.prompts import option_spans, replace_options
from ..pairs.tables import read_table, truth
from .build import Built, Source, Steps
from .downloads import download_images
from .grammar import SLOTS, Triplet, grammatical_question
from .image_files import LeftOut, an_example, check_files
from .svo_images import Key, describe_names, find_images
from .svo_words import NEAR_SYNONYMS

SOURCE = Source(
    "SVO-Probes",
    "Hendricks and Nematzadeh (2021), Probing Image-Language Transformers for Verb Understanding",
    "https://github.com/google-deepmind/svo_probes",
    "The table is CC BY 4.0 by its page, for research. Images were found by a web search and their "
    "licences are not stated. Use them for your own research; do not publish this folder.",
)

Question = Callable[[tuple[Triplet, Triplet], str, str, str, str], str]
"""(triplets, sentence, slot, first option, second option) -> the prompt."""

_FLAGS = {"subject": "subj_neg", "verb": "verb_neg", "object": "obj_neg"}
_COLUMNS = ("pos_triplet", "neg_triplet", "pos_url", "neg_url", *_FLAGS.values())
_OPTIONAL = ("sentence", "pos_image_id", "neg_image_id")

_CHECKS = (
    "one slot is marked as different",
    "both triplets have three words",
    "the triplets differ in that slot alone",
    "no word is 'person'",
    "the two words are not near-synonyms",
    "a question could be formed",
)


class _Row(NamedTuple):
    """A usable row. Of two values, the positive image's comes first."""

    slot: str
    triplets: tuple[Triplet, Triplet]
    options: tuple[str, str]
    prompts: tuple[str, str]
    keys: tuple[Key, Key]


def read_svo_probes(
    table: str | Path,
    images: str | Path | None = None,
    cache: str | Path | None = None,
    question: Question | str = grammatical_question,
    near_synonyms: Mapping[str, Iterable[str]] = NEAR_SYNONYMS,
) -> Built:
    """Four pairs of each row: either image is the clean one, either option is offered first.

    A row is used if exactly one of its flags is set: if several are set, no single question tells
    the row's images apart. (The published code asks about the first flag.)
    Where `neg_triplet` is a list, the first that differs from the positive in that slot alone is
    the negative. Rows with the word "person" are left out as in the published code, since it is
    true of every man and girl. A dead address leaves its rows out, and what was left out after
    each check is counted in `steps`. Nothing is drawn, and the order of the rows does not matter.

    Images in a folder are found by their names, as `notice_lib.datasets.svo_images` says.

    Args:
        table: svo_probes.csv as published, its columns in any order. `sentence` and the image ids
            may be missing. "True" and "False" may be written as 1, no, t and the like.
        images: a folder of images, which may lie in folders within it.
        cache: a folder into which `downloads.download_images` puts what is not in `images`; what
            it holds already is not asked for again.
        question: (triplets, sentence, slot, first, second) -> prompt, or the name of a column of
            the table that holds one prompt a row; the other order exchanges the two options there.
            Verbs are offered as participles. Where it gives no prompt that offers both options
            with "or" between them, or raises NoticeError, the row is left out.
        near_synonyms: {word: words that may be true of the same picture}.

    Raises:
        NoticeError: the table cannot be read or lacks a column, neither `images` nor `cache` is
            given, the folder has none of the images, or no row is left; the message says after
            which check.

    Source: paper, section 3; published code, preprocessing/1_svo and 3_svo (which loses the
    negative images' rows and puts black pictures in the place of dead addresses).
    """
    if images is None and cache is None:
        raise NoticeError("Name a folder of images, or a cache into which they are downloaded.")
    near = symmetric(dict(near_synonyms))
    counts, rows, addresses = _usable_rows(Path(table), question, near)
    steps = _steps(counts)
    paths, left_out = _find_images(rows, addresses, images, cache)
    contents = check_files(set(paths.values()), left_out)
    at_hand = {key: path for key, path in paths.items() if path in contents}
    rows = [row for row in rows if all(key in at_hand for key in row.keys)]
    steps.append(("rows: both images are at hand", len(rows)))
    scenes, kept = _scenes(rows, at_hand, contents, steps)
    if not scenes:
        left = "; ".join(f"{what}, {number}" for what, number in steps)
        raise NoticeError(
            f"{table} gives no scene. What was left after each check: {left}.{an_example(left_out)}"
        )
    return Built(pairs_of(scenes, _vocabulary(kept), near), steps, SOURCE, left_out)


def _usable_rows(table: Path, question, near) -> tuple[Counter, list[_Row], set[str]]:
    """How many rows each check loses (all rows under "all"), those that pass, and all addresses."""
    counts: Counter[str] = Counter()
    rows: list[_Row] = []
    addresses: set[str] = set()
    asked = (question,) if isinstance(question, str) else ()
    for _, fields in read_table(table, (*_COLUMNS, *asked), _OPTIONAL):
        counts["all"] += 1
        addresses |= {fields["pos_url"].strip(), fields["neg_url"].strip()}
        row = _row(fields, question, near)
        if isinstance(row, _Row):
            rows.append(row)
        else:
            counts[row] += 1
    if not counts["all"]:
        raise NoticeError(f"{table} has no rows: name the published svo_probes.csv.")
    return counts, sorted(rows), addresses


def _steps(counts: Counter) -> Steps:
    left = counts["all"]
    steps = [("rows: in the table", left)]
    for check in _CHECKS:
        left -= counts[check]
        steps.append((f"rows: {check}", left))
    return steps


def _row(fields: dict[str, str], question, near) -> _Row | str:
    """A row, or the check that it fails."""
    flags = {slot: truth(fields[name].strip() or "no") for slot, name in _FLAGS.items()}
    marked = [slot for slot, flag in flags.items() if flag]
    if len(marked) != 1 or None in flags.values():
        return _CHECKS[0]
    slot = marked[0]
    positive, negative = (_triplets(fields[f"{which}_triplet"]) for which in ("pos", "neg"))
    if not positive or not negative:
        return _CHECKS[1]
    both = product(positive, negative)
    triplets = next((two for two in both if _differing(*two) == [slot]), None)
    if triplets is None:
        return _CHECKS[2]
    if any("person" in word.split() for triplet in triplets for word in triplet):
        return _CHECKS[3]
    options = triplets[0].option(slot), triplets[1].option(slot)
    if options[1] in near.get(options[0], ()) or same_words(*options):
        return _CHECKS[4]
    try:
        prompts = _prompts(fields, triplets, slot, options, question)
    except NoticeError:
        return _CHECKS[5]
    return _Row(slot, triplets, options, prompts, (_key(fields, "pos"), _key(fields, "neg")))


def _key(fields: dict[str, str], which: str) -> Key:
    return fields[f"{which}_image_id"].strip().removesuffix(".0"), fields[f"{which}_url"].strip()


def _triplets(text: str) -> list[Triplet]:
    """The triplets of three words in "s,v,o" or "['s,v,o', ...]"."""
    text = unicodedata.normalize("NFC", text.strip()).lower()
    texts = [a or b for a, b in _QUOTED.findall(text)] if text.startswith("[") else [text]
    split = ([" ".join(word.split()) for word in text.split(",")] for text in texts)
    return [Triplet(*words) for words in split if len(words) == 3 and all(map(_WORD, words))]


def _differing(positive: Triplet, negative: Triplet) -> list[str]:
    return [slot for slot in SLOTS if positive.option(slot) != negative.option(slot)]


def _prompts(fields, triplets, slot, options, question) -> tuple[str, str]:
    """The question in both orders.

    Raises:
        NoticeError: there is none that offers both options.
    """
    if isinstance(question, str):
        given = fields[question].strip()
        spans = option_spans(given, *options)
        other = replace_options(given, spans, *reversed(options))
        prompts = (given, other) if spans.correct < spans.incorrect else (other, given)
    else:
        sentence = unicodedata.normalize("NFC", fields["sentence"])
        a, b = options
        prompts = (
            question(triplets, sentence, slot, a, b) or "",
            question(triplets, sentence, slot, b, a) or "",
        )
    for prompt, first in zip(prompts, ("correct", "incorrect"), strict=True):
        spans = option_spans(prompt, *options)
        if getattr(spans, first) != min(spans.correct, spans.incorrect):
            raise NoticeError(f"{prompt!r} does not offer the {first} option first.")
    return prompts


def _find_images(
    rows: list[_Row], addresses: set[str], images, cache
) -> tuple[dict[Key, Path], LeftOut]:
    """{(id, address): file} of what is at hand, and {id or address: why it is not}."""
    keys = sorted({key for row in rows for key in row.keys})
    found = find_images(Path(images), keys, addresses) if images is not None else {}
    lacking = [key for key in keys if key not in found]
    if images is not None and keys and not found:
        told = (
            f"{images} has none of the {len(keys)} images that are asked for. "
            f"{describe_names(Path(images), keys[0])} Rename the files, or name another folder."
        )
        if cache is None:
            raise NoticeError(told)
        warnings.warn(told, stacklevel=3)
    if cache is None:
        return found, {address or name: "is the name of no file" for name, address in lacking}
    left_out: LeftOut = {}
    downloaded = download_images(sorted({address for _, address in lacking}), Path(cache))
    files = {line.url: line for line in downloaded.itertuples()}
    for name, address in lacking:
        line = files[address]
        if isinstance(line.path, Path):
            found[name, address] = line.path
        else:
            left_out[address or name] = line.error
    return found, left_out


def _scenes(rows: list[_Row], paths, contents, steps: Steps) -> tuple[list[Scene], list[_Row]]:
    """A scene for each row with two images of which neither shows both options, and its row."""
    true = defaultdict(set)
    for row in rows:
        for key, triplet in zip(row.keys, row.triplets, strict=True):
            true[contents[paths[key]]].add(triplet)
    scenes, kept = {}, []
    left = 0
    for row in rows:
        one, other = (contents[paths[key]] for key in row.keys)
        if one == other or row.triplets[1] in true[one] or row.triplets[0] in true[other]:
            continue
        left += 1
        same = frozenset((one, other)), frozenset(row.options)
        if same not in scenes:
            words = {triplet.option(row.slot) for triplet in true[one] | true[other]}
            scenes[same] = _scene(row, (one, other), paths, tuple(sorted(words)))
            kept.append(row)
    steps.append(("rows: two images, neither of which shows both words", left))
    steps.append(("scenes: two images, one question, each once", len(scenes)))
    return list(scenes.values()), kept


def _scene(row: _Row, contents: tuple[str, str], paths, shown: tuple[str, ...]) -> Scene:
    """Its id depends on what is asked and shown, not on names of files."""
    name = hashlib.sha256("\n".join([row.slot, *row.prompts, *contents]).encode()).hexdigest()
    return Scene(
        scene_id=f"svo-{name[:16]}",
        task="svo",
        slot=row.slot,
        images=tuple(paths[key] for key in row.keys),
        answers=row.options,
        prompts=row.prompts,
        shown=shown,
    )


def _vocabulary(rows: list[_Row]) -> dict[str, list[str]]:
    """The words of each slot in all rows, as questions offer them."""
    triplets = {triplet for row in rows for triplet in row.triplets}
    return {slot: sorted({triplet.option(slot) for triplet in triplets}) for slot in SLOTS}


_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_WORD = re.compile(r"[^\W\d_]+(?:[ '\u2019-][^\W\d_]+)*").fullmatch
