"""Sweeps on disk: they go on where they stopped, and never mix with others."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_metrics import a_sweep

from notice_lib import (
    NoticeError,
    PairSet,
    Site,
    load_model,
    load_pairs,
    read_sweep,
    site_grid,
    sweep,
    write_sweep,
)
from notice_lib.patching import SCHEMA, engine, shards
from notice_lib.patching.table import PATCHED_DTYPES, RUNS_DTYPES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model():
    return load_model("llava-mini", device="cpu")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 2)


def a_grid(model):
    return site_grid(model, ["mlp"], position="last")


def same(one, other):
    for name in ("patched", "runs", "skipped"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), rtol=0, atol=1e-5)


def test_a_sweep_survives_its_folder(tmp_path):
    kept = a_sweep()
    write_sweep(kept, tmp_path)
    loaded = read_sweep(tmp_path)
    assert loaded.settings == kept.settings
    assert loaded.patched.dtypes.astype(str).to_dict() == PATCHED_DTYPES
    assert loaded.runs.dtypes.astype(str).to_dict() == RUNS_DTYPES
    pd.testing.assert_frame_equal(loaded.table(), kept.table())


def test_a_sweep_of_another_schema_or_none_is_refused(tmp_path):
    with pytest.raises(NoticeError, match="no finished sweep"):
        read_sweep(tmp_path)
    old = a_sweep()
    write_sweep(replace(old, settings=old.settings | {"schema": 0}), tmp_path)
    with pytest.raises(
        NoticeError, match=f"schema 0, but this version of the library reads schema {SCHEMA}"
    ):
        read_sweep(tmp_path)


def test_shards_make_the_sweep_that_memory_makes(model, tmp_path, small_shards):
    pairs = load_pairs("svo", n=5)
    stored = sweep(model, pairs, a_grid(model), out=tmp_path)
    assert len(list(tmp_path.glob("runs-*.parquet"))) == 3
    same(stored, sweep(model, pairs, a_grid(model)))
    same(stored, read_sweep(tmp_path))


def test_a_finished_sweep_is_read_and_a_stopped_one_goes_on(model, tmp_path, small_shards):
    pairs, sites = load_pairs("svo", n=5), a_grid(model)
    whole = sweep(model, pairs, sites, out=tmp_path)
    ran = []

    def counted(model, jobs):
        ran.append(len(jobs))
        return engine.patch(model, jobs)

    same(sweep(model, pairs, sites, out=tmp_path, engine=counted), whole)
    assert ran == []
    (tmp_path / "runs-00001.parquet").unlink()
    with pytest.raises(NoticeError, match="1 of 3 shards are missing"):
        read_sweep(tmp_path)
    same(sweep(model, pairs, sites, out=tmp_path, engine=counted), whole)
    assert ran == [2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"corruption": "text"}, "corruption is 'image' there and 'text' here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"pairs": load_pairs("svo", n=2, seed=5)}, "pairs_fingerprint is"),
        ({"sites": [0]}, "sites is 6 there and 1 here"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(model, tmp_path, changes, named):
    settings = {"pairs": load_pairs("svo", n=2), "sites": a_grid(model)}
    sweep(model, **settings, out=tmp_path)
    if "sites" in changes:
        changes = {"sites": a_grid(model)[:1]}
    with pytest.raises(NoticeError, match=named):
        sweep(model, **(settings | changes), out=tmp_path)


def test_a_folder_of_another_model_is_refused(model, tmp_path):
    pairs, sites = load_pairs("svo", n=1), a_grid(model)
    sweep(model, pairs, sites, out=tmp_path)
    other = load_model("llava-mini", device="cpu")
    other.model.lm_head.weight.data += 0.01
    with pytest.raises(NoticeError, match="model_fingerprint is"):
        sweep(other, pairs, sites, out=tmp_path)


def test_a_pair_that_cannot_be_run_is_reported(model, tmp_path):
    pairs = load_pairs("states", n=12)
    bad = next(pair for pair in pairs if pair.slot == "colour")
    few = replace(
        pairs,
        pairs=(bad, *(pair for pair in pairs if pair.slot != "colour")),
        slots=pairs.slots | {"colour": (bad.correct, bad.incorrect)},
    )
    with pytest.warns(UserWarning, match="1 pairs could not be run; the first: Pair"):
        found = sweep(model, few, a_grid(model), corruption="text", out=tmp_path)
    assert found.skipped["pair_id"].tolist() == [bad.pair_id]
    assert len(found.runs) == len(few) - 1
    with pytest.raises(NoticeError, match=f"Pair {bad.pair_id}: no two words"):
        sweep(model, few, a_grid(model), corruption="text", strict=True)
    with pytest.raises(NoticeError, match="No pair could be run"):
        sweep(model, replace(few, pairs=few.pairs[:1]), a_grid(model), corruption="text")


SCRIPT = """
import sys
from notice_lib import load_model, load_pairs, site_grid, sweep
from notice_lib.patching import shards
shards.SHARD = 1
model = load_model("llava-mini", device="cpu")
sites = site_grid(model, ["mlp"], position="last")
sweep(model, load_pairs("svo", n=40), sites, out=sys.argv[1])
"""


def test_a_killed_sweep_ends_with_the_rows_of_an_uninterrupted_one(model, tmp_path):
    """SIGKILL at whatever point it has reached, three times; then to the end."""
    out = tmp_path / "killed"
    for finished in (1, 7, 19):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, out], cwd=ROOT)
        deadline = time.monotonic() + 240
        while len(list(out.glob("runs-*.parquet"))) < finished and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(list(out.glob("runs-*.parquet"))) < 40
    subprocess.run([sys.executable, "-c", SCRIPT, out], cwd=ROOT, check=True)
    found = read_sweep(out)
    assert not found.patched.duplicated(["pair_id", "layer"]).any()
    same(found, sweep(model, load_pairs("svo", n=40), a_grid(model)))


TWO_PROCESSES = """
import sys
from accelerate import PartialState
from notice_lib import load_model, load_pairs, site_grid, sweep
from notice_lib.patching import engine, shards
shards.SHARD = 2
model = load_model("llava-mini", device="cpu")
ran = []

def counted(model, jobs):
    ran.append(len(jobs))
    return engine.patch(model, jobs)

sites = site_grid(model, ["mlp"], position="last")
found = sweep(model, load_pairs("svo", n=9), sites, out=sys.argv[1], engine=counted)
state = PartialState(cpu=True)
print(f"process {state.process_index} of {state.num_processes} ran {ran}, has {len(found.runs)}")
"""


def test_two_processes_share_a_sweep(model, tmp_path):
    """Shards are planned from the pairs alone, so the number of processes changes nothing."""
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = subprocess.run(
        [*launch, script, tmp_path / "out"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "process 0 of 2 ran [2, 2, 1], has 9" in result.stdout
    assert "process 1 of 2 ran [2, 2], has 9" in result.stdout
    same(read_sweep(tmp_path / "out"), sweep(model, load_pairs("svo", n=9), a_grid(model)))


def test_other_masks_are_another_sweep_where_sites_depend_on_them(tmp_path):
    pairs = load_pairs("svo").filter(lambda pair: not pair.distractor).sample(2)
    exchanged = PairSet(
        tuple(
            replace(pair, clean_masks=pair.corrupt_masks, corrupt_masks=pair.clean_masks)
            for pair in pairs
        ),
        pairs.slots,
        pairs.near_synonyms,
    )
    model = load_model("llava-mini", device="cpu")
    region = [Site("layer_output", 1, None, "image:differs")]
    sweep(model, pairs, region, out=tmp_path / "region")
    with pytest.raises(NoticeError, match="masks_fingerprint"):
        sweep(model, exchanged, region, out=tmp_path / "region")
    last = [Site("layer_output", 1, None, "last")]
    sweep(model, pairs, last, out=tmp_path / "last")
    sweep(model, exchanged, last, out=tmp_path / "last")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "plan.json").write_text("{"), r"plan\.json is no plan of a"),
        (lambda folder: (folder / "plan.json").write_text("{}"), r"plan\.json is no.*settings"),
        (lambda folder: (folder / "plan.json").write_text("[]"), r"plan\.json is no plan"),
        (lambda folder: (folder / "patched-00000.parquet").write_bytes(b"PAR1"),
         r"patched-00000\.parquet cannot be read.*Delete runs-00000\.parquet"),
        (lambda folder: (folder / "skipped-00000.parquet").unlink(),
         r"skipped-00000\.parquet cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_one_error_with_the_file(tmp_path, damage, told):
    write_sweep(a_sweep(), tmp_path)
    damage(tmp_path)
    with pytest.raises(NoticeError, match=told):
        read_sweep(tmp_path)


def test_a_file_is_no_folder_of_a_sweep(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NoticeError, match="is a file"):
        write_sweep(a_sweep(), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
