"""Batches of images and questions, each a pure function of the seed and the step.

So a training that was stopped goes on with the batches that it would have had, and worker processes
can prepare batches ahead.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from tools import scenes as renderer
from tools.training import models, questions
from tools.training.recipes import CAPTIONS

BATCH = 128  # images
BLANK = 0.05  # part of the images that are one plain colour
# Parts of a batch, by family and whether there is a distractor. Which of two things is in which
# state is the hardest to learn, so those scenes come more often than in the pool.
MIX = {
    ("svo", False): 0.2,
    ("svo", True): 0.15,
    ("states", False): 0.18,
    ("states", True): 0.35,
    ("faces", False): 0.12,
}
NOTHING = -100  # where an answer has no further token


@dataclass(frozen=True)
class Words:
    """How one family writes a question and an answer as tokens."""

    tokenizer: object
    prompt: str = "{question}"
    image: int | None = None  # the image's token; what follows it is the question
    space: str = ""  # before an answer's word, in the vocabulary
    stop: int = 0  # the token that ends an answer

    def questions(self, texts):
        """Lists of token ids."""
        ids = self.tokenizer([self.prompt.format(question=text) for text in texts]).input_ids
        return ids if self.image is None else [x[x.index(self.image) + 1 :] for x in ids]

    def answer(self, text):
        """Token ids of an answer's words, and the end."""
        words = [self.space + word for word in text.split()]
        return [*self.tokenizer.convert_tokens_to_ids(words), self.stop]


def blip_words(tokenizer):
    return Words(tokenizer, stop=tokenizer.sep_token_id)


def llava_words(tokenizer):
    image = tokenizer.convert_tokens_to_ids("<image>")
    return Words(tokenizer, models.LLAVA_PROMPT, image, "▁", tokenizer.eos_token_id)


class QuestionBatches(torch.utils.data.Dataset):
    """Batch number i, for i up to the number of steps: a dict of tensors and the kinds.

    images: (n,) rows of the pool; plain: (n, 3) the colour of a blank picture, or -1.
    questions: (3n, longest) token ids; lengths: (3n,).
    answers: (3n, longest) token ids, then NOTHING; others: (3n,) the first token of an answer that
    is equally good, or of the same one.
    """

    def __init__(self, pool, words, seed, steps, kinds, captions=0.0, size=BATCH):
        self.pool, self.words, self.seed, self.steps = pool, words, seed, steps
        self.kinds, self.captions, self.size = kinds, captions, size
        self.probabilities = mixture(pool.scenes)

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        rng = np.random.default_rng([*self.seed, step])
        kinds = CAPTIONS if step < self.captions * self.steps else self.kinds
        images = rng.choice(len(self.pool), size=self.size, p=self.probabilities)
        plain = np.full((self.size, 3), -1)
        asked = []
        last_of_slot = {}
        for i, scene in enumerate(self.pool.scenes[image] for image in images):
            blank = kinds is not CAPTIONS and rng.random() < BLANK
            if blank:
                plain[i] = _colour(rng)
            for slot in questions.slots_asked(scene):
                if blank:
                    asked.append(questions.blank(scene, slot, rng))
                    continue
                kind = str(rng.choice(list(kinds), p=list(kinds.values())))
                asked.append(questions.ask(scene, slot, kind, rng, last_of_slot.get(slot)))
                last_of_slot[slot] = scene
        return {
            "images": torch.from_numpy(images),
            "plain": torch.from_numpy(plain),
            **self._tokens(asked),
            "kinds": [question.kind for question in asked],
        }

    def _tokens(self, asked):
        texts = [torch.tensor(ids) for ids in self.words.questions([q.text for q in asked])]
        answers = [torch.tensor(self.words.answer(q.answer)) for q in asked]
        others = [self.words.answer(q.other or q.answer)[0] for q in asked]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "questions": pad(texts, batch_first=True),
            "lengths": torch.tensor([len(text) for text in texts]),
            "answers": pad(answers, batch_first=True, padding_value=NOTHING),
            "others": torch.tensor(others),
        }


class PatchBatches(torch.utils.data.Dataset):
    """Batch number i: rows of the pool, drawn evenly."""

    def __init__(self, pool, seed, steps):
        self.pool, self.seed, self.steps = pool, seed, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        rng = np.random.default_rng([*self.seed, step])
        return {"images": torch.from_numpy(rng.integers(len(self.pool), size=BATCH))}


def mixture(scenes):
    """Probability of each of `scenes`, so that batches have the proportions of MIX."""
    kinds = [(s.family, len(renderer.shown(s, renderer.slot_of(s))) > 1) for s in scenes]
    counts = Counter(kinds)
    weights = np.array([MIX[kind] / counts[kind] for kind in kinds])
    return weights / weights.sum()


def _colour(rng):
    return rng.choice([0, 128, 255]) if rng.random() < 0.5 else rng.integers(256, size=3)
