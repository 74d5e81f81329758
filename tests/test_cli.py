"""The command line, as a user types it."""

import csv
import io
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import datasets
import pandas as pd
import pytest
from layouts import a_picture, write_csv, write_folders
from PIL import Image
from typer.testing import CliRunner

from notice_lib import NoticeError, Site, load_model, load_pairs, read_sweep, site_grid, sweep
from notice_lib.cli import app, main
from notice_lib.datasets.faces import EMOTIONS
from notice_lib.demo import COMPONENT, describe, draw, find_example
from notice_lib.heads import carried, gather, head_effects, universal_heads
from notice_lib.patching import make_jobs
from notice_lib.patching.reference import patched_logits, record

ROOT = Path(__file__).parents[1]


def notice(*words, fails: bool = False) -> str:
    """What the command prints, or its errors, in this process, which imports everything once."""
    printed, errors = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["notice", *map(str, words)]),
        redirect_stdout(printed),
        redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert (ended.value.code != 0) == fails, errors.getvalue()
    return errors.getvalue() if fails else printed.getvalue()


def here(*words) -> str:
    """What the command prints; its errors are raised."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    "command", ["info", "demo", "pairs", "sweep", "heads", "carries", "reproduce"]
)
def test_every_command_has_help_with_an_example(command):
    assert f"notice {command}" in re.search(r"Example: (.*)", here(command, "--help"))[1]
    assert command in here("--help")


def test_info_describes_sets_and_a_model():
    text = here("info", "blip-mini")
    assert re.search(rf"svo +{len(load_pairs('svo'))} pairs", text)
    assert "BlipForQuestionAnswering on cpu" in text
    assert "text: 6 layers of 8 heads; components" in text
    assert "decoder_cross_attention" in text


# Python imports a module of this name when it starts.
NO_NETWORK = """
import socket

def refuse(*_):
    raise OSError("the test has no network")

socket.socket.connect = socket.getaddrinfo = refuse
"""


def demo(folder: Path, *words) -> subprocess.CompletedProcess:
    """Run the demo in a folder, without a network."""
    blocked = folder / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(NO_NETWORK)
    command = [sys.executable, "-m", "notice_lib", "demo", *map(str, words)]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join([str(blocked), str(ROOT)])}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)


def test_the_demo_prints_what_the_readme_shows(tmp_path):
    ran = demo(tmp_path)
    assert ran.returncode == 0, ran.stderr
    shown = (ROOT / "README.md").read_text().partition("notice demo\n```\n")[2]
    assert ran.stdout == shown.partition("```text\n")[2].partition("```")[0]
    with Image.open(tmp_path / "notice-demo.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocked", "notice-demo.png"]


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
def test_the_demo_shows_a_patch_that_turns_the_answer_around(name):
    """Full forwards with a hook give the same answers and numbers."""
    model = load_model(name, "cpu")
    example = find_example(model)
    pair, best = example.pair, example.best
    answer = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    site = Site(COMPONENT, int(best["layer"]), None, int(best["position"]))
    pairs = load_pairs("svo").filter(lambda other: other.pair_id == pair.pair_id)
    (job,) = make_jobs(model, pairs, [site])
    sites = job.interventions[0].sites
    clean, activations = record(model, job.source, [(COMPONENT, site.layer)])
    corrupt = model.logits(job.base)
    patched = patched_logits(model, job.base, activations, sites)
    assert clean.argmax() == patched.argmax() == answer.correct
    assert corrupt.argmax() == answer.incorrect
    gap = [float(run[answer.correct] - run[answer.incorrect]) for run in (corrupt, patched, clean)]
    told = "from {:+.1f} to {:+.1f}; the clean run has {:+.1f}.".format(*gap)
    assert told in describe(example)
    others = example.table[example.table["layer"] == site.layer].drop(index=best.name)
    assert example.elsewhere == others["fraction_recovered"].abs().max() < 0.5
    assert pair.correct in draw(example).alt


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
def test_the_demo_frames_the_cell_of_its_patch(name):
    """The frame lies at the token's name and the layer's number, and around the drawn value."""
    example = find_example(load_model(name, "cpu"))
    best, figure = example.best, draw(example)
    (axes,) = [axes for axes in figure.axes if axes.get_xlabel() == "layer"]
    (frame,) = [patch for patch in axes.patches if not patch.get_fill()]
    column, row = (int(corner + 0.5) for corner in frame.get_xy())
    names = [label.get_text() for label in axes.get_yticklabels()]
    same = example.table.drop_duplicates("position").sort_values("position")["position"].tolist()
    assert same[row] == best["position"] and names[row] in best["token"]
    assert column == best["layer"]
    assert axes.images[0].get_array()[row, column] == pytest.approx(best["fraction_recovered"])


def test_the_demo_says_at_once_that_it_cannot_write(tmp_path):
    for out, said in (
        (tmp_path / "none" / "a.png", "cannot be written (No such file or directory)"),
        (Path("/proc/a.png"), "cannot be written"),  # not even by root
        (tmp_path, "is a folder"),
    ):
        error = notice("demo", "--model", "no model", "--out", out, fails=True)
        assert said in error and "no model" not in error and "Traceback" not in error


def test_pairs_are_counted_and_written(tmp_path):
    text = here("pairs", "show", "states", "--n", 12, "--seed", 3, "--out", tmp_path / "some")
    assert "12 pairs" in text
    ids = [pair.pair_id for pair in load_pairs(tmp_path / "some")]
    assert ids == [pair.pair_id for pair in load_pairs("states", n=12, seed=3)]


COMMANDS = ("show", "svo_probes", "mit_states", "facial_expressions", "table", "hub")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_way_to_build_pairs_has_help_with_an_example(command):
    assert f"Example: notice pairs {command} " in here("pairs", command, "--help")
    assert command in here("pairs", "--help")


def a_release(root: Path) -> Path:
    """Embedded states that MIT-States has, too, in its layout."""
    for pair in load_pairs("states").filter(lambda pair: not pair.distractor):
        if pair.correct in ("broken", "bent", "rusty"):
            folder = root / "images" / f"{pair.correct} {pair.prompt.split()[2]}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / pair.clean_image.name).write_bytes(pair.clean_image.read_bytes())
    return root


def test_pairs_are_built_selected_written_and_loaded(tmp_path):
    """From a published layout to a set that `load_pairs(data=...)` finds, with its card."""
    images, out = a_release(tmp_path / "release"), tmp_path / "mine" / "states"
    words = ["pairs", "mit_states", "--images", images, "--out", out, "--model", "blip-mini"]
    words += ["--n", 6, "--seed", 5, "--device", "cpu"]
    assert "6 pairs" in notice(*words)
    pairs = load_pairs("states", data=tmp_path / "mine")
    assert len(pairs) == 6
    card = (out / "README.md").read_text()
    assert "pairs: drawn, and asked of blip-mini" in card
    assert "notice pairs mit_states --images" in card
    with pytest.raises(NoticeError, match="holds a pair set already"):
        here(*words)
    with Image.open(out / "steps.png") as figure:
        assert figure.convert("RGB").getpixel((0, 0)) == (255, 255, 254)  # plotting.PAPER


def test_pairs_are_built_from_faces_tables_and_data_sets(tmp_path):
    folder = write_folders(tmp_path / "images" / "train", dict.fromkeys(EMOTIONS, 2))
    words = ["pairs", "facial_expressions", "--images", tmp_path, "--out", tmp_path / "faces"]
    assert "pairs" in here(*words, "--preset", "paper")
    faces = load_pairs(tmp_path / "faces")
    assert {pair.correct for pair in faces} == set(EMOTIONS.values())
    table = write_csv(
        tmp_path / "labels.csv",
        ("image", "attribute"),
        *[(f"{name}/0.jpg", name) for name in ("sad", "fear", "happy")],
    )
    words = [
        "pairs",
        "table",
        table,
        "--images",
        folder,
        "--question",
        "Looks it {first} or {second}?",
    ]
    words += [
        "--task",
        "looks",
        "--near",
        "sad, fear",
        "--licence",
        "Mine.",
        "--out",
        tmp_path / "t",
    ]
    here(*words)
    for pair in load_pairs(tmp_path / "t"):
        assert pair.task == "looks"
        assert pair.prompt.startswith("Looks it ")
        assert {pair.correct, pair.incorrect} != {"sad", "fear"}
    assert "Mine." in (tmp_path / "t" / "README.md").read_text()
    ready = write_csv(
        tmp_path / "pairs.csv",
        ("clean_image", "corrupt_image", "prompt", "correct", "incorrect"),
        ("sad/0.jpg", "happy/0.jpg", "Is it sad or happy?", "sad", "happy"),
    )
    here("pairs", "table", ready, "--images", folder, "--out", tmp_path / "r")
    assert len(load_pairs(tmp_path / "r")) == 4
    rows = {"image": [a_picture(i) for i in range(4)], "label": ["red", "blue"] * 2}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "disk")
    here("pairs", "hub", tmp_path / "disk", "--n", 4, "--out", tmp_path / "h")
    assert len(load_pairs(tmp_path / "h")) == 4
    card = (tmp_path / "h" / "README.md").read_text()
    assert f"the data set {tmp_path / 'disk'}" in card


def test_pairs_are_built_from_svo_probes(tmp_path):
    folder = write_folders(tmp_path, {"images": 2}, ending=".png") / "images"
    columns = ("sentence", "pos_triplet", "neg_triplet", "pos_url", "neg_url")
    columns += ("pos_image_id", "neg_image_id", "subj_neg", "verb_neg", "obj_neg")
    with open(tmp_path / "svo.csv", "w", newline="") as file:
        row = ["A girl stands on the grass.", "girl,stand,grass", "dog,stand,grass", "u", "v"]
        csv.writer(file).writerows([columns, [*row, "0", "1", "True", "False", "False"]])
    words = ["pairs", "svo_probes", "--csv", tmp_path / "svo.csv", "--out", tmp_path / "svo"]
    here(*words, "--images", folder)
    assert {pair.correct for pair in load_pairs(tmp_path / "svo")} == {"girl", "dog"}
    words[-1] = tmp_path / "other"
    with pytest.raises(NoticeError, match="Name a folder of images, or a cache"):
        here(*words)


def test_a_sweep_is_run_and_goes_on(tmp_path):
    words = ["sweep", "llava-mini", "faces", tmp_path / "out", "--n", 2, "--device", "cpu"]
    words += ["--component", "self_attention", "--per-head", "--position", "last", "--layer", 3]
    first, again = notice(*words), notice(*words)
    assert first == again
    assert "2 pairs, 16 patched runs, written to" in first
    assert len(read_sweep(tmp_path / "out").patched) == 16
    assert "corruption is 'image' there and 'text' here" in notice(
        *words, "--corruption", "text", fails=True
    )


def test_heads_are_selected_from_folders(tmp_path):
    model, folders = load_model("blip-mini"), []
    sites = site_grid(model, ["cross_attention"], [4, 5], per_head=True, position="correct")
    for task in ("svo", "faces"):
        folders.append(tmp_path / task)
        sweep(model, load_pairs(task, n=8, seed=0), sites, out=folders[-1])
    text = notice(
        "heads",
        *folders,
        "--rule",
        "paper",
        "--out",
        tmp_path / "h.csv",
        "--null",
        folders[0],
        "--null",
        folders[1],
    )
    table = pd.read_csv(tmp_path / "h.csv")
    found = universal_heads(head_effects(gather(map(read_sweep, folders)), "paper"))
    assert table["kind"].astype("string").fillna("").tolist() == found["kind"].tolist()
    assert table["svo_image_effect"].to_numpy() == pytest.approx(found["svo_image_effect"])
    assert "cross_attention, faces, image corruption" in text
    assert f"Universal heads (selected in every task): {(found['kind'] != '').sum()}" in text
    assert "Universal heads of the null sweeps:" in text
    assert "Give each sweep once" in notice("heads", folders[0], folders[0], fails=True)
    assert "holds no finished sweep" in notice("heads", tmp_path, fails=True)


def test_an_interrupted_sweep_resumes(tmp_path):
    words = ["sweep", "blip-mini", "svo", tmp_path / "out", "--n", 96, "--device", "cpu"]
    words += ["--component", "mlp", "--layer", 3, "--position", "correct"]
    command = [sys.executable, "-m", "notice_lib", *map(str, words)]

    def interruptible():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipe = {"stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=interruptible, **pipe)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/runs-*.parquet")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in said
    with pytest.raises(NoticeError, match="holds no finished sweep"):
        read_sweep(tmp_path / "out")
    assert "96 pairs, 96 patched runs" in notice(*words)


def test_a_full_disk_is_one_line(tmp_path):
    """/dev/full has no space for what is written to it."""
    model = load_model("blip-mini")
    sites = site_grid(model, ["cross_attention"], [3], True, "correct")
    sweep(model, load_pairs("svo", n=4, seed=0), sites, out=tmp_path / "svo")
    error = notice("heads", tmp_path / "svo", "--out", "/dev/full", fails=True)
    assert error.endswith("No space left on device. Free some space and run the command again.\n")
    assert "Traceback" not in error


def test_what_heads_carry_is_measured_and_goes_on(tmp_path):
    load_pairs("faces").filter(lambda pair: pair.split == "heldout").sample(24, 0).save(
        tmp_path / "pool"
    )
    words = ["carries", "blip-mini", tmp_path / "pool", tmp_path / "out", "--n", 4]
    words += ["--head", "L5.H3", "--head", "L1.H0", "--donors", 1, "--device", "cpu"]
    first = notice(*words)
    assert first in here(*words)
    model, pairs = load_model("blip-mini"), load_pairs(tmp_path / "pool")
    sites = [Site("cross_attention", *head, "correct") for head in ((5, 3), (1, 0))]
    expected = carried(model, load_pairs(tmp_path / "pool", 4), sites, pairs, donors=1)
    table = pd.read_csv(tmp_path / "out" / "carried.csv")
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    row = expected[expected["layer"] == 5].iloc[0]
    assert f"faces: {row.scenes} scenes, {row.pairs} pairs, 1 donors a pair" in first
    assert f"L5.H3  effect {row.effect:+.3f} ({row.effect_fraction:+.1%})" in first
    assert "content share" in first
    words[words.index("L1.H0")] = "1.0"
    with pytest.raises(NoticeError, match="A head is named like"):
        here(*words)


def test_bad_input_is_one_line(tmp_path):
    for words, said in (
        (["pairs", "show", "imagenet"], "notice: There is no pair set 'imagenet'"),
        (["sweep", tmp_path, "svo", tmp_path / "out"], "is no checkpoint"),
        (
            ["sweep", "llava-mini", "svo", tmp_path / "out", "--component", "cross_attention"],
            "llava-mini has no component 'cross_attention'; it has self_attention, mlp",
        ),
    ):
        error = notice(*words, fails=True)
        assert said in error
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
