"""The book's executed chapters: what each used when it ran, and so which have to run again.

jupyter-cache, where Sphinx looks for executed notebooks, compares only their code. Beside it, each
chapter has a folder _build/chapters/NAME with record.json: that key, the core-seconds it took, and
a hash of every file of the book that it opened. The record is written last of all, so a chapter
that was interrupted has none.
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
    """A page with code, named as in _toc.yml: "book/05_engine"."""

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
        """Core-seconds that it took when it last ran."""
        return json.loads(self.record.read_text(encoding="utf-8"))["seconds"]


def executed_chapters(root: Path) -> list[Chapter]:
    """Those pages of _toc.yml that are notebooks, in its order."""
    chapters = [Chapter(root, page) for page in parse_toc_yaml(root / "_toc.yml")]
    return [
        chapter
        for chapter in chapters
        if is_myst_markdown_notebook(chapter.source.read_text(encoding="utf-8"))
    ]


def open_cache(root: Path) -> JupyterCacheAbstract:
    """The cache that Sphinx reads."""
    return get_cache(root / "_build" / ".jupyter_cache")


def key(cache: JupyterCacheAbstract, notebook: NotebookNode) -> str:
    """What jupyter-cache compares: a hash of the notebook's code and kernel."""
    return cache.create_hashed_notebook(notebook)[1]


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of the names and bytes of the files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def last_change(path: Path) -> float:
    """When a file, or a folder or a file in it, was last changed, in seconds since 1970."""
    paths = [path, *path.iterdir()] if path.is_dir() else [path]
    return max(one.stat().st_mtime if one.exists() else 0 for one in paths)


def used_paths(chapter: Chapter) -> list[Path]:
    """What a chapter depends on besides its own code, below the book's root.

    A module counts by itself. Any other file counts with all that lies in its folder, because
    weights, for one, are opened by Rust, where Python notices nothing.
    """
    used = {Path("constraints.txt")}
    for line in (chapter.folder / "opened.txt").read_text(encoding="utf-8").splitlines():
        path = Path(line)
        if path.suffix == ".pyc":
            path = Path(source_from_cache(line))
        used.add(path if path.suffix == ".py" else path.parent)
    return sorted(used)


def keep(chapter: Chapter, notebook: NotebookNode, seconds: float, started: float) -> None:
    """Put an executed notebook into Sphinx's cache and record what it used.

    What changed after the chapter had `started` has no hash: it matches nothing, so that the
    chapter runs again next time.
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
    """Whether the executed notebook in Sphinx's cache is what running the chapter would give."""
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
