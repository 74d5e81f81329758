"""Training of the small models: padded batches, questions without held-out words, and resuming."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tools import scenes as renderer, train_minis
from tools.training import batches, card, forward, loops, models, pool, questions
from tools.training.recipes import CAPTIONS, RECIPES, VARIED

SCENES = 120


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    return {
        grid: pool.load_pool(SCENES, 20, grid, folder)
        for grid in (models.BLIP_GRID, models.LLAVA_GRID)
    }


@pytest.fixture(scope="module")
def blip():
    processor = models.build_blip_processor(pool.words())
    torch.manual_seed(0)
    return models.build_blip(processor.tokenizer).eval(), batches.blip_words(processor.tokenizer)


@pytest.fixture(scope="module")
def llava():
    processor = models.build_llava_processor(pool.words())
    torch.manual_seed(0)
    return models.build_llava(processor.tokenizer).eval(), batches.llava_words(processor.tokenizer)


def first_images(batch, n):
    """The part of a batch that is about its first n images."""
    rows = n * questions.QUESTIONS_PER_IMAGE
    names = ("questions", "lengths", "answers", "others")
    return {name: batch[name][:rows] for name in names} | {"images": batch["images"][:n]}


@pytest.mark.parametrize("kinds", [VARIED, CAPTIONS])
@torch.no_grad()
def test_padded_blip_gives_what_hugging_face_gives_one_by_one(kinds, blip, pools):
    model, words = blip
    data = pools[models.BLIP_GRID]
    batch = first_images(batches.QuestionBatches(data, words, [0], 9, kinds)[4], 4)
    pixels = loops.to_tensor(torch.from_numpy(np.asarray(data.pixels[batch["images"]])))
    seen = forward.blip_image(model.vision_model, pixels)
    expected_seen = model.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(seen, expected_seen, atol=1e-5, rtol=0)
    found = forward.blip_logits(model, seen, batch)
    for row, logits in enumerate(found):
        length, answer = batch["lengths"][row], batch["answers"][row]
        answer = answer[answer >= 0]
        asked = model.text_encoder(
            input_ids=batch["questions"][row : row + 1, :length],
            encoder_hidden_states=expected_seen[row // 3 : row // 3 + 1],
        ).last_hidden_state
        given = torch.cat([torch.tensor([model.decoder_start_token_id]), answer[:-1]])
        expected = model.text_decoder(
            input_ids=given[None], encoder_hidden_states=asked, use_cache=False
        ).logits[0]
        torch.testing.assert_close(logits[: len(answer)], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kinds", [VARIED, CAPTIONS])
@torch.no_grad()
def test_packed_llava_gives_what_hugging_face_gives_one_by_one(kinds, llava, pools):
    model, words = llava
    data = pools[models.LLAVA_GRID]
    batch = first_images(batches.QuestionBatches(data, words, [0], 9, kinds)[4], 3)
    pixels = loops.to_tensor(torch.from_numpy(np.asarray(data.pixels[batch["images"]])))
    found = loops.llava_logits(model, words.tokenizer)(pixels, batch)
    ids = words.tokenizer(models.LLAVA_PROMPT).input_ids
    image = model.config.image_token_id
    before, n_patches = ids[: ids.index(image)], models.LLAVA_GRID.side**2
    for row, logits in enumerate(found):
        answer = batch["answers"][row]
        answer = answer[answer >= 0]
        asked = batch["questions"][row, : batch["lengths"][row]]
        text = [*before, *[image] * n_patches, *asked.tolist(), *answer[:-1].tolist()]
        expected = model(
            input_ids=torch.tensor([text]), pixel_values=pixels[row // 3 : row // 3 + 1]
        ).logits[0, -len(answer) :]
        torch.testing.assert_close(logits[: len(answer)], expected, atol=1e-4, rtol=0)


def test_no_question_holds_a_composition_that_is_held_out():
    rng = np.random.default_rng(3)
    offered = {}
    for kind in questions.KINDS:
        for scene in (*pool.sample_scenes(300, 5), *pool.sample_scenes(300, 6, pool.FURTHER)):
            for slot in questions.slots_asked(scene):
                asked = questions.ask(scene, slot, kind, rng)
                offered.setdefault(asked.kind, []).append(asked)
                named = set(asked.text.replace(",", "").rstrip("?").split())
                if scene.family != "states" or asked.kind == "which":
                    continue
                states = {word for word in named if word in pool.STATES}
                if asked.kind == "beside":
                    states.remove(scene.other_state)
                for state in states:
                    assert renderer.replace(scene, slot, state).split == "seen"
    assert set(offered) >= {"three", "beside", "which", "open", "caption", "states lure"}
    for asked in offered["which"]:
        words = asked.text.rstrip("?").replace(",", "").split()
        assert asked.answer in words
        (state,) = [word for word in words if word in pool.STATES] or [None]
        things = [word for word in words if word in renderer.NOUNS]
        assert not any(state and renderer.states.is_heldout(thing, state) for thing in things)


def test_an_answer_word_is_one_token_and_known(pools, blip, llava):
    for (_, words), grid in ((blip, models.BLIP_GRID), (llava, models.LLAVA_GRID)):
        unknown = words.tokenizer.unk_token_id
        for kinds in (VARIED, CAPTIONS):
            batch = batches.QuestionBatches(pools[grid], words, [1], 5, kinds)[0]
            assert not (batch["answers"] == unknown).any()
            inside = torch.arange(batch["questions"].shape[1]) < batch["lengths"][:, None]
            assert not (batch["questions"][inside] == unknown).any()


def test_captions_come_first_and_without_blank_pictures(pools, blip):
    data = batches.QuestionBatches(pools[models.BLIP_GRID], blip[1], [0], 10, VARIED, captions=0.2)
    assert [set(data[i]["kinds"]) == {"caption"} for i in range(4)] == [True, True, False, False]
    assert (data[0]["plain"] == -1).all() and (data[5]["plain"] >= 0).any()


def test_the_loss_shares_a_question_without_a_true_option_between_both_answers():
    scores = torch.randn(2, 3, 6).log_softmax(-1)
    answers = torch.tensor([[1, 5, batches.NOTHING], [2, 3, 5]])
    others = torch.tensor([4, 2])
    first = -(scores[0, 0, 1] + scores[0, 0, 4]) / 2 - loops.STOP_WEIGHT * scores[0, 1, 5]
    second = -(scores[1, 0, 2] + scores[1, 1, 3]) / 2 - loops.STOP_WEIGHT * scores[1, 2, 5]
    found = loops.answer_loss(scores, answers, others)
    torch.testing.assert_close(found, (first + second) / 2)


def test_no_patch_label_names_a_distractor(pools):
    data = pools[models.BLIP_GRID]
    assert data.labels["role"].max() < len(pool.ROLES) and "distractor" not in pool.ROLES
    for scene, role, thing in zip(
        data.scenes, data.labels["role"], data.labels["thing"], strict=True
    ):
        if scene.family == "svo" and scene.idle:
            idle = thing == pool.HEADS["thing"].index(scene.idle)
            assert idle.any() and (role[idle] == pool.IGNORED).all()
        if scene.family == "states":
            assert not (role > 0).any()


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, pools, monkeypatch):
    monkeypatch.setattr(loops, "SAVE_EVERY", 2)
    monkeypatch.setattr(batches, "BATCH", 4)
    data = pools[models.LLAVA_GRID]

    def trained(path, stop_after=None):
        processor = models.build_llava_processor(pool.words())
        torch.manual_seed(0)
        tower = models.build_llava(processor.tokenizer).model.vision_tower
        fit = loops.Fit(path, 0, "cpu", 0, lambda line: None)
        save = fit._save

        def save_and_stop(*args):
            save(*args)
            if stop_after is not None and args[-2] >= stop_after:
                raise KeyboardInterrupt

        fit._save = save_and_stop
        try:
            loops.train_patches(data, tower, forward.clip_image, 4, [0, 1], fit)
        except KeyboardInterrupt:
            return None
        return tower.state_dict()

    whole = trained(tmp_path / "whole.safetensors")
    assert trained(tmp_path / "parts.safetensors", stop_after=2) is None
    resumed = trained(tmp_path / "parts.safetensors")
    for name, values in whole.items():
        assert torch.equal(values, resumed[name]), name


def test_the_learning_rate_warms_up_stays_and_falls(tmp_path, pools):
    rates = [loops.rate(step, 100) for step in range(100)]
    assert rates[:2] == pytest.approx([0.2, 0.4]) and rates[5:40] == [1.0] * 35
    assert rates[69] == pytest.approx((1 + loops.FLOOR) / 2) and rates[99] == loops.FLOOR
    # AdamW's first step has the size of its learning rate, and a training of one step the last one.
    module = torch.nn.Linear(2, 2)
    before = module.weight.detach().clone()
    fit = loops.Fit(tmp_path / "one.safetensors", 0, "cpu", 0, lambda line: None, weight_decay=0.0)
    fit(
        [(module, 0.5)],
        lambda batch: (module(torch.ones(1, 2)).sum(), {}),
        batches.PatchBatches(pools[models.LLAVA_GRID], [0], 1),
    )
    steps = (module.weight.detach() - before).abs()
    wanted = torch.full_like(steps, 0.5 * loops.LEARNING_RATE * loops.FLOOR)
    torch.testing.assert_close(steps, wanted, rtol=0.01, atol=0)


def test_recipes_differ_in_what_they_are_called_after():
    keys = {recipe.of(name).key for recipe in RECIPES.values() for name in ("blip-mini", "x-noise")}
    assert len(keys) == 2 * len(RECIPES)
    assert RECIPES["two-choice"].of("blip-mini", (5, 6, 7)).steps == (5, 6, 7)


@pytest.mark.weekly
def test_only_the_pools_of_the_stages_that_run_are_rendered(tmp_path, monkeypatch):
    """A training of single steps; then one that goes on after stage 2 of its weights."""
    rendered, load_pool = [], pool.load_pool

    def noted(n, seed, grid, *given, **nouns):
        rendered.append((n, seed, grid, nouns))
        return load_pool(n, seed, grid, *given, **nouns)

    monkeypatch.setattr(pool, "load_pool", noted)
    first = (40, 20, models.LLAVA_GRID, {})
    further = (30, 21, models.LLAVA_GRID, {"nouns": pool.FURTHER})
    pools = {"pool": {"scenes": 40, "seed": 20}, "further": {"scenes": 30, "seed": 21}}

    def trained(out, steps, after=None):
        args = SimpleNamespace(
            seed=3, recipe="further", pool=40, further=30, cache=tmp_path / str(steps), workers=0,
            device="cpu", out=tmp_path / out, after_stage_2=after,
        )  # fmt: skip
        rendered.clear()
        args.cache.mkdir(exist_ok=True)
        recipe = RECIPES["further"].of("llava-mini", steps)
        return train_minis.train("llava-mini", recipe, args)

    made = trained("two", (1, 1, 0))
    assert rendered == [first] and set(made["minutes"]) == {"start", "questions"}
    assert made["pool"] == pools["pool"] and not {"further", "before"} & set(made)
    (tmp_path / "two" / "llava-mini" / "metrics.json").write_text(json.dumps({"training": made}))
    after = trained("three", (1, 1, 1), tmp_path / "two")
    assert rendered == [further] and set(after["minutes"]) == {"further"}
    assert after["further"] == pools["further"] and "pool" not in after
    assert after["before"] == json.loads(json.dumps(made))


def test_the_card_says_what_was_measured(tmp_path):
    checkpoints = Path(__file__).parents[1] / "data" / "checkpoints"
    for path in checkpoints.rglob("metrics.json"):
        copy = tmp_path / path.relative_to(checkpoints)
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
    card.write(tmp_path)
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert written == (checkpoints / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("native", "computed"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_not_emulated(native, computed, monkeypatch):
    monkeypatch.setattr(loops, "has_bfloat16", lambda: native)
    with loops.computing("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == computed
