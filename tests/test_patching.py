"""What must always hold of activation patching, on seeded random models in float64."""

import numpy as np
import pytest
import torch
from seeded import blip_runs, llava_runs, seeded_blip, seeded_llava

from notice_lib import NoticeError
from notice_lib.fingerprint import of_sites
from notice_lib.patching import Circuit, PlacedSite, Site, place, site_grid
from notice_lib.patching.reference import patched_logits, record
from notice_lib.patching.sites import check_sites

CASES = [
    pytest.param(seeded_blip, blip_runs, id="blip"),
    pytest.param(seeded_llava, llava_runs, id="llava"),
    pytest.param(lambda: seeded_llava(kv_heads=2), llava_runs, id="llava-grouped-query"),
]
CORRUPTIONS = pytest.mark.parametrize("corruption", ["image", "text"])


def every_point(model):
    return [
        (component, layer)
        for stack in model.stacks.values()
        for component in stack.components
        for layer in range(stack.n_layers)
    ]


@pytest.mark.parametrize(("build", "runs"), CASES)
def test_patching_a_run_with_itself_changes_nothing(build, runs):
    model, (clean, _) = build(), runs()["image"]
    logits, own = record(model, clean, every_point(model))
    for component, layer in every_point(model):
        positions = tuple(range(own[component, layer].shape[1]))
        site = PlacedSite(component, layer, None, positions, "")
        assert torch.equal(patched_logits(model, clean, own, [site]), logits)


@pytest.mark.parametrize(("build", "runs"), CASES)
def test_the_whole_tower_carries_the_clean_image(build, runs):
    model, (clean, corrupt) = build(), runs()["image"]
    wanted, source = record(model, clean, every_point(model))
    for layer in range(model.stacks["vision"].n_layers):
        tokens = tuple(range(model.grid**2 + 1))
        site = PlacedSite("vision_layer_output", layer, None, tokens, "")
        difference = (patched_logits(model, corrupt, source, [site]) - wanted).abs().max()
        assert difference < 1e-10


@CORRUPTIONS
@pytest.mark.parametrize(("build", "runs"), CASES)
def test_the_whole_layer_output_carries_the_clean_run(build, runs, corruption):
    """Except below BLIP's last layer under image corruption: the layers above re-read the image."""
    model, (clean, corrupt) = build(), runs()[corruption]
    wanted, source = record(model, clean, every_point(model))
    for layer in range(model.n_layers):
        site = PlacedSite("layer_output", layer, None, tuple(range(len(clean))), "")
        difference = (patched_logits(model, corrupt, source, [site]) - wanted).abs().max().item()
        rereads = model.family == "blip" and corruption == "image" and layer < model.n_layers - 1
        assert difference > 0.1 if rereads else difference < 1e-10, (layer, difference)


@CORRUPTIONS
@pytest.mark.parametrize(("build", "runs"), CASES)
def test_all_heads_together_are_the_whole_module(build, runs, corruption):
    model, (clean, corrupt) = build(), runs()[corruption]
    position = (len(clean) - 2,)
    for component in set(model.components) & {"self_attention", "cross_attention"}:
        _, source = record(model, clean, [(component, 1)])
        heads = [PlacedSite(component, 1, head, position, "") for head in range(model.n_heads)]
        whole = PlacedSite(component, 1, None, position, "")
        together = patched_logits(model, corrupt, source, heads)
        assert torch.equal(together, patched_logits(model, corrupt, source, [whole]))
        one = patched_logits(model, corrupt, source, heads[:1])
        assert not torch.equal(one, together)


@pytest.mark.parametrize(("build", "runs"), CASES)
def test_a_site_writes_only_its_own_rows_and_columns(build, runs):
    """Against a patch done by hand, without the library's hooks."""
    model, (clean, corrupt) = build(), runs()["image"]
    position, head, layer = len(clean) - 3, 2, 1
    point = model.hook_point("self_attention", layer)
    size = point.module.in_features // model.n_heads
    seen = []
    handle = point.module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.logits(clean)
    handle.remove()

    def by_hand(module, args):
        changed = args[0].clone()
        changed[0, position, head * size : (head + 1) * size] = seen[0][
            0, position, head * size : (head + 1) * size
        ]
        return (changed,)

    handle = point.module.register_forward_pre_hook(by_hand)
    expected = model.logits(corrupt)
    handle.remove()
    _, source = record(model, clean, [("self_attention", layer)])
    site = PlacedSite("self_attention", layer, head, (position,), "")
    assert torch.equal(patched_logits(model, corrupt, source, [site]), expected)
    assert not torch.equal(expected, model.logits(corrupt))


@pytest.mark.parametrize(("build", "runs"), CASES)
def test_hooks_are_gone_after_success_and_after_an_exception(build, runs):
    model, (clean, corrupt) = build(), runs()["image"]
    model.logits(clean)  # transformers hangs up capture hooks of its own at the first call
    before = count_hooks(model)
    _, source = record(model, clean, every_point(model))
    good = PlacedSite("mlp", 0, None, (1,), "")
    beyond = PlacedSite("mlp", 0, None, (len(clean),), "")
    patched_logits(model, corrupt, source, [good])
    with pytest.raises(IndexError):
        patched_logits(model, corrupt, source, [good, beyond])
    assert count_hooks(model) == before


def count_hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.model.modules()
    )


def test_a_site_that_never_fires_is_an_error(monkeypatch):
    model, (clean, corrupt) = seeded_blip(), blip_runs()["image"]
    _, source = record(model, clean, [("mlp", 0)])
    idle = model.hook_point("mlp", 1)
    monkeypatch.setattr(model, "_hook_point", lambda component, layer: idle)
    monkeypatch.setattr(model.model.text_encoder.encoder, "layer", torch.nn.ModuleList())
    with pytest.raises(NoticeError, match="never fired"):
        patched_logits(model, corrupt, source, [PlacedSite("mlp", 0, None, (1,), "")])


def test_a_grid_has_every_site_once():
    model = seeded_blip()
    heads = site_grid(model, ["cross_attention"], per_head=True, position="correct")
    assert len(set(heads)) == len(heads) == 4 * 4
    assert len(site_grid(model)) == 4 * 4
    assert site_grid(model, ["mlp"], layers=[2]) == [Site("mlp", 2, None, "each")]


ROLES = {
    "vision": ("class",) + ("image",) * 64,
    "text": ("start", "before", "correct", "correct", "or", "incorrect", "after", "after", "last"),
    "decoder": ("start", "last"),
}


def positions_of(*sites, **regions):
    placed = place(seeded_blip(), sites, ROLES, regions)
    return [[site.positions for site in patch.sites] for patch in placed]


def test_sites_are_placed_by_role():
    placed = place(seeded_blip(), [Site("mlp", 0, None, "correct"), Site("mlp", 0)], ROLES)
    assert placed[0].sites[0].positions == (2, 3)
    assert [patch.sites[0].positions for patch in placed[1:]] == [(i,) for i in range(9)]
    assert [patch.sites[0].role for patch in placed[1:]] == list(ROLES["text"])
    with pytest.raises(NoticeError, match="between"):
        positions_of(Site("mlp", 0, None, "between"))


def test_sites_of_the_tower_and_the_decoder_are_placed_on_their_own_tokens():
    every = positions_of(Site("vision_mlp", 0))
    assert every == [[(i,)] for i in range(65)]
    assert positions_of(Site("vision_mlp", 0, None, "image")) == [[tuple(range(1, 65))]]
    assert positions_of(Site("decoder_mlp", 0, None, "last")) == [[(1,)]]
    assert positions_of(Site("mlp", 0, None, "all")) == [[tuple(range(9))]]
    region = Site("vision_mlp", 0, None, "image:differs")
    assert positions_of(region, differs=(0, 9)) == [[(1, 10)]]
    with pytest.raises(NoticeError, match="no mask"):
        positions_of(region, object=(0, 9))
    with pytest.raises(NoticeError, match="no mask"):  # BLIP's question has no image tokens
        positions_of(Site("mlp", 0, None, "image:differs"), differs=(0, 9))


def test_a_circuit_is_one_patch():
    sites = (Site("mlp", 0, None, "correct"), Site("vision_mlp", 1, None, "class"))
    (patch,) = place(seeded_blip(), [Circuit("both", sites)], ROLES)
    assert patch.circuit == "both"
    assert [site.positions for site in patch.sites] == [(2, 3), (0,)]
    with pytest.raises(NoticeError, match="'each' asks for a run for every token"):
        Circuit("many", (Site("mlp", 0),))
    with pytest.raises(NoticeError, match="Two circuits are called 'both'"):
        check_sites(seeded_blip(), [Circuit("both", sites), Circuit("both", sites[:1])])


@pytest.mark.parametrize(
    ("site", "named"),
    [
        (Site("crossattention", 0), "self_attention, cross_attention, mlp, layer_output"),
        (Site("mlp", 4), "0 to 3"),
        (Site("mlp", -1), "0 to 3"),
        (Site("mlp", 0, 1), "no heads"),
        (Site("self_attention", 0, 4), "0 to 3"),
        (Site("mlp", 0, None, "noun"), "noun"),
    ],
)
def test_impossible_sites_are_refused_by_name(site, named):
    with pytest.raises(NoticeError, match=named):
        check_sites(seeded_blip(), [site])


@pytest.mark.parametrize(
    ("site", "named"),
    [
        (Site("mlp", 0, None, 9), "text stack has 9 tokens in this run.* from 0 to 8"),
        (Site("mlp", 0, None, -1), "text stack has 9 tokens"),
        (Site("decoder_mlp", 0, None, 2), "decoder stack has 2 tokens"),
        (Site("vision_mlp", 0, None, "correct"), "its roles are class, image"),
    ],
)
def test_a_position_beyond_the_stacks_tokens_is_refused_by_name(site, named):
    with pytest.raises(NoticeError, match=named):
        positions_of(site)


def test_numpys_integers_are_integers_and_fractions_and_flags_are_none():
    site = Site("mlp", np.int64(2), np.int32(1), np.uint8(3))
    assert site == Site("mlp", 2, 1, 3)
    assert {type(value) for value in (site.layer, site.head, site.position)} == {int}
    assert of_sites([site]) == of_sites([Site("mlp", 2, 1, 3)])
    flags = ("mlp", True), ("mlp", 0, False), ("mlp", 0, None, True)
    for wrong in (("mlp", 1.0), ("mlp", 0, "2"), ("mlp", 0, None, None), ("mlp", None), *flags):
        with pytest.raises(NoticeError, match="is not a whole number"):
            Site(*wrong)
