"""Rules of selection, on tables whose truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from notice_lib import NoticeError, effects, load_model, load_pairs, site_grid, sweep
from notice_lib.heads import (
    RULES,
    agreement,
    answered,
    beyond_null,
    confirm_heads,
    gather,
    halves,
    head_effects,
    null_of,
    scene_effects,
    universal_heads,
)

SIX = [
    (task, corruption) for task in ("svo", "states", "faces") for corruption in ("image", "text")
]


def condition(values, task="svo", corruption="image", component="cross_attention") -> pd.DataFrame:
    """A table of effects of shape (scenes, rows of a scene, heads); the way is 10 logits long."""
    scenes, rows, heads = np.indices(values.shape).reshape(3, -1)
    table = pd.DataFrame(
        {
            "pair_id": [f"{task}-{s}-{r}" for s, r in zip(scenes, rows, strict=True)],
            "scene_id": [f"{task}-{s}" for s in scenes],
            "component": component,
            "layer": heads // 8,
            "head": heads % 8,
            "task": task,
            "slot": np.where(scenes % 2, "verb", "object"),
            "corruption": corruption,
            "role": "correct",
            "logit_correct": values.ravel(),
            "logit_incorrect": 5.0,
            "prob_correct": 0.5,
            "prob_incorrect": 0.5,
        }
    )
    right = {f"{run}_logit_correct": 5.0 for run in ("clean", "source")}
    right |= {f"{run}_logit_incorrect": 0.0 for run in ("clean", "source")}
    wrong = {f"{run}_logit_correct": 0.0 for run in ("corrupt", "base")}
    wrong |= {f"{run}_logit_incorrect": 5.0 for run in ("corrupt", "base")}
    return effects(table.assign(**right, **wrong, base_prob_correct=0.0))


def conditions(means, seed=0, scenes=24, spread=1.0, names=SIX) -> pd.DataFrame:
    """Each of the named conditions with mean effects `means[name]`, shape (heads,)."""
    rng = np.random.default_rng(seed)
    parts = []
    for name in names:
        mean = np.asarray(means[name], dtype=float)
        shared = rng.normal(0, spread, size=(scenes, 1, len(mean)))
        rows = rng.normal(0, spread / 2, size=(scenes, 4, len(mean)))
        parts.append(condition(mean + shared + rows, *name))
    return pd.concat(parts, ignore_index=True)


def chosen(found, **where) -> set:
    for name, value in where.items():
        found = found[found[name] == value]
    found = found[found["selected"]]
    return set(zip(found["layer"], found["head"], strict=True))


def of_kind(heads, kind) -> set:
    heads = heads[heads[kind]]
    return set(zip(heads["layer"], heads["head"], strict=True))


def test_the_papers_rule_by_hand():
    """Scores of 12 heads over 3 scenes; the rule sees |score|, and heads of one component."""
    rows = np.full((3, 1, 12), 0.1)
    rows[:, 0, 4] = [2, -2, 2]  # mean |score| 2: the largest, and above the cut of about 1.5
    rows[:, 0, 5] = 1.3  # the largest |mean|, of which the cut is about 1.1
    table = condition(rows)
    found = head_effects(table, "paper")
    scores = np.full(12, 0.1)
    scores[4:6] = 2, 1.3
    assert scores.mean() + 2 * scores.std(ddof=0) == pytest.approx(1.5, abs=0.1)
    np.testing.assert_allclose(found["mean_abs"], scores)
    assert chosen(found) == {(0, 4)}
    row = found.iloc[4]
    assert row["effect"] == pytest.approx(2 / 3)
    assert row["fraction_recovered"] == pytest.approx(2 / 30)
    assert np.isnan(row["p"])
    assert chosen(head_effects(table, "abs_of_mean")) == {(0, 5)}
    other = condition(rows * 100, component="self_attention")
    both = head_effects(pd.concat([table, other]), "paper")
    assert chosen(both, component="cross_attention") == {(0, 4)}


def test_the_papers_universal_heads_are_those_selected_in_every_task():
    def selecting(*heads):
        effects = np.full((3, 1, 24), 0.01)
        effects[:, :, list(heads)] = -3.0
        return effects

    lists = {
        ("svo", "image"): (1, 2, 9), ("states", "image"): (1, 2), ("faces", "image"): (2, 1, 3),
        ("svo", "text"): (1, 10), ("states", "text"): (1, 10, 2), ("faces", "text"): (10, 1),
    }  # fmt: skip
    table = pd.concat(condition(selecting(*heads), *name) for name, heads in lists.items())
    found = head_effects(table, "paper")
    heads = universal_heads(found)
    assert of_kind(heads, "vision") == {(0, 1), (0, 2)}
    assert of_kind(heads, "text") == {(0, 1), (1, 2)}
    assert of_kind(heads, "multimodal") == {(0, 1)}
    kinds = heads.set_index(["layer", "head"])["kind"]
    assert (kinds[0, 1], kinds[0, 2], kinds[1, 2], kinds[2, 0]) == (
        "multimodal", "vision", "text", "",
    )  # fmt: skip
    assert heads.loc[1, "image_effect"] == pytest.approx(-3)


@pytest.mark.parametrize("rule", ["signed", "max_t"])
def test_planted_heads_are_found_with_their_kind_and_sign(rule):
    planted = {name: np.zeros(32) for name in SIX}
    for name in SIX:
        planted[name][3] = 2.0
        planted[name][7] = -2.0  # hurts everywhere
        planted[name][11] = 2.0 if name[0] != "faces" else -2.0  # as large, but of both signs
    for task in ("svo", "states", "faces"):
        planted[task, "image"][12] = 2.0
        planted[task, "text"][20] = 2.0
        planted[task, "image"][21] = planted[task, "text"][21] = (
            0.04  # sure, but below half a percent
        )
    planted["svo", "image"][25] = 2.0
    spread = np.where(np.arange(32) == 21, 0.02, 1.0)
    table = conditions(planted, scenes=60, spread=spread)
    found = head_effects(table, rule, draws=1999)
    assert chosen(head_effects(table, rule, minimum=0, draws=1999)) >= {(2, 5)}
    assert {(0, 3), (0, 7), (1, 3), (1, 4), (3, 1)} <= chosen(found, task="svo", corruption="image")
    heads = universal_heads(found).set_index(["layer", "head"])
    assert heads["kind"][heads["kind"] != ""].to_dict() == {
        (0, 3): "multimodal", (0, 7): "multimodal", (1, 4): "vision", (2, 4): "text",
    }  # fmt: skip
    assert heads.loc[(0, 7), "image_effect"] == pytest.approx(-2, abs=0.3)
    assert heads.loc[(0, 7), "agreement"] == 1
    assert heads.loc[(1, 3), "agreement"] == pytest.approx(4 / 6)
    assert heads.loc[(1, 3), "svo_image_selected"]
    low, effect, high = heads.loc[(0, 3), [f"faces_text_{x}" for x in ("low", "effect", "high")]]
    assert low < effect < high < low + 1


def test_on_noise_the_default_rule_selects_anything_in_few_conditions():
    names = [(f"task{i}", "image") for i in range(80)]
    table = conditions({name: np.zeros(12) for name in names}, names=names, scenes=12)
    found = head_effects(table, minimum=0, draws=999)
    wrong = found.groupby("task")["selected"].any()
    assert wrong.mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 80)


def test_false_ones_are_a_small_share_of_what_is_selected():
    names = [(f"task{i}", "image") for i in range(40)]
    means = np.zeros(20)
    means[:8] = 1.5
    table = conditions(dict.fromkeys(names, means), names=names, scenes=16)
    found = head_effects(table, minimum=0, draws=999)
    selected = found[found["selected"]]
    false = selected.assign(false=selected["layer"] * 8 + selected["head"] >= 8)
    assert false.groupby("task")["false"].mean().mean() < 0.05
    assert len(selected) > 0.9 * 8 * 40


def test_heads_that_lack_an_effect_in_one_task_are_seldom_universal():
    """Half of the heads work in two tasks of three: the hardest null for universality."""
    wrong, right = [], []
    for seed in range(8):
        means = {name: np.zeros(20) for name in SIX if name[1] == "image"}
        for name in means:
            means[name][:5] = 2.0
            means[name][5:15] = 2.0 if name[0] != "faces" else 0.0
        table = conditions(means, seed, scenes=16, names=list(means))
        heads = of_kind(universal_heads(head_effects(table, minimum=0, draws=999)), "vision")
        true = {(i // 8, i % 8) for i in range(5)}
        wrong.append(len(heads - true) / max(1, len(heads)))
        right.append(len(heads & true))
    assert np.mean(wrong) < 0.05
    assert np.mean(right) > 4.9


def test_noise_is_universal_by_the_papers_rule_and_not_by_the_default():
    spread = np.random.default_rng(0).lognormal(0, 0.7, size=144)
    table = conditions(dict.fromkeys(SIX, np.zeros(144)), spread=spread)
    by_rule = {
        rule: universal_heads(head_effects(table, rule, minimum=0, draws=999)) for rule in RULES
    }
    assert by_rule["paper"]["multimodal"].sum() >= 4
    for rule in ("signed", "max_t", "abs_of_mean"):
        assert not by_rule[rule]["multimodal"].any()
    signs = np.random.default_rng(1).choice([-1, 1], size=len(table))
    flipped = table.assign(effect=table["effect"] * signs)
    again = universal_heads(head_effects(flipped, "paper"))
    pd.testing.assert_frame_equal(again[["kind"]], by_rule["paper"][["kind"]])


def test_effects_are_averaged_over_the_pairs_of_a_scene():
    table = condition(np.arange(24.0).reshape(3, 4, 2))
    np.testing.assert_allclose(scene_effects(table), [[3, 4], [11, 12], [19, 20]])
    undefined = table.assign(effect=table["effect"].where(table["scene_id"] != "svo-1"))
    np.testing.assert_allclose(scene_effects(undefined), [[3, 4], [19, 20]])
    with pytest.raises(NoticeError, match="Scene svo-0 lacks some of the 2 heads"):
        scene_effects(table[(table["scene_id"] != "svo-0") | (table["head"] != 1)])
    with pytest.raises(
        NoticeError, match=r"Pair svo-0-0 has several rows for cross_attention L0\.H0"
    ):
        scene_effects(pd.concat([table, table.assign(role="or")]))


def test_an_effect_and_its_total_weigh_the_scenes_alike():
    """A scene of four pairs counts as much as one of a single pair, whose total effect is 30."""
    table = condition(np.ones((3, 4, 8)))
    table = table[(table["scene_id"] != "svo-2") | (table["pair_id"] == "svo-2-0")]
    table.loc[table["scene_id"] == "svo-2", "source_logit_correct"] = 25.0
    found = head_effects(table)
    assert found["fraction_recovered"].to_numpy() == pytest.approx(1 / ((10 + 10 + 30) / 3))


def test_halves_are_of_whole_scenes_and_the_same_under_every_corruption():
    table = conditions(dict.fromkeys(SIX, np.ones(4)), scenes=20)
    first, second = halves(table, seed=1)
    assert len(first) == len(second)
    for part in (first, second):
        counts = part.groupby(["task", "slot", "corruption"])["scene_id"].nunique()
        assert (counts == 5).all()
    assert not set(first["scene_id"]) & set(second["scene_id"])
    assert set(halves(table, seed=2)[0]["scene_id"]) != set(first["scene_id"])


def test_halves_agree_on_planted_heads_and_confirm_them():
    means = {name: np.zeros(24) for name in SIX}
    for name in SIX:
        means[name][:4] = 3.0
    first, second = halves(conditions(means, scenes=40))
    a, b = head_effects(first), head_effects(second)
    table = agreement(a, b)
    assert len(table) == 6
    assert (table["both"] >= 4).all()
    assert (table["jaccard"] > 0.6).all()
    assert table["jaccard"].equals(
        table["both"] / (table["first"] + table["second"] - table["both"])
    )
    assert agreement(a, a)["rank_correlation"].to_numpy() == pytest.approx(1)

    heads = universal_heads(a)
    wrong = heads.index[heads["kind"] == ""][0]
    heads.loc[wrong, ["kind", "image_effect"]] = "vision", 1.0
    confirmed = confirm_heads(heads, second).set_index(["layer", "head"])
    assert confirmed["confirmed"].sum() == 4
    assert not confirmed.loc[tuple(heads.loc[wrong, ["layer", "head"]]), "confirmed"]
    turned = confirm_heads(heads.assign(text_effect=-heads["text_effect"]), second)
    assert not turned["confirmed"].any()
    assert len(confirm_heads(heads.assign(kind=""), second)) == 0


def test_the_null_is_matched_and_subtracted_pair_by_pair():
    table = condition(np.full((4, 4, 2), 3.0))
    null = condition(np.arange(32.0).reshape(4, 4, 2)).assign(donor="another pair")
    null["source_logit_correct"] = -1.0  # of that pair
    null = null.sample(frac=1, random_state=0)
    matched = null_of(table, null)
    np.testing.assert_allclose(matched["effect"], np.arange(32.0))
    np.testing.assert_allclose(head_effects(matched)["fraction_recovered"], [1.5, 1.6])
    np.testing.assert_allclose(beyond_null(table, null)["effect"], 3 - np.arange(32.0))
    with pytest.raises(NoticeError, match=r"Use null_of\(table, null\)"):
        head_effects(null)
    with pytest.raises(NoticeError, match="The null lacks 8 rows of the table"):
        beyond_null(table, null[null["scene_id"] != "svo-2"])


def test_only_pairs_that_are_answered_correctly_are_kept():
    image = condition(np.ones((3, 1, 1)))
    image.loc[0, "clean_logit_correct"] = -1.0
    image.loc[1, "corrupt_logit_incorrect"] = -1.0
    text = image.assign(corruption="text")
    kept = answered(pd.concat([image, text], ignore_index=True))
    assert kept.index.tolist() == [2, 4, 5]


@pytest.fixture(scope="module")
def swept():
    model = load_model("blip-mini")
    pairs = load_pairs("svo", n=4, seed=0)
    sites = site_grid(model, ["cross_attention"], [4], per_head=True, position="correct")
    return sweep(model, pairs, [*sites, *site_grid(model, ["mlp"], [4], position="correct")])


def test_sweeps_are_gathered_and_modules_left_out(swept):
    text = replace(swept, settings={**swept.settings, "corruption": "text"})
    table = gather([swept, text])
    assert len(table) == 2 * 4 * 8
    assert set(table["corruption"]) == {"image", "text"}
    assert set(table["component"]) == {"cross_attention"}
    heads = universal_heads(head_effects(table, "paper"))
    assert heads["svo_image_effect"].equals(heads["svo_text_effect"])


def test_what_cannot_be_compared_is_refused(swept):
    other = replace(swept, settings={**swept.settings, "direction": "noise"})
    with pytest.raises(NoticeError, match="differ in direction: denoise, noise"):
        gather([swept, other])
    modules = replace(swept, patched=swept.patched[swept.patched["head"] < 0])
    with pytest.raises(NoticeError, match="per_head=True"):
        gather([modules])
    table = gather([swept])
    with pytest.raises(NoticeError, match="no rule 'best'; choose one of signed, max_t"):
        head_effects(table, "best")
    with pytest.raises(NoticeError, match="`gather` adds it"):
        head_effects(table.drop(columns="corruption"))
    with pytest.raises(NoticeError, match="patched_probability is not a change"):
        head_effects(table, metric="patched_probability")
    with pytest.raises(NoticeError, match="no source run"):
        head_effects(table.assign(source_logit_correct=np.nan))
    states = table.assign(task="states")[table["head"] > 0]
    with pytest.raises(NoticeError, match="same sites"):
        universal_heads(head_effects(pd.concat([table, states]), "paper"))
