"""Patched runs of any decoder-only model without the work that is the same in all of them.

When the tokens of a patch are p and later ones, and its lowest layer is l:

- nothing below layer l changes: every run resumes there, from the base run's recorded states;
- where no token before p sees p or a later one, in layer l and all above, no token before p ever
  changes: its keys and values are the base run's, shared by all runs, which start at p.

Whether a token sees another is read from the attention masks that the base run really had, layer
by layer. Causal models share what lies before p; where a block of tokens sees itself in both
directions (PaliGemma's prefix, Gemma 3's image), runs start at its first token or behind it.

Layers are called as the model called them in the base run: with the same keyword arguments (masks,
rotary embeddings, positions), cut to the tokens that run. The modules are Hugging Face's own. Equal
to the plain way up to rounding. Shapes: T tokens, S = T - p of a run that starts at p, n runs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from ..errors import NoticeError
from ..models.answers import score
from ..models.base import Inputs, hook, watch
from ..models.decoder_only import DecoderOnly
from .jobs import NO_SCORES, Activations, Job, Outcome
from .resume import Writes, entry, unchanged
from .sites import Patch

ROWS_OF_A_KEY = 1 / 8
"""What a shared token counts against the bound on rows: its keys and values are copied for each
run, but it is not computed."""

WORTH_A_CALL = 256
"""Tokens from which on a batch keeps a processor busy, so that a smaller one takes as long."""


@dataclass(frozen=True)
class Call:
    """How the model called one layer in an unpatched run.

    Attributes:
        input: (1, T, D).
        settings: the keyword arguments without mask and cache.
        mask: (1, 1 or heads, T, T), boolean (True: is seen) or added to the scores.
    """

    input: torch.Tensor
    settings: dict
    mask: torch.Tensor


@dataclass(frozen=True)
class Run:
    """An unpatched run.

    Attributes:
        calls: one a layer.
        kept: for each layer, keys and values (1, key-value heads, T, d).
        starts: for each layer, (T,) booleans: the tokens at which runs from there may start.
        activations: of all points that are patched.
        logits: (vocabulary,)
    """

    calls: list[Call]
    kept: Mapping[int, tuple[torch.Tensor, torch.Tensor]]
    starts: list[torch.Tensor]
    activations: Activations
    logits: torch.Tensor


class _Kept(DynamicCache):
    """Remembers each layer's keys and values and hands them on as they are."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def update(self, keys, values, layer, *args, **kwargs):
        self.kept[layer] = keys, values
        return keys, values


class _Behind(DynamicCache):
    """Puts the base run's keys and values of the tokens before `start` before the new ones."""

    def __init__(self, kept, start: int):
        super().__init__()
        self.kept, self.start = kept, start

    def update(self, keys, values, layer, *args, **kwargs):
        return tuple(
            torch.cat([base[:, :, : self.start].expand(len(new), -1, -1, -1), new], 2)
            for base, new in zip(self.kept[layer], (keys, values), strict=True)
        )


@torch.no_grad()
def patch_group(model: DecoderOnly, jobs: Sequence[Job], max_rows: int) -> list[Outcome]:
    """The outcomes of jobs, one after the other: processors of some families cut images into as
    many pieces as they please, so runs of different images do not form one batch.

    Args:
        max_rows: bound on the tokens of all runs that are computed at once.
    """
    return [_patch(model, job, max_rows) for job in jobs]


def _patch(model: DecoderOnly, job: Job, max_rows: int) -> Outcome:
    base = record(model, job.base, job.points, job.answer.prefix)
    if isinstance(job.source, Inputs):
        source = record(model, job.source, job.points, job.answer.prefix)
        given, source_scores = source.activations, score(source.logits, job.answer)
    else:
        given, source_scores = job.source, NO_SCORES
    base_scores = score(base.logits, job.answer)
    patched = base_scores.repeat(len(job.patches), 1)
    same = unchanged(model, job.patches, base.activations, given)
    changed = [i for i, is_same in enumerate(same) if not is_same]
    for layer, start, chunk in _chunks(model, job.patches, changed, base, max_rows):
        patches = [job.patches[i] for i in chunk]
        patched[chunk] = score(_run(model, base, given, patches, layer, start), job.answer)
    return Outcome(base_scores, source_scores, patched)


def record(
    model: DecoderOnly, inputs: Inputs, points: Iterable, prefix: tuple[int, ...] = ()
) -> Run:
    """One unpatched run.

    Raises:
        NoticeError: the model does something between, in or behind its layers that this engine
            does not know.
    """
    layers, cache = model.text.layers, _Kept()
    calls, outputs = {}, {}
    length = len(inputs) + len(prefix)
    with ExitStack() as stack:
        for index, layer in enumerate(layers):

            def listen(module, args, kwargs, index=index):
                calls[index] = _call(model, index, args, kwargs, length)
                return args, kwargs | {"past_key_values": cache}

            def keep(output, index=index):
                outputs[index] = output

            stack.enter_context(layer.register_forward_pre_hook(listen, with_kwargs=True))
            stack.enter_context(hook(layer, "output", keep))
        activations = stack.enter_context(
            watch({point: model.hook_point(*point) for point in points})
        )
        logits = model.logits(inputs, prefix)
    _check_path(model, calls, outputs, cache, logits)
    calls = [calls[index] for index in range(len(layers))]
    return Run(calls, cache.kept, _starts(calls), activations, logits)


def _call(model, index: int, args, kwargs, length: int) -> Call:
    """A layer's call, if it is one that can be cut to some of the tokens."""
    settings = dict(kwargs)
    hidden = args[0] if args else settings.pop("hidden_states")
    settings.pop("past_key_values", None)
    mask = settings.pop("attention_mask", None)
    if mask is None and model.model.config._attn_implementation == "sdpa":
        # So transformers asks for torch's own causal attention, which knows no shared prefix.
        mask = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()[None, None]
    if mask is None or mask.dim() != 4 or mask.shape[-2:] != (length, length):
        found = "none" if mask is None else f"one of shape {tuple(mask.shape)}"
        raise _unknown(
            model,
            f"a layer needs a {length} x {length} attention mask and gets {found}; load the model "
            'with attention="eager"',
        )
    unknown = [
        name
        for name, value in settings.items()
        if not (_is_plain(value) or (name in _CUT and _fits(name, value, length)))
    ]
    if len(args) > 1 or unknown:
        raise _unknown(
            model,
            f"layer {index} is given {', '.join(unknown) or 'positional arguments'}, of which is "
            "not known how they belong to tokens",
        )
    return Call(hidden, settings, mask)


_CUT = {"position_embeddings": -2, "position_ids": -1, "cache_position": -1}
"""The tokens' dimension in each argument that tells something of every token."""


def _parts(value) -> Sequence[torch.Tensor]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _fits(name: str, value, length: int) -> bool:
    return all(
        isinstance(part, torch.Tensor) and part.shape[_CUT[name]] == length
        for part in _parts(value)
    )


def _is_plain(value) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _cut(name: str, value, start: int):
    """An argument for the tokens from `start` on."""
    if name not in _CUT or _is_plain(value):
        return value
    length = _parts(value)[0].shape[_CUT[name]]
    parts = [part.narrow(_CUT[name], start, length - start) for part in _parts(value)]
    return type(value)(parts) if isinstance(value, (tuple, list)) else parts[0]


def _check_path(model, calls, outputs, cache, logits) -> None:
    """Refuse a model that is more than its layers, one after the other."""
    n_layers = len(model.text.layers)
    if set(calls) != set(range(n_layers)) or len(cache.kept) != n_layers:
        raise _unknown(model, f"{len(cache.kept)} of its {n_layers} layers have keys and values")
    for index in range(n_layers - 1):
        after, before = outputs[index], calls[index + 1].input
        if not torch.equal(after.to(before.device), before):
            raise _unknown(
                model, f"its hidden states change between layers {index} and {index + 1}"
            )
    last = model.unembed(outputs[n_layers - 1][0, -1]).to(logits.device)
    difference = (last - logits).abs().max().item()
    # Loose: one row of a product differs from many in the last bits. Else it is another function.
    allowed = (0.05 if logits.element_size() < 4 else 1e-4) * logits.abs().max().item()
    if not difference <= allowed:
        raise _unknown(
            model,
            f"its logits differ by {difference:.2g} from those of its last layer's output through "
            "the final norm, head and soft cap",
        )


def _starts(calls: Sequence[Call]) -> list[torch.Tensor]:
    """For each layer, at which tokens runs may start: those of which no token before them sees
    anything, in this layer and all above."""
    allowed, starts, known = None, [], {}
    for call in reversed(calls):
        if id(call.mask) not in known:  # Layers of one kind are given the same mask.
            known[id(call.mask)] = _closed(call.mask)
        own = known[id(call.mask)]
        allowed = own if allowed is None else allowed & own
        starts.append(allowed)
    return starts[::-1]


def _closed(mask: torch.Tensor) -> torch.Tensor:
    """(T,): whether the tokens before each see only one another."""
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    seen = seen.flatten(0, 1).any(0).cpu()
    tokens = torch.arange(len(seen))
    reach = torch.where(seen, tokens + 1, 0).amax(1).cummax(0).values
    return torch.cat([torch.zeros(1, dtype=reach.dtype), reach[:-1]]) <= tokens


def _chunks(model, patches: Sequence[Patch], chosen: Sequence[int], base: Run, max_rows: int):
    """(layer, start, indices of patches that resume there together).

    A chunk starts where the first of its patches does, and takes patches of later starts only until
    it is worth a call: each of them computes tokens that it could have shared.
    """
    length = base.calls[0].input.shape[1]
    layers: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for i in chosen:
        _, layer = entry(model, patches[i])
        first = min(min(site.positions) for site in patches[i].sites)
        layers[layer].append((int(base.starts[layer][: first + 1].nonzero().max()), i))
    for layer, group in layers.items():
        start, chunk = 0, []
        for own, i in sorted(group):
            rows = len(chunk) * (length - start)
            most = max_rows / (length - start + start * ROWS_OF_A_KEY)
            if chunk and (len(chunk) + 1 > most or (own > start and rows >= WORTH_A_CALL)):
                yield layer, start, chunk
                chunk = []
            start = start if chunk else own
            chunk.append(i)
        yield layer, start, chunk


def _run(
    model: DecoderOnly, base: Run, given: Activations, patches: Sequence[Patch], layer: int, start
) -> torch.Tensor:
    """(n, vocabulary) logits of patches that resume at a layer and a token."""
    hidden = base.calls[layer].input[:, start:].expand(len(patches), -1, -1)
    first = [run * hidden.shape[1] - start for run in range(len(patches))]
    cache = _Behind(base.kept, start)
    with Writes(model, patches, given, first).hooked("text"):
        for module, call in zip(model.text.layers[layer:], base.calls[layer:], strict=True):
            settings = {name: _cut(name, value, start) for name, value in call.settings.items()}
            mask = call.mask[:, :, start:]
            hidden = hidden.to(call.input.device)  # of a model that is spread over GPUs
            hidden = module(hidden, attention_mask=mask, past_key_values=cache, **settings)
    return model.unembed(hidden[:, -1])


def _unknown(model: DecoderOnly, why: str) -> NoticeError:
    return NoticeError(
        f"{model.name or 'This model'} cannot be run by parts: {why}. The book's page on model "
        "families says how to write an engine for it; until then, patch=plain.patch is exact."
    )
