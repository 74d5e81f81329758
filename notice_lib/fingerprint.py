"""Short hashes by which models, pair sets and lists of sites are recognised."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from .pairs import PairSet

_SAMPLES = 64


def identity(model) -> dict[str, str]:
    """The name, hash and number format of a model, as settings and plans record them."""
    return {
        "model": model.name,
        "model_fingerprint": of_model(model),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def of_model(model) -> str:
    """The hash of a model's configuration and of up to 64 values of each of its parameters."""
    config = json.loads(model.model.config.to_json_string())
    config.pop("transformers_version", None)  # that of whoever loads the model, not of the model
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, parameter in sorted(model.model.named_parameters()):
        flat = parameter.detach().flatten()
        values = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES].float().cpu()
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()[:16]


def of_pairs(pairs: PairSet) -> str:
    """The hash of the pairs in their order, the bytes of their images, and the vocabulary."""
    digest = hashlib.sha256()
    images: dict[Path, str] = {}
    for pair in pairs:
        row = asdict(pair)
        for name in ("clean_image", "corrupt_image"):
            path = row[name]
            if path not in images:
                content = path.read_bytes() if path.is_file() else b""
                images[path] = hashlib.sha256(content).hexdigest()
            row[name] = images[path]
        del row["clean_masks"], row["corrupt_masks"]
        digest.update(json.dumps(row, sort_keys=True).encode())
    near = {word: sorted(others) for word, others in pairs.near_synonyms.items()}
    digest.update(json.dumps([pairs.slots, near], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def of_masks(pairs: PairSet) -> str:
    """The hash of the bytes of the pairs' masks, in the pairs' order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for path in (pair.clean_masks, pair.corrupt_masks):
            digest.update(hashlib.sha256(path.read_bytes() if path else b"").digest())
    return digest.hexdigest()[:16]


def of_sites(sites: Iterable) -> str:
    """The hash of sites in their order."""
    return hashlib.sha256(json.dumps([asdict(site) for site in sites]).encode()).hexdigest()[:16]
