"""Estimates of memory and hours against what torch counts."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BlipForQuestionAnswering

from benchmarks import random_models
from benchmarks.costs import (
    AFTER,
    BEFORE,
    GPUS,
    UTILISATION,
    activations,
    estimate,
    main,
    memory,
    published,
    read_config,
    weights,
)
from benchmarks.operations import BlipWork, LlavaWork
from notice_lib import NoticeError, load_model, site_grid, sweep

BLIP, LLAVA = "Salesforce/blip-vqa-base", "llava-hf/llava-1.5-7b-hf"
WIDE = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
WIDE |= {"num_attention_heads": 4}


def wide(family: str):
    """So wide that attention, which torch does not count on a CPU, is little beside the rest."""
    config = random_models.TINY_BLIP if family == "blip" else random_models.TINY_LLAVA
    config = {name: own | WIDE for name, own in config.items()}
    config["text_config"] |= {"num_key_value_heads": 4, "encoder_hidden_size": 128}
    return getattr(random_models, family)(config)


@pytest.mark.parametrize("family", ["blip", "llava"])
def test_operations_are_those_that_a_sweep_does(family, tmp_path):
    """Counted are products that must be done, without the fused attention. LLaVA's layers are
    Hugging Face's own, which also project queries, keys and values of the patched rows that no one
    reads: much in a model of two layers, one part in fifty in one of eight."""
    model = wide(family)
    prompt = random_models.BLIP_PROMPT if family == "blip" else random_models.LLAVA_PROMPT
    pairs = random_models.random_pairs(tmp_path, prompt, 1)
    length = len(model.inputs(pairs[0].image("clean"), prompt))
    question = length - (2 if family == "blip" else model.grid**2 + BEFORE + AFTER)
    found = estimate(model.model.config, pairs=1, question=question).set_index("part")
    head = "cross_attention" if family == "blip" else "self_attention"
    place = "correct" if family == "blip" else "last"
    parts = {
        "heads, image": site_grid(model, [head], per_head=True, position=place),
        "modules, image": site_grid(model),
    }
    if family == "llava":
        parts["heads at the option"] = site_grid(model, [head], per_head=True, position="correct")
    for part, sites in parts.items():
        with FlopCounterMode(display=False) as counter:
            swept = sweep(model, pairs, sites)
        estimated = found.loc[part, "tflop"] / found.loc[part, "pairs"] * 1e12
        assert counter.get_total_flops() == pytest.approx(
            estimated, rel=0.1 if family == "blip" else 0.17
        )
        # Tokens before the image cannot change, and their runs are not run.
        idle = 3 * model.n_layers * BEFORE if (family, part) == ("llava", "modules, image") else 0
        assert found.loc[part, "runs"] == (len(swept.patched) - idle) * found.loc[part, "pairs"]


def test_real_shapes_are_counted_as_torch_counts_them():
    config = published(BLIP)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = BlipForQuestionAnswering(config)
        ids, pixels = torch.ones(1, 12, dtype=torch.long), torch.randn(1, 3, 384, 384)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        image = model.vision_model(pixel_values=pixels)[0]
        model.text_encoder(ids, encoder_hidden_states=image)
    work = BlipWork(config, 12)
    counted = counter.get_total_flops()
    assert work.image() + work.layers * work.layer() == pytest.approx(counted, rel=1e-6)

    # A token of Llama does two operations a weight, but for the embeddings.
    config = published(LLAVA)
    work, text = LlavaWork(config, 1), config.text_config
    size = weights(config)["bfloat16"] / 2
    tower_and_projector = 303_507_456 + 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    in_layers = size - tower_and_projector - 2 * text.vocab_size * text.hidden_size
    assert work.layers * work.layer(1) == pytest.approx(2 * in_layers, rel=1e-3)


def test_weights_are_those_of_the_model():
    model = load_model("blip-mini", device="cpu").model
    own = weights(read_config("blip-mini"))
    assert own["float32"] == sum(p.nbytes for p in model.parameters())
    assert own["bfloat16"] * 2 == own["float32"]
    # What the hub says of the checkpoints: 7.06 and 13.4 billion parameters.
    assert weights(published(LLAVA))["float32"] == 4 * 7_063_427_072
    assert round(weights(published("llava-hf/llava-1.5-13b-hf"))["float32"] / 4e9, 1) == 13.4


def test_memory_and_hours_follow_from_their_assumptions():
    config = published(LLAVA)
    table = memory(config).set_index("dtype")
    assert (table["both"] == table["weights"] + table["activations"]).all()
    assert table.loc["nf4", "activations"] == table.loc["bfloat16", "activations"]
    assert 0.25 < table.loc["nf4", "weights"] / table.loc["bfloat16", "weights"] < 0.35
    assert activations(config, "float32", question=20) > activations(config, "float32")
    few, many = (estimate(config, pairs=n).set_index("part") for n in (100, 1000))
    heads = "heads, text"
    assert many.loc[heads, "hours"] == pytest.approx(10 * few.loc[heads, "hours"])
    assert few.loc["modules, text", "pairs"] == 360
    rate = GPUS["RTX 3090"]["bfloat16"] * UTILISATION
    assert few["tflop"].sum() == pytest.approx(few["hours"].sum() * 3600 * rate)
    assert published(BLIP).to_dict() == published("Salesforce/blip-vqa-capfilt-large").to_dict()


def readme_tables() -> tuple[str, str]:
    """Memory and hours as the page shows them."""
    names = {"BLIP": BLIP, "LLaVA-1.5-7B": LLAVA, "LLaVA-1.5-13B": LLAVA.replace("7b", "13b")}
    configs = {name: published(hub) for name, hub in names.items()}
    lines = ["| model | float32 | bfloat16 | nf4 |", "|---|---|---|---|"]
    for name, config in configs.items():
        table = memory(config).set_index("dtype")
        cells = [f"{row.weights:.1f} + {row.activations:.1f}" for row in table.itertuples()]
        lines.append(f"| {' | '.join([name, *cells, *['-'] * (3 - len(cells))])} |")
    hours = {
        f"{name}, {dtype}": estimate(config, dtype=dtype).set_index("part")["hours"]
        for name, config in configs.items()
        for dtype in (["float32"] if name == "BLIP" else ["bfloat16"])
    }
    parts = list(hours["LLaVA-1.5-7B, bfloat16"].index)
    rows = [f"| part | {' | '.join(hours)} |", "|---" * (1 + len(hours)) + "|"]
    for part in parts:
        cells = [f"{own[part]:.2f}" if part in own else "-" for own in hours.values()]
        rows.append(f"| {' | '.join([part, *cells])} |")
    rows.append(f"| all | {' | '.join(f'{own.sum():.1f}' for own in hours.values())} |")
    return "\n".join(lines), "\n".join(rows)


def test_the_page_shows_what_is_estimated():
    page = (Path(__file__).parent.parent / "data" / "results" / "README.md").read_text()
    for table in readme_tables():
        assert table in page


def test_the_command_and_what_it_refuses(tmp_path, capsys):
    main(LLAVA, pairs=100)
    printed = capsys.readouterr().out
    hours = estimate(published(LLAVA), pairs=100)["hours"].sum()
    assert re.search(r"nf4 +4\.1 +3\.2 +7\.3\n", printed)
    assert printed.splitlines()[-1] == f"{hours:.1f} hours in all"
    with pytest.raises(NoticeError, match="Choose one of T4, RTX 3090, A100, H100"):
        estimate(published(BLIP), gpu="H200")
    with pytest.raises(NoticeError, match=r"has no config\.json"):
        read_config(tmp_path)
