"""Models that paint the masked part of a picture as a caption says.

An inpainter has one method, `paint(image, mask, caption, avoid, seed)`. Two kinds are here: the
small one of this project, and Stable Diffusion. Both need diffusers (the extra
`generative`).
"""

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from ..errors import NoticeError
from ..pairs.prompts import words_of
from ..paths import checkpoint_dir

EMBEDDED = ("inpaint-mini",)
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, as Pillow has it."""


class Inpainter(Protocol):
    """What `generative_pairs` needs of a model."""

    name: str

    def paint(
        self, image: Image.Image, mask: np.ndarray, caption: str, avoid: str, seed: int
    ) -> Image.Image:
        """`image` (RGB) with the pixels of `mask` (height, width) painted as `caption` says.

        All other pixels stay as they are, to the bit. `avoid` says what must not be seen (a
        negative prompt). The seed fixes the result.
        """


def load_inpainter(name: str | Path = "inpaint-mini", device: str | None = None) -> Inpainter:
    """Load an inpainting model.

    Args:
        name: "inpaint-mini" (this project's, which knows the words of the embedded scenes), or
            a folder or hub id of a Stable Diffusion inpainting pipeline, such as
            "stable-diffusion-v1-5/stable-diffusion-inpainting".
        device: "cpu", "cuda", ...; None takes a GPU where there is one.

    Raises:
        NoticeError: diffusers is not installed, or there is no such model.
    """
    try:
        from diffusers import StableDiffusionInpaintPipeline
    except ImportError:
        raise NoticeError(
            "Inpainting needs diffusers: pip install 'notice-lib[generative]'."
        ) from None
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    source = checkpoint_dir(str(name)) if name in EMBEDDED else Path(name)
    if (source / "words.json").is_file():
        return WordInpainter.load(source, device)
    try:
        # Safetensors, since a pickled checkpoint can run code.
        pipeline = StableDiffusionInpaintPipeline.from_pretrained(str(name), use_safetensors=True)
    except (OSError, ValueError) as error:
        raise NoticeError(
            f"{str(name)!r} is not an inpainting model: give {EMBEDDED[0]}, a folder that a "
            "StableDiffusionInpaintPipeline was saved in, or a hub id (which needs a network). "
            f"diffusers says: {error}"
        ) from None
    return StableDiffusionInpainter(pipeline.to(device), str(name))


class WordInpainter:
    """A small U-Net that denoises the pixels of a window around the mask, told what to show.

    The window is half as wide again as the mask's box, so that the model sees the surroundings; it
    is painted at the network's resolution and resized. Texts are read as bags of words. In every
    step the picture is moved away from what the network would paint for the text to avoid
    (classifier-free guidance, Ho and Salimans, 2022, with that text in place of none).

    Attributes:
        unet: a UNet2DConditionModel on pixels in 2 x 2 blocks; it predicts the clean picture.
        scheduler: a DDIMScheduler.
        words: the words that it knows, in the order of its class embedding.
        steps: denoising steps of one picture.
        guidance: how far it is moved away, in differences of the two pictures.
    """

    steps, guidance = 12, 2.0

    def __init__(self, unet, scheduler, words: list[str], name: str):
        self.unet, self.scheduler = unet.eval(), scheduler
        self.words, self.name = words, name
        self.size = unet.config.sample_size * BLOCK

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "WordInpainter":
        """Load what tools/train_inpainter.py wrote.

        Raises:
            NoticeError: a file is missing or malformed.
        """
        from diffusers import DDIMScheduler, UNet2DConditionModel

        try:
            unet = UNet2DConditionModel.from_pretrained(
                folder, torch_dtype=torch.float32, use_safetensors=True
            )
            scheduler = DDIMScheduler.from_pretrained(folder)
            words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
            if not all(isinstance(word, str) for word in words):
                raise ValueError("words.json is not a list of words")
        except (OSError, TypeError, ValueError) as error:
            raise NoticeError(
                f"{folder} is not a complete inpainting model: write it again with "
                f"tools/train_inpainter.py. The error: {error}"
            ) from None
        return cls(unet.to(device), scheduler, words, folder.name)

    @torch.no_grad()
    def paint(
        self, image: Image.Image, mask: np.ndarray, caption: str, avoid: str, seed: int
    ) -> Image.Image:
        """As in `Inpainter`.

        Raises:
            NoticeError: a text has no word that the model knows.
        """
        device = self.unet.device
        told, untold = (
            bag_of_words(text, self.words)[None].to(device) for text in (caption, avoid)
        )
        window = window_around(mask)
        known, hole = (part.to(device) for part in view(image, mask, window, self.size))
        generator = torch.Generator().manual_seed(seed)
        noisy = torch.randn(known.shape, generator=generator).to(device)
        self.scheduler.set_timesteps(self.steps)
        for step in self.scheduler.timesteps:
            picture = denoise(self.unet, noisy, known, hole, step, told)
            away = picture - denoise(self.unet, noisy, known, hole, step, untold)
            picture = (picture + self.guidance * away).clamp(-1, 1)
            noisy = self.scheduler.step(picture, step, noisy).prev_sample
        pixels = ((noisy[0].permute(1, 2, 0).cpu().numpy() + 1) * 127.5).round().clip(0, 255)
        left, top, right, bottom = window
        painted = Image.fromarray(pixels.astype(np.uint8))
        painted = painted.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
        whole = image.copy()
        whole.paste(painted, (left, top))
        return keep_outside(image, whole, mask)


class StableDiffusionInpainter:
    """A StableDiffusionInpaintPipeline of diffusers (Rombach et al., 2022).

    Attributes:
        pipeline: the pipeline; its safety checker, if it has one, stays on.
        side: pixels at which it paints; the picture is resized to it and back.
        settings: further arguments of the pipeline's call, such as num_inference_steps.
    """

    def __init__(self, pipeline, name: str, side: int = 512, **settings):
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.name, self.side, self.settings = pipeline, name, side, settings

    def paint(
        self, image: Image.Image, mask: np.ndarray, caption: str, avoid: str, seed: int
    ) -> Image.Image:
        """See `Inpainter.paint`."""
        size = (self.side, self.side)
        painted = self.pipeline(
            prompt=caption,
            negative_prompt=avoid,
            image=image.resize(size, Image.Resampling.BICUBIC),
            mask_image=Image.fromarray(mask).resize(size, Image.Resampling.NEAREST),
            width=self.side,
            height=self.side,
            generator=torch.Generator().manual_seed(seed),
            **self.settings,
        ).images[0]
        return keep_outside(image, painted.resize(image.size, Image.Resampling.BICUBIC), mask)


def keep_outside(image: Image.Image, painted: Image.Image, mask: np.ndarray) -> Image.Image:
    """`painted` where `mask` is true, `image` elsewhere."""
    return Image.composite(painted, image, Image.fromarray(mask))


# The parts of WordInpainter that its training (tools/train_inpainter.py) uses too.

BLOCK = 2  # pixels a side of the blocks that become channels: half the resolution, four times fewer
MARGIN = 1.5  # sides of the mask's box in a window's side


def bag_of_words(caption: str, words: list[str]) -> torch.Tensor:
    """(n words,) of 0 and 1: which of `words` the caption holds.

    Raises:
        NoticeError: it holds none.
    """
    held = words_of(caption)
    bag = torch.tensor([float(word in held) for word in words])
    if not bag.any():
        raise NoticeError(f"The inpainting model knows no word of {caption!r}: {', '.join(words)}.")
    return bag


def bounding_box(mask: np.ndarray) -> Box:
    """The smallest box around the true pixels of a mask (height, width) that has any."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def square(box: Box, side: int, shape: tuple[int, int]) -> Box:
    """The square of that side about the middle of a box, moved into the picture.

    Args:
        shape: height and width of the picture; no side is longer than the shorter of the two.
    """
    side = min(side, *shape)
    corner = [
        int(np.clip(round((low + high - side) / 2), 0, limit - side))
        for low, high, limit in zip(box[:2], box[2:], shape[::-1], strict=True)
    ]
    return corner[0], corner[1], corner[0] + side, corner[1] + side


def window_around(mask: np.ndarray) -> Box:
    """The square that the model sees: MARGIN times the mask's longer side."""
    left, top, right, bottom = bounding_box(mask)
    side = round(MARGIN * max(right - left, bottom - top))
    return square((left, top, right, bottom), side, mask.shape)


def view(image: Image.Image, mask: np.ndarray, window: Box, size: int):
    """A window of a picture without what is masked, as the network sees it.

    Returns:
        known: (1, 3, size, size) in [-1, 1], 0 where it is masked.
        hole: (1, 1, size, size), 1 where any masked pixel falls, else 0.
    """
    # Blank first: the resize filter would spread a little of what is masked beyond the mask.
    blank = keep_outside(image, Image.new("RGB", image.size, (127, 127, 127)), mask)
    pixels = blank.resize((size, size), Image.Resampling.BICUBIC, box=window)
    white = Image.fromarray(mask.astype(np.uint8) * 255)
    reached = np.asarray(white.resize((size, size), Image.Resampling.BICUBIC, box=window)) > 0
    hole = torch.from_numpy(reached).float()[None, None]
    known = torch.from_numpy(np.asarray(pixels).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    return known * (1 - hole), hole


def denoise(unet, noisy, known, hole, step, told) -> torch.Tensor:
    """The network's clean picture (n, 3, size, size) of a noisy one at a time step.

    Args:
        noisy, known, hole: (n, 3, size, size), (n, 3, ...) and (n, 1, ...), as `view` gives them.
        told: (n, words) bags of words.
    """
    seen = torch.cat([noisy, known, hole], 1)
    blocks = torch.nn.functional.pixel_unshuffle(seen, BLOCK)
    picture = unet(blocks, step, encoder_hidden_states=None, class_labels=told).sample
    return torch.nn.functional.pixel_shuffle(picture, BLOCK)
