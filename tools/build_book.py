"""Build the book into _build/html, executing only chapters of which something changed.

A process a core executes a chapter each, the longest first by the core-seconds in book/seconds.csv.
Sphinx then reads the executed chapters from jupyter-cache and runs nothing. What was measured goes
to _build/seconds.csv: on a quiet machine, after a cold build, that is the new book/seconds.csv.

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
UNKNOWN_SECONDS = 30  # of a chapter that is not in the table yet
ENOUGH_MIB = 100  # a built book and what Sphinx keeps of it


@dataclass
class Run:
    """A chapter that a process is executing."""

    chapter: Chapter
    process: subprocess.Popen
    started: float = field(default_factory=time.time)


@dataclass
class Progress:
    """How far the chapters are: expected holds each one's core-seconds in the table."""

    expected: dict[str, float]
    started: float = field(default_factory=time.time)
    ended: list[str] = field(default_factory=list)

    def after(self, running: list[Run]) -> str:
        """How many have ended, and the time left at the pace, by the table, until now."""
        now = time.time()
        done = sum(self.expected[name] for name in self.ended)
        done += sum(min(self.expected[run.chapter.name], now - run.started) for run in running)
        rest = sum(self.expected.values()) - done
        left = f", {minutes((now - self.started) * rest / done)} left" if rest else ""
        return f"{len(self.ended)} of {len(self.expected)}{left}"


def minutes(seconds: float) -> str:
    """75.3 as "1 min 15 s"."""
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest:02d} s"


def say(text: str) -> None:
    print(text, flush=True)


def read_seconds(root: Path) -> dict[str, float]:
    """The committed core-seconds of each chapter by its name."""
    with open(root / "book" / "seconds.csv", encoding="utf-8", newline="") as file:
        return {row["chapter"]: float(row["seconds"]) for row in csv.DictReader(file)}


def start(chapter: Chapter, timeout: int) -> Run:
    """Execute a chapter in a process of its own, into its emptied folder.

    The process has its own session, so that Ctrl-C reaches this one alone, which then ends it.
    """
    shutil.rmtree(chapter.folder, ignore_errors=True)
    chapter.folder.mkdir(parents=True)
    command = [sys.executable, WORKER, chapter.root, chapter.source, chapter.folder, str(timeout)]
    with open(chapter.folder / "log.txt", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    return Run(chapter, process)


def wait(running: list[Run]) -> tuple[Run, float]:
    """The first of them to end, and the core-seconds that it and its kernel took."""
    pid, status, usage = os.wait4(-1, 0)
    (ended,) = [run for run in running if run.process.pid == pid]
    ended.process.returncode = os.waitstatus_to_exitcode(status)
    return ended, usage.ru_utime + usage.ru_stime


def stop(running: list[Run]) -> None:
    """End processes; each ends its kernel first."""
    for run in running:
        run.process.terminate()
    for run in running:
        run.process.wait()


def failure(run: Run) -> str:
    """What went wrong in a chapter: the cell and its message, or the last words of the process."""
    folder = run.chapter.folder
    log = folder / "log.txt"
    if (folder / "error.txt").exists():
        message = (folder / "error.txt").read_text(encoding="utf-8")
    else:
        last = log.read_text(encoding="utf-8").splitlines()[-1:]
        message = "\n".join([f"Its process ended with status {run.process.returncode}", *last, ""])
    return f"{message}All that it said: {log.relative_to(run.chapter.root)}"


def execute(chapters: list[Chapter], table: dict[str, float], cores: int, timeout: int) -> bool:
    """Execute chapters in parallel, the longest first; True if all went well."""
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
    """Keep what a chapter computed and print its line; False if it failed."""
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
    """Write what each chapter took when it last ran."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["chapter", "seconds"])
        writer.writerows([chapter.name, round(chapter.seconds())] for chapter in chapters)


def make_pages(root: Path, chapters: list[Chapter]) -> bool:
    """Let Sphinx make the pages; True if it had nothing to warn of.

    It removes index.html first, which Sphinx writes last: a book without one is half-built, and is
    made from the beginning. A page that Sphinx has read is read again if its chapter ran since.
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
    # Sphinx's warnings and errors; not where Jupyter Book's own code was at that moment.
    warnings = made.stderr.partition("Traceback (most recent call last)")[0].strip()
    if warnings:
        say(warnings)
    if made.returncode:
        index.unlink(missing_ok=True)
    return made.returncode == 0


def build(root: Path) -> bool:
    """Build the book; False if a cell failed or Sphinx warned."""
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
    """Build the book and say how it went; returns the exit status."""
    for one in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) == signal.SIG_DFL:
            signal.signal(one, signal.default_int_handler)  # as after Ctrl-C, no process is left
    started = time.monotonic()
    try:
        if build(root):
            index = root / "_build" / "html" / "index.html"
            say(f"The book: {index} (built in {minutes(time.monotonic() - started)})")
            return 0
        reason = "see above"
    except KeyboardInterrupt:
        say("Stopped, the book is not built. Chapters that had ended are kept: run it again.")
        return 130
    # jupyter-cache turns any error of its database into a RuntimeError.
    except (OSError, RuntimeError, SQLAlchemyError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    say(f"The book is not built: {reason}. Chapters that did not fail are kept: run it again.")
    free = shutil.disk_usage(root / "_build").free / 2**20
    if free < ENOUGH_MIB:
        say(f"The disk is full ({free:.0f} MiB left): make {ENOUGH_MIB} MiB free first.")
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
