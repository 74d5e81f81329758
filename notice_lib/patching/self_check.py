"""A model's self-check: the engine against the reference, on this very model.

What could go wrong is of two kinds, and so is the check. *Whether the engine does what the model's
layers do* is a question of arithmetic that half precision hides; it is answered in float64, on one
layer of each kind and few tokens (`prove_layers`). *Whether the runs are put together correctly* on
the real weights and a real input is answered by patching: random sites, a circuit of all, chunks as
large as the engine will use; each site's difference must be a small part of its effect.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import NoticeError
from ..models.base import VLM, AnswerTokens, Inputs
from ..models.decoder import DecoderOnly
from . import engine, reference
from .double import DoublePrecision
from .jobs import Job, Outcome
from .packed import Base, OwnMask, Recorder, Suffixes, WholeRuns, attending
from .recorded import LayerRun, closed, not_heads, own_function, own_mask, record
from .sites import Intervention, PlacedSite

PROMPT = "Is the dog or the goat on the table?"

PART = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference, as a part of a site's effect. Other dtypes: `COARSE`."""
COARSE = 0.1
NOISES = 4
"""Largest difference where a site's effect is small, in multiples of the reference's own noise."""
LAYER_TOLERANCE = 1e-9
"""Largest difference of a layer's output in float64, as a part of its largest value."""
TOKENS = 24
"""Of the image and of the text behind it, on which layers are proved."""


@dataclass(frozen=True)
class Check:
    """What a self-check found; differences and effects are in logits.

    Attributes:
        sites: patched runs that were compared.
        difference: the largest between engine and reference.
        effect: the largest of an intervention.
        noise: what rounding alone does to the reference's logits: their change when each pixel is
            moved by one unit in its last place.
        proving: sites whose effect is more than ten times what their difference might have been;
            in half precision the others prove nothing.
        layers: kinds of layers that were proved in float64.
        unproved: kinds that could not be (4-bit weights, kernels without float64), and why.
        near_ties: tokens of the input that rounding could send to another expert, in a mixture of
            experts: there engine and reference may differ without either being wrong.
    """

    sites: int
    difference: float
    effect: float
    noise: float
    proving: int
    layers: tuple[str, ...] = ()
    unproved: tuple[str, ...] = ()
    near_ties: int = 0


def random_input(model: VLM, seed: int = 0) -> Inputs:
    """A random image of the model's size, and a question about it."""
    side = model.image_size
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return model.inputs(Image.fromarray(pixels), PROMPT)


def verify(model: VLM, inputs: Inputs | None = None, seed: int = 0) -> Check:
    """Compare a model's engine with the reference: about twelve forwards, and a few layers.

    In one run, activations are replaced by random ones that are as large: each component of the
    text stack at some of the image's tokens and at one of the text, and a circuit of all, at random
    layers of the lower half, so that most of the stack runs.

    It is checked as well that what enters an attention's output projection is its heads side by
    side; where it is not, single heads are refused from then on (`DecoderOnly.no_heads`).

    Args:
        inputs: of `random_input`, if not given.

    Raises:
        NoticeError: they differ, or the model does something that the engine does not know.
    """
    inputs = random_input(model, seed) if inputs is None else inputs
    rng = np.random.default_rng(seed)
    layers: tuple[str, ...] = ()
    unproved: tuple[str, ...] = ()
    near_ties = 0
    if isinstance(model, DecoderOnly):
        check_heads(model, inputs)
        layers, unproved = prove_layers(model, inputs, seed)
        near_ties = count_near_ties(model, inputs)
    sites = _random_sites(model, inputs, rng)
    interventions = (*(Intervention((site,)) for site in sites), Intervention(tuple(sites), "all"))
    logits, own = reference.record(model, inputs, {(s.component, s.layer) for s in sites})
    given = {point: _random_like(values, rng) for point, values in own.items()}
    answers = _most_changed(logits, reference.patched_logits(model, inputs, given, sites))
    job = Job(inputs, given, interventions, AnswerTokens((), *answers))
    (slow,) = reference.patch(model, [job])
    noise = _noise(model, inputs, logits, answers, rng)
    if isinstance(model, DecoderOnly):
        _check_batch(model, [inputs, random_input(model, seed + 1)], answers, noise)
    found = _compare(model, slow, _in_full_chunks(model, job), noise)
    model.checked = True
    return replace(found, layers=layers, unproved=unproved, near_ties=near_ties)


def _most_changed(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """The words whose logits rise and fall most, of those that a model ever writes."""
    written = before > torch.finfo(before.dtype).min
    change = (after - before).float()
    rises, falls = (torch.where(written, sign * change, -torch.inf).argmax() for sign in (1, -1))
    return [int(rises), int(falls)]


def _in_full_chunks(model: VLM, job: Job) -> Outcome:
    """A job's outcome by the engine, its interventions repeated until they fill a chunk; of each
    one's runs that which is farthest from the first."""
    together = engine.tokens_of(model, job)
    copies = max(1, engine.MAX_TOKENS // together)
    (found,) = engine.patch(model, [replace(job, interventions=job.interventions * copies)])
    runs = found.patched.unflatten(0, (copies, -1))
    farthest = (runs - runs[:1]).abs().amax(-1).argmax(0)
    return replace(found, patched=runs[farthest, torch.arange(len(job.interventions))])


def _noise(model: VLM, inputs: Inputs, logits, answers: list[int], rng) -> float:
    """The change of two logits when every pixel moves by one unit in its last place."""
    pixels = inputs.pixel_values
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], tuple(pixels.shape))).to(pixels)
    moved = pixels + signs * pixels.abs() * torch.finfo(pixels.dtype).eps
    change = model.logits(replace(inputs, pixel_values=moved)) - logits
    rounding = torch.finfo(logits.dtype).eps * logits[answers].abs().max()
    return max(change[answers].abs().max().item(), rounding.item())


@torch.no_grad()
def _check_batch(model: DecoderOnly, runs: Sequence[Inputs], answers: list[int], noise) -> None:
    """Two images in one forward, as pairs of one layout run, against each alone.

    Raises:
        NoticeError: the model answers otherwise in a batch.
    """
    if runs[0].layout != runs[1].layout:
        return  # Then they are never run together.
    together = model.batch_logits(runs)[:, answers]
    alone = torch.stack([model.logits(run)[answers] for run in runs])
    difference = (together - alone).abs().max().item()
    allowed = max(PART.get(model.dtype, COARSE) * alone.abs().max().item(), NOISES * noise)
    if not difference <= allowed:
        raise NoticeError(
            f"{model.name or model.family} failed its self-check: its logits differ by "
            f"{difference:.2g} between two images in one forward and each alone (allowed: "
            f'{allowed:.2g}). Load it with load_model(..., engine="reference"), which runs images '
            "one by one."
        )


def _compare(model: VLM, slow: Outcome, fast: Outcome, noise: float) -> Check:
    logits = slice(0, 2)  # of the scores
    effects = (slow.patched - slow.base)[:, logits].abs().amax(1)
    differences = (slow.patched - fast.patched)[:, logits].abs().amax(1)
    differences = torch.maximum(differences, (slow.base - fast.base)[logits].abs().max())
    part = PART.get(model.dtype, COARSE)
    allowed = torch.clamp(part * effects, min=NOISES * noise)
    if not (differences <= allowed).all():
        worst = int((differences / allowed).argmax())
        raise NoticeError(
            f"{model.name or model.family} failed its self-check: the logits of a patched run "
            f"differ by {differences[worst]:.2g} between the engine and one full forward per site "
            f"(allowed: {allowed[worst]:.2g}; the site's effect is {effects[worst]:.2g}). Load it "
            'with load_model(..., engine="reference"), which is exact, and slower.'
        )
    proving = int((effects > 10 * torch.clamp(differences, min=noise)).sum())
    return Check(len(effects), differences.max().item(), effects.max().item(), noise, proving)


def _random_like(values: torch.Tensor, rng) -> torch.Tensor:
    random = torch.from_numpy(rng.standard_normal(values.shape)).to(values.device)
    return (random * values.double().std()).to(values.dtype)


def _random_sites(model: VLM, inputs: Inputs, rng) -> list[PlacedSite]:
    """Each component at the last half of the image's tokens, and at one of the text's last half.

    In the middle of the image, since it is there that tokens may see later ones.
    """
    image = np.flatnonzero(inputs.image_tokens).tolist()
    text = [i for i in range(len(inputs) // 2, len(inputs)) if i not in image]
    sites = []
    for component in model.components:
        for tokens in (image[len(image) // 2 :], [int(rng.choice(text))]):
            layer = int(rng.integers((model.n_layers + 1) // 2))
            per_head = model.hook_point(component, layer).per_head and rng.integers(2)
            head = int(rng.integers(model.n_heads)) if per_head else None
            sites += [PlacedSite(component, layer, head, tuple(tokens), "")] if tokens else []
    return sites


@torch.no_grad()
def check_heads(model: DecoderOnly, inputs: Inputs) -> None:
    """Set `no_heads` where what enters an output projection is not the heads side by side."""
    projections = [("self_attention", layer) for layer in range(model.n_layers)]
    try:
        run = record(model, [inputs], projections)
    except NoticeError as error:
        if model.engine == "fast":
            raise
        model.no_heads = f"whether its heads stand side by side could not be checked ({error})"
        return
    for layer, at in zip(run.layers, projections, strict=True):
        heads, entering = layer.base.output.flatten(2), run.activations[at]
        if heads.shape != entering.shape or not torch.equal(heads, entering):
            model.no_heads = not_heads(model, at[1])
            return


@torch.no_grad()
def prove_layers(
    model: DecoderOnly, inputs: Inputs, seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """One layer of each kind in float64, on few tokens: suffixes by the engine against the layer as
    it is.

    Returns:
        The kinds that were proved, and those that could not be, with the reason.

    Raises:
        NoticeError: the engine's layer differs from the model's own.
    """
    run = record(model, [inputs], [])
    tokens = _few_tokens(inputs)
    kinds = {_kind(layer): layer for layer in run.layers}
    proved, unproved = [], []
    for layer in kinds.values():
        name = type(layer.module).__name__
        try:
            difference, scale = _difference(model, layer, tokens, seed)
        except OwnMask:
            raise own_mask(model, layer.attention) from None
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            unproved.append(f"{name}: {str(error).splitlines()[0]}")
            continue
        if not difference <= LAYER_TOLERANCE * scale:
            raise NoticeError(
                f"{model.name or model.family} failed its self-check: in float64, outputs of "
                f"{name} differ by {difference:.2g} between packed runs and the layer as it is "
                f"(its values are up to {scale:.2g}). Load it with "
                'load_model(..., engine="reference"), which is exact, and slower.'
            )
        proved.append(name)
    return tuple(proved), tuple(unproved)


def _few_tokens(inputs: Inputs) -> torch.Tensor:
    """The last tokens of the image and of the text, in order."""
    image = np.flatnonzero(inputs.image_tokens)[-TOKENS // 2 :]
    text = np.flatnonzero(~np.array(inputs.image_tokens))[-TOKENS // 2 :]
    return torch.from_numpy(np.sort(np.concatenate([image, text])))


def _kind(layer: LayerRun) -> tuple:
    """What tells layers apart: classes, plain settings of the attention, and the mask."""
    plain = (bool, int, float, str, type(None))
    settings = tuple(
        (name, value)
        for name, value in sorted(vars(layer.attention).items())
        if isinstance(value, plain) and name != "layer_idx"
    )
    classes = tuple(type(module).__name__ for module in layer.module.modules())
    return classes, settings, id(layer.base.mask)


def _difference(model, layer: LayerRun, tokens: torch.Tensor, seed: int) -> tuple[float, float]:
    """(largest difference, largest value) of a layer's output, its input changed from some token
    on: by the engine, and by the layer itself."""
    names = [name for name, module in layer.module.named_modules() if module is layer.attention]
    module = deepcopy(layer.module).double()
    for part in module.modules():  # the other ways to run experts know no float64
        config: Any = getattr(part, "config", None)
        if hasattr(config, "_experts_implementation_internal"):
            config._experts_implementation_internal = "eager"
    attention = module.get_submodule(names[0])
    mask = layer.base.mask.rows(tokens).columns(tokens)
    settings = {name: _double(value) for name, value in layer.settings_of(tokens, {}).items()}
    hidden = layer.input[:1, tokens].double()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(hidden.shape, generator=generator, dtype=torch.float64).to(hidden)
    changed = hidden + hidden.std() * noise
    starts = closed(mask).nonzero().flatten().tolist()
    starts = sorted({starts[0], starts[len(starts) // 2], starts[-1]})

    def call(hidden, settings, attend, given=None):
        with attending(attention, attend):
            found = module(hidden, attention_mask=given, past_key_values=None, **settings)
        return found[0] if isinstance(found, tuple) else found

    with DoublePrecision():
        recorder = Recorder(attention, own_function(model, attention), lambda: None)
        call(hidden, settings, recorder, mask.given())
        asked = recorder.asked
        base = Base(asked.keys, asked.values, mask, torch.float64, asked.output)
        suffixes = Suffixes(starts, len(tokens))
        rows = suffixes.tokens
        own = {name: _double(value) for name, value in layer.settings_of(tokens[rows], {}).items()}
        packed = call(changed[:, rows], own, WholeRuns(base, suffixes))
        outputs = []
        for start in starts:
            mixed = torch.cat([hidden[:, :start], changed[:, start:]], 1)
            outputs.append(call(mixed, settings, recorder, mask.given())[:, start:])
        expected = torch.cat(outputs, 1)
    return (packed - expected).abs().max().item(), expected.abs().max().item()


def _double(value):
    """An argument in float64, if it is of floating point."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(_double, value))
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if floating else value


@torch.no_grad()
def count_near_ties(model: DecoderOnly, inputs: Inputs) -> int:
    """Tokens whose last chosen and first refused expert are as near to each other as rounding."""
    config = model.model.config.get_text_config(decoder=True)
    chosen = getattr(config, "num_experts_per_tok", None)
    routers = [
        part
        for mlp in model.text.mlps
        for name, part in mlp.named_modules()
        if "router" in type(part).__name__.lower() or name == "gate"
    ]
    if not chosen or not routers:
        return 0
    ties = []

    def look(module, args, output):
        logits = output[0] if isinstance(output, tuple) else output
        best = logits.flatten(0, -2).float().topk(min(chosen + 1, logits.shape[-1])).values
        scale = torch.finfo(model.dtype).eps * best.abs().amax(-1)
        if best.shape[-1] > chosen:
            ties.append(int((best[:, chosen - 1] - best[:, chosen] <= NOISES * scale).sum()))

    handles = [router.register_forward_hook(look) for router in routers]
    try:
        model.logits(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sum(ties)
