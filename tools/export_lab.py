"""Write what the book's patch lab runs in a reader's browser, from a checkpoint of a BLIP.

    python tools/export_lab.py data/checkpoints/blip-mini --out book/assets/lab/blip-mini

It writes two ONNX graphs, images of some pairs, a still picture, and manifest.json, which names the
weights by their hash and every file with its size. It needs the extra `lab`:

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
from tools.lab import figure, graphs, scenes  # noqa: E402

VENDOR = ROOT / "book" / "assets" / "vendor"
RUNTIME = {
    "runtime": "ort.wasm.min.mjs",
    "glue": "ort-wasm-simd-threaded.mjs",
    "wasm": "ort-wasm-simd-threaded.wasm.gz",
}
GRAPHS = {"tower": "tower.onnx", "text": "text.onnx"}
MOST = {"graph": 10e6, "scenes": 3e6}
"""The most bytes that a graph and all scenes may have."""
CLOSE = 1e-4
"""How far the graphs' L may be from the library's, in logits."""


def export(checkpoint: Path, out: Path) -> dict:
    """Write everything into an emptied folder, and return the manifest.

    Raises:
        NoticeError: the model is no BLIP; a file is too large; the graphs compute something else.
    """
    model = load_model(checkpoint)
    if model.family != "blip":
        raise NoticeError(f"{checkpoint} is a {model.family} model; the lab exports a BLIP.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    pairs = scenes.choose(model)
    entries = scenes.write_scenes(model, pairs, out / "scenes")
    graphs.export_tower(model, out / "tower.onnx")
    graphs.export_text(model, n_image=1 + model.grid**2, path=out / "text.onnx")
    check(model, pairs, entries, out)
    manifest = {
        "checkpoint": checkpoint.name,
        "weights": sha256(checkpoint / "model.safetensors"),
        "shape": graphs.Text(model).shape,
        "components": list(model.components),
        "per_head": [
            component for component in model.components if model.hook_point(component, 0).per_head
        ],
        "vocabulary": model.processor.tokenizer.convert_ids_to_tokens(
            range(model.model.config.text_config.vocab_size)
        ),
        "pixels": scenes.preprocessing(model),
        "still": {"file": "still.png", "alt": figure.draw(model, pairs[0], out / "still.png")},
        "files": {name: described(path, out) for name, path in loaded(out).items()},
        "scenes": entries,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (out / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return manifest


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
    if sum(path.stat().st_size for path in scenes.files(out)) > MOST["scenes"]:
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
    return session.run(["logits"], given)[0][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a BLIP's checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder to empty and write")
    given = parser.parse_args()
    manifest = export(given.checkpoint, given.out)
    for file in manifest["files"].values():
        print(f"{file['bytes'] / 1e6:6.2f} MB  {file['path']}")
    print(f"{len(manifest['scenes'])} scenes in {given.out}")


if __name__ == "__main__":
    main()
