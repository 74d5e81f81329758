"""Write what the book's patch lab runs in a reader's browser, from a checkpoint and its results.

    python tools/export_lab.py blip-mini
    python tools/export_lab.py llava-mini

It writes into book/assets/lab/NAME two ONNX graphs, images of some pairs and where heads look in
them, what was measured on many pairs, a still picture, and manifest.json, which names the weights
by their hash and every file with its size. It needs the extra `lab`:

    .venv/bin/pip install --editable '.[lab]' --constraint constraints.txt
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from notice_lib import NoticeError, load_model  # noqa: E402
from notice_lib.files import sha256  # noqa: E402
from notice_lib.models.base import VLM  # noqa: E402
from tools.lab import boards, figure, graphs, looks, scenes, stored, twins  # noqa: E402

VENDOR = ROOT / "book" / "assets" / "vendor"
RUNTIME = {
    "runtime": "ort.wasm.min.mjs.js",
    "glue": "ort-wasm-simd-threaded.mjs.js",
    "wasm": "ort-wasm-simd-threaded.wasm.gz",
}
GRAPHS = {"tower": "tower.onnx", "text": "text.onnx"}
MOST = {"graph": 10e6, "scenes": 3e6}
"""The most bytes that a graph and all scenes may have."""
CLOSE = 1e-4
"""How far the graphs' L may be from the library's, in logits."""


def export(checkpoint: Path, results: Path, out: Path) -> dict:
    """Write everything into a folder, and return the manifest.

    Args:
        results: the folder of the checkpoint's accepted results, in data/results.

    Raises:
        NoticeError: the model's family cannot be exported; a file is too large; the graphs or the
            results are those of something else.
    """
    model = load_model(checkpoint)
    if model.family not in graphs.READERS:
        raise NoticeError(
            f"{checkpoint} is a {model.family} model; the lab exports {', '.join(graphs.READERS)}."
        )
    for folder in ("scenes", "stored", "unseen"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    right = stored.answered(model, results)
    worked, groups = scenes.choose(model, right)
    pairs = [worked, *(group.scene for group in groups)]
    entries = scenes.write_scenes(model, pairs, out / "scenes")
    for group in groups:
        unseen = scenes.write_unseen(model, group, out / "scenes")
        write_json(unseen, out / "unseen" / f"{group.name}.json")
    looks.write_looks(model, pairs, right, out)
    boards.write_boards(model, out)
    graphs.export_tower(model, out / "tower.onnx")
    graphs.export_text(model, out / "text.onnx")
    check(model, pairs, entries, out)
    tokens = model.inputs(worked.image("clean"), worked.prompt).image_tokens
    manifest = {
        "checkpoint": checkpoint.name,
        "weights": sha256(checkpoint / "model.safetensors"),
        "shape": graphs.Text(model).shape,
        "image": {"start": tokens.index(True), "tokens": sum(tokens)} if any(tokens) else None,
        "components": list(model.components),
        "per_head": [
            component for component in model.components if model.hook_point(component, 0).per_head
        ],
        "effect_role": model.effect_role,
        "read_out": "last" if model.image_component == "self_attention" else "all",
        "vocabulary": model.processor.tokenizer.convert_ids_to_tokens(
            range(model.model.config.text_config.vocab_size)
        ),
        "pixels": scenes.preprocessing(model),
        "still": figure.draw(model, pairs[0], out / "still.svg"),
        "files": {name: described(path, out) for name, path in loaded(out).items()},
        "twins": twins.search(model, pairs),
        "twin_cells": twins.search_cells(model, pairs),
        "scenes": entries,
    }
    write_json(manifest, out / "manifest.json")
    for slot, places in stored.measured(model, right, results).items():
        write_json(places, out / "stored" / f"{slot}.json")
    return manifest


def write_json(value, path: Path) -> None:
    """Write a list or dictionary with one element a line."""
    mapping = isinstance(value, dict)
    lines = [
        (json.dumps(key) + ": " if mapping else "")
        + json.dumps(value[key] if mapping else key, ensure_ascii=False)
        for key in value
    ]
    opened, closed = "{}" if mapping else "[]"
    path.write_text(f"{opened}\n" + ",\n".join(lines) + f"\n{closed}\n", encoding="utf-8")


def loaded(out: Path) -> dict[str, Path]:
    """The files that Start loads: ONNX Runtime Web, and both graphs."""
    graphs_here = {name: out / file for name, file in GRAPHS.items()}
    return {name: VENDOR / file for name, file in RUNTIME.items()} | graphs_here


def described(path: Path, out: Path) -> dict:
    """A file's path from the manifest, its size and its hash."""
    name = Path(os.path.relpath(path, out)).as_posix()
    return {"path": name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def check(model: VLM, pairs, entries: list[dict], out: Path) -> None:
    """Compare the graphs with the library, and their sizes with the limits.

    Raises:
        NoticeError: names the pair and the numbers, or the file.
    """
    tower, text = (onnxruntime.InferenceSession(out / name) for name in GRAPHS.values())
    for pair, entry in zip(pairs, entries, strict=True):
        for run in ("clean", "corrupt"):
            inputs = model.inputs(pair.image(run), pair.prompt)
            (image,) = tower.run(None, {"pixels": inputs.pixel_values.numpy()})
            difference = unpatched(text, image, inputs.input_ids, graphs.Text(model).shape)
            correct, incorrect = entry["option_ids"]
            found = float(difference[correct] - difference[incorrect])
            if abs(found - entry["L"][run]) > CLOSE:
                raise NoticeError(
                    f"Pair {entry['id']}: the graphs' L of the {run} run is {found}, the "
                    f"library's {entry['L'][run]}."
                )
    for name in GRAPHS.values():
        if (out / name).stat().st_size > MOST["graph"]:
            raise NoticeError(f"{out / name} has more than {MOST['graph'] / 1e6:.0f} MB.")
    if sum(path.stat().st_size for path in (out / "scenes").iterdir()) > MOST["scenes"]:
        raise NoticeError(f"{out / 'scenes'} has more than {MOST['scenes'] / 1e6:.0f} MB.")


def unpatched(session, image: np.ndarray, ids: torch.Tensor, shape: dict) -> np.ndarray:
    """(vocabulary,) logits of a run into which nothing is written."""
    tokens, of = ids.shape[1], (shape["layers"], shape["components"])
    given = {
        "image": image,
        "ids": ids.int().numpy(),
        "source": np.zeros((*of, tokens, shape["width"]), np.float32),
        "mask": np.zeros((1, *of, tokens, shape["heads"]), np.float32),
    }
    if "before" in [one.name for one in session.get_inputs()]:
        given["before"] = graphs.no_memory(shape).numpy()
    return session.run(["logits"], given)[0][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a checkpoint in data/checkpoints with data/results")
    name = parser.parse_args().name
    out = ROOT / "book" / "assets" / "lab" / name
    manifest = export(ROOT / "data" / "checkpoints" / name, ROOT / "data" / "results" / name, out)
    for file in manifest["files"].values():
        print(f"{file['bytes'] / 1e6:6.2f} MB  {file['path']}")
    print(f"{len(manifest['scenes'])} scenes in {out}")


if __name__ == "__main__":
    main()
