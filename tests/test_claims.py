"""The paper's claims: verdicts, and statistics of known truth."""

import numpy as np
import pandas as pd
import pytest

from notice_lib.reproduction.claims import (
    _MEASURES,
    NOT_TESTABLE,
    Evidence,
    _bootstrap,
    paper_claims,
    verdict,
)


@pytest.mark.parametrize(
    ("interval", "comparison", "said"),
    [
        ((2, 1, 3), "at least", "seen"),
        ((1, 0, 2), "at least", "undecided"),
        ((0, 0, 0.9), "at least", "not seen"),
        ((2, 1, 3), "above", "undecided"),
        ((2, 1.1, 3), "above", "seen"),
        ((0, -1, 1), "above", "not seen"),
        ((0, 0, 1), "at most", "seen"),
        ((2, 1.5, 3), "at most", "not seen"),
        (NOT_TESTABLE, "above", "not testable"),
    ],
)
def test_an_interval_decides_or_does_not(interval, comparison, said):
    assert verdict(interval, comparison, 1.0) == said


def test_every_claim_is_measured_and_none_else():
    keys = [*paper_claims("blip")["key"], *paper_claims("llava")["key"]]
    assert sorted(keys) == sorted(_MEASURES)


def planted(universal: int, scenes: int = 40, seed: int = 0) -> pd.DataFrame:
    """Effects of 48 heads in 3 tasks and 2 corruptions; the first few matter in all of them."""
    rng = np.random.default_rng(seed)
    rows = []
    for task in ("a", "b", "c"):
        for corruption in ("image", "text"):
            effects = rng.normal(0, 0.05, (scenes, 48))
            effects[:, :universal] += 2.0
            for scene in range(scenes):
                for head in range(48):
                    rows.append((task, corruption, f"{task}{scene}", head, effects[scene, head]))
    table = pd.DataFrame(rows, columns=["task", "corruption", "scene_id", "head", "effect"])
    return table.rename(columns={"effect": "effect"}).assign(
        pair_id=lambda t: t["scene_id"], component="cross_attention", layer=0, draw=0
    )


@pytest.mark.parametrize("universal", [0, 2])
def test_planted_universal_heads_are_counted(universal):
    table = planted(universal)
    evidence = Evidence(table, table, table, table, None, table)
    found = _MEASURES["blip_multimodal"](evidence, np.random.default_rng(0))
    if universal:
        assert found == (2, 2, 2)
    else:
        assert found[0] <= 1 and found[1] == 0
    assert _MEASURES["blip_detection"](evidence, None) == NOT_TESTABLE


def test_the_interval_of_a_mean_is_that_of_whole_scenes():
    """Twice the same scenes under two corruptions: their difference never varies."""
    rng = np.random.default_rng(0)
    effects = pd.DataFrame(rng.normal(1, 1, (100, 1)))
    both = {("a", "image"): effects, ("a", "text"): effects + 1}
    difference = _bootstrap(lambda m: (m["a", "text"] - m["a", "image"])[0], both, rng)
    assert difference == pytest.approx((1, 1, 1))
    mean = _bootstrap(lambda m: m["a", "image"][0], both, rng)
    assert mean[2] - mean[1] == pytest.approx(2 * 1.96 / 10, rel=0.2)
