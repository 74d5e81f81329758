"""Progress bars that disappear when they are done."""

import os

from tqdm.auto import tqdm


def bar(iterable=None, **settings) -> tqdm:
    """Return tqdm's progress bar, which the environment variable TQDM_DISABLE hides.

    tqdm itself obeys that variable in a terminal but not in a notebook.
    """
    return tqdm(iterable, leave=False, disable="TQDM_DISABLE" in os.environ, **settings)
