"""A vision-language model of six planted heads, and pictures that it reads without error.

Every word has a colour, the background is light where a picture shows two things that take part,
and dark where a third one stands by. One layer of cross-attention reads the picture's 8 x 8
patches; the answer is the word that most of it was seen of, with each token as a witness. What the
heads do is set by their weights:

- GROUNDS attends to the patches of the token's own word, and says what it sees;
- STARES attends to all things alike, whatever the token, and says what it sees;
- UNHEARD attends as GROUNDS, and says nothing;
- AVOIDS attends, in dark pictures, to the token's word and never to the bystander; it says what it
  sees; in light pictures it rests on the background;
- AVOIDS_UNHEARD attends as AVOIDS, and says nothing;
- NEEDED is as AVOIDS, but does not see the bystander apart from the background.
"""

import re
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from transformers import PretrainedConfig

from notice_lib import PairSet, SemanticPair
from notice_lib.models.base import VLM, Stack
from notice_lib.models.hooks import HookPoint
from notice_lib.models.inputs import Inputs
from notice_lib.pairs.masks import write_masks

SUBJECTS = ("cow", "dog", "duck", "goat")
OBJECTS = ("box", "car", "cart", "drum")
THINGS = (*SUBJECTS, *OBJECTS)
WORDS = (*THINGS, "is", "the", "or", "pushing", "?")
GROUNDS, STARES, UNHEARD, AVOIDS, AVOIDS_UNHEARD, NEEDED = range(6)
GRID, PATCH = 8, 8
N, V = len(THINGS), len(WORDS)
BYSTANDER, LIGHT, DARK = N, N + 1, N + 2
WIDTH = N + 3
"""A patch: its word if it takes part, or as a bystander (one number for all), or a background."""


class Tower(torch.nn.Module):
    """(1, 3, height, width) pixels to (1, patches, width): what each patch shows."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        word, kind, _ = torch.nn.functional.avg_pool2d(pixels, PATCH)[0].flatten(1).round().int()
        shown = torch.zeros(len(word), WIDTH, dtype=pixels.dtype)
        for patch, (number, what) in enumerate(zip(word.tolist(), kind.tolist(), strict=True)):
            shown[patch, {0: number, 100: BYSTANDER, 200: LIGHT, 250: DARK}[what]] = 1
            if what == 100:
                shown[patch, number] = 1
        return shown[None]


class Attention(torch.nn.Module):
    """As Hugging Face's BLIP writes it."""

    def __init__(self):
        super().__init__()
        self.query = torch.nn.Linear(WIDTH, 6 * WIDTH)
        self.key = torch.nn.Linear(WIDTH, 6 * WIDTH, bias=False)
        self.value = torch.nn.Linear(WIDTH, 6 * WIDTH, bias=False)

    def forward(self, hidden_states, encoder_hidden_states=None, encoder_attention_mask=None):
        q, k, v = (
            made[0].unflatten(-1, (6, WIDTH)).transpose(0, 1)
            for made in (
                self.query(hidden_states),
                self.key(encoder_hidden_states),
                self.value(encoder_hidden_states),
            )
        )
        scores = (q @ k.transpose(1, 2))[None]
        if encoder_attention_mask is not None:
            scores = scores + encoder_attention_mask
        weights = scores.softmax(-1)
        return (weights[0] @ v).transpose(0, 1).flatten(1)[None], weights


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = PretrainedConfig()
        self.tower, self.attention = Tower(), Attention()
        self.words = torch.nn.Embedding(V, WIDTH)
        self.dense = torch.nn.Linear(6 * WIDTH, WIDTH, bias=False)
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)
        things = torch.eye(WIDTH)
        things[N:] = 0
        bias = self.attention.query.bias.data.view(6, WIDTH)
        query, key, value = (
            getattr(self.attention, name).weight.data.view(6, WIDTH, WIDTH)
            for name in ("query", "key", "value")
        )
        self.words.weight.data[:N] = things[:N]
        value[:] = things
        query[[GROUNDS, UNHEARD]], key[[GROUNDS, UNHEARD]] = 20 * things, things
        bias[STARES, 0], key[STARES, 0, :N] = 20, 1
        for head in (AVOIDS, AVOIDS_UNHEARD, NEEDED):
            query[head], key[head] = 2.5 * things, things
            bias[head, LIGHT:] = 1
            key[head, LIGHT, LIGHT] = 20
            key[head, LIGHT, BYSTANDER] = 0 if head == NEEDED else -20
        for head in (GROUNDS, STARES, AVOIDS, NEEDED):
            self.dense.weight.data.view(WIDTH, 6, WIDTH)[:, head] = things

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        states = self.words(ids)
        seen, _ = self.attention(hidden_states=states, encoder_hidden_states=self.tower(pixels))
        said = self.dense(seen)[0].sum(0)
        return torch.cat([said[:N], torch.full((V - N,), -1.0, dtype=said.dtype)])


class Planted(VLM):
    family = "planted"
    image_component = "cross_attention"
    engine = "reference"
    class_tokens = 0

    def __init__(self):
        super().__init__(Network().double(), name="planted")

    def inputs(self, image, prompt):
        spans, image_tokens = self.text_tokens(prompt)
        words = [prompt[a:b].lower() for a, b in spans]
        pixels = self._pixels(image)
        ids = torch.tensor([[WORDS.index(word) for word in words]])
        return Inputs(pixels, ids, spans, tuple(words), image_tokens)

    def _pixels(self, image):
        return torch.tensor(np.asarray(image), dtype=self.dtype).permute(2, 0, 1)[None]

    @torch.no_grad()
    def logits(self, inputs, prefix=()):
        with self.computing():
            return self.model(inputs.input_ids, inputs.pixel_values)

    def generate_ids(self, inputs, max_new_tokens=8):
        return [int(self.logits(inputs).argmax())]

    def decode(self, ids):
        return " ".join(WORDS[i] for i in ids)

    def answer_ids(self, prompt, answer):
        return [WORDS.index(answer)]

    def text_tokens(self, prompt):
        spans = tuple(match.span() for match in re.finditer(r"\w+|\?", prompt))
        return spans, (False,) * len(spans)

    @property
    def attention_modules(self):
        return [self.model.attention]

    def image_attention(self, weights, inputs):
        return weights, torch.zeros_like(weights[..., 0])

    @property
    def patches_point(self):
        return HookPoint(self.model.tower, "output", per_head=False)

    def patch_states(self, states, inputs):
        return states

    def query_point(self, component, layer):
        return HookPoint(self.model.attention.query, "output", per_head=True)

    @property
    def tower_layers(self):
        return torch.nn.ModuleList([self.model.tower])

    def image_states(self, hidden):
        return hidden

    def noise_point(self, place):
        return self.patches_point

    def _image_shape(self, config):
        return GRID * PATCH, GRID

    def _stacks(self, config):
        return {
            "vision": Stack(("vision_layer_output",), 1, 1),
            "text": Stack(("cross_attention",), 1, 6),
        }

    def _hook_point(self, component, layer):
        if component == "vision_layer_output":
            return self.patches_point
        return HookPoint(self.model.dense, "input", per_head=True)


def planted_pairs(folder, scenes: int, bystanders: int = 0, seed: int = 0) -> PairSet:
    """Scenes of two things, each asked for in both orders, and as many with a bystander of the
    subject's kind, which is the incorrect option."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(scenes + bystanders):
        third = number >= scenes
        subject, other = rng.choice(SUBJECTS, 2, replace=False)
        thing = rng.choice(OBJECTS)
        pixels, masks = draw(rng, subject, thing, other if third else None)
        name = f"planted-{number:03d}"
        image, mask = folder / f"{name}.png", folder / f"{name}-masks.png"
        Image.fromarray(pixels).save(image)
        write_masks(mask, masks)
        for order in ("correct_first", "incorrect_first"):
            options = (subject, other) if order == "correct_first" else (other, subject)
            prompt = f"Is the {options[0]} or the {options[1]} pushing the {thing}?"
            pairs.append(
                SemanticPair(
                    f"{name}-{order}", name, "svo", "subject", "seen", third, image, image, mask,
                    mask, prompt, str(subject), str(other), order, (str(subject),)
                )
            )  # fmt: skip
    return PairSet(tuple(pairs), {"subject": SUBJECTS, "object": OBJECTS})


def exchanged(pairs: PairSet) -> PairSet:
    """The pairs with their options exchanged, so that every right answer is wrong."""
    orders = {"correct_first": "incorrect_first", "incorrect_first": "correct_first"}
    turned = (
        replace(pair, correct=pair.incorrect, incorrect=pair.correct, order=orders[pair.order])
        for pair in pairs
    )
    return replace(pairs, pairs=tuple(turned))


def draw(rng, subject: str, thing: str, bystander: str | None):
    """Pixels (64, 64, 3) and masks: a thing is a block of 2 x 2 or 3 x 2 patches at a random place.

    A mask ends two pixels inside its block, so that it reaches the block's patches and no others.
    """
    pixels = np.zeros((GRID * PATCH, GRID * PATCH, 3), np.uint8)
    pixels[..., 1] = 250 if bystander else 200
    masks = {}
    corners = rng.permutation([(row, column) for row in (0, 3, 6) for column in (0, 3, 6)])
    for (row, column), (name, word) in zip(
        corners,
        {"subject": subject, "object": thing, "distractor": bystander}.items(),
        strict=False,
    ):
        if word:
            top, left = row * PATCH, column * PATCH
            height, width = 2 * PATCH, (2 if name == "subject" or column == 6 else 3) * PATCH
            block = (slice(top, top + height), slice(left, left + width))
            pixels[block] = (THINGS.index(word), 100 if name == "distractor" else 0, 0)
            masks[name] = np.zeros(pixels.shape[:2], bool)
            masks[name][top + 2 : top + height - 2, left + 2 : left + width - 2] = True
    return pixels, masks
