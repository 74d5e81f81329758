"""Outlier patches planted in the weights of a small BLIP, in closed form.

Large vision towers write a large vector, always in about the same direction, onto a few background
patches (Darcet et al., 2024); the small ones do not. `plant` makes one that does. The direction is
one axis of the tower's width:

1. `free_axis`: nothing writes to the axis any more.
2. `fit_rule`: a few linear units on what the last MLP reads fire on 2 to 6 background patches of a
   picture. Which ones they are depends on the picture.
3. `plant`: pairs of neurons of the last MLP turn each unit into a step and write it to the axis.
   The tower ends with a LayerNorm, which makes all norms about equal; so the axis gets a gain there
   that no other has, and the norm is large before and behind that LayerNorm.

`project_out` undoes 3 in the weights: the truth about what the direction does. `register` is a hook
that moves the direction from the patches to [CLS]; plain Hugging Face BLIP has no registers.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from notice_lib.pairs.masks import patch_mask
from tools import scenes as renderer
from tools.training.pool import ROLES

RATIO = 10.0  # an outlier's norm, in medians of its picture
UNITS = 16  # linear units of a rule; each takes two neurons
LEAST, MOST = 3, 5  # patches of a picture on which the units should fire
FEW, MANY = 2, 6  # and may
STEEPNESS = 30.0  # of a step, in units of a rule's score
STARTS, STEPS, RATE, BATCH = 2, 1500, 0.1, 64  # of fitting a rule
HELD_OUT = 0.2  # part of the pictures by which the best start is chosen
MARGIN = 1 / 3  # of the score on either side of zero
SPREAD = 3.0  # by how much a place that fires in every picture lowers its own score
MISSED, TOUCHED = 2.0, 8.0  # weight of a patch that should fire, and of one that a mask reaches
SMOOTHING = 0.03  # of how often each place fires
RIDGE = 0.05  # added to the variance of every state


@dataclass(frozen=True)
class Rule:
    """Patches whose states (..., width) have a positive score.

    weights: (width, units); bias: (units,).
    """

    weights: torch.Tensor
    bias: torch.Tensor

    def score(self, states):
        """(...): the largest of the units' scores."""
        return (states @ self.weights + self.bias).amax(-1)


def quiet_axis(tower, pixels):
    """The axis of the residual stream that is used least: the smallest mean square, relative to the
    whole state's and summed over all that the tower's LayerNorms read."""
    used = []

    def measure(module, args):
        if args[0].dim() == 3:  # not the pooled [CLS]
            squares = args[0].square().mean((0, 1))
            used.append(squares / squares.sum())

    norms = [m for m in tower.modules() if isinstance(m, torch.nn.LayerNorm)]
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        tower(pixels)
    for handle in handles:
        handle.remove()
    return int(torch.stack(used).sum(0).argmin())


@torch.no_grad()
def free_axis(tower, axis):
    """Let nothing write to the axis of the residual stream."""
    embeddings = tower.embeddings
    embeddings.class_embedding[..., axis] = 0
    embeddings.position_embedding[..., axis] = 0
    embeddings.patch_embedding.weight[axis] = 0
    embeddings.patch_embedding.bias[axis] = 0
    for layer in tower.encoder.layers:
        for writer in (layer.self_attn.projection, layer.mlp.fc2):
            writer.weight[axis] = 0
            writer.bias[axis] = 0


@torch.no_grad()
def project_out(tower, axis):
    """Take the direction from the weights that write it; all else stays."""
    tower.encoder.layers[-1].mlp.fc2.weight[axis] = 0


@contextmanager
def register(tower, axis):
    """While open, what the last MLP writes to the axis of the patches is added to [CLS]'s instead.

    Where the axis is free, this moves exactly the direction.
    """

    def move(module, args, written):
        moved = written.clone()
        moved[:, 0, axis] = written[..., axis].sum(1)
        moved[:, 1:, axis] = 0
        return moved

    handle = tower.encoder.layers[-1].mlp.register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()


def reached(scenes, grid):
    """bool (n, patches): what the masks of each scene's things reach."""
    masks = [renderer.render(scene)[1].values() for scene in scenes]
    patches = [[patch_mask(mask, grid.side, grid.image_size) for mask in own] for own in masks]
    return torch.from_numpy(np.stack([np.any(own, axis=0).ravel() for own in patches]))


def away_from_things(roles, side):
    """bool (n, patches): background patches of `roles` (n, patches) that touch no patch of a thing.

    A patch that a thing covers a little counts as background there, and its mask reaches it.
    """
    things = (torch.as_tensor(roles) != ROLES.index("background")).float().view(-1, 1, side, side)
    return F.max_pool2d(things, 3, 1, 1).flatten(1) == 0


def fit_rule(states, allowed, forbidden, seed):
    """A rule that fires on LEAST to MOST of the allowed patches of each picture, not always on the
    same places, and on no forbidden one.

    Of STARTS random starts the one is kept that does best on pictures that were not fitted. The
    arguments are as in `_fit`.
    """
    fitted = round(len(states) * (1 - HELD_OUT))
    rules = [
        _fit(states[:fitted], allowed[:fitted], forbidden[:fitted], STARTS * seed + start)
        for start in range(STARTS)
    ]
    return max(rules, key=lambda rule: quality(rule, states[fitted:], forbidden[fitted:]))


def quality(rule, states, forbidden):
    """Share of the pictures in which FEW to MANY patches fire and none is forbidden, nor [CLS]."""
    fires = rule.score(states.float()) > 0
    each = fires.sum(1)
    wrong = (fires & F.pad(forbidden, (1, 0), value=True)).any(1)
    return float(((each >= FEW) & (each <= MANY) & ~wrong).float().mean())


def _fit(states, allowed, forbidden, seed):
    """A rule of UNITS units from one random start.

    In every step the LEAST highest scores of each picture's allowed patches are to rise above a
    margin, and all but the MOST highest to fall below one. What lies between is free: no linear
    units draw a line at the same rank in every picture. The more often a place has fired, the
    lower it counts.

    states: (n, 1 + patches, width) that the last MLP reads; allowed, forbidden: bool (n, patches).
    """
    choice = torch.Generator().manual_seed(seed)
    allowed, forbidden = F.pad(allowed, (1, 0)), F.pad(forbidden, (1, 0), value=True)
    known = states[allowed].float()
    center, width = known.mean(0), known.shape[1]
    covariance = torch.cov(known.T) + RIDGE * torch.eye(width)
    whiten = torch.linalg.cholesky(torch.linalg.inv(covariance))
    weights = torch.randn(width, UNITS, generator=choice) / width**0.5
    share = MOST / UNITS * len(states) / len(known)
    # Among a sample: quantile() takes no more.
    sample = (known[:: 1 + len(known) // 10_000] - center) @ whiten @ weights
    bias = -torch.quantile(sample, 1 - share, 0)
    parameters = [weights.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    often = torch.zeros(states.shape[1])
    for _ in range(STEPS):
        rows = torch.randint(len(states), (BATCH,), generator=choice)
        whitened = (states[rows].float() - center) @ whiten
        score = (whitened @ weights + bias).amax(-1)
        ranked = (score.detach() - SPREAD * often).masked_fill(~allowed[rows], -torch.inf)
        highest = ranked.topk(MOST, 1).indices
        chosen = torch.zeros_like(score).scatter_(1, highest[:, :LEAST], 1)
        free = torch.zeros_like(score).scatter_(1, highest[:, LEAST:], 1)
        often = (1 - SMOOTHING) * often + SMOOTHING * chosen.mean(0)
        weight = torch.where(forbidden[rows], TOUCHED, torch.where(chosen > 0, MISSED, 1.0))
        costs = F.softplus((1 - 2 * chosen) * score / MARGIN + 1) * weight * (1 - free)
        optimizer.zero_grad()
        costs.sum(1).mean().backward()
        optimizer.step()
        schedule.step()
    found = whiten @ weights.detach()
    return Rule(found, bias.detach() - center @ found)


@torch.no_grad()
def plant(tower, axis, rule, states, outputs):
    """Let the patches that obey the rule carry the direction.

    states: (n, 1 + patches, width) that the last MLP reads; outputs: the same, that the last layer
    gives. The neurons that contribute least are replaced, their means kept in the bias.
    """
    mlp = tower.encoder.layers[-1].mlp
    firing = mlp.activation_fn(mlp.fc1(states.float())).flatten(0, 1)
    spent = (firing.std(0) * mlp.fc2.weight.norm(dim=0)).argsort()[: 2 * UNITS]
    mlp.fc2.bias += mlp.fc2.weight[:, spent] @ firing.mean(0)[spent]
    mlp.fc2.bias[axis] = 0
    mlp.fc2.weight[:, spent] = 0
    # gelu(z + 1/2) - gelu(z - 1/2) is a step from 0 to 1.
    for neurons, sign in ((spent[:UNITS], 1.0), (spent[UNITS:], -1.0)):
        mlp.fc1.weight[neurons] = STEEPNESS * rule.weights.T
        mlp.fc1.bias[neurons] = STEEPNESS * rule.bias + sign / 2
        mlp.fc2.weight[axis, neurons] = sign * RATIO * outputs[:, 1:].float().norm(dim=-1).median()
    # A LayerNorm makes (width - 1)^.5 of an axis on which all else is nothing.
    normed = tower.post_layernorm(outputs.float())[:, 1:].norm(dim=-1).median()
    tower.post_layernorm.weight[axis] = RATIO * normed / (states.shape[-1] - 1) ** 0.5
    tower.post_layernorm.bias[axis] = 0


@torch.no_grad()
def read_last_layer(tower, pixels, batch=50):
    """Of the last layer, float16 (n, 1 + patches, width): what its MLP reads, and its output."""
    read, given = [], []
    last = tower.encoder.layers[-1]
    handles = [
        last.mlp.register_forward_pre_hook(lambda module, args: read.append(args[0].half())),
        last.register_forward_hook(lambda module, args, output: given.append(output.half())),
    ]
    for part in pixels.split(batch):
        tower(part)
    for handle in handles:
        handle.remove()
    return torch.cat(read), torch.cat(given)
