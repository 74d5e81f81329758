"""A model as two ONNX graphs: its vision tower, and its text stacks with inputs that write.

The second graph runs B patched runs of one base run at once. It reads and writes activations at
the library's own hook points, so the browser patches what `sweep` patches.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import DynamicCache

from notice_lib.models.base import VLM
from notice_lib.models.hooks import hook

SMALL = 64
"""Smaller initialisers keep their type: they are constants of the graph rather than weights."""


class Tower(torch.nn.Module):
    """(1, 3, size, size) pixels -> (1, N, D) what the text reads of the image."""

    def __init__(self, model: VLM):
        super().__init__()
        self.read, self.model = READERS[model.family], model
        self.hf = model.model  # So that its weights are this module's.

    def forward(self, pixels):
        return self.read.image(self.model, pixels)


class Text(torch.nn.Module):
    """Patched runs of one base run, each copying activations of one source run.

    Inputs: the base run's image (1, N, D) and ids (1, T), int32; the source run's activations
    `source` (L, C, T, D); and `mask` (B, L, C, T, H), 1 where a run copies one head's slice of an
    activation and 0 elsewhere. A whole module is all of its H slices.

    Outputs: answer logits (B, vocabulary), and each run's own activations (B, L, C, T, D).

    Where tokens read only those before them, the first P tokens of a run may be left out, if no
    patch changes them: there is a further input `before` (L, 2, H, P, D / H), the base run's keys
    and values of these tokens. Then the activations are those of the other tokens, and a further
    output `memory` (L, 2, H, T, D / H) has the first run's keys and values.
    """

    def __init__(self, model: VLM):
        super().__init__()
        self.read, self.model = READERS[model.family], model
        self.hf = model.model
        self.shape = {
            "layers": model.n_layers,
            "components": len(model.components),
            "width": model.model.config.text_config.hidden_size,
            "heads": model.n_heads,
        }

    def forward(self, image, ids, source, mask, before=None):
        seen: dict[tuple[int, int], torch.Tensor] = {}
        slices = self.shape["width"] // self.shape["heads"]
        first = 0 if before is None else before.shape[3]

        def writer(layer, number):
            def write(activation):
                chosen = mask[:, layer, number, first:].repeat_interleave(slices, dim=-1)
                written = activation + chosen * (source[layer, number, first:] - activation)
                seen[layer, number] = written
                return written

            return write

        layers, numbers = range(self.shape["layers"]), range(self.shape["components"])
        with ExitStack() as stack:
            for layer in layers:
                for number, component in enumerate(self.model.components):
                    point = self.model.hook_point(component, layer)
                    stack.enter_context(hook(point.module, point.on, writer(layer, number)))
            logits, *memory = self.read.run(self.model, image, ids.long(), mask.shape[0], before)
        activations = torch.stack(
            [torch.stack([seen[layer, number] for number in numbers], 1) for layer in layers], 1
        )
        return logits, activations, *memory


class Blip:
    """How a BLIP reads an image, and what it answers, as `export` can follow it."""

    remembers = False
    """Whether a token reads only those before it, so that `Text` takes keys and values of some."""

    @staticmethod
    def image(model: VLM, pixels):
        return model.model.vision_model(pixel_values=pixels)[0]

    @staticmethod
    def run(model: VLM, image, ids, runs, before):
        question = model.model.text_encoder(
            ids.expand(runs, ids.shape[1]), encoder_hidden_states=image
        )[0]
        start = torch.full((runs, 1), model.model.decoder_start_token_id, dtype=torch.long)
        decoded = model.model.text_decoder(
            input_ids=start, encoder_hidden_states=question, use_cache=False
        )
        return (decoded.logits[:, -1],)


class Llava:
    """The same for a LLaVA, whose image stands at one place in every prompt."""

    remembers = True

    @staticmethod
    def image(model: VLM, pixels):
        tower = model.model.model.vision_tower(pixels, output_hidden_states=True)
        return model.image_states(tower.hidden_states[model.model.config.vision_feature_layer])

    @staticmethod
    def run(model: VLM, image, ids, runs, before):
        start, first = image_start(model), before.shape[3]
        text = model.model.model.language_model
        words = text.embed_tokens(ids)
        one = torch.cat([words[:, :start], image, words[:, start + image.shape[1] :]], 1)[:, first:]
        place = torch.arange(ids.shape[1])
        # transformers takes a mask of four dimensions as it is; its own cannot be exported.
        hidden = torch.finfo(image.dtype).min * (place[None] > place[first:, None])[None, None]
        memory = DynamicCache()
        for layer, (keys, values) in enumerate(before):
            memory.update(keys.expand(runs, *keys.shape), values.expand(runs, *keys.shape), layer)
        states = text(
            inputs_embeds=one.expand(runs, *one.shape[1:]),
            attention_mask=hidden,
            position_ids=place[None, first:],
            past_key_values=memory,
        )[0]
        kept = [torch.stack([layer.keys[0], layer.values[0]]) for layer in memory.layers]
        return model.model.lm_head(states[:, -1]), torch.stack(kept)


READERS = {"blip": Blip, "llava": Llava}


def image_start(model: VLM) -> int:
    """The number of tokens before the image in the model's template."""
    return model.text_tokens("?")[1].index(True)


def export_tower(model: VLM, path: Path) -> None:
    """Write the vision tower's graph."""
    side = model.image_size
    _export(Tower(model), (torch.zeros(1, 3, side, side),), ["pixels"], ["image"], None, path)


def export_text(model: VLM, path: Path) -> None:
    """Write the graph of the text stacks, for questions of any length and any number of runs."""
    text, runs = Text(model), 3
    of = text.shape
    with torch.no_grad():
        image = Tower(model)(torch.zeros(1, 3, model.image_size, model.image_size))
    within = image.shape[1] if model.image_component == "self_attention" else 0
    tokens = within + 7
    example = [
        image,
        torch.ones(1, tokens, dtype=torch.int32),
        torch.zeros(of["layers"], of["components"], tokens, of["width"]),
        torch.zeros(runs, of["layers"], of["components"], tokens, of["heads"]),
    ]
    inputs, outputs = ["image", "ids", "source", "mask"], ["logits", "activations"]
    most = model.model.config.text_config.max_position_embeddings
    b = torch.export.Dim("runs", min=1, max=1024)
    t = torch.export.Dim("tokens", min=within + 2, max=most)
    dynamic = [{}, {1: t}, {2: t}, {0: b, 3: t}]
    if text.read.remembers:
        example.append(no_memory(of, 3))
        inputs, outputs = [*inputs, "before"], [*outputs, "memory"]
        dynamic.append({3: torch.export.Dim("before", min=0, max=within + 1)})
    _export(text, tuple(example), inputs, outputs, tuple(dynamic), path)


def no_memory(shape: dict, tokens: int = 0) -> torch.Tensor:
    """Keys and values of so many tokens, all zero."""
    size = shape["width"] // shape["heads"]
    return torch.zeros(shape["layers"], 2, shape["heads"], tokens, size)


def _export(module, example, inputs, outputs, dynamic, path) -> None:
    program = torch.onnx.export(
        module.eval(), example, dynamo=True, input_names=inputs, output_names=outputs,
        dynamic_shapes=dynamic, verbose=False,
    )  # fmt: skip
    graph = program.model_proto
    halve(graph.graph)
    del graph.metadata_props[:]
    for node in graph.graph.node:
        del node.metadata_props[:]
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())


def halve(graph: onnx.GraphProto) -> None:
    """Keep float32 initialisers as float16 where that changes no value, and cast them first.

    The checkpoints' weights are float16, so this halves the file and computes the same in float32.
    """
    casts = []
    for initialiser in graph.initializer:
        if initialiser.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(initialiser)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < SMALL or not np.array_equal(half.astype(np.float32), values):
            continue
        name = initialiser.name
        initialiser.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
