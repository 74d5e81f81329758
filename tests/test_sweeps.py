"""What a sweep of the minis runs: corruptions, donors, regions, circuits, ablation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from notice_lib import (
    Circuit,
    GaussianNoise,
    NoticeError,
    PairSet,
    Site,
    ablate,
    effects,
    load_model,
    load_pairs,
    match_strength,
    site_grid,
    sweep,
)
from notice_lib.models.hooks import watch
from notice_lib.pairs.masks import write_masks
from notice_lib.patching import engine, make_jobs, reference
from notice_lib.patching.runs import answer_of, regions, run_inputs, unrelated

TEXT = Site("layer_output", 2, None, "all")
CIRCUIT = Circuit("two layers", (TEXT, Site("vision_mlp", 1, None, "image:differs")))


@pytest.fixture(scope="module", params=["blip-mini", "llava-mini"])
def model(request):
    return load_model(request.param, device="cpu")


@pytest.fixture(scope="module")
def pairs():
    return load_pairs("svo", n=4)


SWEEPS = [
    {},
    {"corruption": "text", "direction": "noise"},
    {"corruption": GaussianNoise("patch_embeddings", draws=2)},
    {"corruption": GaussianNoise("tower_output", 1.0, draws=2), "direction": "noise"},
    {"donor": "unrelated"},
]


@pytest.mark.parametrize("settings", SWEEPS, ids=str)
def test_engine_and_plain_way_tabulate_the_same(model, pairs, settings):
    sites = [TEXT, CIRCUIT, Site("vision_layer_output", 2, None, "class")]
    fast, slow = (
        sweep(model, pairs, sites, engine=patch, **settings).table()
        for patch in (engine.patch, reference.patch)
    )
    draws = 2 if isinstance(settings.get("corruption"), GaussianNoise) else 1
    assert len(fast) == len(pairs) * len(sites) * draws
    numbers = fast.select_dtypes("float64").columns
    np.testing.assert_allclose(fast[numbers], slow[numbers], rtol=0, atol=5e-5)
    others = fast.columns.difference(numbers)
    assert fast[others].equals(slow[others])
    assert (effects(fast)["effect"].abs() > 1e-4).any()


def test_a_circuits_row_carries_its_name(model, pairs):
    row = sweep(model, pairs, [CIRCUIT]).table().iloc[0]
    assert (row["circuit"], row["component"], row["layer"]) == ("two layers", "circuit", -1)


def test_draws_are_independent_and_shared_by_the_runs_of_a_pair(model, pairs):
    noise = GaussianNoise("tower_output", 2.0, draws=3)
    runs = sweep(model, pairs, [TEXT], noise).runs
    by_pair = runs.groupby("pair_id")["corrupt_logit_correct"]
    assert (by_pair.nunique() == 3).all()
    assert (runs.groupby("pair_id")["clean_logit_correct"].nunique() == 1).all()
    # Writing back what the noisy run has itself changes nothing: it is the same draw.
    whole = [Site("layer_output", model.n_layers - 1, None, "all")]
    again = sweep(model, pairs, whole, noise, direction="noise").table()
    for logit in ("logit_correct", "logit_incorrect"):
        np.testing.assert_allclose(again[logit], again[f"corrupt_{logit}"], atol=5e-5)


@pytest.mark.parametrize("at", ["patch_embeddings", "tower_output"])
def test_noise_has_the_strength_it_is_given(model, pairs, at):
    noise = GaussianNoise(at, 2.0, draws=1)
    clean, noisy, _ = run_inputs(model, pairs, pairs[0], noise)
    with watch({at: model.noise_point(at)}) as seen:
        model.logits(clean)
    values = noisy.noise.values
    assert values.shape == seen[at].shape
    drawn = values[:, 1:] if at == "patch_embeddings" else values
    assert drawn.std() / seen[at].std() == pytest.approx(2.0, rel=0.05)
    if at == "patch_embeddings":
        assert (values[:, 0] == 0).all()
    scores = model.logits(noisy)
    assert not torch.allclose(scores, model.logits(clean), atol=1e-2)
    assert torch.equal(scores, model.logits(run_inputs(model, pairs, pairs[0], noise)[1]))


def test_the_strength_is_matched_to_a_mean_or_refused(model, pairs):
    strength = match_strength(model, pairs, "tower_output", gap=2.0, draws=1)
    runs = sweep(model, pairs, [TEXT], GaussianNoise("tower_output", strength, 1)).runs
    gap = (runs["corrupt_logit_correct"] - runs["corrupt_logit_incorrect"]).mean()
    assert gap == pytest.approx(2.0, abs=0.2)
    with pytest.raises(NoticeError, match="No noise up to 64 standard deviations"):
        match_strength(model, pairs, "tower_output", gap=-20.0, draws=1)
    with pytest.raises(NoticeError, match="Without noise the mean is"):
        match_strength(model, pairs, "tower_output", gap=50.0, draws=1)


def test_an_unrelated_donor_is_another_scene(model):
    pairs = load_pairs("svo", n=40)
    for pair in pairs.pairs[:10]:
        donor = unrelated(model, pairs, pair, seed=0)
        assert donor.scene_id != pair.scene_id
        assert len(model.token_layout(donor.prompt, donor.spans)) == len(
            model.token_layout(pair.prompt, pair.spans)
        )
    own, other = (sweep(model, pairs, [TEXT], donor=donor) for donor in ("own", "unrelated"))
    assert (own.runs["donor"] == own.runs["pair_id"]).all()
    assert (other.runs["donor"] != other.runs["pair_id"]).all()
    with pytest.raises(NoticeError, match="no unrelated donor"):
        unrelated(model, pairs.filter(lambda pair: pair == pairs[0]), pairs[0], seed=0)


def test_regions_divide_the_image(model, pairs):
    for pair in pairs:
        found = regions(model, pair, [CIRCUIT])
        assert sorted(found["differs"] + found["elsewhere"]) == list(range(model.grid**2))
        clean = pair.patch_masks("clean", model.grid, model.image_size)["differs"]
        assert set(np.flatnonzero(clean)) <= set(found["differs"])
    assert regions(model, pairs[0], [TEXT]) == {}


def widened(pair, folder, size):
    """The pair with pictures and masks of another size."""
    parts = {}
    for run in ("clean", "corrupt"):
        parts[f"{run}_image"] = folder / f"{run}.png"
        pair.image(run).resize(size).save(parts[f"{run}_image"])
        masks = {
            name: np.asarray(Image.fromarray(mask).resize(size))
            for name, mask in pair.masks(run).items()
        }
        parts[f"{run}_masks"] = folder / f"{run}-masks.png"
        write_masks(parts[f"{run}_masks"], masks)
    return replace(pair, **parts)


def test_regions_are_unknown_if_the_processor_crops_the_image(tmp_path):
    """LLaVA-1.5's resizes the shorter side, and cuts off what is beyond a square."""
    pairs, site = load_pairs("svo", n=1), Site("vision_mlp", 0, None, "image:differs")
    wide = replace(pairs, pairs=(widened(pairs[0], tmp_path, (144, 96)),))
    model = load_model("llava-mini", device="cpu")
    assert len(sweep(model, wide, [site], strict=True).patched) == 1  # It resizes all of it.
    model = load_model("llava-mini", device="cpu", check=False)
    model.processor.image_processor.size = {"shortest_edge": 96}
    assert len(sweep(model, pairs, [site], strict=True).patched) == 1
    with pytest.raises(NoticeError, match=r"does not resize the whole clean image \(144 x 96 pix"):
        sweep(model, wide, [site], strict=True)


def test_a_site_without_a_region_is_a_skipped_pair(model):
    faces = load_pairs("faces", n=2)
    with pytest.raises(NoticeError, match="no mask that reaches tokens"):
        sweep(model, faces, [Site("vision_mlp", 0, None, "image:distractor")])


def test_mean_ablation_writes_the_mean_of_the_clean_runs(model, pairs):
    """Against the mean and the run taken by hand."""
    pair = pairs[0]
    point = ("self_attention", 1)
    seen = []
    for other in pairs:
        inputs = model.inputs(other.image("clean"), other.prompt)
        values = reference.record(model, inputs, [point])[1][point]
        roles = model.roles(inputs, other.spans)
        seen.append(values[0, [i for i, role in enumerate(roles) if role == "or"]].mean(0))
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    at = model.roles(inputs, pair.spans).index("or")
    hook_point = model.hook_point(*point)

    def write(module, args):
        changed = args[0].clone()
        changed[0, at] = torch.stack(seen).mean(0)
        return (changed, *args[1:])

    handle = hook_point.module.register_forward_pre_hook(write)
    logits = model.logits(inputs)
    handle.remove()
    row = ablate(model, pairs, [Site(*point, None, "or")], "mean").table().iloc[0]
    tokens = answer_of(model, pair)
    assert row["pair_id"] == pair.pair_id
    assert row["logit_correct"] == pytest.approx(logits[tokens.correct].item(), abs=2e-5)
    assert np.isnan(row["source_logit_correct"])
    assert row["base_logit_correct"] == row["clean_logit_correct"]


def exchanged(pair):
    """The pair with its labels exchanged: what is written for it must not change."""
    (order,) = {"correct_first", "incorrect_first"} - {pair.order}
    return replace(pair, correct=pair.incorrect, incorrect=pair.correct, order=order)


def test_a_mean_does_not_know_which_option_is_correct(model, pairs):
    """If one pair's labels are exchanged, only its two scores change places."""
    changed = PairSet((exchanged(pairs[0]), *pairs[1:]))
    site = Site("self_attention", 1, None, "all")
    scores = ["logit_correct", "logit_incorrect"]
    table, mirrored = (
        ablate(model, each, [site]).table()[scores].to_numpy() for each in (pairs, changed)
    )
    assert (mirrored[0] == table[0, ::-1]).all()
    assert (mirrored[1:] == table[1:]).all()


def test_zero_ablation_of_the_whole_last_layer_forgets_the_pair(model, pairs):
    site = Site("layer_output", model.n_layers - 1, None, "all")
    table = ablate(model, pairs, [site], "zero").table()
    assert table["prob_correct"].max() < 0.5
    with pytest.raises(NoticeError, match="'mean' or 'zero'"):
        ablate(model, pairs, [site], "median")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"corruption": "audio"}, "audio"),
        ({"direction": "sideways"}, "sideways"),
        ({"donor": "mine"}, "'own' or 'unrelated' or MatchedDonors"),
    ],
)
def test_unknown_settings_are_refused(model, pairs, settings, named):
    with pytest.raises(NoticeError, match=named):
        sweep(model, pairs, [TEXT], **settings)


def test_what_are_no_pairs_or_sites_is_refused(model, pairs):
    none = pairs.filter(lambda pair: False)
    for wrong, told in (
        ((list(pairs), [TEXT]), "PairSet"),
        ((pairs[0], [TEXT]), "PairSet"),
        ((none, [TEXT]), "has no pair"),
        ((pairs, []), "no site to patch"),
        ((pairs, TEXT), "Give a list"),
        ((pairs, ["mlp"]), "'mlp' is no site"),
    ):
        for run in (sweep, make_jobs, ablate):
            with pytest.raises(NoticeError, match=told):
                run(model, *wrong)
    with pytest.raises(NoticeError, match="has no pair"):  # not the mean over the pairs themselves
        ablate(model, pairs, [TEXT], reference=none)
    with pytest.raises(NoticeError, match="are lists"):
        site_grid(model, "mlp")


def test_impossible_noise_is_refused():
    with pytest.raises(NoticeError, match="at is 'patch_embeddings' or 'tower_output'"):
        GaussianNoise("pixels")
    with pytest.raises(NoticeError, match="at least 0 and 1 draw"):
        GaussianNoise(draws=0)
