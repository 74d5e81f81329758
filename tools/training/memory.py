"""The C library's memory."""

import ctypes


def keep():
    """Ask glibc to keep freed memory: giving it back after every step costs a third of the time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: slower, nothing else
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    for option, size in ((trim_threshold, 2**31 - 1), (top_pad, 2**28), (mmap_threshold, 2**30)):
        mallopt(option, size)
