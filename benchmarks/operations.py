"""Count the floating-point operations that a sweep requires, from a model's configuration.

Only matrix products are counted, as one multiplication and one addition per term; everything else
is less than a hundredth of the work. In the code, d is the hidden width, i the width of an MLP, t
(or s, with the image) the number of tokens and n the number of image tokens.
"""

from collections.abc import Iterable


def tower(vision) -> float:
    """Operations of a ViT for one image, which has N patches and a class token."""
    patches = (vision.image_size // vision.patch_size) ** 2
    n, d, i = patches + 1, vision.hidden_size, vision.intermediate_size
    layer = 2 * n * (4 * d * d + 2 * d * i) + 4 * n * n * d
    return 2 * patches * 3 * vision.patch_size**2 * d + vision.num_hidden_layers * layer


class BlipWork:
    """Operations of a BLIP for question answering on one pair with a prompt of T tokens."""

    def __init__(self, config, tokens: int):
        text, vision = config.text_config, config.vision_config
        self.d, self.i, self.t = text.hidden_size, text.intermediate_size, tokens
        self.layers, self.heads = text.num_hidden_layers, text.num_attention_heads
        self.n = (vision.image_size // vision.patch_size) ** 2 + 1
        self.vision_width, self.vocabulary = vision.hidden_size, text.vocab_size
        self.tower = tower(vision)

    def image(self) -> float:
        """The vision tower, and the image's keys and values for all cross-attention layers."""
        return self.tower + self.layers * 2 * self.n * self.vision_width * 2 * self.d

    def layer(self) -> float:
        """One layer of the question encoder, without the image's keys and values."""
        d, i, t = self.d, self.i, self.t
        return 2 * t * (6 * d * d + 2 * d * i) + 4 * t * t * d + 4 * t * self.n * d

    def decoder(self) -> float:
        """The decoder's step for the start token.

        Key and value projections are counted as applied to the query's side, which is cheaper.
        """
        d, i = self.d, self.i
        layer = 2 * (6 * d * d + 2 * d * i) + 4 * self.heads * self.t * d
        return self.layers * layer + 2 * (d * d + d * self.vocabulary)

    def published_site(self) -> float:
        """One site by the published scheme, which runs three inputs through the whole model."""
        d, i, t = self.d, self.i, self.t
        cross = 2 * t * 2 * d * d + 4 * t * d
        step = self.layers * (2 * (6 * d * d + 2 * d * i) + 4 * d + cross)
        step += 2 * (d * d + d * self.vocabulary)
        return 3 * (self.image() + self.layers * self.layer() + step)

    def needed(self, layers: Iterable[int]) -> float:
        """A sweep: two images, two unpatched runs, and a patched run for each entry of `layers`.

        In the first layer above the patched one, only the patched token's query, key and value are
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
    """Operations of a LLaVA on one pair with S tokens in all, under image corruption."""

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
        """One layer for the last `tokens` of the S tokens, given the others' keys and values."""
        seen = sum(range(self.s - tokens + 1, self.s + 1))
        weights = 2 * self.d * self.d + 2 * self.d * self.kv + 3 * self.d * self.i
        return 2 * tokens * weights + 4 * seen * self.d

    def published_site(self) -> float:
        """One site by the published scheme, which takes three full forwards."""
        head = 2 * self.d * self.vocabulary
        return 3 * (self.image + self.layers * self.layer(self.s) + head)

    def needed(self, sites: Iterable[tuple[int, int]]) -> float:
        """A sweep: two images, two unpatched runs, and a patched run for each (layer, position).

        A patched run computes the tokens from its position on, in the layers above its layer. In
        the last layer it computes only the last token, and the keys and values that this token
        reads.
        """
        head = 2 * self.d * self.vocabulary
        total = 2 * (self.image + self.layers * self.layer(self.s) + head)
        for layer, position in sites:
            above, tokens = self.layers - 1 - layer, self.s - position
            if above:
                total += (above - 1) * self.layer(tokens) + self.layer(1)
                total += 2 * (tokens - 1) * 2 * self.d * self.kv
            total += head
        return total
