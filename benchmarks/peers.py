"""Compare the engine with other libraries on the same pair.

Each library has an environment of its own and is used as efficiently as it allows (see
peer_scripts/). nnsight runs one layer's sites as a batch, without the vision tower. TransformerLens
runs one site at a time; it supports LLaVA but not BLIP.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from notice_lib import NoticeError, PairSet, Site, site_grid, sweep
from notice_lib.models.base import VLM
from notice_lib.patching import logit_difference

from . import random_models
from .report import Report, timed

ROUNDS = 3
SCRIPTS = Path(__file__).parent / "peer_scripts"
TOLERANCE = 1e-4
"""Largest difference in logits (float32) at which two libraries have done the same work."""
ENVIRONMENTS = Path(__file__).parents[1] / ".venv" / "peers"


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes:
        package: name of the package.
        script: the script in peer_scripts/ that uses it.
        sites: number of sites of a layer that it runs, or None for all.
    """

    package: str
    script: str
    sites: int | None = None


NNSIGHT = Peer("nnsight", "nnsight_sites.py")
TRANSFORMER_LENS = Peer("transformer-lens", "transformer_lens_sites.py", sites=4)
CASES = (("blip", (NNSIGHT,)), ("llava", (NNSIGHT, TRANSFORMER_LENS)))


def run(tiny: bool = False) -> Report:
    """Measure seconds per site of the engine and of each peer on one thread."""
    torch.set_num_threads(1)
    pythons = {peer: environment(peer.package) for _, peers in CASES for peer in peers}
    rows = [
        row
        for family, peers in CASES
        for row in _family(family, peers, pythons, 1 if tiny else ROUNDS, tiny)
    ]
    table = pd.DataFrame(rows)
    medians = table.groupby(["family", "peer"]).ratio.median()
    closing = {"ratio": medians.min()}
    closing |= {f"{family}_{peer}".replace("-", "_"): ratio for (family, peer), ratio in
                medians.items()}  # fmt: skip
    closing["max_abs_diff"] = table.max_abs_diff.max()
    versions = ", ".join(sorted(set(table.peer + " " + table.version)))
    notes = [
        f"{versions}, with the torch and transformers named above. One pair, image corruption, one "
        "thread; engine and peers alternate. The engine sweeps all sites. nnsight runs all sites "
        "of one middle layer as one batch, and TransformerLens runs a few of them one by one. Both "
        "are **extrapolated** by seconds per site, since they run the whole model for any layer. "
        "`max_abs_diff` is the largest difference in logit difference on the peer's sites, in "
        "float32. TransformerLens does not support BLIP.",
    ]
    return Report("peers", table, closing, notes)


def environment(package: str) -> Path:
    """The Python of an environment with a package, which the first call creates."""
    folder = ENVIRONMENTS / package
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"Installing {package} into {folder} ...", file=sys.stderr)
        pins = folder / "constraints.txt"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # With the same torch and transformers as here, only the library differs.
        ours = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "transformers")]
        pins.write_text("\n".join(ours) + "\n")
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", pins, package]
        if subprocess.run(install).returncode != 0:
            raise NoticeError(
                f"pip could not install {package} into {folder}; see its messages above."
            )
        (folder / "ready").touch()
    return python


def _family(family, peers, pythons, rounds, tiny) -> Iterable[dict]:
    model, prompt, sites = _blip(tiny) if family == "blip" else _llava(tiny)
    with TemporaryDirectory() as folder:
        pairs = random_models.random_pairs(folder, prompt)
        found = sweep(model, pairs, sites).patched
        middle = found[found.layer == model.n_layers // 2]
        model.model.save_pretrained(Path(folder) / "model")
        model.processor.save_pretrained(Path(folder) / "model")
        for _ in range(rounds):
            fast = timed(lambda: sweep(model, pairs, sites))[0] / len(found)
            for peer in peers:
                chosen = _spread(middle, peer.sites)
                said = ask(peer, pythons[peer], Path(folder), model, pairs, chosen)
                slow = said["seconds"] / len(chosen)
                difference = np.abs(logit_difference(chosen) - said["gaps"]).max()
                check_same(peer.package, difference)
                yield {
                    "family": family,
                    "peer": peer.package,
                    "version": said["version"],
                    "engine_sites": len(found),
                    "engine_seconds_a_site": fast,
                    "peer_sites": len(chosen),
                    "peer_seconds_a_site": slow,
                    "ratio": slow / fast,
                    "max_abs_diff": difference,
                }


def check_same(name: str, difference: float) -> None:
    """Refuse to compare times if the logits differ."""
    if not difference <= TOLERANCE:
        raise NoticeError(
            f"{name} and the engine differ by {difference:.1e} logits, more than {TOLERANCE:.0e}. "
            "They do not do the same work, so their times cannot be compared."
        )


def _spread(rows: pd.DataFrame, size: int | None) -> pd.DataFrame:
    """All rows if `size` is None, otherwise `size` evenly spaced ones."""
    if size is None:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, min(size, len(rows))).astype(int)]


def _blip(tiny: bool) -> tuple[VLM, str, list[Site]]:
    model = random_models.blip(random_models.TINY_BLIP if tiny else random_models.BLIP_VQA_BASE)
    sites = site_grid(model, ["layer_output", "self_attention", "cross_attention"])
    sites += site_grid(model, ["cross_attention"], per_head=True)
    return model, random_models.BLIP_PROMPT, sites


def _llava(tiny: bool) -> tuple[VLM, str, list[Site]]:
    model = random_models.llava(random_models.TINY_LLAVA if tiny else random_models.LLAVA_8X8)
    prompt = random_models.LLAVA_PROMPT
    sites = random_models.heads_behind_the_image(model, prompt)
    return model, prompt, sites


def ask(
    peer: Peer, python: Path, folder: Path, model: VLM, pairs: PairSet, rows: pd.DataFrame
) -> dict:
    """Run the peer's script on sites of the first pair.

    Args:
        peer: the library to run.
        python: the Python of its environment.
        folder: a folder with the model in `model/`.
        model: the model.
        pairs: the pairs, of which the first is run.
        rows: rows of a sweep of the first pair under image corruption.

    Returns:
        A dictionary with "seconds", "gaps" (the logit difference L' of each row) and the peer's
        "version".

    Raises:
        NoticeError: the script failed.
    """
    pair = pairs[0]
    clean, corrupt = (model.inputs(pair.image(run), pair.prompt) for run in ("clean", "corrupt"))
    answer = model.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    tensors = {
        "clean": clean.pixel_values,
        "corrupt": corrupt.pixel_values,
        "input_ids": clean.input_ids,
        **{f"extra.{name}": value for name, value in clean.extra.items()},
    }
    given = {
        "family": model.family,
        "threads": torch.get_num_threads(),
        "answer": (answer.correct, answer.incorrect),
        "sites": [
            (row.component, row.layer, None if row.head < 0 else row.head, row.position)
            for row in rows.itertuples()
        ],
    }
    save_file({name: x.contiguous() for name, x in tensors.items()}, folder / "given.safetensors")
    (folder / "given.json").write_text(json.dumps(given))
    told = subprocess.run([python, SCRIPTS / peer.script, folder], capture_output=True, text=True)
    if told.returncode != 0:
        raise NoticeError(f"{peer.script} failed:\n{told.stderr[-3000:]}")
    return json.loads(told.stdout.splitlines()[-1])
