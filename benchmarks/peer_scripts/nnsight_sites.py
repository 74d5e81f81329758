"""Patch one layer's sites as one batch with nnsight, in an environment of its own (../peers.py).

The script is as efficient as nnsight allows. It runs the vision tower once and leaves it out of
the patched runs, batches all sites of the layer, and computes logits at the last token only.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import torch
from nnsight import NNsight
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, BlipForQuestionAnswering


class BlipAnswer(torch.nn.Module):
    """Question encoder and decoder: ids (batch, T) and image states to logits (batch, words)."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.decoder = model.text_encoder, model.text_decoder
        self.layers = self.encoder.encoder.layer
        self.start = model.decoder_start_token_id
        self.heads = model.config.text_config.num_attention_heads

    def forward(self, ids, image):
        question = self.encoder(ids, encoder_hidden_states=image)[0]
        start = torch.full((len(ids), 1), self.start)
        return self.decoder(start, encoder_hidden_states=question, use_cache=False).logits[:, -1]

    @staticmethod
    def inputs(model, given, run):
        image = model.vision_model(pixel_values=given[run])[0]
        return given["input_ids"], image


class DecoderAnswer(torch.nn.Module):
    """A decoder's language model, from (batch, T, D) embeddings to (batch, words) logits."""

    def __init__(self, model):
        super().__init__()
        self.language, self.head = model.get_decoder(), model.get_output_embeddings()
        self.layers = self.language.layers
        self.heads = model.config.get_text_config().num_attention_heads

    def forward(self, embeddings):
        return self.head(self.language(inputs_embeds=embeddings, **self.settings)[0][:, -1])

    def inputs(self, model, given, run):
        """The embeddings that the whole model passes to its language model.

        The other arguments (masks, positions) are kept in `settings`.
        """
        prefix = "extra."
        extra = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}

        def stop(module, args, settings):
            raise Reached(settings)

        handle = self.language.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            model(input_ids=given["input_ids"], pixel_values=given[run], use_cache=False, **extra)
        except Reached as reached:
            (self.settings,) = reached.args
        finally:
            handle.remove()
        return (self.settings.pop("inputs_embeds"),)


class Reached(Exception):
    """Raised when the language model is about to run, with its keyword arguments."""


def read(traced, component, layer):
    """A component's activation, (batch, T, D)."""
    block = traced.layers[layer]
    if component == "layer_output":
        return block.output
    if hasattr(block, "self_attn"):
        return block.self_attn.o_proj.input
    part = block.attention if component == "self_attention" else block.crossattention
    return part.self.output[0]


def write(traced, component, layer, changed):
    """Replace a component's activation."""
    block = traced.layers[layer]
    if component == "layer_output":
        block.output = changed
    elif hasattr(block, "self_attn"):
        block.self_attn.o_proj.input = changed
    else:
        part = block.attention if component == "self_attention" else block.crossattention
        part.self.output = (changed, part.self.output[1])


# nnsight requires components to be accessed in the order in which they run.
ORDER = ("self_attention", "cross_attention", "layer_output")


def clean_activations(traced, inputs, layer, components):
    """The clean run's activations (T, D) by component."""
    kept = {}
    with torch.no_grad(), traced.trace(*inputs):
        for component in components:
            kept[component] = read(traced, component, layer)[0].save()
    return kept


def patched_gaps(traced, inputs, source, sites, answer, heads):
    """Logit differences L' for sites of one layer, computed as one batch."""
    batch = tuple(x.expand(len(sites), *x.shape[1:]) for x in inputs)
    layer = sites[0][1]
    with torch.no_grad(), traced.trace(*batch):
        for component in source:
            changed = read(traced, component, layer).clone()
            for row, (name, _, head, position) in enumerate(sites):
                if name == component:
                    size = changed.shape[-1] // (1 if head is None else heads)
                    first = 0 if head is None else head * size
                    columns = slice(first, first + size)
                    changed[row, position, columns] = source[component][position, columns]
            write(traced, component, layer, changed)
        logits = traced.output.save()
    return (logits[:, answer[0]] - logits[:, answer[1]]).tolist()


def main(folder):
    """Read FOLDER/given.* and the model beside them, and print seconds and L' as JSON."""
    given = json.loads((folder / "given.json").read_text()) | load_file(
        folder / "given.safetensors"
    )
    torch.set_num_threads(given["threads"])
    model_class, answer_class = AutoModelForImageTextToText, DecoderAnswer
    if given["family"] == "blip":
        model_class, answer_class = BlipForQuestionAnswering, BlipAnswer
    model = model_class.from_pretrained(folder / "model", use_safetensors=True).eval()
    module = answer_class(model)
    traced = NNsight(module)
    sites = given["sites"]
    layer = sites[0][1]
    components = [name for name in ORDER if any(site[0] == name for site in sites)]

    def everything(chosen):
        with torch.no_grad():
            clean, corrupt = (module.inputs(model, given, run) for run in ("clean", "corrupt"))
        source = clean_activations(traced, clean, layer, components)
        return patched_gaps(traced, corrupt, source, chosen, given["answer"], module.heads)

    everything(sites[:1])
    started = perf_counter()
    gaps = everything(sites)
    taken = perf_counter() - started
    print(json.dumps({"seconds": taken, "gaps": gaps, "version": version("nnsight")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
