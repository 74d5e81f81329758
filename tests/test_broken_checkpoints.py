"""Checkpoints as people have them: each that cannot be loaded says what is wrong and what to do."""

import json
import shutil
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file

from notice_lib import NoticeError, checkpoint_dir, load_model
from notice_lib.fingerprint import of_model
from notice_lib.models import adapters


@pytest.fixture(params=["blip-mini", "llava-mini"])
def folder(request, tmp_path):
    """A copy of an embedded checkpoint, to be broken."""
    return shutil.copytree(checkpoint_dir(request.param), tmp_path / request.param)


def edit(file, **values):
    """Change a JSON file's values; None removes one."""
    found = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


def test_a_fingerprint_is_of_the_model_and_not_of_who_loads_it(folder, monkeypatch):
    model = load_model(folder, device="cpu", check=False)
    before = of_model(model)
    monkeypatch.setattr("transformers.configuration_utils.__version__", "0.0.0")
    assert '"transformers_version": "0.0.0"' in model.model.config.to_json_string()
    assert of_model(model) == before
    model.model.config.text_config.initializer_range *= 2
    assert of_model(model) != before


def rewrite(folder, change):
    """Let `change` change the weights, as {name: tensor}."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def a_matrix(weights):
    return next(name for name in sorted(weights) if name.endswith("query.weight")
                or name.endswith("q_proj.weight"))  # fmt: skip


def remove(*starts):
    def change(folder):
        for file in list(folder.iterdir()):
            if file.name.startswith(starts):
                file.unlink()

    return change


def pickled(folder):
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "model.safetensors").unlink()


def without_a_shard(folder):
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def an_index(text):
    def change(folder):
        (folder / "model.safetensors.index.json").write_text(text)

    return change


def cut(folder):
    def change(weights):
        weights[a_matrix(weights)] = weights[a_matrix(weights)][1:].clone()

    rewrite(folder, change)


def damaged(folder):
    rewrite(folder, lambda weights: weights[a_matrix(weights)].fill_(float("nan")))


def empty_tokenizer(folder):
    remove("tokenizer.json")(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")


BROKEN = [
    (remove("config.json"), r"it has no config\.json.*A checkpoint is a folder with"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
    (lambda folder: edit(folder / "config.json", model_type=None), "names no model_type"),
    (remove("model.safetensors"), "has no weights: there is no model.safetensors"),
    (pickled, "in pytorch_model.bin, a pickle.*save_pretrained"),
    (without_a_shard, "lacks 1 of the 2 files.*: model-00002-of-00002.safetensors"),
    (an_index("{}"), r"model\.safetensors\.index\.json is damaged: .*Download it again"),
    (an_index("x"), r"model\.safetensors\.index\.json is damaged"),
    (an_index('{"weight_map": ["model.safetensors"]}'), r"index\.json is damaged"),
    (an_index('{"weight_map": {"a": 1}}'), r"index\.json is damaged"),
    (cut, "has weights of other shapes than its config.json says: .*Take config.json and weights"),
    (damaged, "logits that are no numbers"),
    (remove("tokenizer"), "has no tokenizer: none of tokenizer.json, .*Copy the tokenizer's files"),
    (remove("processor_config", "preprocessor_config"), "has no image processor: none of process"),
]


@pytest.mark.parametrize(("breaks", "told"), BROKEN)
def test_what_is_wrong_is_named_with_its_remedy(folder, breaks, told):
    breaks(folder)
    with pytest.raises(NoticeError, match=told) as raised:
        load_model(folder, device="cpu")
    assert str(folder) in str(raised.value)


CONFIGURATION = r"(?s)failed while reading its configuration.*\nCopy config\.json again"


def with_code(model_type):
    return {
        "model_type": model_type,
        "auto_map": {"AutoConfig": f"configuration_{model_type}.Config"},
    }


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "llava_llama"}, r"type 'llava_llama', which transformers [\d.]+ does not"),
        (with_code("llava_xyz"), r"type 'llava_xyz', .*newer version.*converted.*is never run"),
        (with_code("phi3_v"), r"type 'phi3_v', .*newer version.*converted.*is never run"),
        (
            {"architectures": "BlipForQuestionAnswering"},
            'architectures in its config.json is "BlipForQuestionAnswering", which is no list',
        ),
        ({"model_type": ["blip"]}, CONFIGURATION),
        ({"vision_config": "large"}, CONFIGURATION),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_used_has_the_remedy_of_a_configuration(
    folder, values, told
):
    """Not that of damaged files or of the engine."""
    edit(folder / "config.json", **values)
    with pytest.raises(NoticeError, match=told) as raised:
        load_model(folder, device="cpu")
    said = str(raised.value)
    assert "damaged" not in said and "engine=" not in said and "trust_remote_code" not in said


def test_a_processor_that_is_code_has_its_own_remedy(folder):
    for file in folder.glob("*processor_config.json"):
        code = {"AutoProcessor": "processing_xyz.Processor"}
        edit(file, processor_class="XyzProcessor", auto_map=code)
    edit(folder / "tokenizer_config.json", processor_class="XyzProcessor")
    with pytest.raises(NoticeError, match=r"The processor of .* is code .*is never run") as raised:
        load_model(folder, device="cpu")
    assert "damaged" not in str(raised.value)


def test_an_empty_tokenizer_is_refused(tmp_path):
    """transformers makes one for BLIP, which would read every word as [UNK]."""
    folder = shutil.copytree(checkpoint_dir("blip-mini"), tmp_path / "blip")
    empty_tokenizer(folder)
    with pytest.raises(NoticeError, match=r"knows no English word.*vocab.txt"):
        load_model(folder, device="cpu")


def test_a_configuration_without_architectures_is_read_by_its_model_type(folder):
    edit(folder / "config.json", architectures=None)
    model, same = (load_model(name, device="cpu") for name in (folder, folder.name))
    theirs = dict(same.model.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in model.model.named_parameters())


def test_weights_without_a_place_are_said(folder):
    rewrite(folder, lambda weights: weights.update({"text_encoder.extra.weight": torch.ones(2)}))
    with pytest.warns(UserWarning, match=r"has 1 weights that .* no place for.*extra\.weight"):
        load_model(folder, device="cpu", check=False)


@pytest.mark.parametrize("name", ["blip-mini", "llava-mini"])
def test_whole_checkpoints_are_loaded_without_a_warning(name, recwarn):
    load_model(name, device="cpu", check=False)
    assert not [str(one.message) for one in recwarn if "weights" in str(one.message)]


def test_a_quantisation_that_is_not_known_is_not_ignored(folder):
    edit(folder / "config.json", quantization_config={"quant_method": "unheard", "bits": 4})
    with pytest.raises(NoticeError, match=r"quantised in a way|without quantization"):
        load_model(folder, device="cpu")


def test_names_that_are_no_checkpoint(tmp_path):
    file = checkpoint_dir("blip-mini") / "config.json"
    with pytest.raises(NoticeError, match=rf"is a file\. Give its folder, '{file.parent}'"):
        load_model(file)
    with pytest.raises(NoticeError, match=r"there is no such folder. Give blip-mini, "):
        load_model(tmp_path / "nowhere")
    shutil.copytree(checkpoint_dir("blip-mini"), tmp_path / "step-100")
    with pytest.raises(NoticeError, match="in its folders step-100: name one"):
        load_model(tmp_path)


ADAPTER = {"peft_type": "LORA", "r": 2}


@pytest.mark.parametrize("beside", [True, False])
def test_an_adapter_without_peft_is_refused(folder, tmp_path, monkeypatch, beside):
    """Not the base model, silently."""
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    place = folder if beside else tmp_path / "adapter"
    place.mkdir(exist_ok=True)
    (place / "adapter_config.json").write_text(json.dumps(ADAPTER))
    with pytest.raises(NoticeError, match=r"has an adapter.*peft.*is not installed: pip install"):
        load_model(place, device="cpu")


def test_an_adapter_needs_safetensors_and_a_base(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: object())
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    with pytest.raises(NoticeError, match=r"without adapter_model\.safetensors"):
        load_model(tmp_path, device="cpu")
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(NoticeError, match="names no base_model_name_or_path"):
        load_model(tmp_path, device="cpu")
    for base in ("/nowhere/base", "nobody/nothing-here"):
        edit(tmp_path / "adapter_config.json", base_model_name_or_path=base)
        told = rf"adapter_config\.json names the base '{base}' .*which is not here: write"
        with pytest.raises(NoticeError, match=told) as raised:
            load_model(tmp_path, device="cpu")
        assert "damaged" not in str(raised.value)
    (tmp_path / "adapter_config.json").write_text("[")
    with pytest.raises(NoticeError, match=r"adapter_config\.json is no JSON object"):
        load_model(tmp_path, device="cpu")


def test_an_adapter_that_cannot_be_merged_is_not_sent_to_another_engine(folder, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: object())
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "UNHEARD"}))
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(NoticeError, match=r"failed while merging.*\n.*merge_and_unload") as raised:
        load_model(folder, device="cpu")
    assert "engine=" not in str(raised.value)


@pytest.mark.skipif(find_spec("peft") is None, reason="peft is optional; CI installs it")
@pytest.mark.parametrize("beside", [True, False])
def test_an_adapter_is_merged_and_the_result_proves_itself(folder, tmp_path, beside):
    """Against the product of its two matrices, added by hand."""
    from peft import LoraConfig, get_peft_model

    base = load_model(folder, device="cpu", check=False)
    before = {name: p.detach().clone() for name, p in base.model.named_parameters()}
    settings = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=r".*(text_encoder|language_model).*\.(query|q_proj)",
        init_lora_weights=False,
    )
    torch.manual_seed(0)  # the adapter's values are drawn
    tuned = get_peft_model(base.model, settings)
    place = tmp_path / "adapter"
    tuned.save_pretrained(place)
    edit(place / "adapter_config.json", base_model_name_or_path=str(folder))
    if beside:
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(place / file, folder)
        place = folder
    model = load_model(place, device="cpu")
    assert model.checked and model.name == str(place)
    assert of_model(model) == of_model(load_model(place, device="cpu", check=False))
    factors = load_file(place / "adapter_model.safetensors")
    changed = 0
    for name, found in model.model.named_parameters():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        expected = before[name]
        if f"{key}A.weight" in factors:
            expected = expected + 3 * factors[f"{key}B.weight"] @ factors[f"{key}A.weight"]
            changed += 1
        assert (found - expected).abs().max() <= 1e-6
    assert changed >= 6
    weights = load_file(place / "adapter_model.safetensors")
    weights["base_model.model.nowhere.lora_A.weight"] = weights.pop(sorted(weights)[0])
    save_file(weights, place / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NoticeError, match=r"does not fit its base checkpoint.*nowhere"):
        load_model(place, device="cpu")
