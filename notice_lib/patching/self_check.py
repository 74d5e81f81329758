"""A model's self-check: its engine against the plain way, on random sites of a random image.

`load_model` runs it for models of the generic adapter, whose parts were found and not known.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..errors import NoticeError
from ..models.base import VLM, AnswerTokens, Inputs
from . import engine, fast_decoder, plain
from .jobs import Job
from .sites import Patch, PlacedSite

PROMPT = "Is the dog or the goat on the table?"

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference, in shares of the largest logit: far more than rounding (of which the float32
inside float64 norms is a part), far less than an effect. Other dtypes: `COARSE`."""
COARSE = 0.03


@dataclass(frozen=True)
class Check:
    """What a self-check found.

    Attributes:
        difference: largest absolute difference of engine and plain way, in logits.
        effect: largest effect of the patches by which they were compared, in logits.
        allowed: the largest difference that passes.
    """

    difference: float
    effect: float
    allowed: float


def verify(model: VLM, seed: int = 0) -> Check:
    """Compare a model's engine with the plain way: about twelve forwards of the model.

    In the run of a random image, activations are replaced by random ones that are as large: each
    component of the text stack at some of the image's tokens and at one of the text, and a circuit
    of all, at random layers of the lower half, so that most of the stack runs. In eager attention
    it is checked as well that what enters a layer's output projection is the heads side by side:
    their attention weights times their values.

    Raises:
        NoticeError: they differ; gives the numbers.
    """
    rng = np.random.default_rng(seed)
    shape = (model.image_size, model.image_size, 3)
    image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    base = model.inputs(image, PROMPT)
    if model.family == "decoder":
        _check_heads(model, base)
    sites = _random_sites(model, base, rng)
    patches = (*(Patch((site,)) for site in sites), Patch(tuple(sites), "all"))
    logits, own = plain.record(model, base, {(site.component, site.layer) for site in sites})
    given = {point: _random_like(values, rng) for point, values in own.items()}
    top, runner_up = logits.topk(2).indices.tolist()
    job = Job(base, given, patches, AnswerTokens((), top, runner_up))
    (slow,), (fast,) = plain.patch(model, [job]), engine.patch(model, [job])
    logits = slice(0, 2)  # of the scores
    difference = max(
        (getattr(slow, run) - getattr(fast, run))[..., logits].abs().max().item()
        for run in ("base", "patched")
    )
    effect = (slow.patched - slow.base)[:, logits].abs().max().item()
    allowed = TOLERANCE.get(model.dtype, COARSE) * slow.base[logits].abs().max().item()
    if not difference <= allowed:
        raise NoticeError(
            f"{model.name or model.family} failed its self-check: logits of patched runs differ by "
            f"{difference:.2g} between the engine and one full forward per site (allowed: "
            f"{allowed:.2g}; effects are up to {effect:.2g}). It needs an engine of its own; until "
            "then, sweep with patch=notice_lib.patching.plain.patch."
        )
    return Check(difference, effect, allowed)


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
def _check_heads(model, inputs: Inputs) -> None:
    """What enters the output projection is the heads' weighted values, head after head."""
    weights = {}
    handles = [
        module.register_forward_hook(lambda m, args, output, at=at: weights.update({at: output[1]}))
        for at, module in enumerate(model.text.attentions)
    ]
    points = [("self_attention", layer) for layer in range(model.n_layers)]
    try:
        run = fast_decoder.record(model, inputs, points)
    finally:
        for handle in handles:
            handle.remove()
    for layer, (_, values) in enumerate(run.kept[at] for at in range(model.n_layers)):
        if weights[layer] is None:  # sdpa forms none
            continue
        each = values.repeat_interleave(model.n_heads // values.shape[1], 1)
        heads = (weights[layer].to(each) @ each).transpose(1, 2).flatten(2)
        found = run.activations["self_attention", layer]
        difference = (heads - found).abs().max() if heads.shape == found.shape else torch.inf
        if not difference <= TOLERANCE.get(model.dtype, COARSE) * found.abs().max():
            raise NoticeError(
                f"{model.name}: the input of layer {layer}'s attention output projection is not "
                f"its {model.n_heads} heads side by side (difference {float(difference):.2g}), so "
                "heads cannot be patched. It needs an adapter of its own."
            )
