"""Generative SIP: boxes, painting, what is stored and what is checked."""

import json
from dataclasses import replace
from string import ascii_lowercase

import numpy as np
import pytest
import torch
from PIL import Image

from notice_lib import NoticeError, data_dir, load_model, load_pairs
from notice_lib.corruption.generative import (
    REPAINTED,
    box_mask,
    caption,
    check_pairs,
    generative_pairs,
    painted_box,
)
from notice_lib.corruption.inpainters import (
    StableDiffusionInpainter,
    WordInpainter,
    bounding_box,
    keep_outside,
    load_inpainter,
    square,
    view,
    window_around,
)

pytest.importorskip("diffusers")
TEXTS = ("the goat pulling the car", "the dog pulling the car")


class Plain:
    """An inpainter of one colour, drawn with the seed."""

    name = "plain"

    def __init__(self):
        self.asked = []

    def paint(self, image, mask, caption, avoid, seed):
        self.asked.append((caption, avoid, seed))
        colour = tuple(np.random.default_rng(seed).integers(256, size=3).tolist())
        return keep_outside(image, Image.new("RGB", image.size, colour), mask)


def small_word_inpainter(seed=0):
    """The classes of inpaint-mini with seeded weights, 16 pixels a side."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=28,
        out_channels=12,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
        cross_attention_dim=8,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=3,
    )
    scheduler = DDIMScheduler(prediction_type="sample", timestep_spacing="trailing")
    inpainter = WordInpainter(unet, scheduler, ["goat", "dog", "car"], "small")
    inpainter.steps = 2
    return inpainter


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """A folder with the classes of a Stable Diffusion inpainting pipeline and seeded weights."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInpaintPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("stable-diffusion")
    pieces = ["<|startoftext|>", "<|endoftext|>", *ascii_lowercase]
    pieces += [letter + "</w>" for letter in ascii_lowercase]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    merges.write_text("#version: 0.2\n")
    text = CLIPTextConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    pipeline = StableDiffusionInpaintPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(vocabulary), str(merges), model_max_length=32),
        unet=UNet2DConditionModel(
            sample_size=16,
            in_channels=9,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            cross_attention_dim=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.fixture(params=["words", "stable diffusion"])
def inpainter(request):
    if request.param == "words":
        return small_word_inpainter()
    loaded = load_inpainter(request.getfixturevalue("stable_diffusion"), "cpu")
    return StableDiffusionInpainter(loaded.pipeline, "tiny", side=32, num_inference_steps=2)


def a_picture(seed=0, size=48):
    pixels = np.random.default_rng(seed).integers(256, size=(size, size, 3), dtype=np.uint8)
    mask = np.zeros((size, size), bool)
    mask[10:22, 30:40] = True
    return Image.fromarray(pixels), mask


def some_pairs(n=6):
    plain = load_pairs("states").filter(lambda pair: not pair.distractor)
    return plain.sample(n)


def same(one, other, where):
    return np.array_equal(np.asarray(one)[where], np.asarray(other)[where])


def test_a_box_is_a_square_about_the_mask_within_the_picture():
    mask = np.zeros((100, 80), bool)
    mask[40:60, 30:34] = True
    assert bounding_box(mask) == (30, 40, 34, 60)
    boxed = box_mask(mask, 1.5)
    assert bounding_box(boxed) == (17, 35, 47, 65)
    assert boxed.sum() == 30 * 30
    assert square((70, 0, 80, 10), 20, (100, 80)) == (60, 0, 80, 20)
    assert square((0, 0, 80, 100), 200, (100, 80)) == (0, 10, 80, 90)
    assert window_around(boxed) == (10, 28, 55, 73)


def test_the_box_of_a_pair_is_made_from_its_clean_picture_alone():
    for name in ("svo", "states", "faces"):
        pairs = load_pairs(name).filter(lambda p: p.slot in REPAINTED and not p.distractor)
        for pair in pairs.sample(20):
            masks = pair.masks("clean")
            shown = masks[REPAINTED[pair.slot][0]]
            boxed = painted_box(pair)
            left, top, right, bottom = bounding_box(boxed)
            assert boxed.sum() == (right - left) * (bottom - top)
            assert right - left == bottom - top
            if pair.slot != "emotion":
                assert boxed[shown].all()


def test_a_caption_is_the_question_with_one_option():
    question = "Is the dog or the goat pulling the car?"
    assert caption(question, "goat", "dog") == "the goat pulling the car"
    assert caption(question, "dog", "goat") == "the dog pulling the car"
    assert caption("Is this bottle broken or rusty?", "rusty", "broken") == "this bottle rusty"


def test_slots_and_pictures_without_a_box_are_named():
    verb = load_pairs("svo").filter(lambda pair: pair.slot == "verb")[0]
    with pytest.raises(NoticeError, match="no box is known for the slot 'verb'"):
        painted_box(verb)
    with pytest.raises(NoticeError, match="no mask 'object'"):
        painted_box(replace(load_pairs("states")[0], clean_masks=None))


def test_painting_changes_the_mask_alone_and_the_seed_fixes_it(inpainter):
    image, mask = a_picture()
    one = inpainter.paint(image, mask, *TEXTS, seed=1)
    again = inpainter.paint(image, mask, *TEXTS, seed=1)
    other = inpainter.paint(image, mask, *TEXTS, seed=2)
    assert one.size == image.size
    assert same(one, image, ~mask)
    assert not same(one, image, mask)
    assert same(one, again, mask)
    assert not same(one, other, mask)


def test_what_is_masked_is_not_seen():
    image, mask = a_picture()
    hidden = keep_outside(image, Image.new("RGB", image.size, (255, 0, 0)), mask)
    window = window_around(mask)
    for one, other in zip(
        view(image, mask, window, 16), view(hidden, mask, window, 16), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    inpainter = small_word_inpainter()
    painted = [inpainter.paint(i, mask, *TEXTS, seed=0) for i in (image, hidden)]
    assert same(*painted, mask)


def test_the_caption_matters_and_its_unknown_words_do_not():
    inpainter = small_word_inpainter()
    image, mask = a_picture()
    texts = (("a goat", "a car"), ("The goat!", "car"), ("a dog", "a car"), ("a goat", "a dog"))
    goat, same_goat, dog, avoiding = (inpainter.paint(image, mask, *one, seed=0) for one in texts)
    assert same(goat, same_goat, mask)
    assert not same(goat, dog, mask)
    assert not same(goat, avoiding, mask)
    with pytest.raises(NoticeError, match="knows no word of 'a cat'"):
        inpainter.paint(image, mask, "a cat", "a dog", seed=0)


def test_generated_pairs_keep_everything_but_the_corrupt_picture(tmp_path):
    pairs, inpainter = some_pairs(), Plain()
    made = generative_pairs(pairs, inpainter, tmp_path / "made", seed=3)
    record = json.loads((tmp_path / "made" / "generated.json").read_text())
    assert (record["inpainter"], record["seed"]) == ("plain", 3)
    assert made.slots == pairs.slots and made.near_synonyms == pairs.near_synonyms
    for old, new in zip(pairs, made, strict=True):
        assert (old.pair_id, old.prompt, old.shown) == (new.pair_id, new.prompt, new.shown)
        box = new.masks("corrupt")["differs"]
        assert np.array_equal(box, painted_box(old))
        assert np.array_equal(box, new.masks("clean")["differs"])
        assert np.array_equal(old.masks("clean")["object"], new.masks("clean")["object"])
        clean, corrupt = new.image("clean"), new.image("corrupt")
        assert same(clean, old.image("clean"), ...)
        assert same(clean, corrupt, ~box)
        texts = record["pictures"][new.corrupt_image.stem]
        assert texts["caption"].endswith(old.incorrect) and texts["avoid"].endswith(old.correct)


def test_orders_share_a_painting_and_other_pairs_do_not_move_it(tmp_path):
    pairs, inpainter = load_pairs("states"), Plain()
    scene = pairs.filter(lambda pair: pair.scene_id == pairs[0].scene_id)
    made = generative_pairs(scene, inpainter, tmp_path / "four")
    assert len(scene) == 4 and len(inpainter.asked) == 2
    assert len({pair.corrupt_image for pair in made}) == 2
    alone = generative_pairs(
        scene.filter(lambda pair: pair.pair_id == scene[2].pair_id), Plain(), tmp_path / "one"
    )
    assert same(alone[0].image("corrupt"), made[2].image("corrupt"), ...)
    other = generative_pairs(scene, Plain(), tmp_path / "seed", seed=1)
    assert not same(other[0].image("corrupt"), made[0].image("corrupt"), ...)


def test_nothing_is_painted_over_an_existing_set(tmp_path):
    inpainter = Plain()
    generative_pairs(some_pairs(2), inpainter, tmp_path)
    painted = len(inpainter.asked)
    with pytest.raises(NoticeError, match="holds a pair set already"):
        generative_pairs(some_pairs(2), inpainter, tmp_path)
    assert len(inpainter.asked) == painted


def test_a_pair_is_checked_by_its_pixels_and_by_what_the_model_answers(tmp_path):
    model = load_model("blip-mini", "cpu")
    exact = load_pairs("faces").sample(4)
    found = check_pairs(model, exact)
    assert found.pair_id.tolist() == [pair.pair_id for pair in exact]
    assert (found.reasons.map(len) == 0).all()
    assert found.intended.all() and (found.outside == 0).all() and (found.inside > 0).all()

    pair = exact[0]
    unchanged = replace(exact, pairs=(replace(pair, corrupt_image=pair.clean_image),))
    (row,) = check_pairs(model, unchanged).itertuples()
    assert row.inside == 0 and not row.intended
    assert row.reasons == (
        f"the corrupt picture is answered {pair.correct!r}, not {pair.incorrect!r}",
    )

    pixels = np.asarray(pair.image("corrupt")).copy()
    differs = pair.masks("corrupt")["differs"]
    where = np.argwhere(~differs)[:3]
    pixels[tuple(where.T)] ^= 1
    Image.fromarray(pixels).save(tmp_path / "touched.png")
    touched = replace(exact, pairs=(replace(pair, corrupt_image=tmp_path / "touched.png"),))
    (row,) = check_pairs(model, touched).itertuples()
    assert row.outside == 3
    assert row.reasons == ("3 pixels differ outside the mask `differs`",)
    unknown = replace(exact, pairs=(replace(pair, corrupt_masks=None),))
    assert check_pairs(model, unknown).reasons[0] == ("there is no mask `differs`",)


def test_what_is_no_inpainter_is_named(tmp_path):
    with pytest.raises(NoticeError, match="is not an inpainting model"):
        load_inpainter(tmp_path)


def test_the_embedded_inpainter_paints_what_it_is_told(tmp_path):
    folder = data_dir() / "checkpoints" / "inpaint-mini"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000_000
    metrics = json.loads((folder / "metrics.json").read_text())
    whole = metrics["results"]["all"]["all"]
    assert whole["outside"] == 0
    assert f"reached are {whole['both'] / whole['n']:.1%}" in (folder / "README.md").read_text()

    colours = load_pairs("states").filter(lambda p: p.slot == "colour" and not p.distractor)
    pairs = colours.sample(4, by=["scene_id"])
    made = generative_pairs(pairs, load_inpainter("inpaint-mini", "cpu"), tmp_path / "made")
    found = check_pairs(load_model("blip-mini", "cpu"), made)
    assert (found.outside == 0).all()
    assert found.intended.sum() >= 3
