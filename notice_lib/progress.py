"""Progress bars that leave nothing behind."""

import os

from tqdm.auto import tqdm


def bar(iterable=None, **settings) -> tqdm:
    """tqdm's bar; the environment variable TQDM_DISABLE hides it.

    tqdm itself heeds that variable in a terminal, but not in a notebook.
    """
    return tqdm(iterable, leave=False, disable="TQDM_DISABLE" in os.environ, **settings)
