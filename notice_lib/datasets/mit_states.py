"""MIT-States: photographs of things in a state, "Is this bottle rusty or broken?"

Layout as published: `release_dataset/images/<adjective noun>/*.jpg`, with a space or an underscore
in between, in upper or lower case. Folders "adj <noun>" hold things in no particular state.
"""

import re
from itertools import permutations
from pathlib import Path

from ..corruption.sip import LabelledImage
from ..errors import NoticeError
from .build import Built, Source, Steps
from .image_files import files_in, folders_in
from .labelled import build_pairs

SOURCE = Source(
    "MIT-States",
    "Isola, Lim and Adelson (2015), Discovering States and Transformations in Image Collections",
    "http://web.mit.edu/phillipi/Public/states_and_transformations/",
    "The images come from a web search, and no licence is stated for them. Use them for your own "
    "research; do not publish this folder.",
)

_STATES = {
    "colour": "bright browned burnt clear cloudy dark dull foggy murky painted shiny sunny "
    "unpainted verdant",
    "shape": "bent blunt broken chipped coiled cored cracked crushed curved cut deflated dented "
    "diced folded huge inflated large narrow pierced sharp shattered short sliced small "
    "splintered squished straight tall thick thin tiny toppled torn upright wide winding",
    "texture": "brushed caramelized creased crinkled crumpled damp dirty dry engraved eroded "
    "frayed frozen grimy mashed melted moldy molten mossy muddy peeled pureed rough ruffled runny "
    "rusty scratched smooth thawed viscous weathered wet whipped wilted worn wrinkled",
}
STATES = {group: tuple(words.split()) for group, words in _STATES.items()}
"""Which of the 115 adjectives a picture can show, by what they are a property of: how a thing takes
light, its form, its surface. Left out are those that say how old, full, ripe or open a thing is."""

_ALIKE = (
    # Words of one line say nearly the same of a thing, or one follows from the other.
    "bright clear shiny sunny",
    "cloudy dark dull foggy murky",
    "browned burnt dark",
    "broken chipped cracked crushed shattered splintered torn",
    "bent coiled curved folded winding",
    "bent crushed dented squished",
    "crushed deflated squished",
    "cored cut diced pierced sliced",
    "cut torn",
    "huge large tall thick wide",
    "huge inflated large",
    "narrow short small thin tiny",
    "narrow sharp thin",
    "straight tall upright",
    "blunt thick",
    "creased crinkled crumpled ruffled wrinkled",
    "crinkled rough",
    "wilted wrinkled",
    "damp runny wet",
    "melted molten runny thawed",
    "frozen wet",
    "mashed pureed whipped",
    "runny viscous",
    "caramelized viscous",
    "caramelized melted molten",
    "dirty grimy moldy muddy",
    "dirty grimy rusty weathered worn",
    "damp moldy mossy",
    "damp muddy wet",
    "eroded frayed peeled rusty weathered worn",
    "eroded rough scratched weathered worn",
    "brushed scratched",
    "brushed smooth",
    "engraved scratched",
)
NEAR_SYNONYMS = {
    word: frozenset(b for line in _ALIKE for a, b in permutations(line.split(), 2) if a == word)
    for word in sorted({word for line in _ALIKE for word in line.split()})
}
"""{state: states that are no alternative to it}, symmetric."""

PLURALS = ("chains", "clothes", "eggs", "glasses", "pants", "roots", "shoes", "shorts", "steps")
"""Nouns of the data set that a question calls "these"."""


def read_mit_states(images: str | Path, seed: int = 0) -> Built:
    """Pairs of two pictures of one noun in two states of a group: colour, shape or texture.

    Args:
        images: the folder `images` of the unpacked archive, or one that holds it.
        seed: random seed for drawing the partners.

    Raises:
        NoticeError: there is no such folder, or no two of its images can be partners.

    Source: paper, section 3; published code, preprocessing/1_mit (whose lists of similar words are
    not symmetric). The groups and the near-synonyms are this project's own.
    """
    labelled, steps = _labelled(_folder(Path(images)))
    return build_pairs(labelled, question, "states", SOURCE, NEAR_SYNONYMS, seed, steps)


def question(noun: str, first: str, second: str) -> str:
    """E.g. "Is this bottle rusty or broken?", or "Are these shoes ...?"."""
    return f"{'Are these' if noun in PLURALS else 'Is this'} {noun} {first} or {second}?"


def _folder(given: Path) -> Path:
    for folder in (given / "release_dataset" / "images", given / "images", given):
        if folder.is_dir():
            return folder
    raise NoticeError(
        f"There is no folder {given}: name the folder `images` of the unpacked release_dataset.zip."
    )


def _labelled(folder: Path) -> tuple[list[LabelledImage], Steps]:
    """Every image of a state that has a group, and how many there were."""
    groups = {state: group for group, states in STATES.items() for state in states}
    files, labelled = 0, []
    for place in folders_in(folder):
        match = re.fullmatch(r"([^ _]+)[ _](.+)", place.name.lower())
        if not match:
            continue
        state, noun = match[1], match[2].replace("_", " ")
        found = files_in(place)
        files += len(found)
        if state in groups:  # "adj" is none
            labelled += [LabelledImage(path, state, noun, groups[state]) for path in found]
    if not labelled:
        raise NoticeError(
            f"{folder} has no folder of a state and a noun, such as 'rusty bottle', with files: "
            "name the folder `images` of the unpacked release_dataset.zip."
        )
    return labelled, [
        ("images: files", files),
        ("images: of a colour, shape or texture", len(labelled)),
    ]
