"""The executed chapters of the book: what each one used, and thus which ones have to run again.

Sphinx looks for executed notebooks in jupyter-cache, which compares only their code. Each chapter
therefore also has a folder _build/chapters/NAME with record.json, which holds that key, the
core-seconds it took, and a hash of every file of the book that it opened. The record is written
last, so an interrupted chapter has none.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from importlib.util import source_from_cache
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from myst_nb.core.read import is_myst_markdown_notebook, myst_nb_reader_plugin
from nbformat import NotebookNode
from sphinx_external_toc.parsing import parse_toc_yaml


@dataclass(frozen=True)
class Chapter:
    """A page with code, named as in _toc.yml: "book/09_engine"."""

    root: Path
    page: str

    @property
    def name(self) -> str:
        return Path(self.page).name

    @property
    def source(self) -> Path:
        return self.root / f"{self.page}.md"

    @property
    def folder(self) -> Path:
        return self.root / "_build" / "chapters" / self.name

    @property
    def record(self) -> Path:
        return self.folder / "record.json"

    def seconds(self) -> float:
        """Return the core-seconds that the chapter took when it last ran."""
        return json.loads(self.record.read_text(encoding="utf-8"))["seconds"]


def executed_chapters(root: Path) -> list[Chapter]:
    """Return the pages of _toc.yml that are notebooks, in its order."""
    chapters = [Chapter(root, page) for page in parse_toc_yaml(root / "_toc.yml")]
    return [
        chapter
        for chapter in chapters
        if is_myst_markdown_notebook(chapter.source.read_text(encoding="utf-8"))
    ]


def open_cache(root: Path) -> JupyterCacheAbstract:
    """Open the cache that Sphinx reads."""
    return get_cache(root / "_build" / ".jupyter_cache")


def key(cache: JupyterCacheAbstract, notebook: NotebookNode) -> str:
    """Return the hash of a notebook's code and kernel that jupyter-cache compares."""
    return cache.create_hashed_notebook(notebook)[1]


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and bytes of the files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def last_change(path: Path) -> float:
    """Return when a file, or a folder or a file in it, last changed, in seconds since 1970."""
    paths = [path, *path.iterdir()] if path.is_dir() else [path]
    return max(one.stat().st_mtime if one.exists() else 0 for one in paths)


def used_paths(chapter: Chapter) -> list[Path]:
    """Return what a chapter depends on besides its own code, below the root of the book.

    A module counts by itself. Any other file counts with everything in its folder, because Python
    does not notice some reads, such as those of weights, which Rust code opens.
    """
    used = {Path("constraints.txt")}
    for line in (chapter.folder / "opened.txt").read_text(encoding="utf-8").splitlines():
        path = Path(line)
        if path.suffix == ".pyc":
            path = Path(source_from_cache(line))
        used.add(path if path.suffix == ".py" else path.parent)
    return sorted(used)


def keep(chapter: Chapter, notebook: NotebookNode, seconds: float, started: float) -> None:
    """Store an executed notebook in Sphinx's cache and record what it used.

    A file that changed after the chapter had `started` gets no hash. It then matches nothing, and
    the chapter runs again next time.
    """
    cache = open_cache(chapter.root)
    data = {"execution_seconds": seconds}
    bundle = CacheBundleIn(notebook, str(chapter.source), data=data)
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    used = {}
    for name in used_paths(chapter):
        path = chapter.root / name
        used[str(name)] = fingerprint(path) if last_change(path) < started else None
    record = {
        "key": key(cache, notebook),
        "seconds": round(seconds, 1),
        "python": sys.version,
        "used": used,
    }
    unfinished = chapter.record.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(record, indent=1), encoding="utf-8")
    unfinished.replace(chapter.record)


def is_current(chapter: Chapter) -> bool:
    """Return whether running the chapter would give the notebook in Sphinx's cache."""
    if not chapter.record.exists():
        return False
    record = json.loads(chapter.record.read_text(encoding="utf-8"))
    cache = open_cache(chapter.root)
    cached = [one.hashkey for one in cache.list_cache_records()]
    return (
        record["key"] == key(cache, myst_nb_reader_plugin(str(chapter.source)))
        and record["key"] in cached
        and record["python"] == sys.version
        and all(fingerprint(chapter.root / path) == value for path, value in record["used"].items())
    )
