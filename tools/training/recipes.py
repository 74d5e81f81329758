"""How the small models are trained: what was tried, and what was chosen."""

import hashlib
from dataclasses import dataclass, field, replace

TWO_CHOICE = {"choice": 1.0}
VARIED = {"choice": 0.55, "three": 0.1, "beside": 0.12, "which": 0.08, "open": 0.15}
CAPTIONS = {"caption": 1.0}
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Recipe:
    """One way to train a small model.

    Attributes:
        start: what stage 1 learns: "patches" (the tower alone, what each patch shows) or "captions"
            (the whole model, without any label of a place).
        kinds: parts of the questions of stage 2 that are of each kind (tools/training/questions).
        captions: part of the steps of stage 2, the first ones, that learn captions instead.
        weight_decay: in stage 2 (AdamW); stage 1 has WEIGHT_DECAY.
        noise: whether half of the pictures of stage 2 are noisy (loops.noisy_embeddings).
        steps: of stages 1, 2 and 3. Stage 3 asks as stage 2 does, slowly, about a pool in which
            further things have states (pool.FURTHER).
    """

    start: str
    kinds: dict = field(default_factory=lambda: dict(VARIED))
    captions: float = 0.0
    weight_decay: float = WEIGHT_DECAY
    noise: bool = False
    steps: tuple = (1800, 2700, 0)

    def of(self, name, steps=None):
        """This recipe for the model called `name`, or with other numbers of steps."""
        noise = name.endswith("-noise")
        return replace(self, noise=noise, steps=tuple(steps or self.steps))

    @property
    def key(self):
        """A short name of the recipe's content."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


RECIPES = {
    "two-choice": Recipe("patches", TWO_CHOICE),
    "varied": Recipe("patches"),
    "captions": Recipe("patches", captions=0.1),
    "decay": Recipe("patches", captions=0.1, weight_decay=0.3),
    "unlabelled": Recipe("captions", captions=0.1, steps=(900, 2700, 0)),
    "further": Recipe("patches", captions=0.1, steps=(1800, 2700, 400)),
}
CHOSEN = "further"
