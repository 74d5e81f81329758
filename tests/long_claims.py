"""200 planted sets of each claim, as the weekly workflow runs them:

python -m pytest tests/long_claims.py
"""

import pytest

from tests.test_claims import _MEASURES, how_often

SETS = 200


@pytest.mark.parametrize("key", sorted(_MEASURES))
def test_at_most_one_in_twenty_is_falsely_seen(key):
    assert how_often(key, False, SETS) <= 0.05


@pytest.mark.parametrize("key", sorted(_MEASURES))
def test_four_in_five_are_seen_at_delta(key):
    assert how_often(key, True, SETS) >= 0.8
