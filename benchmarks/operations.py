"""How many floating-point operations must be done, counted from a model's configuration.

Products of matrices only, a multiplication and an addition each; what else a model does is less
than a hundredth. D is a hidden width, I an MLP's, L a number of layers, T and N text and image
tokens.
"""

from collections.abc import Iterable


def tower(vision) -> float:
    """One image through a ViT: N patches and a class token."""
    patches = (vision.image_size // vision.patch_size) ** 2
    n, d, i = patches + 1, vision.hidden_size, vision.intermediate_size
    layer = 2 * n * (4 * d * d + 2 * d * i) + 4 * n * n * d
    return 2 * patches * 3 * vision.patch_size**2 * d + vision.num_hidden_layers * layer


class BlipWork:
    """A BLIP for question answering, one pair with a prompt of T tokens."""

    def __init__(self, config, tokens: int):
        text, vision = config.text_config, config.vision_config
        self.d, self.i, self.t = text.hidden_size, text.intermediate_size, tokens
        self.layers, self.heads = text.num_hidden_layers, text.num_attention_heads
        self.n = (vision.image_size // vision.patch_size) ** 2 + 1
        self.vision_width, self.vocabulary = vision.hidden_size, text.vocab_size
        self.tower = tower(vision)

    def image(self) -> float:
        """Tower, and the keys and values that all layers' cross-attention takes from it."""
        return self.tower + self.layers * 2 * self.n * self.vision_width * 2 * self.d

    def layer(self) -> float:
        """One layer of the question encoder, the image's keys and values given."""
        d, i, t = self.d, self.i, self.t
        return 2 * t * (6 * d * d + 2 * d * i) + 4 * t * t * d + 4 * t * self.n * d

    def decoder(self) -> float:
        """The start token's step, with the key and value projections on the query's side."""
        d, i = self.d, self.i
        layer = 2 * (6 * d * d + 2 * d * i) + 4 * self.heads * self.t * d
        return self.layers * layer + 2 * (d * d + d * self.vocabulary)

    def published_site(self) -> float:
        """Three inputs through the whole model."""
        d, i, t = self.d, self.i, self.t
        cross = 2 * t * 2 * d * d + 4 * t * d
        step = self.layers * (2 * (6 * d * d + 2 * d * i) + 4 * d + cross)
        step += 2 * (d * d + d * self.vocabulary)
        return 3 * (self.image() + self.layers * self.layer() + step)

    def needed(self, layers: Iterable[int]) -> float:
        """Two images, two unpatched runs, and one patched run for each entry of `layers`.

        In the first layer above the patched one only the patched token's query, key and value are
        new. The patched layer itself counts as one row of an MLP and a projection.
        """
        d, i, t = self.d, self.i, self.t
        row = 2 * (d * d + 2 * d * i)
        total = 2 * (self.image() + self.layers * self.layer() + self.decoder())
        for layer in layers:
            above = self.layers - 1 - layer
            known = 2 * (t - 1) * 3 * d * d if above else 0
            total += row + above * self.layer() - known + self.decoder()
        return total


class LlavaWork:
    """A LLaVA, one pair with S tokens in all, under image corruption."""

    def __init__(self, config, tokens: int):
        text, self.s = config.text_config, tokens
        self.d, self.i = text.hidden_size, text.intermediate_size
        self.kv = self.d * text.num_key_value_heads // text.num_attention_heads
        self.layers, self.vocabulary = text.num_hidden_layers, text.vocab_size
        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        projector = 2 * patches * (vision.hidden_size * self.d + self.d * self.d)
        self.image = tower(vision) + projector

    def layer(self, tokens: int) -> float:
        """The last `tokens` of the S tokens through one layer, the rest's keys and values given."""
        seen = sum(range(self.s - tokens + 1, self.s + 1))
        weights = 2 * self.d * self.d + 2 * self.d * self.kv + 3 * self.d * self.i
        return 2 * tokens * weights + 4 * seen * self.d

    def published_site(self) -> float:
        """Three full forwards."""
        head = 2 * self.d * self.vocabulary
        return 3 * (self.image + self.layers * self.layer(self.s) + head)

    def needed(self, sites: Iterable[tuple[int, int]]) -> float:
        """Two images and runs, and a suffix through the layers above for each (layer, position); of
        the last layer only the last token, and the keys and values that it reads."""
        head = 2 * self.d * self.vocabulary
        total = 2 * (self.image + self.layers * self.layer(self.s) + head)
        for layer, position in sites:
            above, tokens = self.layers - 1 - layer, self.s - position
            if above:
                total += (above - 1) * self.layer(tokens) + self.layer(1)
                total += 2 * (tokens - 1) * 2 * self.d * self.kv
            total += head
        return total
