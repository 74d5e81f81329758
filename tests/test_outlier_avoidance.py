"""How heads keep away from outliers, measured on a small model with planted ones."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import planted_outliers
import pytest
import torch
from planted_outliers import AXIS

from notice_lib import NoticeError, heads
from notice_lib.heads.chosen import ChosenHeads
from notice_lib.heads.outliers import forced_looks
from notice_lib.models.blip import Blip
from tools.sheet import fresh_sets, one_each
from tools.training import models, outlier_lab

SIDE = models.BLIP_GRID.side


def test_avoidance_is_of_single_patches():
    attention = np.array([[[0.1, 0.1, 0.2, 0.6], [0.0, 0.0, 0.5, 0.5],
                           [0.3, 0.3, 0.0, 0.4], [0.2, 0.2, 0.2, 0.4]]])  # fmt: skip
    two, one = np.array([[True, True, False, False]]), np.array([[False, False, True, False]])
    found = heads.avoidance(attention, two, one)
    np.testing.assert_allclose(found, [[1 / 3, 1, -1, 0]], atol=1e-12)


@pytest.fixture(scope="module")
def adapter():
    model = copy.deepcopy(planted_outliers.twin().model).double()
    return Blip(model, planted_outliers.processor(), "twin")


@pytest.fixture(scope="module")
def found(adapter, tmp_path_factory):
    sets = fresh_sets(tmp_path_factory.mktemp("pairs"), 1, 1 / 60)
    return heads.outlier_pictures(
        adapter, [pair for pairs in sets.values() for pair in one_each(pairs)]
    )


def test_patches_are_told_apart(adapter, found):
    assert found.high.any() and (found.outliers | found.things & found.high == found.high).all()
    assert not (found.background & (found.high | found.things)).any()
    assert (found.background | found.high | found.things).all()
    told = outlier_lab.describe(adapter, found, AXIS)
    each = found.high.sum(1)
    assert told["patches a picture by norm"] == pytest.approx(each.mean())
    assert told["pictures with none"] == pytest.approx((each == 0).mean())
    assert told["outside all masks"] == pytest.approx(found.outliers.sum() / found.high.sum())
    assert told["cosine with the axis"] > 0.99
    # The chance, counted: of an outlier's place in one picture to be one in any of the pictures.
    pictures = range(len(found.high))
    both = np.mean([(found.high[a] & found.high[b]).sum() for a in pictures for b in pictures])
    assert told["chance that another picture has it too"] == pytest.approx(both / each.mean())


@torch.no_grad()
def test_a_forced_look_is_the_areas_mean_value(adapter, found):
    chosen = ChosenHeads.of(adapter, [(1, 2), (4, 7)], None)
    pair, area = found.maps.pairs[0], np.array([3, 200])
    costs, clean = forced_looks(chosen, [pair], *(
        np.isin(np.arange(SIDE**2), places)[None] for places in (area, [17, 90])
    ))  # fmt: skip
    inputs = adapter.inputs(pair.image("clean"), pair.prompt)
    tokens = list(chosen.tokens(adapter.roles(inputs, pair.spans)))
    answer = adapter.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    seen = adapter.model.vision_model(inputs.pixel_values).last_hidden_state

    def gap():
        logits = adapter.logits(inputs)
        return float(logits[answer.correct] - logits[answer.incorrect])

    def looking_at(layer, head, places):
        cross = adapter.model.text_encoder.encoder.layer[layer].crossattention
        columns = slice(16 * head, 16 * head + 16)
        value = cross.self.value(seen)[0, 1 + np.asarray(places), columns].mean(0)

        def look(module, args):
            given = args[0].clone()
            given[:, tokens, columns] = value
            return (given,)

        with cross.output.dense.register_forward_pre_hook(look):
            return gap()

    assert clean[0] == pytest.approx(gap(), abs=1e-9)
    for column, (layer, head) in enumerate(chosen.heads):
        expected = looking_at(layer, head, [17, 90]) - looking_at(layer, head, area)
        assert abs(expected) > 1e-6
        assert costs[0, column] == pytest.approx(expected, abs=1e-9)


def test_without_the_direction_nobody_keeps_away(adapter, found):
    table = heads.outlier_avoidance(adapter, adapter, found, [(0, 0), (3, 1)])
    assert (table["by_direction"] == 0).all() and not (table["keeps_away"] == "yes").any()
    there = found.outliers.any(1)
    assert (table["scenes"] == there.sum()).all()
    attention = found.maps.patches[there][:, [0, 3], [0, 1]].astype(float)
    own = heads.avoidance(attention, found.outliers[there], found.background[there])
    np.testing.assert_allclose(table["avoidance"], own.mean(0))  # each scene has one picture


def test_models_and_pictures_that_cannot_be_judged_are_refused(adapter, found):
    llava = SimpleNamespace(name="some", image_component="self_attention")
    with pytest.raises(NoticeError, match="some reads the image by self_attention"):
        heads.outlier_avoidance(llava, adapter, found, [(0, 0)])
    none = replace(found, high=np.zeros_like(found.high))
    with pytest.raises(NoticeError, match="0 scenes have outliers"):
        heads.outlier_avoidance(adapter, adapter, none, [(0, 0)])


def test_a_share_is_of_the_pictures_that_have_outliers(found):
    here = found.outliers.copy()
    here[1:] = False
    here[0] = [True] * 3 + [False] * (SIDE**2 - 3)
    shares = heads.shares(found.maps.patches[0].astype(float))
    expected = shares[..., :3].sum(-1)
    np.testing.assert_allclose(outlier_lab.share_on(found.maps, here), expected, rtol=1e-6)
