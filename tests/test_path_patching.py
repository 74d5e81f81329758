"""Path patching on seeded random models, against paths followed by hand."""

import pytest
import torch
from seeded import blip_runs, llava_runs, seeded_blip, seeded_llava
from test_attribution import CASES, changes, heads_of, job_of, linear_behind
from test_patching import count_hooks

from notice_lib import NoticeError, Site, load_model, load_pairs, sweep
from notice_lib.patching import PlacedSite, paths, reference

EVERYTHING = pytest.mark.parametrize(("build", "runs"), CASES)


def all_tokens(run) -> tuple[int, ...]:
    return tuple(range(len(run)))


def gaps(model, hidden, job) -> torch.Tensor:
    """(2,) what the answers' logits change by, given LLaVA's residual stream at the last token."""
    language_model = model.model.model.language_model
    logits = model.model.lm_head(language_model.norm(hidden)).double()
    return (logits - model.logits(job.base))[[job.answer.correct, job.answer.incorrect]]


@EVERYTHING
def test_behind_the_last_mlp_there_is_only_the_direct_path(build, runs):
    model = build()
    for clean, corrupt in runs().values():
        last = model.n_layers - 1
        sites = [PlacedSite("mlp", last, None, (i,), "") for i in (len(clean) - 1, len(clean) - 3)]
        job = job_of((clean, corrupt), sites)
        (whole,), (direct,) = reference.patch(model, [job]), paths.direct(model, [job])
        assert torch.equal(whole.patched, direct.patched)
        assert torch.equal(whole.base, direct.base)
        assert torch.equal(whole.source, direct.source)
        assert changes(whole)[0].abs().min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_llavas_direct_effect_by_hand(kv_heads):
    """The head's own change, through the output projection, onto the residual stream's end."""
    model, (clean, corrupt) = seeded_llava(kv_heads=kv_heads), llava_runs()["image"]
    layer, head, last = 0, 1, len(clean) - 1
    point, end = ("self_attention", layer), ("layer_output", model.n_layers - 1)
    _, here = reference.record(model, corrupt, [point, end])
    _, there = reference.record(model, clean, [point])
    projection = model.hook_point(*point).module.weight
    own = slice(head * projection.shape[1] // 4, (head + 1) * projection.shape[1] // 4)
    moved = (there[point] - here[point])[0, last, own] @ projection[:, own].T
    sites = [PlacedSite(*point, head, (position,), "") for position in (last, last - 1)]
    job = job_of((clean, corrupt), sites)
    found = changes(paths.direct(model, [job])[0])
    expected = gaps(model, here[end][0, last] + moved, job)
    assert torch.allclose(found[0], expected, atol=1e-6)
    assert expected.abs().min() > 1e-4
    assert (found[1] == 0).all()  # no other token's stream is unembedded
    assert (changes(reference.patch(model, [job])[0])[1] != 0).all()


@torch.no_grad()
def test_blips_direct_effect_by_hand():
    """Through the projection and the normalisations of two layers; their MLPs and attention stay
    the base run's."""
    model, (clean, corrupt) = seeded_blip(), blip_runs()["image"]
    layer, head, position = model.n_layers - 2, 2, 5
    points = [(part, at) for part in paths.FROZEN for at in (layer, layer + 1)]
    before = ("layer_output", layer - 1)
    _, here = reference.record(model, corrupt, [*points, before])
    _, there = reference.record(model, clean, [("cross_attention", layer)])
    own = slice(head * 32, (head + 1) * 32)
    mixed = here["cross_attention", layer].clone()
    mixed[0, position, own] = there["cross_attention", layer][0, position, own]
    stream = here[before]
    for at, cross in ((layer, mixed), (layer + 1, here["cross_attention", layer + 1])):
        block = model.model.text_encoder.encoder.layer[at]
        stream = block.attention.output(here["self_attention", at], stream)
        stream = block.crossattention.output(cross, stream)
        stream = block.output.LayerNorm(here["mlp", at] + stream)
    start = torch.tensor([[model.model.decoder_start_token_id]])
    logits = model.model.text_decoder(start, encoder_hidden_states=stream, use_cache=False).logits
    job = job_of((clean, corrupt), [PlacedSite("cross_attention", layer, head, (position,), "")])
    found = paths.direct(model, [job])[0].patched[0, :2]
    assert torch.allclose(found, logits[0, -1, [30, 31]], atol=1e-10)
    assert (found - reference.patch(model, [job])[0].patched[0, :2]).abs().max() > 1e-4


@torch.no_grad()
def test_a_path_through_the_mlp_by_hand():
    """LLaVA's last head to the last MLP: the MLP reads the head, the answer reads the MLP alone."""
    model, (clean, corrupt) = seeded_llava(), llava_runs()["text"]
    layer, last = model.n_layers - 1, len(clean) - 1
    block = model.model.model.language_model.layers[layer]
    point, end = ("self_attention", layer), ("layer_output", layer)
    _, here = reference.record(model, corrupt, [point, ("mlp", layer), end])
    _, there = reference.record(model, clean, [point])
    attended = here[end][0, last] - here["mlp", layer][0, last]
    moved = block.self_attn.o_proj(there[point][0, last] - here[point][0, last])
    mlp = block.mlp(block.post_attention_layernorm(attended + moved))
    sites = [PlacedSite(*point, None, (last,), ""), PlacedSite("mlp", layer, None, (last,), "")]
    job = job_of((clean, corrupt), sites)
    direct, through = changes(paths._from_the_first(model, [job])[0])
    assert torch.allclose(direct, gaps(model, attended + here["mlp", layer][0, last] + moved, job),
                          atol=1e-6)  # fmt: skip
    assert torch.allclose(through, gaps(model, attended + mlp, job), atol=1e-6)
    assert through.abs().min() > 1e-3


@EVERYTHING
def test_in_a_linear_model_the_paths_add_up_to_the_whole_effect(build, runs):
    model = linear_behind(build(), first=1)
    clean, corrupt = runs()["image"]
    everything = all_tokens(clean)
    points = paths.frozen_points(model)
    for component in set(model.components) & {"self_attention", "cross_attention"}:
        sender = PlacedSite(component, 1, 2, (len(clean) - 1, len(clean) - 2), "")
        receivers = [PlacedSite(*point, None, everything, "") for point in points]
        job = job_of((clean, corrupt), [sender, *receivers])
        by_path = changes(paths._from_the_first(model, [job])[0])
        whole = changes(reference.patch(model, [job])[0])[0]
        assert torch.allclose(by_path.sum(0), whole, rtol=1e-3)
        assert (by_path[0] - whole).abs().max() > 0.02 * whole.abs().max() > 0


@EVERYTHING
def test_nothing_passes_through_what_lies_before_or_beside_the_sender(build, runs):
    model = build()
    clean, corrupt = runs()["image"]
    everything = all_tokens(clean)
    beside = heads_of(model, "self_attention", 1, everything)
    before = [PlacedSite("mlp", 0, None, everything, "")]
    behind = [PlacedSite("mlp", 1, None, everything, "")]
    sender = PlacedSite("self_attention", 1, 0, (len(clean) - 1,), "")
    job = job_of((clean, corrupt), [sender, *beside, *before, *behind])
    found = changes(paths._from_the_first(model, [job])[0])
    assert (found[1:-1] == 0).all()
    assert (found[-1] != 0).all()


@EVERYTHING
def test_with_everything_frozen_the_stream_runs_straight(build, runs):
    """The frozen run of the base is the base; hooks are gone after it, and after an error."""
    model = build()
    clean, corrupt = runs()["image"]
    logits, here = reference.record(model, corrupt, paths.frozen_points(model))
    before = count_hooks(model)
    with paths.frozen(model, here) as computed:
        assert torch.equal(model.logits(corrupt), logits)
    assert all(torch.equal(computed[point], here[point]) for point in here)
    beyond = PlacedSite("mlp", 0, None, (len(clean),), "")
    with pytest.raises(IndexError):
        paths.direct(model, [job_of((clean, corrupt), [beyond])])
    assert count_hooks(model) == before


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
def test_the_table_of_paths(name):
    model, pairs = load_model(name, "cpu"), load_pairs("svo", n=2, seed=0)
    sender = Site("self_attention", 1, 3, "last")
    receivers = [Site("mlp", 2, None, "all"), Site("self_attention", 4, 5, "last")]
    found = paths.path_patching(model, pairs, sender, receivers)
    assert len(found.patched) == 2 * 3
    assert found.settings["sender"] == str(sender)
    straight = sweep(model, pairs, [sender], engine=paths.direct)
    own = found.patched[found.patched.layer == 1]
    assert own.logit_correct.to_list() == straight.patched.logit_correct.to_list()
    with pytest.raises(NoticeError, match="layer_output"):
        paths.path_patching(model, pairs, sender, [Site("layer_output", 2, None, "all")])
    with pytest.raises(NoticeError, match="each"):
        paths.path_patching(model, pairs, Site("mlp", 1), receivers)
