"""The training data: a pool of rendered scenes, what each patch of them shows, and questions.

Only scenes of the split "seen" are rendered for training. A pool is a pure function of its seed
and size; rendering is the slow part, so the arrays are kept in a cache folder.
"""

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tools import scenes as renderer
from tools.training.models import IMAGE_SIZE, N_PATCHES

IGNORED = -100  # the label that cross-entropy leaves out
ROLES = ("background", "subject", "object", "distractor")
STATES = tuple(word for slot in renderer.SLOTS["states"] for word in renderer.VALUES[slot])
THINGS = (*renderer.VALUES["subject"], *renderer.VALUES["object"], *renderer.NOUNS)
# What stage 1 predicts for each patch.
HEADS = {
    "role": ROLES,
    "thing": tuple(dict.fromkeys(THINGS)),
    "verb": renderer.VALUES["verb"],
    "state": STATES,
    "emotion": renderer.VALUES["emotion"],
}
MIN_COVERAGE = 0.15  # part of a patch that a thing must cover to be what the patch shows
DISTRACTORS = 0.35  # part of the scenes, of the families that have them, with a distractor
SHARE = {"svo": 0.5, "states": 0.25, "faces": 0.25}  # part of the pool that each family has


def words():
    """Every word that a prompt or an answer about a scene can hold."""
    found = {w for values in renderer.VALUES.values() for w in values} | set(renderer.NOUNS)
    return sorted(found)


@dataclass(frozen=True)
class Pool:
    """Scenes with their pixels (n, 96, 96, 3) uint8 and patch labels {head: (n, 64) int64}.

    `key` names what was rendered: the scenes, by this renderer.
    """

    key: str
    scenes: list
    pixels: np.ndarray
    labels: dict

    def __len__(self):
        return len(self.scenes)


def sample_scenes(n, seed, split="seen"):
    """A shuffled list of `n` scenes of all families, some with distractors."""
    rng = np.random.default_rng(seed)
    families = rng.choice(list(SHARE), size=n, p=list(SHARE.values()))
    return [sample_scene(str(family), rng, split) for family in families]


def sample_scene(family, rng, split, distractors=DISTRACTORS):
    """One scene; of the families that have distractors, that part of them with one."""
    distractor = family in renderer.DISTRACTOR_FAMILIES and rng.random() < distractors
    return renderer.sample(family, rng, split=split, distractor=bool(distractor))


def what_shows(scene, role):
    """{head: word} for the patches of what has this role in the scene."""
    if scene.family == "faces":
        return {"emotion": renderer.value(scene)}
    if scene.family == "states":
        if role == "distractor":
            return {"thing": scene.other, "state": scene.other_state}
        return {"thing": scene.noun, "state": scene.state}
    if role == "distractor":
        return {"thing": scene.idle}
    return {"thing": getattr(scene, role), "verb": scene.verb}


def load_pool(n, seed, cache, workers=2):
    """The pool of `n` scenes with this `seed`, rendered by `workers` processes or from `cache`."""
    scenes = sample_scenes(n, seed)
    key = _key(scenes)
    path = Path(cache) / f"pool-{key}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = _render_all(scenes, workers)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(partial, **arrays)
        partial.rename(path)
    with np.load(path) as stored:
        arrays = dict(stored)
    pixels = arrays.pop("pixels")
    return Pool(key, scenes, pixels, {name: a.astype(np.int64) for name, a in arrays.items()})


def _key(scenes):
    """A name for what is rendered: the scenes, and the renderer with its art."""
    digest = hashlib.sha256(repr(scenes).encode())
    for path in sorted(Path(renderer.__file__).parent.rglob("*")):
        if path.suffix in (".py", ".webp"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def to_model_size(image):
    """uint8 (96, 96, 3): `image` (192, 192, 3) as the processors resize it."""
    small = Image.fromarray(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.array(small)


def patch_labels(scene, masks):
    """{head: (64,) int16}: the index of the word that each patch shows, or IGNORED."""
    side = int(N_PATCHES**0.5)
    names = [name for name in ROLES[1:] if name in masks]
    cells = [masks[n].reshape(side, masks[n].shape[0] // side, side, -1) for n in names]
    coverage = np.stack([c.mean((1, 3)).ravel() for c in cells])
    winner = np.where(coverage.max(0) >= MIN_COVERAGE, coverage.argmax(0), -1)
    labels = {head: np.full(N_PATCHES, IGNORED, np.int16) for head in HEADS}
    labels["role"][winner < 0] = 0
    for i, name in enumerate(names):
        for head, word in {"role": name, **what_shows(scene, name)}.items():
            labels[head][winner == i] = HEADS[head].index(word)
    return labels


def _render_one(scene):
    image, masks = renderer.render(scene)
    return to_model_size(image), patch_labels(scene, masks)


def _render_all(scenes, workers):
    with ProcessPoolExecutor(workers) as executor:
        rendered = executor.map(_render_one, scenes, chunksize=64)
        pixels = np.empty((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        labels = {head: np.empty((len(scenes), N_PATCHES), np.int16) for head in HEADS}
        for i, (image, patches) in enumerate(rendered):
            pixels[i] = image
            for head, values in patches.items():
                labels[head][i] = values
    return {"pixels": pixels, **labels}
