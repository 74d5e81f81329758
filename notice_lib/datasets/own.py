"""Pairs from your own images and a table of labels, or of ready pairs (`pairs.tables`)."""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ..corruption.sip import LabelledImage, Question, Scene, content_id, pairs_of
from ..errors import NoticeError
from ..pairs.files import whole
from ..pairs.folders import Folder
from ..pairs.masks import check_masks
from ..pairs.prompts import option_spans, replace_options, spelled, visible
from ..pairs.tables import Row, column_names, read_table
from .build import Built, Source
from .image_files import LeftOut, an_example, check_files, short
from .labelled import build_pairs
from .labels import fold, present

QUESTION = "Is this {rest} {first} or {second}?"
LABELS = ("image", "attribute")
"""Columns of a table of labels; it may also have `rest` (what the question names) and `slot`."""
SYNONYMS = {
    "image": ("file_name", "filename", "file", "file_path", "filepath", "path", "image_path",
              "image_file", "image_name", "img", "img_path", "photo", "picture", "fname"),
    "attribute": ("label", "labels", "class", "class_name", "category", "state", "target", "tag"),
}  # fmt: skip
"""{column of a table of labels: names that are read as it where there is no such column}."""
PAIRS = ("clean_image", "corrupt_image", "prompt", "correct", "incorrect")
"""Columns of a table of pairs; it may also have those of `MORE`."""
MORE = ("slot", "scene", "clean_masks", "corrupt_masks")
SLOT = "attribute"
"""The slot of answers for which none is given."""


def own_source(licence: str = "", title: str = "your own images") -> Source:
    """The source of your own images, for the card of a set."""
    return Source(title, "", "", licence or "No licence was stated when this set was built.")


def template(text: str) -> Question:
    """A question from a text with {first} and {second}, and {rest} for what the images share.

    Raises:
        NoticeError: an option has no place in it, or another name stands in braces.
    """
    unknown = set(re.findall(r"\{(\w*)\}", text)) - {"rest", "first", "second"}
    if unknown:
        raise NoticeError(
            f"The question {text!r} has {{{unknown.pop()}}}, but only {{rest}}, {{first}} and "
            "{second} stand for something."
        )
    if "{first}" not in text or "{second}" not in text:
        raise NoticeError(
            f"The question {text!r} must have {{first}} and {{second}} in the places of the "
            f"options, such as {QUESTION!r}."
        )

    def question(rest: str, first: str, second: str) -> str:
        words = {"rest": rest, "first": first, "second": second}
        asked = re.sub(r"\{(rest|first|second)\}", lambda place: words[place[1]], text)
        return asked if rest else asked.replace("  ", " ")

    return question


def read_labels(
    table: str | Path,
    images: str | Path | None = None,
    question: str = QUESTION,
    task: str = "own",
    masks: str | Path | None = None,
    near_synonyms: Mapping[str, Iterable[str]] | None = None,
    seed: int = 0,
    source: Source | None = None,
) -> Built:
    """Pairs from a table of labels: image, attribute, and perhaps rest and slot.

    Two images of a pair share `rest` and slot and differ in attribute. An image may have a row for
    each of several slots.

    Args:
        table: CSV with `LABELS`, or with `SYNONYMS` of these; its `image` is relative to the folder
            `images`.
        images: by default the table's own folder.
        question: with {first}, {second} and, where the table has it, {rest}.
        task: a name; pairs named "states" stand in for those of the chapters.
        masks: folder with a PNG for an image, of the same name but for the ending
            (`notice_lib.pairs.masks` writes them); an image without one has no masks.
        near_synonyms: {attribute: attributes that are never its partner's}.
        seed: random seed for drawing the partners.

    Raises:
        NoticeError: the table cannot be read or lacks a column, a row names no file in the folder
            or no attribute, an image has two labels of one slot, or no image has a partner.
    """
    asked, folder = template(question), _folder(table, images)
    labels: dict[tuple[Path, str], tuple[str, LabelledImage]] = {}
    rows = 0
    for where, row in read_table(Path(table), LABELS, ("rest", "slot"), SYNONYMS):
        rows += 1
        label = LabelledImage(
            path=_file(where, row, "image", folder),
            attribute=_text(where, row, "attribute"),
            rest=present(row["rest"]),
            slot=present(row["slot"]) or SLOT,
        )
        before, known = labels.setdefault((label.path, fold(label.slot)), (where, label))
        if fold(known.attribute) != fold(label.attribute) or fold(known.rest) != fold(label.rest):
            raise NoticeError(
                f"{where}: {before} labels the same image {known.attribute!r}"
                + (f" and {known.rest!r}" if known.rest else "")
                + ". Give an image one label of each slot."
            )
    labelled = [label for _, label in labels.values()]
    steps = [("rows: of the table", rows), ("images: labels", len(labelled))]
    _tell_alike(folder)
    files = _masks_of(labelled, folder.root, Path(masks)) if masks else {}
    return build_pairs(
        labelled, asked, task, source or own_source(), near_synonyms, seed, steps, files
    )


def read_pairs(
    table: str | Path,
    images: str | Path | None = None,
    task: str = "own",
    source: Source | None = None,
) -> Built:
    """Pairs from a table of pairs: two images, a prompt, and the answer that is true of each.

    A prompt offers both answers with "or" in between, and they are spelled as it writes them, in
    its upper or lower case. The other direction and the other order of the options are made from
    it, so rows that say the same again are left out; so are rows whose images do not decode, or are
    the same. All are counted.

    Args:
        table: CSV with `PAIRS`; its paths are relative to the folder `images`.
        images: by default the table's own folder.
        task: a name; pairs named "states" stand in for those of the chapters.

    Raises:
        NoticeError: the table cannot be read or lacks a column, a row names no file in the folder
            or its prompt does not offer its answers, or they are the same words to a model, two
            rows contradict each other or have one scene, or no usable row is left.
    """
    folder = _folder(table, images)
    rows = read_table(Path(table), PAIRS, MORE)
    lines = [(where, _scene(where, row, folder, task)) for where, row in rows]
    _tell_alike(folder)
    left_out: LeftOut = {}
    digests = check_files({path for _, scene in lines for path in scene.images}, left_out)
    usable = [line for line in lines if _usable(line[1], digests, left_out)]
    distinct = _distinct(usable, digests)
    if not distinct:
        raise NoticeError(
            f"{table}: none of its {len(lines)} rows has two usable images.{an_example(left_out)}"
        )
    slots: dict[str, set[str]] = defaultdict(set)
    for scene in distinct:
        slots[scene.slot].update(scene.answers)
    steps = [
        ("rows: of the table", len(lines)),
        ("rows: with two images that decode and differ", len(usable)),
        ("scenes: two images, one question", len(distinct)),
    ]
    words = {slot: sorted(words) for slot, words in sorted(slots.items())}
    return Built(pairs_of(distinct, words), steps, source or own_source(), left_out)


def is_table_of_pairs(table: str | Path) -> bool:
    """Whether a table is one for `read_pairs`, by its columns; else it is for `read_labels`.

    Raises:
        NoticeError: it cannot be read.
    """
    return PAIRS[0] in column_names(Path(table))


def _folder(table: str | Path, images: str | Path | None) -> Folder:
    folder = Path(images) if images else Path(table).parent
    if not folder.is_dir():
        raise NoticeError(f"There is no folder {folder}: name the one with the images.")
    return Folder(folder)


def _tell_alike(folder: Folder) -> None:
    if told := folder.told():
        warnings.warn(told, stacklevel=3)


def _file(where: str, row: Row, column: str, folder: Folder) -> Path:
    try:
        return folder.file(_text(where, row, column))
    except NoticeError as error:
        raise NoticeError(f"{where}: {error}") from None


def _text(where: str, row: Row, column: str) -> str:
    if text := present(row[column]):
        return text
    mark = f" but for {row[column]!r}" if row[column].strip() else ""
    raise NoticeError(f"{where}: {column} is empty{mark}. Fill it in or drop the row.")


def _masks_of(labels: Iterable[LabelledImage], folder: Path, masks: Path) -> dict[Path, Path]:
    """The mask file of each image that has one. All are read, so that a bad one is found now."""
    if not masks.is_dir():
        raise NoticeError(f"There is no folder {masks}: name the one with the masks.")
    found = {}
    for path in {label.path for label in labels}:
        mask = masks / path.relative_to(folder).with_suffix(".png")
        if mask.is_file():
            check_masks(mask, path)
            found[path] = mask
    return found


def _scene(where: str, row: Row, folder: Folder, task: str) -> Scene:
    """One row; without an id unless the table has one."""
    # One Unicode form, so that the answers are found in the prompt.
    prompt, *answers = (visible(_text(where, row, name)) for name in PAIRS[2:])
    correct, incorrect = (whole(answer, prompt) for answer in answers)
    try:
        spans = option_spans(prompt, correct, incorrect)
    except NoticeError as error:
        raise NoticeError(f"{where}: {error}") from None
    correct, incorrect = spelled(prompt, spans)
    other = replace_options(prompt, spans, incorrect, correct)
    clean, corrupt = (
        _file(where, row, name, folder) if present(row[name]) else None
        for name in ("clean_masks", "corrupt_masks")
    )
    images = tuple(_file(where, row, name, folder) for name in PAIRS[:2])
    for mask, image in zip((clean, corrupt), images, strict=True):
        if mask:
            check_masks(mask, image)
    try:
        return Scene(
            scene_id=present(row["scene"]),
            task=task,
            slot=present(row["slot"]) or SLOT,
            images=(images[0], images[1]),
            answers=(correct, incorrect),
            prompts=(other, prompt) if spans.incorrect < spans.correct else (prompt, other),
            masks=(clean, corrupt),
        )
    except NoticeError as error:
        raise NoticeError(f"{where}: {error}") from None


def _usable(scene: Scene, digests: Mapping[Path, str], left_out: LeftOut) -> bool:
    """Whether both images are usable and differ; if not, why goes to `left_out`."""
    contents = [digests.get(path) for path in scene.images]
    if None not in contents and contents[0] == contents[1]:
        left_out[scene.images[1]] = f"is the same as {short(scene.images[0])}, its partner"
    return None not in contents and contents[0] != contents[1]


def _distinct(lines: list[tuple[str, Scene]], digests: Mapping[Path, str]) -> list[Scene]:
    """One scene, with an id, of those that ask the same of the same images."""
    known: dict[tuple, tuple[str, Scene]] = {}
    for where, scene in lines:
        contents = [digests[path] for path in scene.images]
        asked = frozenset(contents), frozenset(scene.prompts)
        name = scene.scene_id or content_id(
            scene.task, scene.slot, *sorted(contents), *sorted(scene.prompts)
        )
        before, first = known.setdefault(asked, (where, replace(scene, scene_id=name)))
        said = dict(zip((digests[path] for path in first.images), first.answers, strict=True))
        if said != dict(zip(contents, scene.answers, strict=True)):
            raise NoticeError(f"{where} says the opposite of {before}. Correct one of them.")
    return [scene for _, scene in known.values()]
