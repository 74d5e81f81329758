"""Forward passes for training: several questions on each image, padded.

The same parameters give, to rounding, what plain Hugging Face code gives for one unpadded question
(tests/test_training.py). What costs most there is done once: BLIP's keys and values of an image
serve all questions on it, and LLaVA's questions on an image stand behind it, each blind to the
others.
"""

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from tools.training.questions import QUESTIONS_PER_IMAGE

LEAN_ATTENTION = "lean"
MASKED = -1e9


def attend(query, key, value, mask=None):
    """Scaled dot-product attention of (batch, heads, tokens, width) in the dtype of its input.

    In bfloat16 on a CPU, PyTorch's own function would take its softmax in float32, most of a step.
    """
    mask = None if mask is None else mask.to(query.dtype)
    if query.is_cuda or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, mask)
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, -1, dtype=scores.dtype) @ value


def _lean_attention(module, query, key, value, attention_mask=None, **unused):
    """`attend` in the form in which CLIP and Llama call their attention implementation."""
    return attend(query, key, value, attention_mask).transpose(1, 2).contiguous(), None


AttentionInterface.register(LEAN_ATTENTION, _lean_attention)


def blip_image(tower, pixels):
    """States (n, 1 + patches, width) of BLIP's vision tower."""
    states = tower.embeddings(pixels)
    for layer in tower.encoder.layers:
        attention = layer.self_attn
        mixed = attention.qkv(layer.layer_norm1(states)).chunk(3, -1)
        seen = attend(*(_heads(x, attention.num_heads) for x in mixed))
        states = states + attention.projection(_joined(seen))
        states = states + layer.mlp(layer.layer_norm2(states))
    return tower.post_layernorm(states)


def clip_image(tower, pixels):
    """States (n, 1 + patches, width) of CLIP's vision tower, as LLaVA takes them."""
    return tower(pixels).last_hidden_state


def blip_logits(model, images, batch):
    """Logits (questions, answer's tokens, vocabulary) of the batch's answers (batches)."""
    visible = (
        torch.arange(batch["questions"].shape[1], device=images.device) < batch["lengths"][:, None]
    )
    padding = _additive(visible[:, None, None])
    asked = _layers(model.text_encoder, batch["questions"], padding, images, None)
    start = torch.full_like(batch["lengths"], model.decoder_start_token_id)[:, None]
    given = torch.cat([start, batch["answers"][:, :-1].clamp(min=0)], 1)
    causal = torch.ones(2 * (given.shape[1],), dtype=torch.bool, device=images.device).tril()
    states = _layers(model.text_decoder.bert, given, _additive(causal), asked, padding)
    return model.text_decoder.cls(states)


def _layers(text, ids, mask, seen, seen_mask):
    """A text model's states (rows, tokens, width); `seen` has a row for each of ids or image."""
    states = text.embeddings(input_ids=ids)
    for layer in text.encoder.layer:
        own, cross = layer.attention, layer.crossattention
        states = own.output(_attention(own.self, states, states, mask), states)
        states = cross.output(_attention(cross.self, states, seen, seen_mask), states)
        states = layer.feed_forward_chunk(states)
    return states


def _attention(module, states, seen, mask):
    """Attention of states (rows, tokens, width) to `seen`, which consecutive rows may share."""
    folded = states.reshape(len(seen), -1, states.shape[-1])
    query, key, value = module.query(folded), module.key(seen), module.value(seen)
    heads = (_heads(x, module.num_attention_heads) for x in (query, key, value))
    return _joined(attend(*heads, mask)).reshape(states.shape)


def llava_logits(model, images, batch, prefix):
    """Logits (questions, answer's tokens, vocabulary) of the batch's answers.

    `images` (n, patches, width) are the projected patches, `prefix` the token ids before an image.
    """
    n_images, device = len(images), images.device
    lengths, answers = batch["lengths"], batch["answers"].clamp(min=0)
    rows = torch.arange(len(lengths), device=device)
    ends = lengths[:, None] - 1 + torch.arange(answers.shape[1], device=device)
    blocks = F.pad(batch["questions"], (0, answers.shape[1]))
    blocks[rows[:, None], ends[:, 1:]] = answers[:, :-1]
    width = blocks.shape[1]
    embed = model.get_input_embeddings()
    head = embed(prefix).expand(n_images, -1, -1)
    tail = embed(blocks).view(n_images, QUESTIONS_PER_IMAGE * width, -1)
    before = len(prefix) + images.shape[1]
    mask, positions = _packed(before, QUESTIONS_PER_IMAGE, width, device)
    states = model.model.language_model(
        inputs_embeds=torch.cat([head, images.to(head.dtype), tail], 1),
        attention_mask=mask.expand(n_images, -1, -1, -1),
        position_ids=positions.expand(n_images, -1),
        use_cache=False,
    ).last_hidden_state
    states = states[:, before:].reshape(len(rows), width, -1)
    return model.lm_head(states[rows[:, None], ends])


def _packed(before, blocks, width, device):
    """Additive mask (1, 1, t, t), causal and blind between blocks, and positions (1, t)."""
    block = torch.arange(blocks, device=device).repeat_interleave(width)
    block = torch.cat([torch.full((before,), -1, device=device), block])
    visible = (block[None] == -1) | (block[None] == block[:, None])
    places = torch.arange(before + width, device=device)
    positions = torch.cat([places[:before], places[before:].repeat(blocks)])
    return _additive(visible.tril())[None, None], positions[None]


def _additive(visible):
    """A mask to be added to scores: 0 where a token is visible."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, MASKED)


def _heads(states, n_heads):
    return states.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def _joined(heads):
    return heads.transpose(1, 2).flatten(2)
