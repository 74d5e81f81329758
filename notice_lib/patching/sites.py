"""Sites: which activation is copied."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import NoticeError
from ..models.base import ROLES, VLM, Inputs


@dataclass(frozen=True)
class Site:
    """One place to patch, in words that hold for every pair.

    Attributes:
        component: one of the model's components, e.g. "cross_attention".
        layer: from 0.
        head: one head's output before the output projection; None for the whole module.
        position: a token role ("correct", "or", "last", ...: all its tokens at once), a token's
            index, or "each": every text token in turn, a patched run of its own for each.
    """

    component: str
    layer: int
    head: int | None = None
    position: int | str = "each"


@dataclass(frozen=True)
class PlacedSite:
    """A site in one pair's prompt: `positions` are token indices, `role` their role."""

    component: str
    layer: int
    head: int | None
    positions: tuple[int, ...]
    role: str


def site_grid(
    model: VLM,
    components: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    per_head: bool = False,
    position: int | str = "each",
) -> list[Site]:
    """All sites of some components and layers (by default of all that the model has).

    Args:
        per_head: each head on its own instead of the whole module; components without heads
            are refused.
        position: as in `Site`.
    """
    components = model.components if components is None else tuple(components)
    layers = range(model.n_layers) if layers is None else tuple(layers)
    heads = range(model.n_heads) if per_head else (None,)
    sites = [
        Site(component, layer, head, position)
        for component in components
        for layer in layers
        for head in heads
    ]
    check_sites(model, sites)
    return sites


def check_sites(model: VLM, sites: Iterable[Site]) -> None:
    """Refuse sites that the model does not have, before anything is run.

    Raises:
        NoticeError: names the first such site.
    """
    for site in sites:
        point = model.hook_point(site.component, site.layer)
        if site.head is not None and not point.per_head:
            raise NoticeError(f"{site}: the component {site.component!r} has no heads.")
        if site.head is not None and not 0 <= site.head < model.n_heads:
            raise NoticeError(f"{site}: heads are 0 to {model.n_heads - 1}.")
        if isinstance(site.position, str) and site.position not in ("each", *ROLES):
            raise NoticeError(
                f"{site}: a position is an index, 'each', or one of the roles {', '.join(ROLES)}."
            )


def place(sites: Iterable[Site], inputs: Inputs, roles: tuple[str, ...]) -> list[PlacedSite]:
    """The sites in one prompt of T tokens with these T roles.

    Raises:
        NoticeError: the prompt has no token at a site's position.
    """
    placed = []
    for site in sites:
        for positions in _positions(site, len(inputs), roles):
            role = roles[positions[0]]
            placed.append(PlacedSite(site.component, site.layer, site.head, positions, role))
    return placed


def _positions(site: Site, length: int, roles: tuple[str, ...]) -> list[tuple[int, ...]]:
    if site.position == "each":
        return [(i,) for i, role in enumerate(roles) if role != "image"]
    if isinstance(site.position, str):
        found = tuple(i for i, role in enumerate(roles) if role == site.position)
        if not found:
            raise NoticeError(f"{site}: no token of the prompt has that role; roles are {roles}.")
        return [found]
    if not 0 <= site.position < length:
        raise NoticeError(f"{site}: the prompt has {length} tokens.")
    return [(site.position,)]
