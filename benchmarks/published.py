"""The published scheme, which processes the images and does three runs for every single site.

It follows the authors' code (github.com/wrudman/NOTICE, `trace_with_patch` in
BLIP/patching_utils.py and LLAVA/patching_utils.py) without its defects. BLIP runs the clean, the
corrupt and the patched input as one batch; LLaVA runs them one after the other.
"""

from collections.abc import Callable

import torch

from notice_lib import SemanticPair
from notice_lib.models.base import VLM

_BLIP_MODULES = {
    "layer_output": "output",
    "self_attention": "attention.self",
    "cross_attention": "crossattention.self",
}

Runs = tuple[tuple[object, str], tuple[object, str]]
"""(image, prompt) of the clean run and of the corrupt run."""


def site_function(model: VLM, pair: SemanticPair, corrupt_prompt: str) -> Callable:
    """Make a function that patches one site and returns the patched run's logit difference L'.

    Args:
        model: a BLIP or a LLaVA.
        pair: the pair to run.
        corrupt_prompt: the prompt of the corrupt run. Under image corruption it is the pair's
            prompt.

    Returns:
        A function of (component, layer, head or None, position).
    """
    picture = "clean" if corrupt_prompt != pair.prompt else "corrupt"
    runs = (
        (pair.image("clean"), pair.prompt),
        (pair.image(picture), corrupt_prompt),
    )
    answer = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    trace = {"blip": _trace_blip, "llava": _trace_llava}[model.family]

    @torch.no_grad()
    def site(component: str, layer: int, head: int | None, position: int) -> float:
        logits = trace(model, runs, component, layer, head, position).double()
        return (logits[answer.correct] - logits[answer.incorrect]).item()

    return site


def _columns(head: int | None, width: int, heads: int) -> slice:
    size = width // heads
    return slice(None) if head is None else slice(head * size, (head + 1) * size)


def _trace_blip(model, runs: Runs, component, layer, head, position) -> torch.Tensor:
    """Logits (vocabulary,) of the patched run, which is the third in the batch."""
    images, prompts = zip(runs[0], runs[1], runs[1], strict=True)
    inputs = model.processor(
        images=list(images), text=list(prompts), return_tensors="pt", padding=True
    ).to(model.device, model.dtype)

    def copy(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        columns = _columns(head, hidden.shape[-1], model.n_heads)
        hidden[2, position, columns] = hidden[0, position, columns]

    blip = model.model
    name = f"encoder.layer.{layer}.{_BLIP_MODULES[component]}"
    with blip.text_encoder.get_submodule(name).register_forward_hook(copy):
        image = blip.vision_model(pixel_values=inputs["pixel_values"])[0]
        question = blip.text_encoder(inputs["input_ids"], encoder_hidden_states=image)[0]
        start = torch.full((3, 1), blip.decoder_start_token_id, device=model.device)
        return blip.text_decoder(start, encoder_hidden_states=question).logits[2, -1]


def _trace_llava(model, runs: Runs, component, layer, head, position) -> torch.Tensor:
    """Logits (vocabulary,) of the patched run, the last of three: clean, corrupt and patched."""
    clean, corrupt = (model.inputs(image, prompt) for image, prompt in runs)
    where = model.hook_point(component, layer)
    kept = []
    with where.module.register_forward_pre_hook(lambda module, args: kept.append(args[0])):
        model.logits(clean)
    model.logits(corrupt)

    def copy(module, args):
        hidden = args[0].clone()
        columns = _columns(head, hidden.shape[-1], model.n_heads)
        hidden[0, position, columns] = kept[0][0, position, columns]
        return (hidden,)

    with where.module.register_forward_pre_hook(copy):
        return model.logits(corrupt)
