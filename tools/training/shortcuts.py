"""Faster training on a CPU, with the same parameters and (to rounding) the same results.

Two things cost most of a step. Softmax in float32 under bfloat16 autocast: here it stays in
bfloat16. And BLIP's cross-attention keys and values, which plain code computes once per question:
here the questions on one image share them. Nothing of this is needed, or left, after training.
"""

import ctypes
from contextlib import contextmanager
from types import MethodType

import torch
from transformers import AttentionInterface

LEAN_ATTENTION = "lean"


def attend(query, key, value, mask=None):
    """Scaled dot-product attention of (batch, heads, tokens, width) in the dtype of its input."""
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, -1, dtype=scores.dtype) @ value


def _lean_attention(module, query, key, value, attention_mask=None, **unused):
    """`attend` in the form in which CLIP and Llama call their attention implementation."""
    mask = None if attention_mask is None else attention_mask.to(query.dtype)
    return attend(query, key, value, mask).transpose(1, 2).contiguous(), None


AttentionInterface.register(LEAN_ATTENTION, _lean_attention)


def _heads(states, n_heads):
    return states.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def _vision_attention(self, hidden_states, **unused):
    query, key, value = (_heads(x, self.num_heads) for x in self.qkv(hidden_states).chunk(3, -1))
    return self.projection(attend(query, key, value).transpose(1, 2).flatten(2)), None


def _text_attention(self, hidden_states, **unused):
    """Self-attention in the question encoder: all tokens see all, as nothing is padded."""
    projections = (self.query, self.key, self.value)
    states = (_heads(f(hidden_states), self.num_attention_heads) for f in projections)
    return attend(*states).transpose(1, 2).flatten(2), None


def _shared_cross_attention(self, hidden_states, encoder_hidden_states=None, **unused):
    """Cross-attention of (images * questions, tokens, width) to one set of states per image."""
    n_images, heads = len(encoder_hidden_states), self.num_attention_heads
    folded = hidden_states.reshape(n_images, -1, hidden_states.shape[-1])
    query = _heads(self.query(folded), heads)
    key = _heads(self.key(encoder_hidden_states), heads)
    value = _heads(self.value(encoder_hidden_states), heads)
    return attend(query, key, value).transpose(1, 2).reshape(hidden_states.shape), None


@contextmanager
def blip_shortcuts(model):
    """While open, `model.text_encoder` takes several questions on each image, in image order."""
    patches = [(layer.self_attn, _vision_attention) for layer in model.vision_model.encoder.layers]
    for layer in model.text_encoder.encoder.layer:
        patches.append((layer.attention.self, _text_attention))
        patches.append((layer.crossattention.self, _shared_cross_attention))
    for module, forward in patches:
        module.forward = MethodType(forward, module)
    try:
        yield
    finally:
        for module, _ in patches:
            del module.forward


def keep_memory():
    """Ask glibc to keep freed memory: giving it back after every step costs a third of the time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: slower, nothing else
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    for option, size in ((trim_threshold, 2**31 - 1), (top_pad, 2**28), (mmap_threshold, 2**30)):
        mallopt(option, size)
