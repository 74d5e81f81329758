"""The patch lab's modules compute in Chromium what the library computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lab_page import (
    CLOSE,
    DIRECTIONS,
    LAB,
    MODELS,
    in_the_browser,
    manifest,
    model,
    pairs,
    patched,
    read,
    switched_off,
)
from PIL import Image

from notice_lib import Circuit, Site
from notice_lib.models.answers import score
from notice_lib.patching import Job, engine
from notice_lib.patching.sites import place
from tools import scenes
from tools.lab import boards, looks
from tools.lab.scenes import places

INTERVENTIONS = 200
COMPOSED = 8
COMPOSED_AT = {"blip-mini": 4, "llava-mini": -1}  # a token that the image reaches in this model


def random_site(rng, of, n_rows):
    """Any component and layer; a single head of an attention, or the whole; one row or all."""
    component = str(rng.choice(of["components"]))
    head = int(rng.integers(of["shape"]["heads"])) if rng.random() < 0.5 else None
    if component not in of["per_head"]:
        head = None
    row = "all" if rng.random() < 0.1 else int(rng.integers(n_rows))
    return component, int(rng.integers(of["shape"]["layers"])), head, row


def random_patches(of):
    """[(scene, direction, patches)], of one to six sites each."""
    rng, cases = np.random.default_rng(0), []
    kinds = [(scene, direction) for scene in of["scenes"] for direction in DIRECTIONS]
    for part, (scene, direction) in zip(
        np.array_split(range(INTERVENTIONS), len(kinds)), kinds, strict=True
    ):
        patches = [
            list({random_site(rng, of, len(scene["ids"])) for _ in range(rng.integers(1, 7))})
            for _ in part
        ]
        cases.append((scene, direction, patches))
    return cases


def as_javascript(patch, n_rows):
    """A patch in the form of model.js, where each site has one row of the grid."""
    return [
        {"component": component, "layer": layer, "token": token, "head": head}
        for component, layer, head, row in patch
        for token in (range(n_rows) if row == "all" else [row])
    ]


def as_circuit(name, patch, of):
    """The same patch for the library, which has a token for each of the image's patches."""
    image = of["image"] or {"start": len(of["vocabulary"]), "tokens": 1}

    def position(row):
        if row == "all" or row < image["start"]:
            return row
        return "image" if row == image["start"] else row + image["tokens"] - 1

    return Circuit(
        name,
        tuple(Site(component, layer, head, position(row)) for component, layer, head, row in patch),
    )


PATCHED = """async (cases) => {
    const found = [];
    for (const [scene, direction, patches] of cases) {
        const scores = await model.patch(scene, direction, patches);
        found.push(scores.map((score) => [score.correct, score.incorrect]));
    }
    return found;
}"""


@pytest.mark.parametrize("name", MODELS)
def test_the_browser_computes_what_sweep_computes(browser, name):
    """On random interventions of every kind, in both directions, on every scene."""
    cases = random_patches(manifest(name))
    given = [
        (scene["id"], direction, [as_javascript(patch, len(scene["ids"])) for patch in patches])
        for scene, direction, patches in cases
    ]
    found = in_the_browser(browser, name, PATCHED, given)
    moved = 0
    for (scene, direction, patches), here in zip(cases, found, strict=True):
        circuits = [as_circuit(str(i), patch, manifest(name)) for i, patch in enumerate(patches)]
        wanted = patched(name, pairs()[scene["id"]], direction, circuits)
        assert np.abs(wanted - np.array(here)).max() <= CLOSE, (scene["id"], direction)
        base = scene["L"]["corrupt" if direction == "denoise" else "clean"]
        moved += np.sum(np.abs(wanted[:, 0] - wanted[:, 1] - base) > 100 * CLOSE)
    assert moved > INTERVENTIONS / 4  # Many sites are silent; those of the options are not.


WRITTEN = """async (cases) => {
    const found = [];
    for (const [scene, component, token, values, patches] of cases) {
        const given = { component, token, values: Float32Array.from(values) };
        found.push((await model.write(scene, given, patches)).map((score) => score.L));
    }
    return found;
}"""


@pytest.mark.parametrize("name", MODELS)
def test_switching_heads_off_is_what_the_library_computes(browser, name):
    """By the mean, by each donor's two runs, and by zero; one head, another, and both."""
    pair = "svo-096-ab-correct"
    index, shape = read(f"{name}/looks.json"), manifest(name)["shape"]
    component, donors = index["component"], index["scenes"][pair]["donors"]
    (scene,) = (one for one in manifest(name)["scenes"] if one["id"] == pair)
    token = scene["roles"].index(index["role"])
    switched = ([(1, 4)], [(3, 0)], [(1, 4), (3, 0)])
    patches = [
        [{"component": component, "layer": i, "token": token, "head": h} for i, h in of]
        for of in switched
    ]
    circuits = [
        Circuit(str(i), tuple(Site(component, *head, index["role"]) for head in of))
        for i, of in enumerate(switched)
    ]
    values = np.fromfile(LAB / name / "looks" / f"{pair}-values.raw", "<f4")
    values = values.reshape(-1, shape["layers"], shape["width"])
    sources = [*values, np.zeros_like(values[0])]
    cases = [[pair, component, token, source.ravel().tolist(), patches] for source in sources]
    found = np.array(in_the_browser(browser, name, WRITTEN, cases))
    wanted = np.array(list(switched_off(name, pairs()[pair], donors, circuits)))
    assert found.shape == wanted.shape == (2 + 2 * looks.DONORS, len(switched))
    assert np.abs(found - wanted).max() <= CLOSE
    assert np.ptp(wanted, axis=0).min() > 100 * CLOSE  # It matters what is written.


ASKED = """async ([given, cases]) => {
    const found = [];
    for (const [question, clean, corrupt, { token, ...site }] of cases) {
        const made = asked(question, model.manifest.vocabulary, given);
        const images = {};
        for (const [run, url] of [["clean", clean], ["corrupt", corrupt]]) {
            images[run] = await fetchPng(new URL(url, address));
        }
        model.meet([{ id: "one", ...made, images }]);
        const { clean: before, corrupt: after } = await model.read("one");
        const at = [...made.ids.keys()].at(token);
        const [score] = await model.patch("one", "denoise", [[{ ...site, token: at }]]);
        found.push({ ids: made.ids, L: [before.L, after.L, score.L], likeliest: before.likeliest });
    }
    return found;
}"""


@pytest.mark.parametrize("name", MODELS)
def test_composed_pairs_are_answered_and_patched_as_by_the_library(browser, name):
    """With pictures of one board that differ in any fields, and every kind of question."""
    rng = np.random.default_rng(1)
    cases, wanted = [], []
    for case in range(COMPOSED):
        number = case % len(boards.BOARDS)
        board = boards.BOARDS[number]
        combinations = list(board.combinations())
        ends = [combinations[i] for i in rng.choice(len(combinations), 2, replace=False)]
        field = list(board.questions())[case // len(boards.BOARDS) % len(board.questions())]
        first, second = rng.choice(board.fields[field], 2, replace=False)
        slot, clean = boards.SLOTS[field], ends[0][1]
        question = scenes.question(clean, slot, first, second)
        layer = int(rng.integers(manifest(name)["shape"]["layers"]))
        site = Site(model(name).image_component, layer, 3, COMPOSED_AT[name])
        urls = [f"lab/{name}/compose/{boards.file_name(number, n)}" for n, _ in ends]
        given = {"component": site.component, "layer": layer, "head": 3, "token": site.position}
        cases.append([question, *urls, given])
        wanted.append(asked(name, question, (first, second), [scene for _, scene in ends], site))
    found = in_the_browser(browser, name, ASKED, [read(f"{name}/compose.json"), cases])
    for here, (ids, gaps, words) in zip(found, wanted, strict=True):
        assert here["ids"] == ids
        assert np.abs(np.array(here["L"]) - gaps).max() <= CLOSE
        assert [one["word"] for one in here["likeliest"]] == [word for word, _ in words]
        assert [one["share"] for one in here["likeliest"]] == pytest.approx(
            [share for _, share in words], abs=1e-4
        )


def asked(name, question, options, ends, site):
    """The ids, [L, L*, L' of a patched site], and the clean run's five likeliest words."""
    vlm = model(name)
    clean, corrupt = (
        vlm.inputs(Image.fromarray(scenes.render(scene)[0]), question) for scene in ends
    )
    answer = vlm.answer_tokens(question, *map(str, options))
    sites = [replace(site, position=range(len(clean))[site.position])]
    placed = tuple(place(vlm, sites, {"text": [""] * len(clean)}))
    (outcome,) = engine.patch(vlm, [Job(corrupt, clean, placed, answer)])
    logits = vlm.logits(clean)
    of = score(logits, answer), outcome.base, outcome.patched[0]
    shares = torch.softmax(logits, 0)
    top = shares.topk(5)
    words = vlm.processor.tokenizer.convert_ids_to_tokens(top.indices.tolist())
    gaps = [float(one[0] - one[1]) for one in of]
    ids = [clean.input_ids[0][row[0]].item() for row in places(clean.image_tokens)]
    return ids, gaps, list(zip(words, top.values.tolist(), strict=True))
