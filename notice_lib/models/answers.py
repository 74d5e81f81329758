"""What a model answers to the question of each pair, and which pairs it answers correctly."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pandas as pd
import torch

from .. import progress
from ..choices import Criterion, RunName, check_choice
from ..pairs import PairSet, SemanticPair
from .base import VLM
from .inputs import AnswerTokens
from .wording import is_option

SCORES = ("logit_correct", "logit_incorrect", "prob_correct", "prob_incorrect")
"""What is kept of a run's logits."""
RUNS: tuple[RunName, ...] = get_args(RunName)
COLUMN: dict[Criterion, str] = {"generated": "is_correct", "preferred": "is_preferred"}
"""The column of `answers` by which each criterion is judged."""
FEW = 0.25
"""If a smaller share of the pairs is answered correctly, a warning shows what was said."""
MANY = 8
"""Of fewer pairs, a small share may be chance, and only if none is left is there a warning."""
MAX_NEW_TOKENS = 8
"""How many tokens a model may write, unless an option is longer."""


@dataclass(frozen=True)
class Reply:
    """What a model says to a question about an image, and how it scores the question's two options.

    Attributes:
        text: its greedy answer, in lower case without special tokens.
        ids: the tokens of this answer as the model wrote them.
        scores: for each option, (logit, probability) of the token by which it is told apart.
        starts: for each option, its tokens up to and including that one.
    """

    text: str
    ids: tuple[int, ...]
    scores: dict[str, tuple[float, float]]
    starts: dict[str, tuple[int, ...]]


def answers(model: VLM, pairs: Iterable[SemanticPair], run: RunName = "clean") -> pd.DataFrame:
    """Ask the model every pair's question about its clean (or corrupt) image.

    Returns:
        One row for each pair, with pair_id, task, slot, split, order, distractor, and

        - answer: the model's own greedy answer;
        - expected: the option that the image shows;
        - is_correct: whether the two are the same, by the rule of `notice_lib.models.wording`;
        - is_preferred: whether the expected option's logit is larger than the other option's;
        - starts_as_scored: whether the answer begins with the tokens by which the expected option
          is scored. A correct answer that does not ("the green", "Green") is scored at a token that
          the model does not write there;
        - the answers' scores (`SCORES`).

    Raises:
        NoticeError: `run` is neither "clean" nor "corrupt".
    """
    check_choice("run", run, RunName)
    return _answers(model, pairs, run, {})


def answered_correctly(model: VLM, pairs: PairSet, by: Criterion = "generated") -> PairSet:
    """The pairs that a model answers correctly with both pictures.

    It warns if none or few pairs are kept, with examples of what the model said, and if a kept
    pair's answer does not begin with the token that is scored (see `answers`).

    Args:
        by: "generated": the model's own answer is the option that the picture shows, as in the
            paper. "preferred": this option's logit is larger than the other option's, whatever the
            model would write.

    Raises:
        NoticeError: `by` is neither of these.

    Source: paper, section 3: only such samples are patched.
    """
    check_choice("by", by, Criterion)
    if not len(pairs):
        return pairs
    asked = ask_with_both(model, pairs)
    kept = correct_with_both(asked, by)
    warn_of(model, asked, by)
    return pairs.filter(lambda pair: pair.pair_id in kept)


def ask_with_both(model: VLM, pairs: Iterable[SemanticPair]) -> pd.DataFrame:
    """`answers` to the clean and to the corrupt pictures, one below the other."""
    pairs = list(pairs)
    replies: dict[tuple[Path, str, frozenset[str]], Reply] = {}
    return pd.concat([_answers(model, pairs, run, replies) for run in RUNS])


def correct_with_both(asked: pd.DataFrame, by: Criterion = "generated") -> set[str]:
    """The ids of pairs that are answered correctly with both pictures.

    Args:
        asked: as of `ask_with_both`.
        by: as in `answered_correctly`.
    """
    right = asked.groupby("pair_id")[COLUMN[by]].all()
    return set(right.index[right])


def examples(asked: pd.DataFrame, n: int = 3) -> str:
    """The most frequent incorrect answers of `answers`, in words; empty if there are none."""
    wrong = asked[~asked["is_correct"].astype(bool)]
    counts = wrong.value_counts(["answer", "expected"])
    return ", ".join(
        f"{answer!r} for {expected!r} ({count} times)"
        for (answer, expected), count in counts.head(n).items()
    )


def score(logits: torch.Tensor, tokens: AnswerTokens) -> torch.Tensor:
    """(..., 4) scores from (..., vocabulary) logits, in the order of `SCORES`.

    Probabilities are over the whole vocabulary. The scores are float64, on the CPU.
    """
    answers = logits[..., [tokens.correct, tokens.incorrect]].double()
    # The vocabulary is large, so only the sum is in float64, without a copy.
    top = logits.amax(-1, keepdim=True)
    total = (logits - top).exp_().sum(-1, keepdim=True, dtype=torch.float64)
    probabilities = (answers - top.double()).exp() / total
    return torch.cat([answers, probabilities], -1).cpu()


def warn_of(model: VLM, asked: pd.DataFrame, by: Criterion) -> None:
    """Warn if none or few pairs are kept, or if kept answers do not begin at the scored token.

    The warning names the line that called the caller of this function.

    Args:
        asked: as of `ask_with_both`.
        by: as in `answered_correctly`.
    """
    kept, pairs = correct_with_both(asked, by), len(asked) // len(RUNS)
    if not kept or (pairs >= MANY and len(kept) < FEW * pairs):
        counts = ", ".join(f"{len(correct_with_both(asked, each))} as {each}" for each in COLUMN)
        warnings.warn(
            f"{model} answers {len(kept)} of {pairs} pairs correctly with both pictures (by "
            f"{by!r}; by each criterion: {counts}). It said {examples(asked) or 'the right words'}."
            ' If these are the right answers in other words, use by="preferred", or options in the '
            "words that the model uses.",
            stacklevel=3,
        )
    of_kept = asked[asked["pair_id"].isin(kept) & ~asked["starts_as_scored"].astype(bool)]
    if len(of_kept):
        first = of_kept.iloc[0]
        warnings.warn(
            f"In {of_kept['pair_id'].nunique()} of the {len(kept)} kept pairs, the answer of "
            f"{model} does not begin with the token that is scored; for example it said "
            f"{first.answer!r} for {first.expected!r}. Their effects are measured at a token that "
            "the model does not write there. The column starts_as_scored of `answers` marks them.",
            stacklevel=3,
        )


def _answers(
    model: VLM,
    pairs: Iterable[SemanticPair],
    run: str,
    replies: dict[tuple[Path, str, frozenset[str]], Reply],
) -> pd.DataFrame:
    """As `answers`. Pairs of one scene ask the same; `replies` has what was asked already."""
    rows = []
    for pair in progress.bar(list(pairs), desc=f"asking {model.name}", unit="pair"):
        options = frozenset((pair.correct, pair.incorrect))
        asked = getattr(pair, f"{run}_image"), pair.prompt, options
        if asked not in replies:
            replies[asked] = _ask(model, pair, run)
        rows.append(_row(model, pair, run, replies[asked]))
    return pd.DataFrame(rows)


def _ask(model: VLM, pair: SemanticPair, run: str) -> Reply:
    inputs = model.inputs(pair.image(run), pair.prompt)
    options = pair.correct, pair.incorrect
    tokens = model.answer_tokens(pair.prompt, *options)
    logits, probabilities = score(model.logits(inputs, tokens.prefix), tokens).view(2, 2).tolist()
    longest = max(len(model.answer_ids(pair.prompt, option)) for option in options)
    ids = model.generate_ids(inputs, max(MAX_NEW_TOKENS, longest + 2))
    firsts = tokens.correct, tokens.incorrect
    return Reply(
        model.decode(ids),
        tuple(ids),
        dict(zip(options, zip(logits, probabilities, strict=True), strict=True)),
        {option: (*tokens.prefix, id) for option, id in zip(options, firsts, strict=True)},
    )


def _row(model: VLM, pair: SemanticPair, run: str, reply: Reply) -> dict:
    options = pair.correct, pair.incorrect
    expected, other = options if run == "clean" else options[::-1]
    start = reply.starts[expected]
    (logits, probabilities) = zip(*(reply.scores[option] for option in options), strict=True)
    return {
        "pair_id": pair.pair_id,
        "task": pair.task,
        "slot": pair.slot,
        "split": pair.split,
        "order": pair.order,
        "distractor": pair.distractor,
        "answer": reply.text,
        "expected": expected,
        "is_correct": is_option(model, pair.prompt, reply.text, expected, other),
        "is_preferred": reply.scores[expected] > reply.scores[other],
        "starts_as_scored": reply.ids[: len(start)] == start,
        **dict(zip(SCORES, (*logits, *probabilities), strict=True)),
    }
