"""Do the object's image tokens still hold the object? A linear probe for each layer.

Attention to a thing's tokens means little if these tokens no longer say what the thing is: from
some layer on, other tokens may have taken that over. The probe reads the mean activation of the
patches that show a thing and names the thing. It is trained on some scenes and tested on others.

What a probe can read is there; that the model reads it as well is not said by that.

Source: Alain & Bengio, "Understanding intermediate layers using linear classifier probes" (2016).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .. import progress
from ..errors import NoticeError
from ..models.base import VLM
from ..models.inputs import Inputs
from ..pairs import PairSet
from ..patching.knockout import patch_keys
from ..patching.reference import record
from .chosen import alone, scene_means
from .overlap import NAMED
from .questions import known_things
from .statistics import bootstrap_interval

PROMPT = "?"
"""Asked about every picture: it names nothing that image tokens could have read in it."""
RIDGE = 0.01
"""The probe's penalty, as a part of the mean square of its inputs, which are standardised."""


def object_probe(
    model: VLM, pairs: PairSet, folds: int = 5, shuffles: int = 200, seed: int = 0
) -> pd.DataFrame:
    """How often a linear probe names the thing that image tokens show, by layer.

    Of every clean image, and of every thing in it whose word is known (`questions.known_things`),
    the probe reads the mean over the patches that no other thing reaches. It is a ridge regression
    on the words, one for each component, layer and slot.

    Args:
        pairs: with masks.
        folds: parts of the scenes, each of which is tested once.
        shuffles: times that the words are shuffled among the images, for the chance level.

    Returns:
        One row a component, layer and slot (components: the layers' outputs of the vision tower
        and, where the text's sequence has the image, of the text stack): accuracy, the mean over
        scenes, with its 95 % interval in accuracy_low and accuracy_high; chance, its mean over
        shuffles, and p, how often chance is at least as good; images, scenes, and words, the number
        of different ones.

    Raises:
        NoticeError: no thing's word and patches are known; fewer scenes than folds; folds < 2.
    """
    samples = _samples(model, pairs)
    rows = []
    for slot in dict.fromkeys(sample.slot for sample in samples):
        own = [sample for sample in samples if sample.slot == slot]
        scenes, mean = scene_means([sample.scene_id for sample in own])
        if not 2 <= folds <= len(scenes) or len(scenes) < 3:
            raise NoticeError(
                f"The slot {slot!r} has {len(scenes)} scenes, which cannot be cut into {folds} "
                "folds: give at least 2 folds, and at least 3 scenes and as many as folds."
            )
        fold = _folds(own, scenes, folds, seed)
        words, truth = np.unique([sample.word for sample in own], return_inverse=True)
        labels = _shuffled(truth, shuffles, seed)
        for component, layer in own[0].activations:
            features = np.stack([sample.activations[component, layer] for sample in own])
            right = mean @ _right(features, labels, fold, len(words))
            accuracy, chance = right[:, 0], right[:, 1:].mean(0)
            low, high = bootstrap_interval(accuracy[:, None], seed=seed)
            rows.append(
                {
                    "component": component,
                    "layer": layer,
                    "slot": slot,
                    "accuracy": accuracy.mean(),
                    "accuracy_low": low[0],
                    "accuracy_high": high[0],
                    "chance": chance.mean(),
                    "p": (1 + (chance >= accuracy.mean()).sum()) / (1 + shuffles),
                    "images": len(own),
                    "scenes": len(scenes),
                    "words": len(words),
                }
            )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Sample:
    """One thing in one picture.

    Attributes:
        activations: {(component, layer): (width,)} the mean over the thing's patches.
    """

    scene_id: str
    slot: str
    word: str
    activations: Mapping[tuple[str, int], np.ndarray]


def _samples(model: VLM, pairs: PairSet) -> list[_Sample]:
    """Every thing of every clean picture whose word and whose patches are known."""
    samples: list[_Sample] = []
    seen: set[Path] = set()
    for pair in progress.bar(list(pairs), desc=f"probing {model.name}", unit="pair"):
        if pair.clean_image in seen:
            continue
        seen.add(pair.clean_image)
        patches = {
            (slot, word): np.flatnonzero(alone(model, pair, *NAMED[slot]))
            for slot, word in known_things(pairs, pair).items()
        }
        if any(map(len, patches.values())):
            states = _patch_states(model, model.inputs(pair.image("clean"), PROMPT))
        for (slot, word), places in patches.items():
            if len(places):
                mean = {at: own[places].mean(0) for at, own in states.items()}
                samples.append(_Sample(pair.scene_id, slot, word, mean))
    if not samples:
        raise NoticeError("No pair has a thing whose word and whose patches are known.")
    return samples


def _patch_states(model: VLM, inputs: Inputs) -> dict[tuple[str, int], np.ndarray]:
    """{(component, layer): (patches, width)} of every layer that passes image tokens on."""
    tokens = {}
    if "vision" in model.stacks:
        tokens["vision"] = model.class_tokens + torch.arange(model.grid**2)
    if any(inputs.image_tokens):
        tokens["text"] = patch_keys(model, inputs, len(inputs))
    points = [
        (component, layer)
        for name in tokens
        for component in model.stacks[name].components
        if component.endswith("layer_output")
        for layer in range(model.stacks[name].n_layers)
    ]
    _, states = record(model, inputs, points)
    return {
        at: states[at][0, tokens[model.stack_of(at[0])]].double().cpu().numpy() for at in points
    }


def _folds(samples: Sequence[_Sample], scenes: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """(N,) which fold each sample is tested in: that of its scene."""
    of = dict(
        zip(scenes, np.random.default_rng(seed).permutation(len(scenes)) % folds, strict=True)
    )
    return np.array([of[sample.scene_id] for sample in samples])


def _shuffled(truth: np.ndarray, shuffles: int, seed: int) -> np.ndarray:
    """(N, 1 + shuffles) labels: the true ones first."""
    copies = np.repeat(truth[:, None], shuffles, axis=1)
    return np.column_stack([truth, np.random.default_rng(seed).permuted(copies, axis=0)])


def _right(features: np.ndarray, labels: np.ndarray, fold: np.ndarray, words: int) -> np.ndarray:
    """(N, labellings) whether ridge regression on the other folds' (N, width) features names each
    sample's label."""
    right = np.zeros(labels.shape)
    for tested in np.unique(fold):
        train, test = fold != tested, fold == tested
        scale = features[train].std(0)
        scaled = (features - features[train].mean(0)) / np.where(scale > 0, scale, 1)
        products = scaled @ scaled[train].T / features.shape[1]
        penalty = RIDGE * np.eye(train.sum())
        weights = np.linalg.solve(products[train] + penalty, products[test].T).T
        targets = np.eye(words)[labels[train]]
        often = targets.mean(0)
        scores = often + np.tensordot(weights, targets - often, 1)
        right[test] = scores.argmax(-1) == labels[test]
    return right
