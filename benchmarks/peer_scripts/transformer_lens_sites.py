"""Patch sites one by one with TransformerLens' bridge, in an environment of its own (../peers.py).

The clean run is cached once. Each site takes one forward with a hook on the heads' outputs
(hook_z).
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import torch
from safetensors.torch import load_file
from transformer_lens.model_bridge import TransformerBridge


def main(folder):
    """Read FOLDER/given.* and the model beside them, and print seconds and L' as JSON."""
    given = json.loads((folder / "given.json").read_text()) | load_file(
        folder / "given.safetensors"
    )
    torch.set_num_threads(given["threads"])
    torch.set_grad_enabled(False)
    model = TransformerBridge.boot_transformers(str(folder / "model"), device="cpu")
    ids, (right, wrong) = given["input_ids"], given["answer"]

    def name(layer):
        return f"blocks.{layer}.attn.hook_z"

    def gap(layer, head, position, source):
        def patch(z, hook):
            heads = z.view(*z.shape[:2], -1, source.shape[-1])
            heads[:, position, head] = source[:, position, head]
            return z

        logits = model.run_with_hooks(
            ids, pixel_values=given["corrupt"], fwd_hooks=[(name(layer), patch)]
        )[0, -1]
        return (logits[right] - logits[wrong]).item()

    def everything(sites):
        wanted = {name(layer) for _, layer, _, _ in sites}
        _, cache = model.run_with_cache(
            ids, pixel_values=given["clean"], names_filter=lambda key: key in wanted
        )
        width = model.cfg.d_head
        return [
            gap(layer, head, position, cache[name(layer)].reshape(1, ids.shape[1], -1, width))
            for _, layer, head, position in sites
        ]

    everything(given["sites"][:1])
    started = perf_counter()
    gaps = everything(given["sites"])
    taken = perf_counter() - started
    print(json.dumps({"seconds": taken, "gaps": gaps, "version": version("transformer-lens")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
