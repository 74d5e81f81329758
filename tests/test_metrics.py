"""The paper's metrics on a table small enough to check by hand."""

import numpy as np
import pytest

from notice_lib.models.answers import SCORES
from notice_lib.patching import (
    SCHEMA,
    Sweep,
    effect,
    effects,
    fraction_recovered,
    logit_difference,
    patched_probability,
    restoration_probability,
)
from notice_lib.patching.table import PATCHED_DTYPES, RUNS_DTYPES, SKIPPED_DTYPES, frame


def a_sweep(direction="denoise", corrupt_gap=-2.0):
    """One pair: clean gap 3, corrupt gap -2, patched gap 1; P 0.9, 0.1 and 0.6."""
    patched = {"pair_id": "p", "component": "mlp", "layer": 0, "head": -1, "position": 1}
    patched |= {"role": "correct", "token": "dog", "draw": 0, "circuit": ""}
    patched |= dict(zip(SCORES, (1.5, 0.5, 0.6, 0.2), strict=True))
    run = dict.fromkeys(RUNS_DTYPES, "x") | {"pair_id": "p", "draw": 0, "distractor": False}
    run |= {f"clean_{k}": v for k, v in zip(SCORES, (3.0, 0.0, 0.9, 0.1), strict=True)}
    run |= {f"corrupt_{k}": v for k, v in zip(SCORES, (corrupt_gap, 0.0, 0.1, 0.8), strict=True)}
    return Sweep(
        frame([patched], PATCHED_DTYPES),
        frame([run], RUNS_DTYPES),
        frame([], SKIPPED_DTYPES),
        {"direction": direction, "schema": SCHEMA},
    )


@pytest.mark.parametrize(
    ("direction", "gap", "restored", "normalised"),
    [("denoise", 3.0, 0.5, 3 / 5), ("noise", -2.0, -0.3, 2 / 5)],
)
def test_metrics_by_hand(direction, gap, restored, normalised):
    table = a_sweep(direction).table()
    assert logit_difference(table).item() == 1.0
    assert logit_difference(table, "clean").item() == 3.0
    assert effect(table).item() == pytest.approx(gap)
    assert restoration_probability(table).item() == pytest.approx(restored)
    assert patched_probability(table).item() == 0.6
    assert fraction_recovered(table).item() == pytest.approx(normalised)


def test_no_infinities_where_clean_and_corrupt_hardly_differ():
    for corrupt_gap in (3.0, 2.7):
        table = a_sweep(corrupt_gap=corrupt_gap).table()
        assert np.isnan(fraction_recovered(table).item())
    assert fraction_recovered(table, smallest_gap=0.2).item() == pytest.approx(-1.7 / 0.3)


def test_effects_adds_a_column_for_each_metric():
    table = effects(a_sweep().table())
    assert table["effect"].item() == pytest.approx(3.0)
    assert table["restoration_probability"].item() == pytest.approx(0.5)
    assert table["patched_probability"].item() == 0.6
    assert table["fraction_recovered"].item() == pytest.approx(0.6)
