"""What the planted outliers are, as plain values. Which heads keep away from them is measured by
`notice_lib.heads.outliers`."""

import numpy as np
import torch

from notice_lib import heads


def describe(model, found, axis):
    """What the patches of high norm in the pictures `found` are."""
    maps, high = found.maps, found.high
    result = {"pictures": len(high)}
    for by, row in heads.outlier_patches(maps).table().iterrows():
        result[f"patches a picture by {by}"] = float(row["patches"])
    if not high.any():
        return result
    before = maps.norms / np.median(maps.norms, 1, keepdims=True)
    behind, along = behind_norm(model, maps.pairs, axis)
    each, often = high.sum(1), high.mean(0)
    return result | {
        "pictures with 2 to 6": float(((each >= 2) & (each <= 6)).mean()),
        "pictures with none": float((each == 0).mean()),
        "norm before the last LayerNorm, in medians": float(np.median(before[high])),
        "norm behind it, in medians": float(np.median(behind[high])),
        "largest norm of another patch behind it": float(behind[~high].max()),
        "cosine with the axis": float(np.median(along[high])),
        "outside all masks": float((high & ~found.things).sum() / high.sum()),
        # 1 if always the same places, and the part of patches that are outliers if any place.
        "chance that another picture has it too": float((often**2).sum() / often.sum()),
    }


@torch.no_grad()
def behind_norm(model, pairs, axis):
    """(N, P) norms of the tower's output in medians of its picture, and cosines with the axis."""
    norms, along = [], []
    for pair in pairs:
        pixels = model.inputs(pair.image("clean"), pair.prompt).pixel_values
        states = model.model.vision_model(pixels).last_hidden_state[0, 1:]
        size = states.norm(dim=-1)
        norms.append((size / size.median()).numpy())
        along.append((states[:, axis] / size).numpy())
    return np.stack(norms), np.stack(along)


def share_on(maps, outliers):
    """(L, H): what part of each head's attention to patches lies on the outliers (N, P)."""
    there = outliers.any(1)
    shares = heads.shares(maps.patches[there].astype(float))
    return np.einsum("nlhp,np->nlh", shares, outliers[there].astype(float)).mean(0)
