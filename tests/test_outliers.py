"""Planted outliers: what the weights are made to do, exactly."""

import copy
from types import SimpleNamespace

import numpy as np
import planted_outliers
import pytest
import torch
from planted_outliers import AXIS

from notice_lib.pairs.masks import patch_mask
from tools import scenes as renderer, train_twin
from tools.training import (
    batches,
    forward,
    models,
    outlier_heads,
    outliers,
    pool,
    questions,
)
from tools.training.recipes import TWO_CHOICE

SIDE = models.BLIP_GRID.side


@pytest.fixture(scope="module")
def data():
    return planted_outliers.data()


@pytest.fixture(scope="module")
def pixels():
    return planted_outliers.pixels()


@pytest.fixture(scope="module")
def processor():
    return planted_outliers.processor()


@pytest.fixture(scope="module")
def free():
    return planted_outliers.free()


@pytest.fixture(scope="module")
def twin():
    return planted_outliers.twin()


@torch.no_grad()
def residual(tower, pixels):
    """What the last LayerNorm reads, (n, 1 + patches, width)."""
    read = []
    handle = tower.post_layernorm.register_forward_pre_hook(lambda m, args: read.append(args[0]))
    tower(pixels)
    handle.remove()
    return read[0]


def test_nothing_writes_to_a_free_axis_which_is_then_the_quietest(free, pixels):
    tower = copy.deepcopy(free.vision_model)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    assert residual(tower, pixels[:3])[..., AXIS].all()
    outliers.free_axis(tower, AXIS)
    assert not residual(tower, pixels[:3])[..., AXIS].any()
    assert outliers.quiet_axis(tower, pixels[:3]) == AXIS


def test_only_patches_that_obey_the_rule_carry_the_direction(free, twin, pixels):
    written = residual(twin.model.vision_model, pixels)
    without = copy.deepcopy(twin.model.vision_model)
    outliers.project_out(without, AXIS)
    plain = residual(without, pixels)
    each = twin.fires.sum()
    assert 3 * len(pixels) <= each <= 5 * len(pixels)
    median = residual(free.vision_model, pixels)[:, 1:].norm(dim=-1).median()
    expected = torch.where(twin.fires, outliers.RATIO * median, 0.0)
    torch.testing.assert_close(written[..., AXIS], expected, rtol=2e-3, atol=1e-2)
    assert not plain[..., AXIS].any()
    others = torch.arange(models.HIDDEN) != AXIS
    assert torch.equal(written[..., others], plain[..., others])


def test_norms_are_large_behind_the_last_layernorm_too(twin, pixels):
    with torch.no_grad():
        states = twin.model.vision_model(pixels).last_hidden_state
    fires = twin.fires.clone()
    fires[:, 0] = False
    size = states.norm(dim=-1)
    ratio = size[fires] / size[:, 1:][~fires[:, 1:]].median()
    torch.testing.assert_close(ratio, torch.full_like(ratio, outliers.RATIO), rtol=0.02, atol=0)
    assert (states[fires][:, AXIS] / size[fires]).min() > 0.99


def test_planting_costs_what_the_replaced_neurons_did_beyond_their_means(free, twin, pixels):
    states, _ = outliers.read_last_layer(free.vision_model, pixels)
    mlp, planted = (m.vision_model.encoder.layers[-1].mlp for m in (free, twin.model))
    spent = (mlp.fc1.weight != planted.fc1.weight).any(1)
    assert spent.sum() == 2 * outliers.UNITS
    with torch.no_grad():
        firing = mlp.activation_fn(mlp.fc1(states.float()))[..., spent]
        lost = (firing.flatten(0, 1).mean(0) - firing) @ mlp.fc2.weight[:, spent].T
        change = planted(states.float()) - mlp(states.float())
    others = torch.arange(models.HIDDEN) != AXIS
    torch.testing.assert_close(change[..., others], lost[..., others], rtol=0, atol=1e-4)
    weight = (firing.flatten(0, 1).std(0) * mlp.fc2.weight[:, spent].norm(dim=0)).max()
    kept = mlp.activation_fn(mlp.fc1(states.float()))[..., ~spent].flatten(0, 1).std(0)
    assert weight <= (kept * mlp.fc2.weight[:, ~spent].norm(dim=0)).min()


def test_a_register_moves_exactly_the_direction(twin, pixels):
    tower = twin.model.vision_model
    before = residual(tower, pixels)
    with outliers.register(tower, AXIS):
        moved = residual(tower, pixels)
    assert not moved[:, 1:, AXIS].any()
    torch.testing.assert_close(moved[:, 0, AXIS], before[..., AXIS].sum(1))
    others = torch.arange(models.HIDDEN) != AXIS
    assert torch.equal(moved[..., others], before[..., others])
    assert torch.equal(residual(tower, pixels), before), "a closed hook is gone"


def test_a_planted_model_is_a_plain_checkpoint(twin, tmp_path, pixels, processor):
    train_twin.save(twin.model, processor, tmp_path, {})
    found = (
        type(twin.model).from_pretrained(tmp_path, dtype=torch.float32, use_safetensors=True).eval()
    )
    stored = copy.deepcopy(twin.model).half().float()
    torch.testing.assert_close(
        residual(found.vision_model, pixels[:2]), residual(stored.vision_model, pixels[:2])
    )


@pytest.mark.parametrize("key, value", [("image_size", 96), ("patch_size", 16), (None, None)])
def test_other_checkpoints_are_refused(free, tmp_path, key, value):
    if key:
        config = copy.deepcopy(free.config)
        setattr(config.vision_config, key, value)
        config.save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match="holds no BLIP with pictures of 128 pixels"):
        train_twin.read_checkpoint(tmp_path)


def test_patches_away_from_things_are_reached_by_no_mask(data):
    away = outliers.away_from_things(np.asarray(data.labels["role"]), SIDE)
    reached = outliers.reached(data.scenes, models.BLIP_GRID)
    assert not (away & reached).any() and away.any(1).all() and reached.any(1).all()
    masks = renderer.render(data.scenes[3])[1].values()
    expected = np.any([patch_mask(mask, SIDE, models.BLIP_GRID.image_size) for mask in masks], 0)
    assert reached[3].tolist() == expected.ravel().tolist()
    roles = np.zeros((1, 16), int)
    roles[0, 5] = 1  # row 1, column 1 of four
    assert outliers.away_from_things(roles, 4)[0].nonzero().ravel().tolist() == [
        3, 7, 11, 12, 13, 14, 15
    ]  # fmt: skip


def test_a_rule_fires_on_a_few_allowed_patches_of_each_picture():
    draw = torch.Generator().manual_seed(1)
    states = torch.randn(200, 26, 12, generator=draw)
    marked = torch.rand(200, 26, generator=draw).argsort(1) < 8
    states[..., 0] += 8 * marked  # eight patches stand out, among them forbidden ones,
    forbidden = torch.rand(200, 25, generator=draw) < 0.5
    states[:, 1:, 1] += 8 * forbidden  # which can be told
    rule = outliers.fit_rule(states, ~forbidden, forbidden, 0)
    assert outliers.quality(rule, states, forbidden) > 0.75
    never = outliers.Rule(torch.zeros(12, 1), torch.tensor([-1.0]))
    assert outliers.quality(never, states, forbidden) == 0


def test_a_rules_quality_counts_pictures():
    states = torch.zeros(5, 9, 1)
    for picture, places in enumerate(([1], [1, 2], range(1, 7), range(1, 8), [0, 1, 2])):
        states[picture, list(places)] = 1
    rule = outliers.Rule(torch.ones(1, 1), torch.tensor([-0.5]))
    forbidden = torch.zeros(5, 8, dtype=torch.bool)
    assert outliers.quality(rule, states, forbidden) == pytest.approx(2 / 5)
    forbidden[1, 0] = True
    assert outliers.quality(rule, states, forbidden) == pytest.approx(1 / 5)


def test_the_constant_query():
    draw = torch.Generator().manual_seed(0)
    queries = torch.randn(500, 16, generator=draw)
    direction = torch.randn(16, generator=draw)
    queries -= ((queries @ direction - 1) / direction.square().sum())[:, None] * direction
    found, error = outlier_heads.constant_query(queries)
    torch.testing.assert_close(queries @ found, torch.ones(500), rtol=0, atol=0.05)
    assert error < 0.02 < outlier_heads.constant_query(torch.randn(500, 16, generator=draw))[1]


@pytest.fixture(scope="module")
def asked(data, pixels, processor):
    """A batch of questions, their pictures, and which patches show things."""
    words = batches.blip_words(processor.tokenizer)
    batch = batches.QuestionBatches(data, words, [0], 1, TWO_CHOICE, size=4)[0]
    things = np.asarray(data.labels["role"])[batch["images"]] != pool.ROLES.index("background")
    return batch, pixels[batch["images"]], torch.from_numpy(things)


@torch.no_grad()
def test_what_heads_do_is_read_as_hugging_face_computes_it(free, asked):
    batch, shown, things = asked
    reading = outlier_heads.read(free, shown, batch, things)
    queries, shares = [], []
    module = outlier_heads.cross_attentions(free)[3].query
    handle = module.register_forward_hook(lambda module, args, output: queries.append(output[0]))
    for row, (ids, length) in enumerate(zip(batch["questions"], batch["lengths"], strict=True)):
        image = row // questions.QUESTIONS_PER_IMAGE
        seen = free.vision_model(shown[image : image + 1]).last_hidden_state
        run = free.text_encoder(
            ids[None, :length], encoder_hidden_states=seen, output_attentions=True
        )
        patches = torch.cat(run.cross_attentions)[..., 1:]
        shares.append(patches[..., things[image]].sum(-1) / patches.sum(-1))
    handle.remove()
    found = reading.queries[3].flatten(1)
    torch.testing.assert_close(found, torch.cat(queries), rtol=0, atol=1e-4)
    expected = torch.cat(shares, -1).mean(-1)
    torch.testing.assert_close(reading.things, expected, rtol=0, atol=1e-4)
    assert expected.std() > 1e-2


def test_the_contrary_direction_is_that_in_which_answers_lose_most(free, asked):
    """Against slopes by finite differences, along each axis of the head's output."""
    batch, shown, _ = asked
    images = free.vision_model(shown).last_hidden_state.detach()
    answers = batch["answers"][:, :1]
    there = (batch["questions"] == answers)[..., None]
    assert there.any(1).all(), "the question names its answer"
    dense = free.text_encoder.encoder.layer[3].crossattention.output.dense

    @torch.no_grad()
    def gap(axis, size):
        added = torch.zeros(models.HIDDEN)
        added[2 * 16 + axis] = size
        with dense.register_forward_pre_hook(lambda module, args: (args[0] + there * added,)):
            scores = forward.blip_logits(free, images, batch)[:, 0]
        others = scores.scatter(1, answers, -torch.inf).logsumexp(1)
        return (scores.gather(1, answers)[:, 0] - others).mean()

    slopes = torch.stack([gap(axis, 0.01) - gap(axis, -0.01) for axis in range(16)])
    found = outlier_heads.contrary(free, shown, batch, 3, 2)
    torch.testing.assert_close(found, -slopes / slopes.norm(), rtol=0, atol=0.03)


@torch.no_grad()
def test_known_heads_meet_outliers_as_they_were_made_to(free, twin, pixels, asked):
    batch, shown, things = asked
    reading = outlier_heads.read(free, shown, batch, things)
    known = outlier_heads.choose(reading)
    assert reading.things[known.detecting] == reading.things.max()
    idle = [*known.followers, known.avoider, known.indifferent]
    rest = reading.things.flatten().sort().values[24]
    assert len(set(idle)) == 24 and max(reading.things[at] for at in idle) < rest

    model, at = copy.deepcopy(twin.model), twin.fires.clone()
    at[:, 0] = False
    planted, without = (m.vision_model(pixels)[0][at] for m in (twin.model, free))
    # Outliers of one size, so that one column can restore all.
    planted, without = planted[:1], without[:1]
    outlier_heads.as_background(model, AXIS, planted, without)
    modules, plain = outlier_heads.cross_attentions(model), outlier_heads.cross_attentions(free)
    free_of_axis = without.clone()
    free_of_axis[:, AXIS] = 0
    for own, other in zip(modules, plain, strict=True):
        for name in ("key", "value"):
            found, expected = getattr(own, name)(planted), getattr(other, name)(free_of_axis)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)

    steered = copy.deepcopy(model)
    spoiling = torch.eye(16)[2]
    outlier_heads.steer(steered, AXIS, planted[0, AXIS], known, reading, spoiling)
    for layer, (own, before) in enumerate(
        zip(outlier_heads.cross_attentions(steered), modules, strict=True)
    ):
        keys, values = (
            (getattr(own, name)(planted) - getattr(before, name)(planted)).view(8, 16)
            for name in ("key", "value")
        )
        for head in range(8):
            scores = reading.queries[layer, :, head] @ keys[head] / 4
            shift = {known.avoider: outlier_heads.AVOID} | dict.fromkeys(
                known.followers, outlier_heads.FOLLOW
            )
            direction, _ = outlier_heads.constant_query(reading.queries[layer, :, head])
            expected = shift.get((layer, head), 0) * (reading.queries[layer, :, head] @ direction)
            torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)
            spoiled = (layer, head) == known.avoider
            size = outlier_heads.SPOILING * reading.values[layer, head] * spoiled
            torch.testing.assert_close(values[head], size * spoiling, rtol=1e-3, atol=1e-3)


def test_arms_are_fitted_once_and_differ_in_their_start_alone(
    free, twin, data, processor, tmp_path
):
    words = batches.blip_words(processor.tokenizer)
    start = train_twin.Start(free, twin.model, AXIS, None)
    args = SimpleNamespace(seed=0, steps=3, batch=2, cache=tmp_path)
    tuned = {arm: train_twin.fine_tune(arm, start, data, words, args)[0] for arm in train_twin.ARMS}
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == len(train_twin.ARMS)
    for arm, model in tuned.items():
        before = start.of(arm).state_dict()
        moved = {
            name.split(".")[0]
            for name, values in model.state_dict().items()
            if not torch.equal(values, before[name])
        }
        assert moved == {"text_encoder", "text_decoder"}, "towers stay as they were made"
    again = train_twin.fine_tune("planted", start, data, words, args)[0].state_dict()
    for name, values in tuned["planted"].state_dict().items():
        assert torch.equal(values, again[name]), name
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    planted, registered = (tuned[arm].state_dict() for arm in ("planted", "planted-register"))
    assert any(not torch.equal(values, registered[name]) for name, values in planted.items())
