"""The patch lab's files are those of the shipped checkpoints and results, whole and small."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from lab_page import LAB, MODELS, PAGE, ROOT, manifest, model, pairs, read
from PIL import Image

from notice_lib import NoticeError, Site, answered_correctly, sweep
from notice_lib.files import sha256
from notice_lib.heads.attention import image_attention
from notice_lib.models.answers import score
from notice_lib.reproduction.experiments import read_tasks
from tools.lab import boards, looks, scenes, stored, twins
from tools.lab.scenes import WORKED, preprocessing, shown

SOME = (WORKED, "svo-096-ab-correct")


def unseen(name):
    files = sorted((LAB / name / "unseen").glob("*.json"))
    return {path.stem: read(path) for path in files}


def every_scene(name):
    return [*manifest(name)["scenes"], *(one for group in unseen(name).values() for one in group)]


def again(name):
    return f"python tools/export_lab.py {name}"


@pytest.mark.parametrize("name", MODELS)
def test_the_graphs_are_of_the_weights_that_the_book_uses(name):
    weights = ROOT / "data" / "checkpoints" / name / "model.safetensors"
    assert manifest(name)["checkpoint"] == name
    assert manifest(name)["weights"] == sha256(weights), again(name)


@pytest.mark.parametrize("name", MODELS)
def test_every_file_is_the_one_that_the_manifest_names(name):
    for file in manifest(name)["files"].values():
        path = (LAB / name / file["path"]).resolve()
        assert (path.stat().st_size, sha256(path)) == (file["bytes"], file["sha256"]), again(name)
        assert file["bytes"] <= 10e6


@pytest.mark.parametrize("name", MODELS)
def test_scenes_are_small_and_no_other_image_lies_there(name):
    listed = {image for scene in every_scene(name) for image in scene["images"].values()}
    folder = LAB / name / "scenes"
    found = {f"scenes/{path.name}": path.stat().st_size for path in folder.iterdir()}
    assert set(found) == listed
    assert sum(found.values()) <= 3e6


def test_the_pair_that_the_pages_work_through_comes_first(monkeypatch):
    assert all(manifest(name)["scenes"][0]["id"] == WORKED for name in MODELS)
    assert f'"{WORKED}"' in (ROOT / "book" / "03_first_patch.md").read_text()
    worked, groups = scenes.choose(model("blip-mini"), read_tasks())
    assert worked.pair_id == WORKED
    names = [scenes.group_of(group.scene) for group in groups]
    slots = {(pair.task, pair.slot, pair.order) for pair in pairs().values()}
    assert len(names) == len(set(names)) == len(slots)
    monkeypatch.setattr(scenes, "answered_correctly", lambda model, pairs, correctly: [])
    with pytest.raises(NoticeError, match=f"does not answer {WORKED}"):
        scenes.choose(model("blip-mini"), read_tasks())


@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_preprocessing_are_the_models(name):
    of, loaded = manifest(name), model(name)
    assert of["pixels"] == preprocessing(loaded)
    assert of["components"] == list(loaded.components)
    assert of["shape"]["layers"] == loaded.n_layers
    assert of["shape"]["heads"] == loaded.n_heads
    assert of["effect_role"] == loaded.effect_role


@pytest.mark.parametrize("name", MODELS)
def test_scenes_are_what_the_model_sees_and_says(name):
    for scene in manifest(name)["scenes"]:
        check_scene(name, scene)
        assert scene["L"]["corrupt"] < 0 < scene["L"]["clean"]


@pytest.mark.parametrize("name", MODELS)
def test_unseen_pairs_are_what_the_model_sees_and_says(name):
    """The first of each group; all of them are written by the same function."""
    for group in unseen(name).values():
        check_scene(name, group[0])


def check_scene(name, scene):
    pair, loaded = pairs()[scene["id"]], model(name)
    tokens = loaded.answer_tokens(pair.prompt, *scene["options"])
    assert (tokens.prefix, [tokens.correct, tokens.incorrect]) == ((), scene["option_ids"])
    for run in ("clean", "corrupt"):
        inputs = loaded.inputs(pair.image(run), pair.prompt)
        with Image.open(LAB / name / scene["images"][run]) as image:
            assert np.array_equal(np.asarray(image), shown(loaded, inputs.pixel_values))
        image_row = (manifest(name)["image"] or {"start": None, "tokens": 1})["start"]
        repeats = [
            manifest(name)["image"]["tokens"] if row == image_row else 1
            for row in range(len(scene["ids"]))
        ]
        assert np.repeat(scene["ids"], repeats).tolist() == inputs.input_ids[0].tolist()
        assert tuple(np.repeat(scene["tokens"], repeats)) == inputs.tokens
        assert tuple(np.repeat(scene["roles"], repeats)) == loaded.roles(inputs, pair.spans)
        scores = score(loaded.logits(inputs), tokens)
        assert scores[0] - scores[1] == pytest.approx(scene["L"][run], abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_challenge_is_scored_on_eight_pairs_of_the_layout_with_matched_donors(name):
    for scene in manifest(name)["scenes"]:
        group = {one["id"]: one for one in unseen(name)[scene["group"]]}
        scored = [one for one in group.values() if one["donors"]]
        own = {pairs()[one["id"]].scene_id for one in manifest(name)["scenes"]}
        assert len(scored) == len({pairs()[one["id"]].scene_id for one in scored}) == 8
        for one in scored:
            assert one["roles"] == scene["roles"]
            assert pairs()[one["id"]].scene_id not in own
            assert len(one["donors"]) == 2
            for donor in one["donors"]:
                assert group[donor]["roles"] == scene["roles"]
                words = {*pairs()[one["id"]].shown, *one["options"]}
                assert not words & {*pairs()[donor].shown, *group[donor]["options"]}


def percent_of_results(row, start=""):
    """The mean and its interval; the results give the mean also as a fraction of L - L*."""
    effect, fraction = row[start + "effect"], row[start + "fraction_recovered"]
    scale = fraction / effect if effect else 0
    return [100 * row[start + name] * scale for name in ("effect", "low", "high")]


def check_row(row, wanted):
    mean, low, high, _, *deciles = row
    assert [mean, low, high] == pytest.approx(wanted, abs=0.06)
    assert low <= mean <= high
    assert len(deciles) == len(stored.DECILES) and deciles == sorted(deciles)
    assert deciles[0] <= mean <= deciles[-1]


@pytest.mark.parametrize("name", MODELS)
def test_stored_numbers_of_modules_are_those_of_the_results(name):
    modules = pd.read_parquet(ROOT / "data" / "results" / name / "modules.parquet")
    modules = modules.query("corruption == 'image'").astype({"slot": str})
    seen = 0
    for path in (LAB / name / "stored").iterdir():
        task, slot = path.stem.split("-")
        here = modules[(modules["task"] == task) & modules["slot"].isin([slot, "all"])]
        here = here.sort_values("slot", key=lambda slots: slots == "all")
        wanted = here.drop_duplicates(["component", "role", "layer"]).set_index(
            ["component", "role", "layer"]
        )
        for place, row in read(path).items():
            component, role, layer, *head = place.split(".")
            if not head:
                check_row(row, percent_of_results(wanted.loc[component, role, int(layer)]))
                seen += 1
    assert seen > 500


@pytest.mark.parametrize("name", MODELS)
def test_stored_numbers_of_heads_are_those_of_the_results(name):
    """At the token of the model's heads, and, for LLaVA, at the correct option, too."""
    results = ROOT / "data" / "results" / name
    counts = json.loads((results / "manifest.json").read_text())["counts"]
    tables = {"heads.csv": model(name).effect_role, "option.csv": "correct"}
    heads = [
        (f"{row['component']}.{role}.{row['layer']}.{row['head']}", row)
        for file, role in tables.items()
        if (results / file).exists()
        for row in pd.read_csv(results / file).to_dict("records")
    ]
    for path in (LAB / name / "stored").iterdir():
        task = path.stem.split("-")[0]
        for place, wanted in heads:
            row = read(path)[place]
            check_row(row, percent_of_results(wanted, f"{task}_image_"))
            assert row[3] == counts[task]["answered correctly"]


@pytest.mark.weekly
@pytest.mark.parametrize("name", MODELS)
def test_deciles_of_heads_are_those_of_their_pairs(name):
    """Of a head in each layer, on the pairs of one task."""
    role, stored_rows = model(name).effect_role, read(f"{name}/stored/faces-emotion.json")
    sites = [Site(model(name).image_component, layer, 7 - layer, role) for layer in range(6)]
    right = answered_correctly(model(name), read_tasks()["faces"], "generated")
    table = sweep(model(name), right, sites).table()

    def gap(run):
        return table[f"{run}logit_correct"] - table[f"{run}logit_incorrect"]

    share = 100 * (gap("") - gap("corrupt_")) / (gap("clean_") - gap("corrupt_"))
    for layer, shares in share.groupby(table["layer"]):
        row = stored_rows[f"{model(name).image_component}.{role}.{layer}.{7 - layer}"]
        ranked = np.sort(shares)
        wanted = np.interp(np.arange(11) / 10, np.linspace(0, 1, len(ranked)), ranked)
        assert row[3] == len(ranked)
        assert row[4:] == pytest.approx(wanted, abs=0.06)


def test_the_search_prefers_two_heads_that_give_and_do_not_cost():
    shares = pd.DataFrame({"denoise": [95, 80, 9, 82], "noise": [90, 5, 1, 4]}, list("abcd"))
    assert twins.best_two(shares) == (75, ["d", "b"])
    assert twins.best_two(shares.drop(index="d")) == (4, ["b", "c"])


def test_the_card_has_the_clearest_two_cells_that_the_search_finds():
    named = manifest("blip-mini")["twin_cells"]
    one, other, near = (pairs()[name] for name in (named["pair"], WORKED, "states-096-ab-correct"))
    assert twins.search_cells(model("blip-mini"), [other, one]) == named
    assert twins.search_cells(model("blip-mini"), [other]) is None
    assert twins.search_cells(model("blip-mini"), [near]) is None  # A nudge flips it.
    assert manifest("llava-mini")["twin_cells"] is None
    assert twins.search_cells(model("llava-mini"), [one]) is None
    # The page's text says of both models that no two heads are found.
    assert not any(manifest(name)["twins"]["found"] for name in MODELS)


def test_the_page_says_how_long_the_lab_took():
    said = " ".join(PAGE.read_text("utf-8").split())
    times = read("times.json")
    for name in MODELS:
        for part in ("run", "layers", "heads"):
            assert f"{times[name][part]:g} seconds" in said
        assert f"{times[name]['number']['layers']} runs" in said


@pytest.mark.parametrize("name", MODELS)
def test_the_page_shows_the_still_picture_with_its_numbers(name):
    shown = rf"```{{image}} assets/lab/{name}/still.svg\n:alt: (.*)\n:class: dark-light\n"
    assert re.findall(shown, PAGE.read_text("utf-8")) == [manifest(name)["still"]]
    assert "@media (prefers-color-scheme: dark)" in (LAB / name / "still.svg").read_text("utf-8")


# ---- what single sections show


@pytest.mark.parametrize("name", MODELS)
def test_all_that_the_lab_fetches_on_demand_is_small(name):
    pictures, looks_of_all = (LAB / name).glob("*/*.png"), (LAB / name).glob("looks/*")
    assert sum(path.stat().st_size for path in pictures) <= 3e6
    assert sum(path.stat().st_size for path in looks_of_all) <= 1e6


@pytest.mark.parametrize("name", MODELS)
def test_every_combination_of_a_board_has_its_picture_and_nothing_else_lies_there(name):
    named = {
        boards.file_name(number, numbers)
        for number, board in enumerate(boards.BOARDS)
        for numbers, _ in board.combinations()
    }
    assert {path.name for path in (LAB / name / "compose").iterdir()} == named
    composed = read(f"{name}/compose.json")
    assert composed["boards"] == [board.described() for board in boards.BOARDS]
    assert composed["frame"] == boards.frame(model(name))
    assert composed["spelling"] == boards.spelling(model(name))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("number", range(len(boards.BOARDS)))
def test_a_boards_pictures_are_its_scenes_as_the_model_sees_them(name, number):
    combinations = list(boards.BOARDS[number].combinations())
    for i in np.random.default_rng(number).choice(len(combinations), 3, replace=False):
        numbers, scene = combinations[i]
        with Image.open(LAB / name / "compose" / boards.file_name(number, numbers)) as image:
            assert np.array_equal(np.asarray(image), boards.pixels(model(name), scene))


@pytest.mark.parametrize("name", MODELS)
def test_every_scene_of_the_lab_has_its_looks(name):
    scenes_of_lab = [scene["id"] for scene in manifest(name)["scenes"]]
    assert list(read(f"{name}/looks.json")["scenes"]) == scenes_of_lab
    files = {path.name for path in (LAB / name / "looks").iterdir()}
    assert files == {f"{one}-{kind}.raw" for one in scenes_of_lab for kind in ("maps", "values")}


@pytest.mark.parametrize("scene", SOME)
@pytest.mark.parametrize("name", MODELS)
def test_looks_are_the_attention_of_the_model(name, scene):
    pair, index, vlm = pairs()[scene], read(f"{name}/looks.json"), model(name)
    entry = index["scenes"][scene]
    inputs = vlm.inputs(pair.image("clean"), pair.prompt)
    token = vlm.roles(inputs, pair.spans).index(index["role"])
    attention = image_attention(vlm, inputs, [token])
    patches = attention.patches[:, :, 0]
    shown = np.fromfile(LAB / name / "looks" / f"{scene}-maps.raw", np.uint8)
    wanted = np.clip(patches * patches.shape[-1] / index["most"], 0, 1)
    assert np.abs(shown.reshape(patches.shape) / 255 - wanted).max() <= 0.5 / 255 + 1e-6
    assert np.allclose(entry["picture"], patches.sum(-1), atol=1e-4)
    thing = {"states": ("object",), "svo": ("subject", "object"), "faces": ("subject",)}[pair.task]
    masks = pair.patch_masks("clean", vlm.grid, vlm.image_size)
    on = np.flatnonzero(np.any([masks[part] for part in thing], axis=0))
    assert entry["on"] == on.tolist()
    own = patches[..., on].sum(-1) / patches.sum(-1)
    assert np.allclose(entry["on_own"], own, atol=1e-4)
    # A head that looks at this scene's thing looks less at the places of others.
    best = np.unravel_index(own.argmax(), own.shape)
    assert np.array(entry["on_others"])[best] < own[best]


@pytest.mark.parametrize("scene", SOME)
@pytest.mark.parametrize("name", MODELS)
def test_donors_are_matched(name, scene):
    pair = pairs()[scene]
    donors = [pairs()[donor] for donor in read(f"{name}/looks.json")["scenes"][scene]["donors"]]
    assert len({donor.scene_id for donor in [pair, *donors]}) == 1 + looks.DONORS
    for donor in donors:
        assert (donor.slot, donor.order) == (pair.slot, pair.order)
        assert not {donor.correct, donor.incorrect} & {pair.correct, pair.incorrect}
