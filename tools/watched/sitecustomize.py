"""Notes which files of the book the Python processes of a chapter open to read.

Python imports a module of this name when it starts, if the module's folder is on PYTHONPATH, as it
is for a chapter's kernel and so for whatever that starts.
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
    """Write the path of a file that is opened to read, once, if it is one of the book's."""
    if event != "open":
        return
    path, mode, flags = arguments
    # Without a mode it is os.open, by which shutil goes through folders; a number is an open file.
    if mode is None or isinstance(path, int) or flags & (os.O_WRONLY | os.O_RDWR):
        return
    path = os.path.abspath(os.fsdecode(path))
    if path not in noted and path.startswith(ROOT) and not path.startswith(NOT_THE_BOOK):
        noted.add(path)
        os.write(LOG, os.fsencode(f"{path.removeprefix(ROOT)}\n"))


sys.addaudithook(note)
