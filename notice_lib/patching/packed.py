"""Attention over packed runs, in the place of Hugging Face's own.

The suffixes of many patched runs lie one behind the other in one row dimension. A layer of a
decoder treats rows one by one in everything but attention: so Hugging Face's layer runs untouched,
and only its attention function is exchanged, through `transformers.AttentionInterface`. Queries
of a run see the base run's keys before the run's start, which all runs share, and the run's own
from there on, both normalised by one softmax. (A block-diagonal mask over the packed rows is equal,
but spends work on the blocks that it throws away.)

Shapes: P pairs, n runs of one start p, S = T - p tokens of each, R rows of all runs of a pair, H
query heads that share K key-value heads (G = H / K), width d.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.modeling_utils import AttentionInterface

NAME = "notice_packed"

KNOWN = frozenset(
    (
        "scaling",
        "softcap",
        "is_causal",
        "sliding_window",
        "position_ids",
        "cache_position",
        "position_embeddings",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "logits_to_keep",
    )
)
"""Arguments of attention that this engine computes with, or that change nothing in it: what they
say is in the masks and positions of the base run, or concerns what is returned beside the values.
"""


@dataclass(frozen=True)
class Mask:
    """What each of T tokens sees of the base run.

    Attributes:
        hidden: (P or 1, H or 1, T, T) booleans: what a token does not see.
        added: the same shape, added to the scores; None where it says no more than `hidden`.
    """

    hidden: torch.Tensor
    added: torch.Tensor | None = None
    _parts: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, mask: torch.Tensor) -> "Mask":
        """From what a layer is given: booleans (True: is seen), or what is added to the scores."""
        if mask.dtype == torch.bool:
            return cls(~mask)
        hidden = mask <= torch.finfo(mask.dtype).min
        says_more = bool(((mask != 0) & ~hidden).any())
        return cls(hidden, mask if says_more else None)

    def rows(self, tokens) -> "Mask":
        """Of these tokens' view of all."""
        return self._cut(tokens, slice(None))

    def columns(self, tokens) -> "Mask":
        """Of all tokens' view of these."""
        return self._cut(slice(None), tokens)

    def given(self) -> torch.Tensor:
        """As it can be given to a layer: added to the scores."""
        lowest = torch.finfo(torch.float64).min
        added = torch.zeros_like(self.hidden, dtype=torch.float64) if self.added is None else (
            self.added.double()
        )  # fmt: skip
        return added.masked_fill(self.hidden, lowest)

    def part(self, rows: slice, columns: slice) -> "Mask | None":
        """Of some tokens' view of some others; None if they see all of it."""
        key = rows.start, rows.stop, columns.start, columns.stop
        if key not in self._parts:
            part = self._cut(rows, columns)
            full = part.added is None and not part.hidden.any()
            self._parts[key] = None if full else part
        return self._parts[key]

    def _cut(self, rows, columns) -> "Mask":
        added = None if self.added is None else self.added[:, :, rows, columns]
        return Mask(self.hidden[:, :, rows, columns], added)

    def apply_(self, scores: torch.Tensor) -> None:
        """Mask scores (P, K, n, G, rows, columns), in place."""

        def spread(part: torch.Tensor) -> torch.Tensor:
            """(P or 1, H or 1, ...) -> (P or 1, K or 1, 1, G or 1, ...)"""
            heads = (scores.shape[1], -1) if part.shape[1] > 1 else (1, 1)
            return part.unflatten(1, heads)[:, :, None]

        if self.added is not None:
            scores += spread(self.added)
        scores.masked_fill_(spread(self.hidden), float("-inf"))


class Suffixes:
    """How n runs' suffixes lie in R rows.

    Attributes:
        starts: (n,) the first token of each run, in order.
        length: T.
        first: (n,) the row where each run's token 0 would stand.
        groups: (p, number of runs) for each start p.
        tokens: (R,) the token of each row.
        last: (n,) the row of each run's last token.
    """

    def __init__(self, starts: Sequence[int], length: int):
        self.starts, self.length = starts, length
        ends = list(accumulate(length - start for start in starts))
        self.first = [end - length for end in ends]
        self.groups = [(start, len(list(same))) for start, same in groupby(starts)]
        self.tokens = torch.cat([torch.arange(start, length) for start in starts])
        self.last = torch.tensor(ends) - 1


@dataclass(frozen=True)
class Asked:
    """What a layer's attention function was given in the base runs, and what it gave.

    Attributes:
        keys, values: (P, K, T, d), after rotation.
        mask: as it was given: booleans, what is added to the scores, or None.
        arguments: the keyword arguments.
        output: (P, T, H, d), the heads' outputs.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None
    arguments: dict
    output: torch.Tensor


class Recorder:
    """Attention as the model itself computes it; keeps it in `asked`.

    Args:
        function: transformers' own, which the module would have called.
        called: told when it is called.
    """

    def __init__(self, attention: torch.nn.Module, function: Callable, called: Callable):
        self.attention, self.function, self.called = attention, function, called

    def __call__(self, query, key, value, mask, arguments):
        self.called()
        output, weights = self.function(self.attention, query, key, value, mask, **arguments)
        self.asked = Asked(key, value, mask, arguments, output)
        return output, weights


@dataclass(frozen=True)
class Base:
    """What one layer's attention takes from the base runs.

    Attributes:
        keys, values: (P, K, T, d), after rotation.
        mask: of the T tokens.
        precision: of the softmax.
        output: (P, T, H, d), the heads' outputs.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: Mask
    precision: torch.dtype
    output: torch.Tensor


class PatchedRows:
    """Attention of the patched tokens in the layer that is patched: what it gives depends on the
    layer's input, which is the base run's."""

    def __init__(self, base: Base, tokens: torch.Tensor):
        self.base, self.tokens = base, tokens

    def __call__(self, query, key, value, mask, arguments):
        return self.base.output[:, self.tokens], None


class WholeRuns:
    """Attention of runs from their starts on, or of the last `each` tokens of every run alone.

    Args:
        own: keys and values (P, K, R, d) of all rows, where the queries are not those of all.
    """

    def __init__(self, base: Base, suffixes: Suffixes, each: int | None = None, own=None):
        self.base, self.suffixes, self.each, self.own = base, suffixes, each, own

    def __call__(self, query, key, value, mask, arguments):
        if mask is not None:
            raise OwnMask
        key, value = self.own or (key, value)
        softcap, scaling = arguments.get("softcap"), arguments.get("scaling")
        query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        asked = row = 0
        context = []
        for start, n in self.suffixes.groups:
            length = self.suffixes.length - start
            asking = min(self.each or length, length)
            queries, rows = slice(asked, asked + n * asking), slice(row, row + n * length)
            asked, row = queries.stop, rows.stop
            context.append(
                self._attend(
                    query[:, :, queries], key[:, :, rows], value[:, :, rows], start, n, softcap
                )
            )
        return torch.cat(context, 1), None

    def _attend(self, query, key, value, start: int, n: int, softcap) -> torch.Tensor:
        """(P, n s, H, d) of the n runs of one start, for the last s of their tokens."""
        base = self.base
        kv_heads, asking = key.shape[1], query.shape[2] // n
        # (P, H, n s, d) -> (P, K, n, G s, d)
        query = query.unflatten(1, (kv_heads, -1)).unflatten(3, (n, asking)).transpose(2, 3)
        query = query.flatten(3, 4)
        scores = query @ key.unflatten(2, (n, -1)).transpose(3, 4)
        if start:
            prefix = base.keys[:, :, :start].transpose(2, 3)
            before = query.flatten(2, 3) @ prefix
            scores = torch.cat([before.unflatten(2, (n, -1)), scores], -1)
        scores = _capped(scores, softcap).unflatten(3, (-1, asking))
        self._mask(scores, start, asking)
        weights = torch.softmax(scores, -1, dtype=base.precision).to(value.dtype).flatten(3, 4)
        context = weights[..., start:] @ value.unflatten(2, (n, -1))
        if start:
            before = weights[..., :start].flatten(2, 3) @ base.values[:, :, :start]
            context = context + before.unflatten(2, (n, -1))
        # (P, K, n, G s, d) -> (P, n s, H, d)
        context = context.unflatten(3, (-1, asking)).permute(0, 2, 4, 1, 3, 5)
        return context.flatten(3, 4).flatten(1, 2)

    def _mask(self, scores: torch.Tensor, start: int, asking: int) -> None:
        """Of the prefix the tokens mostly see everything, of their own run what comes before."""
        length = self.suffixes.length
        rows = slice(length - asking, length)
        for columns in (slice(0, start), slice(start, length)):
            part = self.base.mask.part(rows, columns) if columns.stop > columns.start else None
            if part is not None:
                part.apply_(scores[..., columns])


class OwnMask(Exception):
    """An attention made a mask of its own where it was given none."""


class KeysAndValues(Exception):
    """Ends a layer's run once its keys and values are known; not an error."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor):
        super().__init__()
        self.key, self.value = key, value


def only_keys_and_values(query, key, value, mask, arguments):
    """In place of attention, where nothing but the rows' keys and values is wanted of a layer."""
    raise KeysAndValues(key, value)


@dataclass
class _Task:
    """What a module's attention is to do, and how often it was asked."""

    attend: Callable
    calls: int = 0


_tasks: WeakKeyDictionary[torch.nn.Module, _Task] = WeakKeyDictionary()


@contextmanager
def attending(attention: torch.nn.Module, attend: Callable) -> Iterator[_Task]:
    """Within this block an attention module calls `attend(query, key, value, mask, arguments)`.

    Query is (P, H, rows, d), key and value are (P, K, rows, d), and the arguments those that the
    module gives to any of transformers' attention functions; `attend` returns (P, rows, H, d) and
    weights or None.

    The module gets a configuration of its own meanwhile, since text and tower may share one; the
    masks, which are made outside of it, stay those of its own attention function.
    """
    config = attention.config
    own: Any = copy(config)
    own._attn_implementation_internal = NAME
    attention.config = own
    _tasks[attention] = task = _Task(attend)
    try:
        yield task
    finally:
        attention.config = config
        del _tasks[attention]


def _packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **arguments,
):
    """The function that transformers calls; see `transformers.AttentionInterface`."""
    task = _tasks[module]
    task.calls += 1
    return task.attend(query, key, value, attention_mask, arguments)


AttentionInterface.register(NAME, _packed_attention)


def unknown_arguments(arguments: dict) -> list[str]:
    """What an attention is asked for that is not known (sinks, position biases, indices), and would
    be lost without a word."""

    def is_given(value) -> bool:
        if isinstance(value, torch.Tensor):
            return value.numel() > 0
        return value is not None and value is not False and value != 0

    return sorted(name for name, x in arguments.items() if name not in KNOWN and is_given(x))


def _capped(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)
