"""What the report reads and draws: today's verdicts alone, each seed by itself."""

import json

import numpy as np
import pandas as pd
import pytest

from notice_lib import NoticeError, plotting
from notice_lib.reproduction import five_lines, paper_claims, read_verdicts, tally
from notice_lib.reproduction.report import BUILT_IN, SHORT


@pytest.fixture
def results(tmp_path):
    """Four runs: two seeds of a small BLIP, one of the first version, and one unfinished."""

    def add(run, model, version=2, finished=True, **verdicts):
        claims = paper_claims("blip").assign(version=version, estimate=0.02, low=0.01, high=0.03)
        claims["p"] = 0.01
        claims["verdict"] = [verdicts.get(key, "seen") for key in claims["key"]]
        (tmp_path / run).mkdir()
        claims.to_csv(tmp_path / run / "claims.csv", index=False)
        if finished:
            (tmp_path / run / "manifest.json").write_text(json.dumps({"model": model}))

    add("blip-mini", "blip-mini")
    add("blip-mini-seed2", "blip-mini", blip_vision="undecided")
    add("blip-base", "Salesforce/blip-vqa-base")
    add("blip-mini-seed3", "blip-mini", version=1)
    add("blip-mini-seed4", "blip-mini", finished=False)
    return tmp_path


def test_finished_runs_of_todays_rules_are_read(results):
    table = read_verdicts(results)
    runs = table.drop_duplicates("run").set_index("run")
    assert runs["label"].to_dict() == {
        "blip-base": "blip-base",
        "blip-mini": "seed 0",
        "blip-mini-seed2": "seed 2",
    }
    assert runs["chose"].to_dict() == {
        "blip-base": False,
        "blip-mini": True,
        "blip-mini-seed2": False,
    }
    assert table["short"].notna().all()
    built_in = table[table["built_in"]]
    assert set(built_in["key"]) == {"blip_detection"}
    assert set(built_in["run"]) == {"blip-mini", "blip-mini-seed2"}
    vision = table[table["key"] == "blip_vision"].set_index("label")["verdict"]
    assert vision.to_dict() == {"blip-base": "seen", "seed 0": "seen", "seed 2": "undecided"}


def test_without_results_there_are_no_verdicts(tmp_path):
    table = read_verdicts(tmp_path)
    assert table.empty and {"key", "run", "verdict", "label", "family"} <= set(table)
    with pytest.raises(NoticeError, match="table is empty"):
        plotting.verdict_rows(table, {})
    assert five_lines(table)[-1].startswith("**Seeds.** None is judged so far. Whether")


def test_every_claim_has_its_words():
    keys = pd.concat([paper_claims("blip"), paper_claims("llava")])["key"]
    assert set(keys.str.partition("_")[2]) == set(SHORT) and set(BUILT_IN) <= set(SHORT)


def test_verdicts_are_counted_in_words():
    assert tally(["seen"] * 3) == "seen (3 of 3)"
    assert tally(["undecided", "seen", "seen"]) == "seen in 2 of 3, undecided in 1"


def test_five_lines_say_what_holds(results):
    paper, blip, llava, built_in, seeds = five_lines(read_verdicts(results))
    assert paper == "**The paper's models.** There are runs of Salesforce/blip-vqa-base."
    assert blip.startswith("**The small BLIP, 2 seeds.** *Seen:* heads matter under both")
    assert "heads matter under both corruptions and under text corruption;" in blip
    assert blip.endswith("*Differs between seeds:* heads matter under image corruption.")
    assert llava == "**The small LLaVA.** There are no results."
    assert built_in.startswith('**Built in:** "heads detect the object".')
    assert "11 of 12 verdicts are the same in all seeds" in seeds


def test_one_seed_is_said_to_be_one(results):
    table = read_verdicts(results)
    paper, blip, *_, seeds = five_lines(table[table["run"] == "blip-mini"])
    assert "untested" in paper and "**The small BLIP, 1 seed.**" in blip
    assert seeds.startswith("**Seeds.** One seed is judged so far, and it is the one on which")
    *_, seeds = five_lines(table[table["run"] == "blip-mini-seed2"])
    assert seeds.startswith("**Seeds.** One seed is judged so far. Whether")


def test_a_verdict_of_one_seed_is_not_counted_as_shared(results):
    table = read_verdicts(results)
    llava = table[table["label"] == "seed 0"].assign(family="llava", run="llava-mini")
    llava["key"] = llava["key"].str.replace("blip", "llava")
    *_, seeds = five_lines(pd.concat([table, llava]))
    assert "11 of 12 verdicts are the same in all seeds" in seeds


def test_of_the_llavas_a_claim_about_labels_is_built_in(results):
    claims = paper_claims("llava").assign(verdict="seen")
    (results / "llava-mini-seed1").mkdir()
    claims.to_csv(results / "llava-mini-seed1" / "claims.csv", index=False)
    (results / "llava-mini-seed1" / "manifest.json").write_text('{"model": "llava-mini"}')
    table = read_verdicts(results)
    table = table[table["run"] == "llava-mini-seed1"]
    assert set(table[table["built_in"]]["key"]) == {"llava_no_detection"}
    assert set(table["label"]) == {"seed 1"} and set(table["model"]) == {"llava-mini"}
    *_, llava, built_in, _ = five_lines(table)
    assert llava.startswith("**The small LLaVA, 1 seed.** *Seen:* ")
    assert built_in.startswith('**Built in:** "no important head detects or suppresses".')


def test_verdicts_stand_in_one_order(results):
    table = read_verdicts(results)
    table = table[table["run"] == "blip-mini"].copy()
    table["verdict"] = ["undecided", "not seen", *["seen"] * (len(table) - 2)]
    blip = five_lines(table)[1]
    assert [blip.index(f"*{said}:*") for said in ("Seen", "Not seen", "Undecided")] == sorted(
        blip.index(f"*{said}:*") for said in ("Seen", "Not seen", "Undecided")
    )


def test_what_is_drawn_needs_words_for_every_claim(results):
    table = read_verdicts(results)
    words = dict.fromkeys(table["short"].unique()[1:], "seen")
    with pytest.raises(NoticeError, match="have none: heads matter under both corruptions"):
        plotting.verdict_rows(table, words)


def test_a_row_has_estimate_interval_minimum_and_verdict(results):
    table = read_verdicts(results)
    table = table[table["label"].str.startswith("seed")].copy()
    nothing = (table["key"] == "blip_outliers", ["estimate", "low", "high"])
    table.loc[nothing] = np.nan
    words = {short: tally(of["verdict"]) for short, of in table.groupby("short")}
    figure = plotting.verdict_rows(table, words)
    fractions, attention, ratio, procedure = figure.axes
    written = [text.get_text() for text in fractions.texts]
    assert written[:2] == ["heads matter under both corruptions", "seen (2 of 2)"]
    assert "seen in 1 of 2, undecided in 1" in written
    dots = [line for line in fractions.lines if line.get_marker() == "o"]
    assert len(dots) == 2 * 5  # claims in fractions of the total effect
    assert {float(dot.get_xdata()[0]) for dot in dots} == {2.0}
    assert [dot.get_markerfacecolor() for dot in dots[:2]] == [
        plotting.PAPER,
        plotting.COLOURS["clean"],
    ]
    ticks = {round(float(one.get_segments()[0][0][0]), 3) for one in fractions.collections}
    assert {0.5, 1.0} <= ticks  # the minimum of effects, and that of noise
    assert len([line for line in attention.lines if line.get_marker() == "o"]) == 2 * 2
    assert ratio.get_xlabel().startswith("distance") and len(procedure.lines) == 0
    assert "minimum 0.5 %, seed 0: +2 %, +1 to +3, seed 2" in figure.alt
    assert "heads suppress outliers: seen (2 of 2); minimum 1 %, seed 0: no number" in figure.alt
