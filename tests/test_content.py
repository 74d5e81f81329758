"""What heads carry: on planted heads whose truth is known, and on a real small model."""

import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from notice_lib import (
    NoticeError,
    PairSet,
    Site,
    answered_correctly,
    effects,
    load_model,
    load_pairs,
    read_sweep,
    sweep,
)
from notice_lib.heads import (
    as_units,
    carried,
    content_shares,
    decompose,
    gather,
    strongest_heads,
)
from notice_lib.heads.conditions import means
from notice_lib.heads.statistics import bootstrap_interval
from notice_lib.patching import MatchedDonors, reference
from notice_lib.patching.jobs import Job, Outcome

A = 2.0
"""The whole effect of each planted head, in logits."""
HEADS = {"content": 0, "truth": 1, "removal": 2, "a quarter content": 3, "against": 4}
SITES = [Site("cross_attention", 1, head, "correct") for head in HEADS.values()]


@pytest.fixture(scope="module")
def model():
    return load_model("blip-mini", device="cpu")


@pytest.fixture(scope="module")
def pairs():
    """96 pairs of 24 scenes; the model answers all of them correctly."""
    return heldout("svo", "verb")


def heldout(task: str, slot: str) -> PairSet:
    return load_pairs(task).filter(lambda pair: (pair.split, pair.slot) == ("heldout", slot))


class Planted:
    """An engine whose heads write what they are planted to write, and noise.

    It knows of a run only what a model sees: the picture, of which it knows the word that is shown,
    and the prompt. A head's effect is what it writes in the source run minus what it writes in the
    base run.
    """

    def __init__(self, model, pairs, noise: float = 0.1):
        self.noise = noise
        self.known = {}
        for pair in pairs:
            for run, shown in (("clean", pair.correct), ("corrupt", pair.incorrect)):
                key = self.key(model.inputs(pair.image(run), pair.prompt))
                self.known[key] = shown, pair

    @staticmethod
    def key(run) -> int:
        return zlib.crc32(run.pixel_values.numpy().tobytes() + run.input_ids.numpy().tobytes())

    def __call__(self, model, jobs: list[Job]) -> list[Outcome]:
        return [self.outcome(job) for job in jobs]

    def outcome(self, job: Job) -> Outcome:
        base, source = self.key(job.base), self.key(job.source)
        patched = []
        for intervention in job.interventions:
            (site,) = intervention.sites
            start = site.positions[0]
            options = self.options(base, job.base.spans[start])
            before = self.written(base, options, options[0], own=True)
            there, _ = self.options(source, job.source.spans[start])
            after = self.written(source, options, there, own=source == base)
            # One draw in forty makes the head of pure removal look as if it had a content.
            noise = np.random.default_rng([1, base, source, site.head]).normal(0, self.noise)
            patched.append(scores(-5.0 + (after - before)[site.head] + noise))
        return Outcome(scores(-5.0), scores(5.0), torch.stack(patched))

    def written(self, run: int, options: tuple[str, str], there: str, own: bool) -> np.ndarray:
        """What each head writes of a logit difference.

        Args:
            options: of the base run: the one at the patched token, and the other one.
            there: the run's own option at that token.
            own: whether the run is the base run.
        """
        shown, _ = self.known[run]
        content = {options[0]: A / 2, options[1]: -A / 2}.get(shown, 0.0)
        truth = A / 2 if there == shown else -A / 2
        removal = -A if own else 0.0
        return np.array([content, truth, removal, content / 4 + truth * 3 / 4, -content])

    def options(self, run: int, characters: tuple[int, int]) -> tuple[str, str]:
        """The option that a run's prompt has at some characters, and the other one."""
        _, pair = self.known[run]
        first, last = pair.spans.correct
        here = first < characters[1] and characters[0] < last
        return (pair.correct, pair.incorrect) if here else (pair.incorrect, pair.correct)


def scores(difference: float) -> torch.Tensor:
    return torch.tensor([difference, 0.0, 0.5, 0.5], dtype=torch.float64)


@pytest.fixture(scope="module")
def table(model, pairs):
    found = carried(model, pairs, SITES, sharing=1, engine=Planted(model, pairs))
    return found.set_index("head").loc[list(HEADS.values())].set_index(pd.Index(HEADS))


@pytest.mark.parametrize(
    ("head", "content", "truth", "removal", "share"),
    [
        ("content", A / 2, 0, A / 2, 1),
        ("truth", 0, A / 2, A / 2, 0),
        ("removal", 0, 0, A, np.nan),
        ("a quarter content", A / 8, A * 3 / 8, A / 2, 0.25),
        ("against", -A / 2, 0, -A / 2, np.nan),
    ],
)
def test_planted_heads_are_told_apart(table, pairs, head, content, truth, removal, share):
    row = table.loc[head]
    expected = {"content": content, "truth": truth, "removal": removal}
    expected["effect"] = content + truth + removal
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=0.06)
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert row[f"{name}_high"] - row[f"{name}_low"] < 0.2
        assert row[f"{name}_fraction"] == pytest.approx(value / 10, abs=0.006)
        # Every pair has the same total effect, so that fractions have the intervals of logits.
        assert row[f"{name}_fraction_low"] == pytest.approx(row[f"{name}_low"] / 10)
    assert row["content_share"] == pytest.approx(share, abs=0.06, nan_ok=True)
    assert row[["content_share_low", "content_share_high"]].isna().all() == np.isnan(share)
    if not np.isnan(share):
        assert row["content_share_low"] <= row["content_share"] <= row["content_share_high"]
    units = len({pair.scene_id for pair in as_units(pairs)})
    assert units < 24  # Some scenes ask the same of the same verbs, subject and object.
    assert (row["total_effect"], row["scenes"], row["pairs"], row["donors"]) == (10, units, 96, 5)


def test_content_transfers_between_scenes_that_share_the_options(table):
    row = table.loc["content"]
    assert row["transferred_share"] == pytest.approx(1, abs=0.1)
    assert row["transferred"] == pytest.approx(A / 2, abs=0.1)
    assert 6 < row["transferred_scenes"] < row["scenes"]  # Some have no such donor.
    assert np.isnan(table.loc["removal", "transferred_share"])
    assert table.loc["truth", "transferred"] == pytest.approx(0, abs=0.1)


def test_a_head_of_pure_content_is_defined_although_its_truth_is_below_zero_by_chance():
    """In 200 sets of 24 scenes."""
    rng = np.random.default_rng(0)
    sets = np.arange(200)
    scenes = [f"{scene}" for scene in range(24)]
    grid = pd.MultiIndex.from_product([scenes, sets], names=["scene_id", "head"]).to_frame(False)
    noise = rng.normal(0, 0.7, (2, len(grid)))
    parts = grid.assign(
        component="cross_attention",
        layer=0,
        task="svo",
        corruption="image",
        pair_id=grid["scene_id"],
        content=1 + noise[0],
        truth=noise[1],
        removal=1.0,
        effect=2 + noise.sum(0),
        total_effect=10.0,
        donors=5,
    )
    found = content_shares(parts)
    assert 0.4 < (found["truth"] < 0).mean() < 0.6
    assert found["content_share"].notna().mean() > 0.9
    few = parts[parts["head"] < 3]
    narrow = content_shares(few, level=0.5)
    values = few.pivot(index="scene_id", columns="head", values="content").to_numpy()
    assert narrow["content_low"].tolist() == bootstrap_interval(values, 0.5)[0].tolist()
    assert (found["content_share"].dropna() > 0.5).all()
    nothing = content_shares(parts.assign(content=parts["content"] - 1))
    assert nothing["content_share"].notna().mean() < 0.06


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
@pytest.mark.parametrize("words", ["other", "same"])
def test_donors_obey_the_rule(name, words):
    model = load_model(name, device="cpu")
    pool = load_pairs("states").filter(lambda pair: pair.slot == "shape")
    by_id = {pair.pair_id: pair for pair in pool}
    some = pool.sample(12, 0)
    site = [Site(model.image_component, 0, 0, "last")]
    n = 5 if words == "other" else 2
    clean, corrupt = (
        sweep(model, some, site, donor=MatchedDonors(run, pool, n, words)).runs
        for run in ("clean", "corrupt")
    )
    assert clean["donor"].tolist() == corrupt["donor"].tolist()
    assert (clean.groupby("pair_id")["draw"].nunique() == n).all()
    if words == "other":
        assert clean["pair_id"].nunique() == len(some)
    for row in clean.itertuples():
        pair, donor = by_id[row.pair_id], by_id[row.donor]
        assert donor.scene_id != pair.scene_id
        assert (donor.task, donor.slot, donor.order) == (pair.task, pair.slot, pair.order)
        layouts = (
            (
                model.token_layout(one.prompt, one.spans),
                model.inputs(one.image("clean"), one.prompt).layout,
            )
            for one in (pair, donor)
        )
        assert next(layouts) == next(layouts)
        if words == "same":
            assert (donor.correct, donor.incorrect) == (pair.correct, pair.incorrect)
        else:
            own = {pair.correct, pair.incorrect, *pair.shown}
            near = {other for word in own for other in pool.near_synonyms.get(word, ())}
            assert not (own | near) & {donor.correct, donor.incorrect, *donor.shown}
    scenes = clean["donor"].map(lambda pair_id: by_id[pair_id].scene_id)
    assert not pd.DataFrame({"pair": clean["pair_id"], "scene": scenes}).duplicated().any()


def test_donors_depend_on_the_seed_and_not_on_the_other_pairs(model, pairs):
    donors = MatchedDonors("clean", pairs, 3)
    few = PairSet(pairs.pairs[:4])

    def chosen(some, seed):
        runs = sweep(model, some, SITES[:1], donor=donors, seed=seed).runs
        return runs[runs["pair_id"].isin([pair.pair_id for pair in few])]["donor"].tolist()

    assert chosen(few, 0) == chosen(PairSet(pairs.pairs[:8]), 0)
    assert chosen(few, 0) != chosen(few, 1)


def test_a_donor_with_a_shown_word_or_a_near_synonym_is_none(model, pairs):
    by_id = {pair.pair_id: pair for pair in pairs}
    pair = pairs[0]

    def first(pool):
        runs = sweep(model, PairSet((pair,)), SITES[:1], donor=MatchedDonors("clean", pool, 1)).runs
        return by_id[runs["donor"][0]]

    before = first(pairs)
    showing = tuple(
        replace(one, shown=(*one.shown, pair.correct.upper())) if one == before else one
        for one in pairs
    )
    assert first(PairSet(showing)) != before
    shown = replace(pair, shown=(*pair.shown, before.incorrect.upper()))
    again = sweep(model, PairSet((shown,)), SITES[:1], donor=MatchedDonors("clean", pairs, 1)).runs
    words = vars(by_id[again["donor"][0]]).values()
    assert before.incorrect not in words
    near = {pair.correct: frozenset([before.correct]), before.correct: frozenset([pair.correct])}
    assert before.correct not in vars(first(PairSet(pairs.pairs, near_synonyms=near))).values()


def test_a_pair_with_too_few_donors_is_left_out_and_said(model, pairs):
    pair = pairs[0]
    own = {pair.correct, pair.incorrect}
    others = pairs.filter(
        lambda one: one.order == pair.order and not own & {one.correct, one.incorrect}
    )
    scenes = sorted({one.scene_id for one in others})
    assert len(scenes) >= 5
    four = others.filter(lambda one: one.scene_id in scenes[:4])
    five = others.filter(lambda one: one.scene_id in scenes[:5])
    # Pairs of other orders and words would be a second-best choice.
    rest = tuple(one for one in pairs if one not in others.pairs)
    assert len(sweep(model, PairSet((pair,)), SITES[:1], donor=matched(five, rest)).runs) == 5
    with pytest.raises(NoticeError, match=r"verb|4 other scenes.*but 5 are needed"):
        sweep(model, PairSet((pair,)), SITES[:1], donor=matched(four, rest))
    with pytest.raises(NoticeError, match="0 other scenes"):
        sweep(model, pairs, SITES[:1], donor=MatchedDonors("clean", PairSet(())))


def matched(pool: PairSet, rest=()) -> MatchedDonors:
    return MatchedDonors("clean", PairSet((*pool.pairs, *rest)))


def test_skipped_pairs_are_counted_and_the_rest_measured(model, pairs, tmp_path):
    some, alone = pairs.sample(24, 0), heldout("svo", "subject")[0]
    both = PairSet((*some.pairs, alone))
    engine = Planted(model, both)
    with pytest.warns(UserWarning, match="1 pairs could not be run"):
        found = carried(model, both, SITES, donors=1, out=tmp_path, engine=engine)
    assert (found["pairs"] == len(some)).all()
    skipped = read_sweep(tmp_path / "true").skipped
    assert skipped["pair_id"].tolist() == [alone.pair_id]
    assert "0 other scenes have a matched donor" in skipped["reason"][0]

    def refuse(model, jobs):
        raise AssertionError("a finished measurement is read")

    with pytest.warns(UserWarning, match="1 pairs could not be run"):
        again = carried(model, both, SITES, donors=1, out=tmp_path, engine=refuse)
    pd.testing.assert_frame_equal(again, found)


def test_only_correct_answers_are_measured_and_give_activations(model, tmp_path):
    pairs = heldout("states", "texture").sample(40, 0)
    right = {pair.pair_id for pair in answered_correctly(model, pairs)}
    assert 0 < len(right) < len(pairs)
    found = carried(model, pairs, SITES, donors=1, out=tmp_path, engine=Planted(model, pairs))
    runs = read_sweep(tmp_path / "true").runs
    assert set(runs["donor"]) | set(runs["pair_id"]) <= right
    assert (found["donors"] == 1).all()
    named = {"pool": pairs, "donors": 1, "out": tmp_path / "named"}
    carried(model, pairs.sample(8, 0), SITES, **named, engine=Planted(model, pairs))
    assert set(read_sweep(tmp_path / "named" / "true").runs["donor"]) <= right
    with pytest.raises(NoticeError, match="answers none of the 0 pairs"):
        carried(model, PairSet(()), SITES)


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
def test_the_parts_of_a_real_effect_add_up_and_equal_the_reference(name, pairs):
    model = load_model(name, device="cpu")
    position = "correct" if name == "blip-mini" else "last"
    sites = [Site(model.image_component, layer, 1, position) for layer in (2, 4)]
    some = answered_correctly(model, pairs).sample(4, 0)
    tables = [
        gather([sweep(model, some, sites, donor=donor)])
        for donor in ("own", MatchedDonors("clean", pairs), MatchedDonors("corrupt", pairs))
    ]
    parts = decompose(*tables)
    assert len(parts) == len(some) * len(sites)
    total = parts["content"] + parts["truth"] + parts["removal"]
    np.testing.assert_allclose(total, parts["effect"], rtol=0, atol=1e-12)
    own = effects(sweep(model, some, sites, engine=reference.patch).table())
    by = ["pair_id", "layer"]
    np.testing.assert_allclose(
        parts.sort_values(by)["effect"], own.sort_values(by)["effect"], atol=5e-5
    )
    row = parts.iloc[0]
    pair = next(one for one in some if one.pair_id == row.pair_id)
    means = [by_hand(model, pair, pairs, tables[1], row, run) for run in ("clean", "corrupt")]
    assert row["truth"] == pytest.approx((means[0] - means[1]) / 2, abs=5e-5)
    assert row["content"] == pytest.approx(row["effect"] - means[0], abs=5e-5)


def by_hand(model, pair, pairs, true, row, run) -> float:
    """The mean effect with the donors' runs, by one full forward for each."""
    inputs = model.inputs(pair.image("corrupt"), pair.prompt)
    tokens = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)

    def difference(logits):
        return float(logits[tokens.correct] - logits[tokens.incorrect])

    rows = true[(true["pair_id"] == pair.pair_id) & (true["layer"] == row.layer)]
    assert len(rows) == 5
    found = []
    for donor_id, position in zip(rows["donor"], rows["position"], strict=True):
        donor = next(one for one in pairs if one.pair_id == donor_id)
        source = model.inputs(donor.image(run), donor.prompt)
        point = (row.component, int(row.layer))
        _, seen = reference.record(model, source, [point], tokens.prefix)
        width = seen[point].shape[-1] // model.n_heads
        part = slice(int(row["head"]) * width, (int(row["head"]) + 1) * width)
        at = model.hook_point(*point)

        def write(module, args, seen=seen, position=position, part=part, point=point):
            changed = args[0].clone()
            changed[0, position, part] = seen[point][0, position, part]
            return (changed, *args[1:])

        handle = at.module.register_forward_pre_hook(write)
        patched = model.logits(inputs, tokens.prefix)
        handle.remove()
        found.append(difference(patched) - difference(model.logits(inputs, tokens.prefix)))
    return float(np.mean(found))


def test_tables_that_do_not_match_are_refused(model, pairs):
    some = pairs.sample(8, 0)
    own, true = (
        gather([sweep(model, some, SITES, donor=donor, engine=Planted(model, pairs))])
        for donor in ("own", MatchedDonors("clean", pairs))
    )
    few = true[true["pair_id"] != some[0].pair_id]
    with pytest.raises(NoticeError, match="differ in 5 rows"):
        decompose(own, few, true)
    with pytest.raises(NoticeError, match="differ in 5 rows"):
        decompose(own, true, few)
    with pytest.raises(NoticeError, match="several rows"):
        decompose(pd.concat([own, own]), true, true)


def test_intervals_cover_the_level_that_is_asked_for():
    rng = np.random.default_rng(0)
    values = rng.exponential(1, (20, 3))
    for level in (0.5, 0.95):
        table = means({"x": values}, seed=1, level=level)
        low, high = bootstrap_interval(values, level, seed=1)
        assert table["x_low"].tolist() == low.tolist() and table["x_high"].tolist() == high.tolist()
        assert table["x"].tolist() == values.mean(0).tolist()
    assert means({"x": values}, seed=1).equals(table)


def test_the_strongest_heads_are_those_of_the_largest_mean_effect():
    found = pd.DataFrame(
        {
            "component": "cross_attention",
            "layer": [0, 0, 1, 1] * 2,
            "head": [0, 1, 0, 1] * 2,
            "task": ["svo"] * 4 + ["faces"] * 4,
            "effect": [3.0, -9.0, 1.0, 2.0, 0.0, 9.0, 3.0, 0.5],
        }
    )
    assert strongest_heads(found, 2, "or") == [
        Site("cross_attention", 1, 0, "or"),
        Site("cross_attention", 0, 0, "or"),
    ]


def test_unusable_donors_are_refused(model, pairs):
    for settings, said in (
        ({"run": "base"}, "'clean' or 'corrupt'"),
        ({"run": "clean", "words": "any"}, "'other' or 'same'"),
        ({"run": "clean", "n": 0}, "at least one donor"),
    ):
        with pytest.raises(NoticeError, match=said):
            MatchedDonors(**settings)
    with pytest.raises(NoticeError, match="corruption='image'"):
        sweep(model, pairs, SITES, "text", donor=MatchedDonors("clean"))
