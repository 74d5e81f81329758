"""Building the book: what is executed, what is not, and what remains when something goes wrong."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from myst_nb.core.read import myst_nb_reader_plugin

from tools import build_book
from tools.chapters import Chapter, executed_chapters, is_current, keep

ROOT = Path(__file__).resolve().parents[1]
MOST_SECONDS = 620
CONFIG = """
title: Two pages
only_build_toc_files: true
execute: {execute_notebooks: cache, timeout: 60, raise_on_error: true}
"""
TOC = """
format: jb-book
root: book/one
chapters:
  - file: book/two
  - file: book/text
"""
PAGE = """---
file_format: mystnb
kernelspec: {{name: python3, display_name: Python 3}}
---

# Page {name}

```{{code-cell}} ipython3
with open("../runs.log", "a") as log:
    log.write("{name}\\n")
{code}
```
"""
ONE = "import os\nimport helper\nprint(helper.WORD, os.environ['OMP_NUM_THREADS'], 'thread')"
TWO = "from pathlib import Path\nprint(Path('../data/words/hello.txt').read_text())"


def write_page(root: Path, name: str, code: str) -> None:
    (root / "book" / f"{name}.md").write_text(PAGE.format(name=name, code=code))


def write_book(root: Path) -> Path:
    """Two pages with code, one without; page one imports a module, page two reads a file."""
    (root / "book").mkdir()
    (root / "data" / "words").mkdir(parents=True)
    (root / "_config.yml").write_text(CONFIG)
    (root / "_toc.yml").write_text(TOC)
    (root / "constraints.txt").write_text("torch==2\n")
    (root / "book" / "seconds.csv").write_text("chapter,seconds\none,40\ntwo,0.01\n")
    (root / "book" / "text.md").write_text("# Only text\n")
    (root / "book" / "helper.py").write_text("WORD = 'goat'\n")
    (root / "book" / "unused.py").write_text("")
    (root / "data" / "words" / "hello.txt").write_text("dog")
    write_page(root, "one", ONE)
    write_page(root, "two", TWO)
    return root


def command(root: Path) -> list:
    return [sys.executable, ROOT / "tools" / "build_book.py", root]


def run(root: Path) -> subprocess.CompletedProcess:
    """Build; the log of runs starts anew."""
    (root / "runs.log").unlink(missing_ok=True)
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command(root), text=True, env=settings, **both)


def runs(root: Path) -> list[str]:
    """The pages that were executed since the last call of `run`, by whomever."""
    log = root / "runs.log"
    return sorted(log.read_text().split()) if log.exists() else []


def index(root: Path) -> Path:
    return root / "_build" / "html" / "index.html"


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """A book that was built once, and what that said."""
    root = write_book(tmp_path_factory.mktemp("cold").resolve())
    return SimpleNamespace(root=root, built=run(root), runs=runs(root))


@pytest.fixture
def book(cold, tmp_path):
    """A copy of the built book, to change."""
    return shutil.copytree(cold.root, tmp_path.resolve() / "book")


def test_the_table_lists_the_executed_chapters_and_keeps_to_the_goal():
    table = build_book.read_seconds(ROOT)
    assert list(table) == [chapter.name for chapter in executed_chapters(ROOT)]
    assert sum(table.values()) <= MOST_SECONDS


def test_a_cold_build_executes_every_page_once(cold):
    assert cold.built.returncode == 0, cold.built.stdout
    assert cold.runs == ["one", "two"]
    html = cold.root / "_build" / "html"
    assert "goat 1 thread" in (html / "book" / "one.html").read_text()
    assert "<span></span>dog" in (html / "book" / "two.html").read_text()
    assert index(cold.root).exists()


def test_a_cold_build_says_a_line_a_chapter_and_nothing_else(cold):
    first, *ended, pages, last = cold.built.stdout.splitlines()
    assert first.startswith("2 of 2 chapters to execute, ")
    assert pages == "Making the pages ..." and last.startswith(f"The book: {index(cold.root)} (")
    one, two = sorted(ended)
    assert one.startswith("one: ") and " s (usually 40 s), " in one
    assert two.startswith("two: ") and " s (usually 0 s, more than twice as long), " in two
    assert ", 1 of 2" in ended[0] and ended[1].endswith(", 2 of 2")


def test_what_was_measured_can_become_the_table(cold):
    lines = (cold.root / "_build" / "seconds.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["chapter", "one", "two"]
    assert all(0 <= int(line.split(",")[1]) <= 40 for line in lines[1:])


def test_a_warm_build_executes_nothing_or_the_page_that_changed(book):
    page = book / "_build" / "html" / "book" / "one.html"
    built = run(book)
    assert built.returncode == 0, built.stdout
    assert built.stdout.startswith("0 of 2 chapters to execute") and runs(book) == []
    assert "goat 1 thread" in page.read_text()
    (book / "book" / "helper.py").write_text("WORD = 'sheep'\n")
    built = run(book)
    assert built.returncode == 0, built.stdout
    assert built.stdout.startswith("1 of 2 chapters to execute") and runs(book) == ["one"]
    assert "sheep 1 thread" in page.read_text()


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("book/helper.py", "WORD = 'sheep'\n", ["one"]),
        ("data/words/hello.txt", "cat", ["two"]),
        ("data/words/more.txt", "beside a file that was read", ["two"]),
        ("constraints.txt", "torch==3\n", ["one", "two"]),
        ("book/two.md", PAGE.format(name="two", code="print(1)"), ["two"]),
        ("book/two.md", PAGE.format(name="two", code=TWO) + "\nMore text.\n", []),
        ("book/unused.py", "WORD = 'sheep'\n", []),
    ],
)
def test_a_page_is_executed_again_if_something_that_it_used_changed(book, path, text, expected):
    (book / path).write_text(text)
    chapters = executed_chapters(book)
    assert [chapter.name for chapter in chapters if not is_current(chapter)] == expected


def test_a_file_that_changed_while_a_page_ran_does_not_count_as_what_it_read(book):
    chapter = Chapter(book, "book/two")
    notebook = myst_nb_reader_plugin(str(chapter.source))
    keep(chapter, notebook, seconds=1, started=time.time() + 1)
    assert is_current(chapter)
    keep(chapter, notebook, seconds=1, started=time.time() - 3600)
    assert not is_current(chapter)


def test_a_failing_cell_is_named_with_its_message(book):
    write_page(book, "two", "raise ValueError('no head is left')\nprint('never')")
    (book / "book" / "helper.py").write_text("WORD = 'sheep'\n")
    built = run(book)
    assert built.returncode == 1
    assert "two: FAILED after " in built.stdout
    cell = built.stdout.partition("The cell at book/two.md:8, its code until line 3:\n")[2]
    assert cell.startswith('    with open("../runs.log", "a") as log:\n')
    last = "    raise ValueError('no head is left')\nValueError: no head is left\nThe whole log: "
    assert last in cell and "Traceback" not in cell
    log = book / "_build" / "chapters" / "two" / "log.txt"
    assert str(log.relative_to(book)) in cell and "ValueError" in log.read_text()
    # The other page is kept, so that it is not executed again.
    assert is_current(Chapter(book, "book/one")) and not is_current(Chapter(book, "book/two"))


def test_a_kernel_that_dies_is_named_with_its_cell(book):
    write_page(book, "two", "import os\nos._exit(1)")
    built = run(book)
    assert built.returncode == 1
    assert "    os._exit(1)\nKernel died\n" in built.stdout


def test_an_interrupted_build_leaves_nothing_that_counts_as_built(tmp_path):
    root = write_book(tmp_path.resolve())
    write_page(root, "two", "import os, time\nlog = open('../pid', 'w')\n"
               "print(os.getpid(), file=log, flush=True)\ntime.sleep(60)")  # fmt: skip
    one, two = Chapter(root, "book/one"), Chapter(root, "book/two")

    def interruptible():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipe = {"stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command(root), preexec_fn=interruptible, **pipe)
    wait_until(lambda: one.record.exists() and (root / "pid").exists())
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("Interrupted: the book is not built.")
    assert is_current(one) and not is_current(two) and not index(root).exists()
    wait_until(lambda: not Path("/proc", (root / "pid").read_text().strip()).exists())

    write_page(root, "two", TWO)
    assert run(root).returncode == 0
    assert runs(root) == ["two"] and index(root).exists()


def wait_until(true, seconds: float = 30) -> None:
    """Wait for a condition; fail if it takes too long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_pages_that_were_not_finished_are_made_again(book):
    assert run(book).returncode == 0  # Sphinx now knows the copy.
    (book / "book" / "text.md").write_text("# Only text\n\n{doc}`nowhere`\n")
    built = run(book)
    assert built.returncode == 1 and "nowhere" in built.stdout
    assert not index(book).exists()
    page = book / "_build" / "html" / "book" / "two.html"
    page.write_text("half a page")
    (book / "book" / "text.md").write_text("# Only text\n")
    assert run(book).returncode == 0
    assert runs(book) == []
    assert "<span></span>dog" in page.read_text()


def test_a_full_disk_is_said(book, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_book, "build", full)
    monkeypatch.setattr(build_book.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert build_book.main(book) == 1
    said = capsys.readouterr().out
    assert "The book is not built: OSError: [Errno 28] No space left on device." in said
    assert "The disk is full (1 MiB left): free 100 MiB first." in said


def test_a_record_that_could_not_be_written_is_no_record(book, monkeypatch):
    chapter = Chapter(book, "book/two")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    build_book.start(chapter, timeout=60).process.wait()
    notebook = myst_nb_reader_plugin(str(chapter.source))
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        keep(chapter, notebook, seconds=1, started=time.time())
    assert not is_current(chapter)


def test_the_longest_are_started_first_and_no_more_than_there_are_cores(monkeypatch):
    table, started, at_once = {"a": 5, "b": 50, "c": 20}, [], []

    def start(chapter, timeout):
        started.append(chapter.name)
        return build_book.Run(chapter, SimpleNamespace())

    def wait(running):
        at_once.append(len(running))
        return running[0], 1.0

    monkeypatch.setattr(build_book, "start", start)
    monkeypatch.setattr(build_book, "wait", wait)
    monkeypatch.setattr(build_book, "finish", lambda *_: True)
    chapters = [Chapter(ROOT, f"book/{name}") for name in ("a", "b", "c", "new")]
    assert build_book.execute(chapters, table, 2, 60)
    assert started == ["b", "new", "c", "a"]
    assert at_once == [2, 2, 2, 1]


def test_the_time_left_follows_the_pace_and_the_table(monkeypatch):
    monkeypatch.setattr(build_book.time, "time", lambda: 130.0)
    progress = build_book.Progress({"a": 20, "b": 40, "c": 60}, started=100.0, ended=["a"])
    running = [build_book.Run(Chapter(ROOT, "book/b"), None, started=110.0)]
    # 20 and 20 of 120 seconds are done in 30: the other 80 take 60.
    assert progress.after(running) == "1 of 3, 1 min 00 s left"
