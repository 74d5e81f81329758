"""The images of SVO-Probes in a folder, by whatever names they are stored.

The images are not published, so everybody has stored them under names of their own. Looked for are,
in the folder and in folders within it, with the usual endings of images or none:

- the address in a JSON file of the image's name beside it, as img2dataset leaves it. Such an image
  is known by that address alone, because img2dataset names files by rows of its table;
- image ids, such as `123.jpg`;
- image ids with zeros before them, whose digits may be spread over folders: `000123.jpg`,
  `000/000/123.jpg`;
- image ids with zeros before them in numbered folders: `00001/000000123.jpg`;
- the SHA-256 or the MD5 of an image's address, in hexadecimal;
- the last part of an address, with its own ending or another, where no two addresses of the table
  end alike.

A folder has names of one of these kinds: the one by which most images are found.
"""

import hashlib
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ..errors import NoticeError
from ..pairs.images import ENDINGS

Key = tuple[str, str]
"""An image's id, which may be "", and its address."""


def find_images(folder: Path, keys: list[Key], addresses: Iterable[str]) -> dict[Key, Path]:
    """{key: file} of the images that a folder has.

    Args:
        keys: of the images that are wanted.
        addresses: all of the table, so that a name does not stand for two of them.

    Raises:
        NoticeError: there is no such folder, or two files have the name of one image.
    """
    files = _files(folder)
    images = [path for path in files if path.suffix.lower() in ("", *ENDINGS)]
    beside = {path: address for path in images if (address := _address_beside(path))}
    by_address = _index(beside, beside.__getitem__)
    images = [path for path in images if path not in beside]
    by_name = _index((path for path in files if path not in beside), lambda path: path.name)
    by_stem = _index(images, lambda path: path.stem)
    by_number = _index(images, lambda path: _number(path.relative_to(folder).with_suffix("").parts))
    by_own_number = _index(images, _own_number)
    ends = Counter(map(_end, addresses))
    stems = Counter(PurePosixPath(end).stem for end in ends.elements())

    def end(key: Key) -> str:
        return _end(key[1]) if ends[_end(key[1])] == 1 else ""

    def stem(key: Key) -> str:
        name = PurePosixPath(_end(key[1])).stem
        return name if stems[name] == 1 else ""

    kinds: tuple[tuple[dict[str, list[Path]], Callable[[Key], str]], ...] = (
        (by_address, lambda key: _nfc(key[1])),
        (by_stem, lambda key: _nfc(key[0])),
        (by_number, lambda key: _number((key[0],))),
        (by_own_number, lambda key: _number((key[0],))),
        (by_stem, lambda key: _sha256(key[1])),
        (by_stem, lambda key: _md5(key[1])),
        (by_name, end),
        (by_stem, stem),
    )
    found = max(
        ({key: index[name] for key in keys if (name := name_of(key)) in index}
         for index, name_of in kinds),
        key=len,
    )  # fmt: skip
    for one, *others in found.values():
        if others:
            raise NoticeError(f"{one} and {others[0]} have one name. Move one of them away.")
    return {key: paths[0] for key, paths in found.items()}


def describe_names(folder: Path, key: Key) -> str:
    """Sentences on what was looked for, for one image, and on what a folder has instead."""
    name, address = key
    names = [
        f"{name}.jpg, {name.zfill(12)}.jpg" if name else "(the row has no image id)",
        f"{_sha256(address)}.jpg, {_md5(address)}.jpg",
        _end(address) or "(the address names no file)",
        f"any name beside a JSON file with the url {address}",
    ]
    there = [path.relative_to(folder).as_posix() for path in _files(folder)[:3]]
    return (
        f"For the image {name or address} these names were looked for, with any usual ending and "
        f"in all folders: {'; '.join(names)}. {folder} has, for example, "
        f"{', '.join(there) or 'no files'}."
    )


def _files(folder: Path) -> list[Path]:
    """All files below a folder, without those that systems and archives hide there."""
    if not folder.is_dir():
        raise NoticeError(f"There is no folder {folder}. Name the one that holds the images.")
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    ]


def _index(files: Iterable[Path], name_of: Callable[[Path], str]) -> dict[str, list[Path]]:
    """{name: the files that have it}, without files of no name."""
    index = defaultdict(list)
    for path in files:
        if name := _nfc(name_of(path)):
            index[name].append(path)
    return dict(index)


def _address_beside(image: Path) -> str:
    """The address in the JSON file of an image's name; "" where there is none."""
    try:
        told = json.loads(image.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    address = told.get("url") if isinstance(told, dict) else None
    return address.strip() if isinstance(address, str) else ""


def _own_number(path: Path) -> str:
    """The number that a file's name writes alone; "" where it may be the end of a longer one.

    Digits of one number that are spread over folders come in equal parts, or fewer in the name.
    """
    folder = path.parent.name
    spread = folder.isdecimal() and len(path.stem) <= len(folder)
    return "" if spread else _number((path.stem,))


def _number(parts: tuple[str, ...]) -> str:
    """The number that the last parts of a path write, without zeros before it; "" for none."""
    digits = ""
    for part in reversed(parts):
        if not part.isdecimal():
            break
        digits = part + digits
    return digits.lstrip("0") or digits[-1:]


def _end(address: str) -> str:
    """The name of the file in an address; "" where it has none."""
    try:
        return _nfc(unquote(urlsplit(address).path).rsplit("/", 1)[-1])
    except ValueError:
        return ""


def _sha256(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


def _md5(address: str) -> str:
    return hashlib.md5(address.encode(), usedforsecurity=False).hexdigest()


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
