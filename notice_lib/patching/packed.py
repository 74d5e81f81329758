"""Attention over packed runs, in place of Hugging Face's.

The suffixes of many patched runs lie one after the other in one row dimension. A decoder's layer
treats rows one by one in everything but attention. So Hugging Face's layer runs unmodified, and
only its attention function is exchanged, through `transformers.AttentionInterface`. Before a run's
start, its queries see the keys of the base run, which all runs share; from there on they see the
run's keys. One softmax normalises both. (A block-diagonal mask over the packed rows would give the
same, but waste the work on the masked blocks.)

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
"""Arguments of attention that this engine uses, or that change nothing in it because the base run's
masks and positions contain them or because they concern only what is returned beside the values."""


@dataclass(frozen=True)
class Mask:
    """What each of T tokens sees of the base run.

    Attributes:
        hidden: booleans, (P or 1, H or 1, T, T): what a token does not see.
        added: numbers of the same shape that are added to the scores; None if there are none beside
            those that hide.
    """

    hidden: torch.Tensor
    added: torch.Tensor | None = None
    _parts: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, mask: torch.Tensor) -> "Mask":
        """From a layer's argument: booleans (True for what is seen), or numbers that are added to
        the scores."""
        if mask.dtype == torch.bool:
            return cls(~mask)
        hidden = mask <= torch.finfo(mask.dtype).min
        says_more = bool(((mask != 0) & ~hidden).any())
        return cls(hidden, mask if says_more else None)

    def rows(self, tokens) -> "Mask":
        """These tokens' view of all tokens."""
        return self._cut(tokens, slice(None))

    def columns(self, tokens) -> "Mask":
        """All tokens' view of these tokens."""
        return self._cut(slice(None), tokens)

    def given(self) -> torch.Tensor:
        """As a layer takes it: float64 numbers that are added to the scores."""
        added = torch.zeros_like(self.hidden) if self.added is None else self.added
        return added.double().masked_fill(self.hidden, torch.finfo(torch.float64).min)

    def part(self, rows: slice, columns: slice) -> "Mask | None":
        """Some tokens' view of some others; None if they see all of them and nothing is added."""
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
        starts: the first token of each run, in ascending order, (n,).
        length: the number of tokens, T.
        first: the row where each run's token 0 would stand, (n,).
        groups: (p, number of runs) for each start p.
        tokens: the token of each row, (R,).
        last: the row of each run's last token, (n,).
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
        keys, values: after rotation, (P, K, T, d).
        mask: as it was given: booleans, numbers that are added to the scores, or None.
        arguments: the keyword arguments.
        output: the heads' outputs, (P, T, H, d).
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None
    arguments: dict
    output: torch.Tensor


class Recorder:
    """Attention as the model itself computes it; `asked` keeps what it was given and gave.

    Args:
        function: transformers' attention function that the module would have called.
        called: a function that is called first.
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
        keys, values: after rotation, (P, K, T, d).
        mask: what each of the T tokens sees.
        precision: the softmax's dtype.
        output: the heads' outputs, (P, T, H, d).
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: Mask
    precision: torch.dtype
    output: torch.Tensor


class PatchedRows:
    """Attention of the patched tokens in the patched layer.

    It gives what it gave in the base run, since the layer's input is the base run's.
    """

    def __init__(self, base: Base, tokens: torch.Tensor):
        self.base, self.tokens = base, tokens

    def __call__(self, query, key, value, mask, arguments):
        return self.base.output[:, self.tokens], None


class WholeRuns:
    """Attention of runs from their starts on.

    Args:
        each: if given, the queries are those of the last `each` tokens of every run alone.
        of_rows: keys and values (P, K, R, d) of all rows, if the queries are not those of all rows.
    """

    def __init__(self, base: Base, suffixes: Suffixes, each: int | None = None, of_rows=None):
        self.base, self.suffixes, self.each, self.of_rows = base, suffixes, each, of_rows

    def __call__(self, query, key, value, mask, arguments):
        if mask is not None:
            raise OwnMask
        key, value = self.of_rows or (key, value)
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
        """(P, n s, H, d) heads' outputs at the last s tokens of n runs with the same start."""
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
        """Mask the prefix, of which tokens mostly see everything, and the runs' tokens."""
        length = self.suffixes.length
        rows = slice(length - asking, length)
        for columns in (slice(0, start), slice(start, length)):
            part = self.base.mask.part(rows, columns) if columns.stop > columns.start else None
            if part is not None:
                part.apply_(scores[..., columns])


class OwnMask(Exception):
    """An attention made a mask although it was given none."""


class KeysAndValues(Exception):
    """Ends a layer's run once its keys and values are known; it is no error."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor):
        super().__init__()
        self.key, self.value = key, value


def only_keys_and_values(query, key, value, mask, arguments):
    """Stands in place of attention if only the rows' keys and values are wanted of a layer."""
    raise KeysAndValues(key, value)


@dataclass
class _Task:
    """What stands in place of a module's attention, and how often it was called."""

    attend: Callable
    calls: int = 0


_tasks: WeakKeyDictionary[torch.nn.Module, _Task] = WeakKeyDictionary()


@contextmanager
def attending(attention: torch.nn.Module, attend: Callable) -> Iterator[_Task]:
    """Within this block an attention module calls `attend(query, key, value, mask, arguments)`.

    Query is (P, H, rows, d), key and value are (P, K, rows, d), and the arguments are those that
    the module gives to any of transformers' attention functions. `attend` returns (P, rows, H, d)
    and weights or None.

    Within the block the module has a copy of its configuration, since text and tower may share one.
    Masks are made outside of the module, so they stay those of its usual attention function.
    """
    config = attention.config
    changed: Any = copy(config)
    changed._attn_implementation_internal = NAME
    attention.config = changed
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
    """Names of arguments that this engine would ignore (sinks, position biases, indices)."""

    def is_given(value) -> bool:
        if isinstance(value, torch.Tensor):
            return value.numel() > 0
        return value is not None and value is not False and value != 0

    return sorted(name for name, x in arguments.items() if name not in KNOWN and is_given(x))


def _capped(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)
