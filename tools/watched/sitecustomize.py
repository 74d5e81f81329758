"""Logs which files of the book the Python processes of a chapter read.

Python imports a module of this name at startup if its folder is on PYTHONPATH, which holds for the
kernel of a chapter and for all processes that it starts.
"""

import os
import sys

ROOT = os.path.join(os.environ["BOOK_ROOT"], "")
NOT_THE_BOOK = tuple(
    os.path.join(folder, "") for folder in (sys.prefix, f"{ROOT}_build", f"{ROOT}.git")
)
LOG = os.open(os.environ["BOOK_OPENED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
noted = set()


def note(event: str, arguments: tuple) -> None:
    """Log, once, the path of a file of the book that is opened for reading."""
    if event != "open":
        return
    path, mode, flags = arguments
    # Calls without a mode are os.open, with which shutil walks folders; numbers are open files.
    if mode is None or isinstance(path, int) or flags & (os.O_WRONLY | os.O_RDWR):
        return
    path = os.path.abspath(os.fsdecode(path))
    if path not in noted and path.startswith(ROOT) and not path.startswith(NOT_THE_BOOK):
        noted.add(path)
        os.write(LOG, os.fsencode(f"{path.removeprefix(ROOT)}\n"))


sys.addaudithook(note)
