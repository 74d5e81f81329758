"""A whole reproduction: what it leaves, that a killed one goes on, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from notice_lib import (
    NoticeError,
    answered_correctly,
    answers,
    data_dir,
    effects,
    load_model,
    load_pairs,
    read_sweep,
)
from notice_lib.errors import UsedFolderError
from notice_lib.files import sha256
from notice_lib.heads import head_effects, universal_heads
from notice_lib.heads.decision import Verdict
from notice_lib.pairs.masks import write_masks
from notice_lib.plotting.maps import role_means
from notice_lib.reproduction import read_tasks, reproduce, stored_run
from notice_lib.reproduction.claims import paper_claims
from notice_lib.reproduction.evidence import Tables, experiments, halves_of, role_maps, tables_of
from notice_lib.reproduction.logbook import Logbook, ask
from notice_lib.reproduction.tables import accuracy, content, replication, role_effects

WEEKLY_LLAVA = pytest.param("llava-mini", marks=pytest.mark.weekly)
ROLES = {
    "blip_detection": "object detection",
    "blip_suppression": "object suppression",
    "blip_outliers": "outlier suppression",
}
TABLES = {
    "answers.csv",
    "chance.csv",
    "claims.csv",
    "costs.csv",
    "distances.csv",
    "heads.csv",
    "modules.parquet",
    "noise.csv",
    "replication.csv",
    "roles.csv",
    "universal.csv",
}


def some_pairs(n: int = 8, tasks=("svo", "faces")):
    held_out = read_tasks(["embedded"])
    return {task: held_out[task].sample(n) for task in tasks}


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """(model, pairs, folder, claims) of a reproduction."""
    model, sets = load_model("llava-mini", device="cpu"), some_pairs()
    folder = tmp_path_factory.mktemp("small_run")
    return model, sets, folder, reproduce(model, sets, folder, module_pairs=6)


def test_a_small_run_writes_everything(small_run):
    model, sets, folder, found = small_run
    assert found["key"].tolist() == paper_claims(model.family)["key"].tolist()
    assert set(found["verdict"]) <= set(get_args(Verdict))
    agree(found, folder)
    assert pd.read_csv(folder / "claims.csv")["verdict"].tolist() == found["verdict"].tolist()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["tables"]) == TABLES | {"option.csv"}
    assert all(sha256(folder / name) == own for name, own in manifest["tables"].items())
    assert manifest["counts"]["svo"]["pairs"] == 8
    assert manifest["pairs"]["svo"] == manifest["counts"]["svo"]["answered correctly"]
    roles = pd.read_csv(folder / "roles.csv")
    assert set(roles["task"]) == {"svo", "faces"} and set(roles["query"]) == {"last"}
    assert len(pd.read_csv(folder / "heads.csv")) == model.n_layers * model.n_heads
    costs = pd.read_csv(folder / "costs.csv").set_index("part")
    assert costs.loc["modules-text-faces", "pairs"] == 6
    sweep = read_sweep(folder / "sweeps" / "modules-text-faces")
    assert costs.loc["modules-text-faces", "patched_runs"] == len(sweep.patched)

    modules = pd.read_parquet(folder / "modules.parquet")
    assert set(modules["slot"]) == {"all", "subject", "verb", "object"}
    assert set(modules["corruption"]) == {"image", "text"}
    table = effects(sweep.table())
    assert table["scene_id"].nunique() == 6  # else pairs and scenes would not weigh the same
    chosen = modules[(modules["task"] == "faces") & (modules["corruption"] == "text")]
    for component, means in role_means(table).items():
        own = chosen[chosen["component"] == component]
        shown = own.pivot(index="role", columns="layer", values="effect").reindex(means.index)
        assert shown.to_numpy() == pytest.approx(means.to_numpy(), abs=1e-5)

    with pytest.raises(NoticeError, match="another run, with another pairs_fingerprint"):
        reproduce(model, sets | {"svo": sets["svo"].sample(6)}, folder)


def test_a_page_finds_the_run_of_its_model_and_pairs_and_no_other(small_run, tmp_path):
    model, sets, folder, _ = small_run
    for name in ("other", "mine"):
        shutil.copytree(folder, tmp_path / name)
    of_another = json.loads((tmp_path / "other" / "manifest.json").read_text())
    of_another["model_fingerprint"] = "that of other weights"
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(of_another))
    assert stored_run(model, sets, tmp_path) == tmp_path / "mine"
    assert stored_run(load_model("blip-mini", device="cpu"), sets, tmp_path) is None
    assert stored_run(model, {"svo": sets["svo"]}, tmp_path) is None
    assert stored_run(model, some_pairs(9), tmp_path) is None
    (tmp_path / "mine" / "manifest.json").unlink()  # as of a run that was stopped
    assert stored_run(model, sets, tmp_path) is None


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
def test_the_shipped_models_have_their_runs(name):
    assert stored_run(load_model(name), read_tasks()) == data_dir() / "results" / name


def agree(claims: pd.DataFrame, folder) -> None:
    """A claim is not "not seen" beside a table of the same run that shows what it denies."""
    verdict = claims.set_index("key")["verdict"]
    passing = claims.set_index("key")["passing"]
    universal = pd.read_csv(folder / "universal.csv")
    for key in verdict.index[verdict.index.str.endswith("_procedure")]:
        kind = key.split("_")[1]
        chosen = {}
        for rule, own in universal.groupby("rule"):
            kinds = own["kind"].fillna("")
            chosen[rule] = int((kinds.str.contains(kind) | (kinds == "multimodal")).sum())
        assert chosen.get("paper", 0) == passing[key], key
        claim = key.removesuffix("_procedure")
        assert chosen.get("signed", 0) >= passing[claim], claim
        assert not (chosen.get("signed", 0) and verdict[claim] == "not seen"), claim
    if not (folder / "roles.csv").exists():
        return
    roles = pd.read_csv(folder / "roles.csv")
    for key, role in ROLES.items():
        if key in verdict:
            has = (roles["role"] == role).any()
            assert not (has and verdict[key] == "not seen"), key
            assert has or verdict[key] != "seen", key
    if "llava_no_detection" in verdict:
        heads = pd.read_csv(folder / "heads.csv")
        matter = {
            (task, *head)
            for task in set(roles["task"])
            for head in heads.loc[heads[f"{task}_image_selected"], ["layer", "head"]].to_numpy()
        }
        on_object = roles[roles["role"].isin(["object detection", "object suppression"])]
        act = matter & set(on_object[["task", "layer", "head"]].itertuples(index=False, name=None))
        assert not (act and verdict["llava_no_detection"] == "seen")
        assert act or verdict["llava_no_detection"] != "not seen"


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
def test_claims_agree_with_the_tables_of_their_run(name):
    folder = data_dir() / "results" / name
    agree(pd.read_csv(folder / "claims.csv"), folder)


@pytest.mark.parametrize("name", ["blip-mini", WEEKLY_LLAVA])
def test_what_heads_carry_is_of_heads_of_half_a_on_half_b(name, tmp_path):
    """One head has on half A an effect that it has nowhere else, and another on half B. A task with
    three scenes has two of them in half A: it is left out, and the other is not."""
    model = load_model(name, device="cpu")
    subjects = read_tasks()["svo"].filter(lambda pair: pair.slot == "subject")
    sets = {
        "faces": answered_correctly(model, read_tasks()["faces"].sample(60)),
        "svo": subjects.sample(3, by=["scene_id"]),
    }
    swept = tables_of(
        (one, one.run(model, 0, None))
        for one in experiments(model, sets)
        if one.kind == "heads" or one.name.startswith("depth-image")
    )
    half = halves_of(sets)
    table = swept.heads.assign(half=swept.heads["pair_id"].astype(str).map(half))
    for where, head in (("A", (3, 3)), ("B", (3, 1))):  # two that do little else
        there = (table["half"] == where) & (table["layer"] == head[0]) & (table["head"] == head[1])
        table.loc[there, "effect"] += 20
    with pytest.warns(UserWarning, match="carry in svo is not measured: half A has 2 scenes"):
        found = content(model, sets, Tables(table, None, swept.depth), tmp_path)

    faces = table[table["task"] == "faces"]
    on_a = faces[faces["half"] == "A"]
    image = on_a[on_a["corruption"] == "image"]
    by_scene = image.groupby(["layer", "head", "scene_id"])["effect"].mean()
    strong = set(by_scene.groupby(["layer", "head"]).mean().nlargest(5).index)
    kinds = {rule: universal_heads(head_effects(on_a, rule)) for rule in ("paper", "signed")}
    kinds = {rule: own.set_index(["layer", "head"])["kind"] for rule, own in kinds.items()}
    universal = {head for own in kinds.values() for head in own.index[own != ""]}
    found = found.set_index(["layer", "head"])
    assert found.index.is_unique and set(found.index) == strong | universal
    for rule, own in kinds.items():
        assert found[rule].to_dict() == own[found.index].to_dict()
        assert found.loc[(3, 3), rule] == "multimodal"
    assert (found["paper"] == "").any() and (3, 1) not in found.index

    runs = read_sweep(tmp_path / "faces" / "true").runs
    assert set(half[runs["pair_id"]]) == set(half[runs["donor"]]) == {"B"}
    on_b = faces[faces["pair_id"].isin(runs["pair_id"]) & (faces["corruption"] == "image")]
    means = on_b.groupby(["layer", "head", "scene_id"])["effect"].mean()
    means = means.groupby(["layer", "head"]).mean()[found.index]
    assert found["effect"].to_numpy() == pytest.approx(means.to_numpy(), abs=1e-4)

    with pytest.raises(UsedFolderError, match="another sweep"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content(model, sets, Tables(table, None, swept.depth), tmp_path, seed=1)


def test_replication_counts_the_scenes_that_have_the_thing(tmp_path):
    """Eight scenes have masks, and five of them one of the named thing: too few for halves. Roles
    take three."""
    every = read_tasks()["faces"]
    names = {pair.scene_id for pair in every.sample(8, by=["scene_id"])}
    some = every.filter(lambda pair: pair.scene_id in names)
    other = np.zeros(some[0].image("clean").size[::-1], bool)
    other[:20] = True
    write_masks(tmp_path / "masks.png", {"object": other})
    scenes = sorted(names)
    assert len(scenes) == 8 and len(some) > 16

    def without(n):
        blind = [
            replace(pair, clean_masks=tmp_path / "masks.png")
            if pair.scene_id in scenes[:n]
            else pair
            for pair in some
        ]
        return {"faces": replace(some, pairs=tuple(blind))}

    model = load_model("blip-mini", device="cpu")
    assert replication(model, without(3)).empty
    rates = replication(model, without(2))
    assert set(rates["task"]) == {"faces"} and (rates["scenes"] == 3).all()
    assert len(list(role_maps(model, without(5)))) == 1
    assert not list(role_maps(model, without(6)))


def planted(scenes: int, tokens: int) -> pd.DataFrame:
    """Effects of 2 in layer 0 and of 0 and 1, by turns, in layer 1."""
    rows = [
        {"pair_id": f"{scene}-{pair}", "scene_id": str(scene), "layer": layer, "position": token}
        | {"effect": 2.0 if layer == 0 else scene % 2}
        for scene in range(scenes)
        for pair in range(1 + scene % 2)  # every other scene has twice as many pairs
        for layer in range(2)
        for token in range(tokens)
    ]
    gaps = {"source_logit_correct": 3.0, "source_logit_incorrect": 0.0}
    gaps |= {"base_logit_correct": 0.0, "base_logit_incorrect": 1.0}
    known = {"task": "t", "slot": "s", "corruption": "image", "component": "mlp", "role": "correct"}
    return pd.DataFrame(rows).assign(draw=0, **known, **gaps)


def test_scenes_weigh_the_same_and_shares_are_of_the_way():
    found = role_effects(planted(scenes=40, tokens=3)).set_index("layer")
    assert len(found) == 2  # one slot: no rows of its own beside "all"
    assert found["effect"].tolist() == [2, 0.5]
    assert found["fraction_recovered"].tolist() == [0.5, 0.125]
    assert found["pairs"].tolist() == [60, 60] and found["scenes"].tolist() == [40, 40]
    assert found.loc[0, ["low", "high"]].tolist() == [2, 2]
    half = found.loc[1, "high"] - found.loc[1, "low"]
    assert half == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.1)
    assert role_effects(planted(scenes=2, tokens=1))[["low", "high"]].isna().all(axis=None)


def test_answers_are_kept_and_not_asked_again(tmp_path):
    model, pairs = load_model("blip-mini", device="cpu"), load_pairs("faces", n=10)
    found = ask(model, pairs, tmp_path)
    assert found["pair_id"].tolist() == [
        pair.pair_id
        for start in range(0, 10, 8)
        for _ in ("clean", "corrupt")
        for pair in pairs.pairs[start : start + 8]
    ]
    for run in ("clean", "corrupt"):
        own = found[found["run"] == run].drop(columns="run").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, answers(model, pairs, run), check_dtype=False)
    (tmp_path / "00001.parquet").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    pd.testing.assert_frame_equal(ask(model, pairs, tmp_path), found)
    assert times.items() <= {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}.items()

    counts = accuracy(found)
    assert counts["pairs"].sum() == 10
    right = found.groupby("pair_id")["is_correct"].all()
    assert counts["both"].sum() == right.sum()
    assert (counts["both"] <= counts[["clean", "corrupt"]].min(axis=1)).all()


def notice(*words) -> subprocess.Popen:
    command = [sys.executable, "-m", "notice_lib", "reproduce", *map(str, words)]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def until(there, process: subprocess.Popen) -> None:
    """Wait until a file is there."""
    while not there():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def test_a_killed_run_goes_on_and_leaves_the_same_tables(tmp_path):
    """Killed while it answers, and in the midst of the sweeps; on a folder without masks."""
    data = tmp_path / "data"
    for task, pairs in some_pairs(10, ["svo"]).items():
        bare = [replace(pair, clean_masks=None, corrupt_masks=None) for pair in pairs]
        replace(pairs, pairs=tuple(bare)).save(data / task)
    words = ["--model", "blip-mini", "--data", data, "--module-pairs", 3, "--device", "cpu"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    work = killed / "sweeps"
    for stop in ("answers-svo/00000.parquet", "heads-text-svo/runs-00000.parquet"):
        process = notice(*words, "--out", killed)
        until((work / stop).exists, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (killed / "manifest.json").exists()
    before = (work / "heads-image-svo/runs-00000.parquet").stat().st_mtime_ns
    process = notice(*words, "--out", killed)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "blip_noise_out" in said and "blip_detection       NaN" in said
    reproduce(load_model("blip-mini", device="cpu"), read_tasks([data]), whole, module_pairs=3)
    assert (work / "heads-image-svo/runs-00000.parquet").stat().st_mtime_ns == before
    manifests = [json.loads((f / "manifest.json").read_text()) for f in (killed, whole)]
    for manifest in manifests:
        del manifest["minutes"], manifest["commit"], manifest["tables"]["costs.csv"]
    assert manifests[0] == manifests[1]
    assert set(manifests[0]["tables"]) == TABLES - {"replication.csv", "roles.csv", "costs.csv"}


def test_data_are_read_by_task(tmp_path):
    embedded = read_tasks()
    assert list(embedded) == ["svo", "states", "faces"]
    assert all(pair.split == "heldout" for pairs in embedded.values() for pair in pairs)
    natural = read_tasks(["natural"])
    assert sum(map(len, natural.values())) == len(load_pairs("natural"))
    assert all(pair.task == task for task, pairs in natural.items() for pair in pairs)

    for task in ("svo", "faces"):
        embedded[task].sample(2).save(tmp_path / task)
    assert {task: len(own) for task, own in read_tasks([tmp_path]).items()} == {
        "svo": 2,
        "faces": 2,
    }
    one = read_tasks([tmp_path / "faces", "states"])
    assert list(one) == ["faces", "states"] and len(one["faces"]) == 2
    with pytest.raises(NoticeError, match=r"Two of the sets in .* have pairs of the task faces"):
        read_tasks([tmp_path, tmp_path / "faces"])
    with pytest.raises(
        NoticeError, match=r"contains no pairs\. Give 'embedded', a folder with svo"
    ):
        read_tasks([tmp_path / "nowhere"])


def test_what_cannot_be_run_is_refused_before_anything_is_patched(tmp_path):
    model = load_model("blip-mini", device="cpu")
    few = some_pairs(2, ["svo"])
    with pytest.raises(NoticeError, match=r"correctly with both .* show 2 scenes, but at least 3"):
        reproduce(model, few, tmp_path)
    assert [path.name for path in (tmp_path / "sweeps").iterdir() if path.is_dir()] == [
        "answers-svo"
    ]
    with pytest.raises(NoticeError, match="no pairs to run"):
        reproduce(model, {}, tmp_path)
    with pytest.raises(
        NoticeError, match="another run, with another seed"
    ):  # the same folder with another seed
        reproduce(model, some_pairs(4, ["faces"]), tmp_path, seed=7)
    (tmp_path / "file").touch()
    with pytest.raises(NoticeError, match="file is a file"):
        reproduce(model, few, tmp_path / "file")
    with pytest.raises(NoticeError, match=r"task '\.\./elsewhere' cannot name a folder"):
        reproduce(model, {"../elsewhere": few["svo"]}, tmp_path / "out")
    model.family = "decoder"
    with pytest.raises(NoticeError, match="blip-mini is not a BLIP or LLaVA"):
        reproduce(model, few, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_cut_line_of_the_log_costs_only_itself(tmp_path):
    log = Logbook(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"part": "answers-s')
    log.counts["answers-svo"] = {"pairs": 1, "patched_runs": 0, "skipped": 0}
    log._note("answers-svo", 0, 60.0, None)
    assert log.costs().set_index("part").loc["answers-svo", "minutes"] == 1
