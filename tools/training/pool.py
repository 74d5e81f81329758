"""The training data: a pool of rendered scenes, what each patch of them shows, and questions.

Only scenes of the split "seen" are rendered for training. A pool is a pure function of its seed
and size; rendering is the slow part, so the arrays are kept in a cache folder.
"""

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

from tools import scenes as renderer

IGNORED = -100  # the label that cross-entropy leaves out
ROLES = ("background", "subject", "object")
STATES = tuple(word for slot in renderer.SLOTS["states"] for word in renderer.VALUES[slot])
THINGS = (*renderer.VALUES["subject"], *renderer.VALUES["object"], *renderer.NOUNS)
# What stage 1 predicts for each patch. No label says that something is a distractor: whether a head
# avoids what the question does not ask for must be left to the questions.
HEADS = {
    "role": ROLES,
    "thing": tuple(dict.fromkeys(THINGS)),
    "verb": renderer.VALUES["verb"],
    "state": STATES,
    "emotion": renderer.VALUES["emotion"],
}
MIN_COVERAGE = 0.15  # part of a patch that a thing must cover to be what the patch shows
DISTRACTORS = 0.65  # part of the scenes, of the families that have them, with a distractor
# What may be in a state in the scenes that training ends with. Nothing is held out of the objects
# and animals, so a state can be known by no list of the things that it goes with.
FURTHER = (*renderer.NOUNS, *renderer.VALUES["object"], *renderer.VALUES["subject"])
SHARE = {"svo": 0.4, "states": 0.45, "faces": 0.15}  # part of the pool that each family has


def words():
    """Every word that a prompt or an answer about a scene can hold."""
    found = {w for values in renderer.VALUES.values() for w in values} | set(renderer.NOUNS)
    return sorted(found)


@dataclass(frozen=True)
class Pool:
    """Scenes, their pixels (n, size, size, 3) uint8, patch labels {head: (n, patches) int16}.

    `key` names what was rendered: the scenes, by this renderer, in this grid.
    """

    key: str
    scenes: list
    pixels: np.ndarray
    labels: dict

    def __len__(self):
        return len(self.scenes)


def sample_scenes(n, seed, nouns=renderer.NOUNS):
    """A shuffled list of `n` scenes of all families, some with distractors."""
    rng = np.random.default_rng(seed)
    families = rng.choice(list(SHARE), size=n, p=list(SHARE.values()))
    return [sample_scene(str(family), rng, "seen", nouns=nouns) for family in families]


def sample_scene(family, rng, split, distractors=DISTRACTORS, nouns=renderer.NOUNS):
    """One scene; of the families that have distractors, that part of them with one."""
    distractor = family in renderer.DISTRACTOR_FAMILIES and rng.random() < distractors
    given = {"nouns": nouns} if family == "states" else {}
    return renderer.sample(family, rng, split=split, distractor=bool(distractor), **given)


def what_shows(scene, role):
    """{head: word} for the patches of what has this role in the scene."""
    if scene.family == "faces":
        return {"emotion": renderer.value(scene)}
    if scene.family == "states":  # two things differ in nothing but in what a question asks for
        if role == "distractor":
            return {"thing": scene.other, "state": scene.other_state}
        return {"thing": scene.noun, "state": scene.state}
    if role == "distractor":
        return {"thing": scene.idle}
    return {"role": role, "thing": getattr(scene, role), "verb": scene.verb}


def load_pool(n, seed, grid, cache, workers=2, nouns=renderer.NOUNS):
    """The pool of `n` scenes with this `seed`, rendered by `workers` processes or from `cache`."""
    scenes = sample_scenes(n, seed, nouns)
    key = _key(scenes, grid)
    folder = Path(cache) / f"pool-{key}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        for name, array in _render_all(scenes, grid, workers).items():
            np.save(partial / f"{name}.npy", array)
        partial.rename(folder)
    arrays = {path.stem: np.load(path, mmap_mode="c") for path in folder.glob("*.npy")}
    return Pool(key, scenes, arrays.pop("pixels"), arrays)


def _key(scenes, grid):
    """A name for what is rendered: the scenes, the grid, and the renderer with its art."""
    digest = hashlib.sha256(repr((scenes, grid)).encode())
    for path in sorted(Path(renderer.__file__).parent.rglob("*")):
        if path.suffix in (".py", ".webp"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def to_model_size(image, grid):
    """uint8 (size, size, 3): `image` (192, 192, 3) as the processors resize it."""
    size = (grid.image_size,) * 2
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def patch_labels(scene, masks, side):
    """{head: (patches,) int16}: the index of the word that each patch shows, or IGNORED."""
    names = list(masks)
    cells = [masks[n].reshape(side, masks[n].shape[0] // side, side, -1) for n in names]
    coverage = np.stack([c.mean((1, 3)).ravel() for c in cells])
    winner = np.where(coverage.max(0) >= MIN_COVERAGE, coverage.argmax(0), -1)
    labels = {head: np.full(side**2, IGNORED, np.int16) for head in HEADS}
    labels["role"][winner < 0] = ROLES.index("background")
    for i, name in enumerate(names):
        for head, word in what_shows(scene, name).items():
            labels[head][winner == i] = HEADS[head].index(word)
    return labels


def _render_one(scene, grid):
    image, masks = renderer.render(scene)
    return to_model_size(image, grid), patch_labels(scene, masks, grid.side)


def _render_all(scenes, grid, workers):
    pixels = np.empty((len(scenes), grid.image_size, grid.image_size, 3), np.uint8)
    labels = {head: np.empty((len(scenes), grid.side**2), np.int16) for head in HEADS}
    with ProcessPoolExecutor(workers) as executor:
        rendered = executor.map(_render_one, scenes, repeat(grid), chunksize=64)
        for i, (image, patches) in enumerate(rendered):
            pixels[i] = image
            for head, values in patches.items():
                labels[head][i] = values
    return {"pixels": pixels, **labels}
