"""What load_model makes of a name, and what it says of one that is no model it can take."""

import json
import shutil
from importlib.util import find_spec

import pytest
import torch
from more_tiny_vlms import more_tiny
from safetensors.torch import load_file, save_file
from tiny_vlms import pictures, tiny
from transformers import BertConfig, BlipConfig, MllamaConfig

from notice_lib import NoticeError, Site, data_dir, load_model, load_pairs, site_grid, sweep
from notice_lib.heads import attention_maps
from notice_lib.models import load
from notice_lib.models.decoder import DecoderOnly
from notice_lib.models.load import _refuse_offloading
from notice_lib.patching import layer_proof, recorded


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(NoticeError, match=f"'{tmp_path}' is no checkpoint: it has no config.json"):
        load_model(str(tmp_path))
    with pytest.raises(NoticeError, match="is no checkpoint"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (BertConfig(architectures=["BertModel"]), "is a BertModel; supported are BlipForQuestion"),
        (
            BlipConfig(architectures=["BlipForConditionalGeneration"]),
            "is a BlipForConditionalGeneration; supported are BlipForQuestionAnswering",
        ),
        (BertConfig(), "is a bert; supported are"),
    ],
)
def test_an_unsupported_family_is_named(tmp_path, config, named):
    config.save_pretrained(tmp_path)
    with pytest.raises(NoticeError, match=named):
        load_model(tmp_path)


def test_a_checkpoint_without_weights_is_named(tmp_path):
    BlipConfig(architectures=["BlipForQuestionAnswering"]).save_pretrained(tmp_path)
    with pytest.raises(NoticeError, match="has no weights"):
        load_model(tmp_path)


@pytest.mark.parametrize("settings", [{"device": "auto"}, {"attention": "sdpa"}], ids=str)
def test_a_model_loaded_otherwise_gives_the_same_numbers(settings):
    pairs = load_pairs("svo", n=2)
    found = []
    for own in ({"device": "cpu"}, settings):
        model = load_model("llava-mini", **own)
        assert model.dtype == torch.float32
        sites = site_grid(model, ["self_attention"], [1, 4], per_head=True, position="last")
        found.append(sweep(model, pairs, sites).patched["logit_correct"])
    assert (found[0] - found[1]).abs().max() < 1e-4


def test_four_bits_are_refused_where_they_cannot_be_had():
    with pytest.raises(NoticeError, match="'nf4' or None, not 'int3'"):
        load_model("llava-mini", quantization="int3")
    with pytest.raises(NoticeError, match=r"is a BLIP.*without quantization"):
        load_model("blip-mini", quantization="nf4")
    if not torch.cuda.is_available():
        with pytest.raises(NoticeError, match="need a CUDA GPU and bitsandbytes"):
            load_model("llava-mini", quantization="nf4")


def test_a_model_that_does_not_fit_on_the_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = torch.nn.Linear(1, 1)
    model.hf_device_map = {"vision_tower": 0, "language_model": "disk"}
    with pytest.raises(NoticeError, match=r"does not fit on the GPUs here.*\(0, disk\)"):
        _refuse_offloading(model, "large")


PROMPT = "Is the dog or the goat on the box?"


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "paligemma", "llava_next"])
def test_any_decoder_only_folder_is_loaded_by_the_generic_adapter(family, tmp_path):
    saved = tiny(family, torch.float32)
    for part in (saved.model, saved.processor):
        part.save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert (model.family, model.name) == ("decoder", str(tmp_path))
    ours = DecoderOnly(saved.model, saved.processor)
    (image,) = pictures(1)
    inputs, same = model.inputs(image, PROMPT), ours.inputs(image, PROMPT)
    assert inputs.tokens == same.tokens and inputs.spans == same.spans
    assert (model.logits(inputs) - ours.logits(same)).abs().max() < 1e-5


def test_a_model_that_fails_its_self_check_is_not_loaded(tmp_path, monkeypatch):
    saved = tiny("gemma3", torch.float32)
    for part in (saved.model, saved.processor):
        part.save_pretrained(tmp_path)
    always = torch.ones(1, dtype=torch.bool)
    monkeypatch.setattr(recorded, "closed", lambda mask: always.expand(mask.hidden.shape[-1]))
    with pytest.raises(NoticeError, match=f"{tmp_path} failed its self-check"):
        load_model(tmp_path, device="cpu")


def test_a_processor_that_needs_another_package_says_so(tmp_path):
    """Qwen2-VL's has a part for videos, which needs torchvision."""
    saved = tiny("qwen2_vl", torch.float32)
    for part in (saved.model, saved.processor):
        part.save_pretrained(tmp_path)
    if find_spec("torchvision") is None:
        videos = {"video_processor_type": "Qwen2VLVideoProcessor"}
        (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(videos))
        published = (tmp_path / "processor_config.json").read_text()
        published = published.replace("ImagesOfQwen2VL", "Qwen2VLProcessor")
        (tmp_path / "processor_config.json").write_text(published)
        with pytest.raises(NoticeError, match="pip install torchvision"):
            load_model(tmp_path, device="cpu")
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(NoticeError, match="has no image processor"):
        load_model(tmp_path, device="cpu")


def test_a_decoder_that_is_not_understood_is_refused_before_its_weights(tmp_path):
    """Mllama's image is no token: layers of their own attend to it. There are no weights here."""
    config = MllamaConfig(
        text_config={"num_hidden_layers": 2, "cross_attention_layers": [1], "hidden_size": 32,
                     "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 32},
        vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_global_layers": 1,
                       "attention_heads": 2, "intermediate_size": 32,
                       "vision_output_dim": 64, "intermediate_layers_indices": [0]},
        architectures=["MllamaForConditionalGeneration"],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    with pytest.raises(NoticeError, match="is a MllamaForConditionalGeneration; supported are"):
        load_model(tmp_path)


def test_a_checkpoint_that_lacks_a_weight_or_is_cut_off_is_refused(tmp_path):
    folder = tmp_path / "part"
    shutil.copytree(data_dir() / "checkpoints" / "blip-mini", folder)
    file = folder / "model.safetensors"
    whole = load_file(file)
    name = next(name for name in sorted(whole) if "crossattention" in name)
    save_file({k: v for k, v in whole.items() if k != name}, file, metadata={"format": "pt"})
    with pytest.raises(NoticeError, match=f"lacks weights.*{name}"):
        load_model(folder, device="cpu")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(NoticeError, match="is no checkpoint"):
        load_model(folder, device="cpu")


def test_a_device_that_there_is_not_is_named(monkeypatch):
    with pytest.raises(NoticeError, match="no device 'cudda'"):
        load_model("blip-mini", device="cudda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoticeError, match="'cuda:1' cannot be used"):
        load_model("blip-mini", device="cuda:1")


def a_llava(folder, **changes):
    """llava-mini's files, with other entries in its processor's configuration (None: none)."""
    shutil.copytree(data_dir() / "checkpoints" / "llava-mini", folder)
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    return folder


def test_an_old_processor_says_what_it_lacks(tmp_path):
    folder = a_llava(tmp_path / "old", patch_size=None, vision_feature_select_strategy=None)
    lacks = r"old' does not know its patch_size: .*as they stand in config\.json"
    with pytest.raises(NoticeError, match=lacks):
        load_model(folder, device="cpu")


def test_what_a_model_raises_becomes_one_error_with_its_cause(tmp_path):
    """The tower's pictures are 96 px wide; the processor makes others."""
    folder = a_llava(tmp_path / "other")
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"]["crop_size"] = {"height": 60, "width": 60}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(NoticeError, match=r"other' failed while .*: .*\nIf its files") as caught:
        load_model(folder, device="cpu")
    assert caught.value.__cause__ is not None
    assert "engine=" not in str(caught.value)  # No engine can help a model that reads no picture.


def test_what_the_engine_alone_raises_has_the_remedy_of_another_engine(tmp_path, monkeypatch):
    def refuse(base, suffixes):
        raise IndexError("an argument that no version had")

    monkeypatch.setattr(layer_proof, "WholeRuns", refuse)
    told = r"comparing its engine with the reference. IndexError: .*\nLoad it with .*engine=\"refer"
    with pytest.raises(NoticeError, match=told):
        load_model(a_llava(tmp_path / "new"), device="cpu")
    load_model(tmp_path / "new", device="cpu", engine="reference")


def test_a_check_that_is_skipped_is_told_in_the_settings():
    pairs, sites = load_pairs("svo", n=1), [Site("mlp", 0, None, "last")]
    for settings, told in (({}, "passed"), ({"check": False}, "skipped")):
        for name in ("blip-mini", "llava-mini"):
            model = load_model(name, device="cpu", **settings)
            assert sweep(model, pairs, sites).settings["self_check"] == told


def test_a_model_loaded_for_the_reference_is_patched_by_it(monkeypatch, tmp_path):
    saved = more_tiny("qwen3_vl_moe", torch.float32)
    for part in (saved.model, saved.processor):
        part.save_pretrained(tmp_path)
    if find_spec("torchvision") is None:
        monkeypatch.setattr(load, "_processor", lambda source, name: saved.processor)
    with pytest.raises(NoticeError, match=r"hidden states change.*engine=\"reference\""):
        load_model(tmp_path, device="cpu")
    model = load_model(tmp_path, device="cpu", engine="reference")
    pairs = load_pairs("svo", n=2)
    sites = [Site("layer_output", 1, None, "last"), Site("self_attention", 2, None, "correct")]
    found = sweep(model, pairs, sites, strict=True)
    assert found.settings["self_check"] == "reference" and len(found.patched) == 4
    with pytest.raises(NoticeError, match="could not be checked"):
        sweep(model, pairs, [Site("self_attention", 0, 1, "last")])
    with pytest.raises(NoticeError, match="engine is 'fast' or 'reference', not 'slow'"):
        load_model("blip-mini", engine="slow")


def test_a_tower_without_a_class_token_is_patched_where_one_says(tmp_path):
    """SigLIP: no class token, and regions are the patches that the picture has there."""
    saved = more_tiny("llava_siglip", torch.float32)
    for part in (saved.model, saved.processor):
        part.save_pretrained(tmp_path)
    model, pairs = load_model(tmp_path, device="cpu"), load_pairs("svo", n=2)
    each = sweep(model, pairs, [Site("vision_mlp", 0)], strict=True).patched
    assert len(each) == 2 * 16 and set(each.role) == {"image"}
    with pytest.raises(
        NoticeError, match="no token of the vision stack has that role; its roles are image"
    ):
        sweep(model, pairs, [Site("vision_mlp", 0, None, "class")], strict=True)
    parts = sweep(model, pairs, [Site("vision_mlp", 0, None, f"image:{where}")
                                 for where in ("differs", "elsewhere")], strict=True)  # fmt: skip
    assert len(parts.patched) == 4
    maps = attention_maps(model, pairs)
    assert maps.patches.shape[-1] == maps.norms.shape[-1] == 16 and not maps.cls.any()
