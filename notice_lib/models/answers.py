"""What a model answers to the clean question of each pair."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch

from .. import progress
from ..pairs import PairSet, SemanticPair
from .base import VLM, AnswerTokens

SCORES = ("logit_correct", "logit_incorrect", "prob_correct", "prob_incorrect")
"""What is kept of a run's logits."""
RUNS = ("clean", "corrupt")


def answers(model: VLM, pairs: Iterable[SemanticPair], run: str = "clean") -> pd.DataFrame:
    """Ask the model every pair's question about its clean (or corrupt) image.

    Returns:
        One row a pair, with pair_id, task, slot, split, order, distractor, the model's own greedy
        `answer`, `expected` (the option the image shows), `is_correct` (the two are the same word),
        and the answers' scores (`SCORES`).
    """
    rows = []
    for pair in progress.bar(list(pairs), desc=f"asking {model.name}", unit="pair"):
        inputs = model.inputs(pair.image(run), pair.prompt)
        tokens = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
        scores = score(model.logits(inputs, tokens.prefix), tokens)
        answer = model.generate(inputs)
        expected = pair.correct if run == "clean" else pair.incorrect
        rows.append(
            {
                "pair_id": pair.pair_id,
                "task": pair.task,
                "slot": pair.slot,
                "split": pair.split,
                "order": pair.order,
                "distractor": pair.distractor,
                "answer": answer,
                "expected": expected,
                "is_correct": answer == expected.lower(),
                **dict(zip(SCORES, scores.tolist(), strict=True)),
            }
        )
    return pd.DataFrame(rows)


def answered_correctly(model: VLM, pairs: PairSet) -> PairSet:
    """The pairs that a model answers correctly with both pictures, in its own words.

    Source: paper, section 3: only such samples are patched.
    """
    said: dict[tuple[Path, str], str] = {}  # Pairs of one scene ask the same.

    def is_right(pair: SemanticPair, run: str, expected: str) -> bool:
        asked = getattr(pair, f"{run}_image"), pair.prompt
        if asked not in said:
            said[asked] = model.generate(model.inputs(pair.image(run), pair.prompt))
        return said[asked] == expected.lower()

    shown = progress.bar(list(pairs), desc=f"asking {model.name}", unit="pair")
    kept = {
        pair.pair_id
        for pair in shown
        if is_right(pair, "clean", pair.correct) and is_right(pair, "corrupt", pair.incorrect)
    }
    return pairs.filter(lambda pair: pair.pair_id in kept)


def score(logits: torch.Tensor, tokens: AnswerTokens) -> torch.Tensor:
    """(..., 4) scores from (..., vocabulary) logits, in the order of `SCORES`.

    Probabilities are over the whole vocabulary. float64, on the CPU.
    """
    answers = logits[..., [tokens.correct, tokens.incorrect]].double()
    # The vocabulary is large: no copy of it in float64, only the sum.
    top = logits.amax(-1, keepdim=True)
    total = (logits - top).exp_().sum(-1, keepdim=True, dtype=torch.float64)
    probabilities = (answers - top.double()).exp() / total
    return torch.cat([answers, probabilities], -1).cpu()
