"""Build the book into _build/html, and execute only the chapters that can have changed.

Chapters are executed in parallel, one process per core, and the longest start first, by the
core-seconds in book/seconds.csv. Sphinx then reads the executed chapters from jupyter-cache and
runs nothing. The measured times are written to _build/seconds.csv; after a cold build on a quiet
machine, this file can replace book/seconds.csv.

    python tools/build_book.py [FOLDER]    # the book in this folder, or in another one
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import yaml
from sqlalchemy.exc import SQLAlchemyError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.chapters import Chapter, executed_chapters, is_current, keep  # noqa: E402

WORKER = ROOT / "tools" / "execute_chapter.py"
UNKNOWN_SECONDS = 30  # assumed for a chapter that is not in the table yet
ENOUGH_MIB = 100  # size of a built book and of what Sphinx keeps for the next build


@dataclass
class Run:
    """A chapter that a process is executing."""

    chapter: Chapter
    process: subprocess.Popen
    started: float = field(default_factory=time.time)


@dataclass
class Progress:
    """How many chapters are done; `expected` holds the core-seconds of each in the table."""

    expected: dict[str, float]
    started: float = field(default_factory=time.time)
    ended: list[str] = field(default_factory=list)

    def after(self, running: list[Run]) -> str:
        """Say how many chapters have ended, and how much time is left at the pace so far."""
        now = time.time()
        done = sum(self.expected[name] for name in self.ended)
        done += sum(min(self.expected[run.chapter.name], now - run.started) for run in running)
        rest = sum(self.expected.values()) - done
        left = f", {minutes((now - self.started) * rest / done)} left" if rest else ""
        return f"{len(self.ended)} of {len(self.expected)}{left}"


def minutes(seconds: float) -> str:
    """Format seconds as minutes, e.g. 75.3 as "1 min 15 s"."""
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest:02d} s"


def say(text: str) -> None:
    print(text, flush=True)


def read_seconds(root: Path) -> dict[str, float]:
    """Read the committed core-seconds of each chapter by its name."""
    with open(root / "book" / "seconds.csv", encoding="utf-8", newline="") as file:
        return {row["chapter"]: float(row["seconds"]) for row in csv.DictReader(file)}


def start(chapter: Chapter, timeout: int) -> Run:
    """Start a process that executes a chapter into its emptied folder.

    The process gets its own session: Ctrl-C reaches only this process, which then ends the others.
    """
    shutil.rmtree(chapter.folder, ignore_errors=True)
    chapter.folder.mkdir(parents=True)
    command = [sys.executable, WORKER, chapter.root, chapter.source, chapter.folder, str(timeout)]
    with open(chapter.folder / "log.txt", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    return Run(chapter, process)


def wait(running: list[Run]) -> tuple[Run, float]:
    """Wait for the first process to end; return it and its core-seconds, kernel included."""
    pid, status, usage = os.wait4(-1, 0)
    (ended,) = [run for run in running if run.process.pid == pid]
    ended.process.returncode = os.waitstatus_to_exitcode(status)
    return ended, usage.ru_utime + usage.ru_stime


def stop(running: list[Run]) -> None:
    """End the processes, each of which ends its kernel first."""
    for run in running:
        run.process.terminate()
    for run in running:
        run.process.wait()


def failure(run: Run) -> str:
    """Say what went wrong in a chapter: the cell and its message, or the last line of the log."""
    folder = run.chapter.folder
    log = folder / "log.txt"
    if (folder / "error.txt").exists():
        message = (folder / "error.txt").read_text(encoding="utf-8")
    else:
        last = log.read_text(encoding="utf-8").splitlines()[-1:]
        message = "\n".join([f"Its process ended with status {run.process.returncode}", *last, ""])
    return f"{message}The whole log: {log.relative_to(run.chapter.root)}"


def execute(chapters: list[Chapter], table: dict[str, float], cores: int, timeout: int) -> bool:
    """Execute chapters in parallel, the longest first; return whether all succeeded."""
    expected = {chapter.name: table.get(chapter.name, UNKNOWN_SECONDS) for chapter in chapters}
    progress, running, fine = Progress(expected), [], True
    waiting = sorted(chapters, key=lambda chapter: expected[chapter.name])
    try:
        while waiting or running:
            while waiting and len(running) < cores:
                running.append(start(waiting.pop(), timeout))
            ended, seconds = wait(running)
            running.remove(ended)
            fine = finish(ended, seconds, progress, running) and fine
    finally:
        stop(running)
    return fine


def finish(ended: Run, seconds: float, progress: Progress, running: list[Run]) -> bool:
    """Store what a chapter computed and print its line; return whether it succeeded."""
    chapter, usual = ended.chapter, progress.expected[ended.chapter.name]
    progress.ended.append(chapter.name)
    after = progress.after(running)
    if ended.process.returncode:
        say(f"{chapter.name}: FAILED after {time.time() - ended.started:.0f} s, {after}")
        say(failure(ended))
        return False
    notebook = chapter.folder / "notebook.ipynb"
    keep(chapter, nbformat.read(notebook, 4), seconds, ended.started)
    notebook.unlink()
    slow = ", more than twice as long" if seconds > 2 * usual else ""
    say(f"{chapter.name}: {seconds:.0f} s (usually {usual:.0f} s{slow}), {after}")
    return True


def write_seconds(chapters: list[Chapter], path: Path) -> None:
    """Write the core-seconds that each chapter took when it last ran."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["chapter", "seconds"])
        writer.writerows([chapter.name, round(chapter.seconds())] for chapter in chapters)


def make_pages(root: Path, chapters: list[Chapter]) -> bool:
    """Let Sphinx make the pages; return whether it succeeded without a warning.

    Sphinx writes index.html last, so it is removed first: a book without it is half-built and is
    made again from the beginning. Sphinx reads a page again if its chapter has run since.
    """
    build = root / "_build"
    index, doctrees = build / "html" / "index.html", build / ".doctrees"
    if not index.exists():
        shutil.rmtree(doctrees, ignore_errors=True)
    index.unlink(missing_ok=True)
    for chapter in chapters:
        doctree = doctrees / f"{chapter.page}.doctree"
        if doctree.exists() and doctree.stat().st_mtime < chapter.record.stat().st_mtime:
            doctree.unlink()
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    command = [jupyter_book, "build", root, "-q", "-W", "-n", "--keep-going"]
    made = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    # This keeps Sphinx's warnings and errors, but not the traceback of Jupyter Book's own code.
    warnings = made.stderr.partition("Traceback (most recent call last)")[0].strip()
    if warnings:
        say(warnings)
    if made.returncode:
        index.unlink(missing_ok=True)
    return made.returncode == 0


def build(root: Path) -> bool:
    """Build the book; return False if a cell failed or Sphinx gave a warning."""
    (root / "_build").mkdir(exist_ok=True)
    chapters = executed_chapters(root)
    old = [chapter for chapter in chapters if not is_current(chapter)]
    if len(old) == len(chapters):
        shutil.rmtree(root / "_build" / "html", ignore_errors=True)
    cores = os.cpu_count() or 1
    say(f"{len(old)} of {len(chapters)} chapters to execute, {cores} at a time")
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    if not execute(old, read_seconds(root), cores, settings["execute"]["timeout"]):
        return False
    write_seconds(chapters, root / "_build" / "seconds.csv")
    say("Making the pages ...")
    return make_pages(root, chapters)


def main(root: Path) -> int:
    """Build the book, say how it went, and return the exit status."""
    for one in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) == signal.SIG_DFL:
            signal.signal(one, signal.default_int_handler)  # leaves no process behind, like Ctrl-C
    started = time.monotonic()
    try:
        if build(root):
            index = root / "_build" / "html" / "index.html"
            say(f"The book: {index} (built in {minutes(time.monotonic() - started)})")
            return 0
        reason = "see above"
    except KeyboardInterrupt:
        say("Interrupted: the book is not built. Finished chapters are kept, so run it again.")
        return 130
    # jupyter-cache turns any error of its database into a RuntimeError.
    except (OSError, RuntimeError, SQLAlchemyError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    say(f"The book is not built: {reason}. Finished chapters are kept, so run it again.")
    free = shutil.disk_usage(root / "_build").free / 2**20
    if free < ENOUGH_MIB:
        say(f"The disk is full ({free:.0f} MiB left): free {ENOUGH_MIB} MiB first.")
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
