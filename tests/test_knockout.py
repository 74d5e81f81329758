"""Attention knockout: the cut head's output by hand, and nothing else touched."""

import pytest
import torch
from seeded import blip_runs, llava_runs, seeded_blip, seeded_llava
from tiny_vlms import pictures, tiny

from notice_lib import NoticeError, load_model, load_pairs
from notice_lib.heads import image_attention
from notice_lib.models.decoder import DecoderOnly
from notice_lib.models.hooks import watch
from notice_lib.patching import Cut, cut_logits
from notice_lib.patching.knockout import knockout

LAYER, HEAD = 2, 3
PATCHES = tuple(range(20, 40))


@pytest.fixture(scope="module", params=["blip-mini eager", "llava-mini eager", "llava-mini sdpa"])
def run(request):
    """(model, inputs, tokens whose attention is cut), in float64."""
    name, attention = request.param.split()
    model = load_model(name, device="cpu", dtype="float64", attention=attention, check=False)
    pair = load_pairs("svo")[0]
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    roles = model.roles(inputs, pair.spans)
    return model, inputs, (roles.index("correct"), len(roles) - 1)


def hooks(model) -> int:
    modules = model.attention_modules
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def by_hand(model, inputs, tokens, patches) -> torch.Tensor:
    """(tokens, head width): the head's output from its queries, keys and values, without the keys
    of the patches, which are left out instead of masked."""
    attention = model.attention_modules[LAYER]
    names = ("query", "key", "value") if model.family == "blip" else ("q_proj", "k_proj", "v_proj")
    seen: dict[str, torch.Tensor] = {}

    def keep(name):
        return lambda module, args, output: seen.__setitem__(name, output[0])

    def rotate(module, args, kwargs):
        seen["rotary"] = kwargs.get("position_embeddings")

    handles = [getattr(attention, n).register_forward_hook(keep(n)) for n in names]
    handles.append(attention.register_forward_pre_hook(rotate, with_kwargs=True))
    model.logits(inputs)
    for handle in handles:
        handle.remove()
    size = seen[names[0]].shape[-1] // model.n_heads
    q, k, v = (seen[name][:, HEAD * size : (HEAD + 1) * size] for name in names)
    if seen["rotary"]:
        cos, sin = (part[0] for part in seen["rotary"])
        q, k = (
            x * cos + torch.cat([-x[:, size // 2 :], x[:, : size // 2]], 1) * sin for x in (q, k)
        )
    first = 1 if model.family == "blip" else inputs.image_tokens.index(True)
    rows = []
    for token in tokens:
        last = len(k) if model.family == "blip" else token + 1
        left = [key for key in range(last) if key - first not in patches]
        weights = torch.softmax(q[token] @ k[left].T / size**0.5, 0)
        rows.append(weights @ v[left])
    return torch.stack(rows)


@torch.no_grad()
def head_outputs(model, inputs, cuts) -> torch.Tensor:
    """(T, heads, width) of the layer under cuts."""
    point = model.hook_point(model.image_component, LAYER)
    with watch({"heads": point}) as seen, knockout(model, inputs, cuts):
        model.logits(inputs)
    return seen["heads"][0].unflatten(-1, (model.n_heads, -1))


@torch.no_grad()
def test_the_head_gives_what_is_computed_by_hand_without_the_patches(run):
    model, inputs, tokens = run
    cut = Cut(LAYER, HEAD, tokens, PATCHES)
    plain, found = head_outputs(model, inputs, []), head_outputs(model, inputs, [cut])
    # Eager LLaVA takes its softmax in float32.
    eager = model.family != "blip" and model.attention_modules[0].config._attn_implementation
    tolerance = 1e-6 if eager == "eager" else 1e-12
    hand = by_hand(model, inputs, tokens, PATCHES)
    torch.testing.assert_close(found[list(tokens), HEAD], hand, atol=tolerance, rtol=0)
    assert (plain[list(tokens), HEAD] - hand).abs().max() > 100 * tolerance
    others = torch.ones(plain.shape[:2], dtype=torch.bool)
    others[list(tokens), HEAD] = False
    torch.testing.assert_close(found[others], plain[others], atol=1e-12, rtol=0)


def test_attention_to_the_patches_is_zero_and_the_rest_is_renormalised(run):
    model, inputs, tokens = run
    if model.attention_modules[0].config._attn_implementation == "sdpa":
        with pytest.raises(NoticeError, match="never forms its attention weights"):
            image_attention(model, inputs)
        return
    with knockout(model, inputs, [Cut(LAYER, HEAD, tokens, PATCHES)]):
        found = image_attention(model, inputs)
    plain = image_attention(model, inputs)
    cut, kept = found.patches[LAYER, HEAD], plain.patches[LAYER, HEAD]
    gone = kept[list(tokens)][:, list(PATCHES)].sum(-1)
    assert (gone > 0).all() and not cut[list(tokens)][:, list(PATCHES)].any()
    rest = [patch for patch in range(model.grid**2) if patch not in PATCHES]
    for token, lost in zip(tokens, gone, strict=True):
        assert cut[token, rest] == pytest.approx(kept[token, rest] / (1 - lost), rel=1e-5)


def test_cutting_nothing_changes_nothing(run):
    model, inputs, tokens = run
    plain = model.logits(inputs)
    for cuts in ([], [Cut(LAYER, HEAD, (), PATCHES)], [Cut(LAYER, HEAD, tokens, ())]):
        assert torch.equal(cut_logits(model, inputs, cuts), plain)
    assert not torch.equal(cut_logits(model, inputs, [Cut(0, HEAD, tokens, PATCHES)]), plain)


def test_a_cut_that_attention_would_not_miss_changes_nothing_beyond_rounding(run):
    """The mask itself, with what the model would see anyway, is the model's."""
    model, inputs, _ = run
    if model.family == "blip":
        return
    before = inputs.image_tokens.index(True) + 3  # sees patches 0 to 3 only
    found = cut_logits(model, inputs, [Cut(LAYER, HEAD, (before,), tuple(range(4, 64)))])
    torch.testing.assert_close(found, model.logits(inputs), atol=1e-12, rtol=0)


def test_several_cuts_at_once(run):
    model, inputs, tokens = run
    heads = [Cut(LAYER, head, tokens, PATCHES) for head in (HEAD, 0)]
    both = head_outputs(model, inputs, heads)
    for cut in heads:
        alone = head_outputs(model, inputs, [cut])
        torch.testing.assert_close(both[:, cut.head], alone[:, cut.head], atol=1e-12, rtol=0)
    halves = [Cut(LAYER, HEAD, tokens, PATCHES[::2]), Cut(LAYER, HEAD, tokens, PATCHES[1::2])]
    whole = cut_logits(model, inputs, [Cut(LAYER, HEAD, tokens, PATCHES)])
    torch.testing.assert_close(cut_logits(model, inputs, halves), whole, atol=1e-12, rtol=0)


def test_an_answers_prefix_does_not_move_the_patches(run):
    model, inputs, tokens = run
    cut = Cut(LAYER, HEAD, tokens, PATCHES)
    assert not torch.equal(cut_logits(model, inputs, [cut], (7,)), cut_logits(model, inputs, [cut]))
    with watch({0: model.hook_point(model.image_component, LAYER)}) as seen:
        cut_logits(model, inputs, [cut], (7,))
        longer = seen[0][0, : len(inputs)]
        cut_logits(model, inputs, [cut])
    torch.testing.assert_close(longer, seen[0][0], atol=1e-6, rtol=0)


def test_hooks_are_gone_and_the_model_is_locked_meanwhile(run, monkeypatch):
    model, inputs, tokens = run
    cut, held = Cut(LAYER, HEAD, tokens, PATCHES), []
    before, computing = hooks(model), type(model).computing

    def counted(self):
        held.append(True)
        return computing(self)

    monkeypatch.setattr(type(model), "computing", counted)
    with knockout(model, inputs, [cut]):
        assert held and hooks(model) == before + 2
        model.logits(inputs)
    assert hooks(model) == before
    with pytest.raises(ZeroDivisionError), knockout(model, inputs, [cut]):
        raise ZeroDivisionError
    assert hooks(model) == before
    never = pytest.raises(NoticeError, match=r"layers \[2\]: their attention was never called")
    with never, knockout(model, inputs, [cut]):
        pass
    assert hooks(model) == before


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (Cut(6, 0, (3,), (1,)), "no layer 6; layers go from 0 to 5"),
        (Cut(0, 8, (3,), (1,)), "no head 8; heads go from 0 to 7"),
        (Cut(0, 0, (200,), (1,)), "no token 200"),
        (Cut(0, 0, (3,), (-1,)), "no patch -1; the image has (256|144) patches"),
        (Cut(0, 0, (3,), (256,)), "no patch 256; the image has (256|144) patches"),
    ],
)
def test_what_is_not_there_is_refused(run, cut, message):
    model, inputs, _ = run
    before = hooks(model)
    with pytest.raises(NoticeError, match=message):
        cut_logits(model, inputs, [cut])
    assert hooks(model) == before


def test_a_token_must_keep_something_to_attend_to():
    llava, (inputs, _) = seeded_llava(), llava_runs()["image"]
    first = inputs.image_tokens.index(True)
    assert first > 0  # so that the first patch sees text before it, and only text
    cut_logits(llava, inputs, [Cut(0, 0, (first,), (0,))])
    llava.image_attention = lambda weights, inputs: (weights, weights[..., 0])  # all as patches
    cut_logits(llava, inputs, [Cut(0, 0, (5,), (0,))])
    with pytest.raises(NoticeError, match="nothing to attend to"):
        cut_logits(llava, inputs, [Cut(0, 0, (0, 5), (0,))])  # The first token sees itself alone.
    blip, (run, _) = seeded_blip(), blip_runs()["image"]
    blip.image_attention = lambda weights, inputs: (weights, weights[..., 0])  # [CLS] as a patch
    with pytest.raises(NoticeError, match="nothing to attend to"):
        cut_logits(blip, run, [Cut(0, 0, (1,), tuple(range(65)))])


def test_attention_that_takes_no_mask_or_ignores_it_is_refused(monkeypatch):
    blip, (inputs, _) = seeded_blip(), blip_runs()["image"]
    cut = Cut(1, 0, (1,), (5,))
    module = blip.attention_modules[1]
    forward = module.forward
    monkeypatch.setattr(module.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(NoticeError, match='attention="flash_attention_2", which takes no such'):
        cut_logits(blip, inputs, [cut])
    monkeypatch.undo()

    def maskless(
        hidden_states, encoder_hidden_states=None, past_key_values=None, attention_mask=None
    ):
        return forward(hidden_states, encoder_hidden_states=encoder_hidden_states)

    monkeypatch.setattr(module, "forward", maskless)
    with pytest.raises(NoticeError, match="BlipTextSelfAttention takes no encoder_attention_mask"):
        cut_logits(blip, inputs, [cut])

    def deaf(hidden_states, encoder_hidden_states=None, encoder_attention_mask=None, **others):
        return forward(hidden_states, encoder_hidden_states=encoder_hidden_states)

    monkeypatch.setattr(module, "forward", deaf)
    with pytest.raises(NoticeError, match="does not obey the mask"):
        cut_logits(blip, inputs, [cut])
    monkeypatch.undo()
    assert cut_logits(blip, inputs, [cut]).isfinite().all()


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_other_families(family, attention):
    """Grouped queries, sliding windows, bidirectional image blocks: the mask of the model's own,
    with the cut in it."""
    found = tiny(family, attention=attention)
    model = DecoderOnly(found.model, found.processor, family)
    image = pictures()[0]
    inputs = model.inputs(image, "Is the dog or the cat pulling the car?")
    token = len(inputs) - 1
    cut = Cut(1, 1, (token,), (0, 2, 3))
    plain = model.logits(inputs)
    assert (cut_logits(model, inputs, [cut]) - plain).abs().max() > 0
    if attention == "eager":
        with knockout(model, inputs, [cut]):
            maps = image_attention(model, inputs).patches
        assert not maps[1, 1, token, [0, 2, 3]].any()
        assert maps[1, 0, token, [0, 2, 3]].all()
