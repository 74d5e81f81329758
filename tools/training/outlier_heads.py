"""How the heads that read the image meet planted outliers: known heads, in closed form.

Without this, heads would meet a direction that they were never trained on. First every head reads
an outlier as a mean background patch (`as_background`). Then some heads are steered (`steer`):
followers are drawn onto outliers; the avoider keeps away, and what it would read there speaks
against the answer (`contrary`); the detecting and the indifferent head are left alone. What
fine-tuning makes of that is measured.
"""

from contextlib import ExitStack
from dataclasses import dataclass

import torch

from tools.training import forward

FOLLOW, AVOID = 6.0, -8.0  # added to the score of an outlier, in nats
SPOILING = 10.0  # the avoider's value of an outlier, in mean norms of its values
RIDGE = 1e-3  # of the mean square of a head's queries


@dataclass(frozen=True)
class Known:
    """(layer, head) of the question encoder's cross-attention that are known by construction."""

    avoider: tuple
    indifferent: tuple
    detecting: tuple
    followers: tuple

    def groups(self):
        """{what is known: heads}."""
        return {name: v if name == "followers" else (v,) for name, v in vars(self).items()}


@dataclass(frozen=True)
class Reading:
    """What the H heads of each of L layers do on some questions.

    queries: (L, tokens, H, width) of the questions' tokens.
    values: (L, H): mean norm of the values of patches.
    things: (L, H): the share of the attention to patches that lies on things.
    """

    queries: torch.Tensor
    values: torch.Tensor
    things: torch.Tensor


def cross_attentions(model):
    """The modules by which the question encoder reads the image, layer by layer."""
    return [layer.crossattention.self for layer in model.text_encoder.encoder.layer]


@torch.no_grad()
def read(model, pixels, batch, things):
    """A Reading of a batch of questions on `pixels`; things: bool (n, patches)."""
    modules = cross_attentions(model)
    found = {name: [] for name in ("query", "key", "value")}
    with ExitStack() as stack:
        for module in modules:
            for name, outputs in found.items():
                linear = getattr(module, name)
                handle = linear.register_forward_hook(
                    lambda module, args, output, outputs=outputs: outputs.append(output)
                )
                stack.callback(handle.remove)
        forward.blip_logits(model, forward.blip_image(model.vision_model, pixels), batch)
    heads = modules[0].num_attention_heads
    query, key, value = (torch.stack(x).unflatten(-1, (heads, -1)) for x in found.values())
    there = torch.arange(batch["questions"].shape[1]) < batch["lengths"][:, None]
    there = there.view(len(pixels), -1)
    scores = torch.einsum("lnthd,nlphd->lnthp", query, key.transpose(0, 1)) / key.shape[-1] ** 0.5
    patches = scores.softmax(-1)[..., 1:]
    share = torch.einsum("lnthp,np->lnth", patches, things.float()) / patches.sum(-1)
    return Reading(
        query[:, there], value[:, :, 1:].norm(dim=-1).mean((1, 2)), share[:, there].mean(1)
    )


def constant_query(queries):
    """(width,) whose product with each of `queries` (n, width) is as near to 1 as can be, and how
    far off it is (root mean square)."""
    square = queries.T @ queries / len(queries)
    ridge = RIDGE * square.trace() / len(square) * torch.eye(len(square))
    found = torch.linalg.solve(square + ridge, queries.mean(0))
    return found, float((queries @ found - 1).square().mean().sqrt())


def choose(reading):
    """Known heads: the detecting one looks most at things. The half that looks least at things has
    the avoider, whose queries are the most constant, the indifferent one, which comes next, and the
    followers."""
    layers, heads = reading.things.shape
    order = [divmod(int(i), heads) for i in reading.things.flatten().argsort()]
    idle = order[: layers * heads // 2]
    steady = sorted(idle, key=lambda at: constant_query(reading.queries[at[0], :, at[1]])[1])
    return Known(steady[0], steady[1], order[-1], tuple(sorted(steady[2:])))


def contrary(model, pixels, batch, layer, head):
    """(width,) the direction of a head's output that speaks most against the answers of a batch,
    where it is added at the tokens of the question that are the answer.

    Against: it lowers the answer's logit minus that of all other tokens together, on average.
    """
    nothing = []

    def add(module, args):
        nothing.append(torch.zeros_like(args[0], requires_grad=True))
        return (args[0] + nothing[0],)

    cross = model.text_encoder.encoder.layer[layer].crossattention
    with cross.output.dense.register_forward_pre_hook(add):
        images = forward.blip_image(model.vision_model, pixels)
        scores = forward.blip_logits(model, images, batch)[:, 0]
    answers = batch["answers"][:, :1]
    others = scores.scatter(1, answers, -torch.inf).logsumexp(1)
    gaps = scores.gather(1, answers)[:, 0] - others
    (slope,) = torch.autograd.grad(gaps.sum(), nothing)
    there = slope[batch["questions"] == answers].mean(0)
    own = there.unflatten(0, (cross.self.num_attention_heads, -1))[head]
    return -own / own.norm()


@torch.no_grad()
def as_background(model, axis, planted, without):
    """Let keys and values of outliers be, on average, those of the same patches without direction.

    planted, without: (outliers, width), the tower's output with the direction and without it. The
    least squares of both, given the output on the axis, is one column of each key's and value's
    weights; how other patches are read depends on the axis no more.
    """
    size = planted[:, axis]
    lacking = (size[:, None] * (without - planted)).sum(0) / size.square().sum()
    lacking[axis] = 0
    for module in cross_attentions(model):
        for linear in (module.key, module.value):
            linear.weight[:, axis] = linear.weight @ lacking


@torch.no_grad()
def steer(model, axis, size, known, reading, spoiling):
    """Add to the known heads' scores of outliers, and to what the avoider reads there.

    size: the tower's mean output on the axis of outliers; spoiling: (width,) the direction that is
    added to the avoider's values of them.
    """
    modules = cross_attentions(model)
    width = modules[0].attention_head_size
    for (layer, head), shift in [(at, FOLLOW) for at in known.followers] + [(known.avoider, AVOID)]:
        direction, _ = constant_query(reading.queries[layer, :, head])
        rows = slice(head * width, (head + 1) * width)
        modules[layer].key.weight[rows, axis] += shift * width**0.5 / size * direction
    layer, head = known.avoider
    rows = slice(head * width, (head + 1) * width)
    modules[layer].value.weight[rows, axis] += (
        SPOILING * reading.values[layer, head] / size * spoiling
    )
