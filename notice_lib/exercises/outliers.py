"""Exercises of the chapter on outliers."""

from collections.abc import Callable

import numpy as np

from .verdict import NotYet, check, near, number, tried


@check
def check_avoidance(function: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> None:
    """15.1: how much less than a patch of background an outlier gets, from -1 to 1."""
    outliers = np.array([True, True, False, False, False])
    background = np.array([False, False, True, True, False])
    cases = {
        "never looks at outliers": ([0.0, 0.0, 0.2, 0.2, 0.6], 1.0),
        "cannot tell them apart": ([0.1, 0.1, 0.1, 0.1, 0.6], 0.0),
        "looks three times as much": ([0.3, 0.3, 0.1, 0.1, 0.2], -0.5),
    }
    for name, (attention, wanted) in cases.items():
        found = number(tried(function, np.array(attention), outliers, background))
        if not near(found, wanted):
            raise NotYet(f"a head that {name} does not have {found:.2f}.")
    one = np.array([True, False, False, False, False])
    even = np.array([0.1, 0.0, 0.1, 0.1, 0.7])
    if not near(number(tried(function, even, one, background)), 0.0):
        raise NotYet("compare single patches, not sums over areas.")
