"""What a model answers to the clean question of each pair."""

from collections.abc import Iterable

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..pairs import SemanticPair
from .base import VLM, AnswerTokens


def answers(model: VLM, pairs: Iterable[SemanticPair], run: str = "clean") -> pd.DataFrame:
    """Ask the model every pair's question about its clean (or corrupt) image.

    Returns:
        One row a pair, with pair_id, task, slot, split, order, distractor, the model's own greedy
        `answer`, `expected` (the option the image shows), `right` (the two are the same word), and
        the answers' scores as in `score`.
    """
    rows = []
    for pair in tqdm(list(pairs), desc=f"asking {model.name}", unit="pair", leave=False):
        inputs = model.inputs(pair.image(run), pair.prompt)
        tokens = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
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
                "right": answer == expected.lower(),
                **score(model.logits(inputs, tokens.prefix), tokens),
            }
        )
    return pd.DataFrame(rows)


def score(logits: torch.Tensor, tokens: AnswerTokens) -> dict[str, float]:
    """Logits and probabilities of the two answers from (vocabulary,) logits.

    Probabilities are over the whole vocabulary, in float64.
    """
    logits = logits.double()
    total = torch.logsumexp(logits, 0)
    correct, incorrect = logits[tokens.correct], logits[tokens.incorrect]
    return {
        "logit_correct": correct.item(),
        "logit_incorrect": incorrect.item(),
        "prob_correct": (correct - total).exp().item(),
        "prob_incorrect": (incorrect - total).exp().item(),
    }
