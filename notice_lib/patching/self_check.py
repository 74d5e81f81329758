"""A model's self-check: the engine against the reference, on the model that was loaded.

Two kinds of things can go wrong, and each has its check. *Does the engine do what the model's
layers do?* This is a question of arithmetic, and half precision would hide the answer. It is
answered in float64, on one layer of each kind and a few tokens (`layer_proof`). *Are the runs put
together correctly*, with the real weights and a real input? This is answered by patching random
sites and a circuit of all of them, in chunks as large as the engine will use. Each site's
difference must be a small part of its effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from ..errors import NoticeError
from ..models.base import VLM
from ..models.decoder import DecoderOnly
from ..models.inputs import AnswerTokens, Inputs
from . import engine, reference
from .interface import failed, not_heads
from .jobs import Job, Outcome
from .layer_proof import count_near_ties, prove_layers
from .recorded import are_heads_side_by_side, record
from .sites import Intervention, PlacedSite

PROMPT = "Is the dog or the goat on the table?"

PART = {torch.float64: 1e-6, torch.float32: 1e-3}
"""The largest allowed difference as a part of a site's effect, by dtype."""
COARSE = 0.1
"""The same for half precision."""
NOISES = 4
"""The largest allowed difference at sites of small effect, in multiples of `Check.noise`."""


@dataclass(frozen=True)
class Check:
    """The result of a self-check. Differences and effects are in logits.

    Attributes:
        sites: number of patched runs that were compared.
        difference: the largest difference between engine and reference.
        effect: the largest effect of an intervention.
        noise: the change of the reference's logits when each pixel moves by one unit in its last
            place, which is what rounding alone can do.
        proving: number of sites whose effect is more than ten times their difference and the noise.
            In half precision, the others prove nothing.
        layers: kinds of layers that were proved in float64.
        unproved: kinds that could not be proved (4-bit weights, kernels without float64), and why.
        near_ties: number of times that rounding could send a token to another expert, in a mixture
            of experts. There engine and reference may differ although both are correct.
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
    """A question about a random image of the model's size."""
    side = model.image_size
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return model.inputs(Image.fromarray(pixels), PROMPT)


def verify(model: VLM, inputs: Inputs | None = None, seed: int = 0) -> Check:
    """Compare a model's engine with the reference, by about twelve forwards and a few layers.

    In one run, activations are replaced by random ones of the same size: each component of the text
    stack at some of the image's tokens and at one token of the text, and all of these as a circuit.
    The layers are random ones of the lower half, so most of the stack runs.

    It is also checked whether the input of an attention's output projection is its heads side by
    side. If it is not, single heads are refused from then on (`DecoderOnly.no_heads`).

    Args:
        inputs: the input on which they are compared; by default that of `random_input`.

    Raises:
        NoticeError: engine and reference differ, or the model does something that the engine does
            not know.
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
    logits, usual = reference.record(model, inputs, interventions[-1].points)
    given = {point: _random_like(values, rng) for point, values in usual.items()}
    answers = _most_changed(logits, reference.patched_logits(model, inputs, given, sites))
    job = Job(inputs, given, interventions, AnswerTokens((), *answers))
    (slow,) = reference.patch(model, [job])
    noise = _noise(model, inputs, logits, answers, rng)
    if isinstance(model, DecoderOnly):
        _check_batch(model, [inputs, random_input(model, seed + 1)], answers, noise)
    check = _compare(model, slow, _in_full_chunks(model, job), noise)
    model.checked = True
    return replace(check, layers=layers, unproved=unproved, near_ties=near_ties)


def _most_changed(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """The two tokens whose logits rise and fall most, of those that the model ever writes."""
    written = before > torch.finfo(before.dtype).min
    change = (after - before).float()
    rises, falls = (torch.where(written, sign * change, -torch.inf).argmax() for sign in (1, -1))
    return [int(rises), int(falls)]


def _in_full_chunks(model: VLM, job: Job) -> Outcome:
    """A job's outcome by the engine, with its interventions repeated until they fill a chunk.

    Of each intervention's runs, it has the one that is farthest from the first.
    """
    together = engine.tokens_of(model, job)
    copies = max(1, engine.MAX_TOKENS // together)
    (outcome,) = engine.patch(model, [replace(job, interventions=job.interventions * copies)])
    runs = outcome.patched.unflatten(0, (copies, -1))
    farthest = (runs - runs[:1]).abs().amax(-1).argmax(0)
    return replace(outcome, patched=runs[farthest, torch.arange(len(job.interventions))])


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
    """Compare two images in one forward, as pairs of one layout are run, with each image alone.

    Raises:
        NoticeError: the model's logits in a batch differ.
    """
    if runs[0].layout != runs[1].layout:
        return  # Then they are never run together.
    together = model.batch_logits(runs)[:, answers]
    alone = torch.stack([model.logits(run)[answers] for run in runs])
    difference = (together - alone).abs().max().item()
    allowed = max(PART.get(model.dtype, COARSE) * alone.abs().max().item(), NOISES * noise)
    if not difference <= allowed:
        raise failed(
            model,
            f"its logits differ by {difference:.2g} between two images in one forward and each "
            f"image alone (allowed: {allowed:.2g})",
        )


def _compare(model: VLM, slow: Outcome, fast: Outcome, noise: float) -> Check:
    logits = slice(0, 2)  # The first two scores are logits.
    effects = (slow.patched - slow.base)[:, logits].abs().amax(1)
    differences = (slow.patched - fast.patched)[:, logits].abs().amax(1)
    differences = torch.maximum(differences, (slow.base - fast.base)[logits].abs().max())
    part = PART.get(model.dtype, COARSE)
    allowed = torch.clamp(part * effects, min=NOISES * noise)
    if not (differences <= allowed).all():
        worst = int((differences / allowed).argmax())
        raise failed(
            model,
            f"the logits of a patched run differ by {differences[worst]:.2g} between the engine "
            f"and one full forward per site (allowed: {allowed[worst]:.2g}; the site's effect is "
            f"{effects[worst]:.2g})",
        )
    proving = int((effects > 10 * torch.clamp(differences, min=noise)).sum())
    return Check(len(effects), differences.max().item(), effects.max().item(), noise, proving)


def _random_like(values: torch.Tensor, rng) -> torch.Tensor:
    random = torch.from_numpy(rng.standard_normal(values.shape)).to(values.device)
    return (random * values.double().std()).to(values.dtype)


def _random_sites(model: VLM, inputs: Inputs, rng) -> list[PlacedSite]:
    """Each component at the last half of the image's tokens, and at one token of the prompt's last
    half.

    The first of these lies in the middle of the image, where tokens may see later ones.
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
    """Set `no_heads` if the input of an output projection is not the heads side by side."""
    projections = [("self_attention", layer) for layer in range(model.n_layers)]
    try:
        run = record(model, [inputs], projections)
    except NoticeError as error:
        if model.engine == "fast":
            raise
        model.no_heads = f"whether its heads stand side by side could not be checked ({error})"
        return
    for layer in range(model.n_layers):
        if not are_heads_side_by_side(run, layer):
            model.no_heads = not_heads(model, layer)
            return
