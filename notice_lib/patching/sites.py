"""Sites: which activations are copied."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import NoticeError
from ..models.base import ROLES, VLM, AnswerTokens, Inputs
from ..pairs.masks import MASK_BITS
from ..pairs.prompts import OptionSpans

REGIONS = (*MASK_BITS, "elsewhere")
"""Of an image: the patches that a ground-truth mask of either image of the pair reaches, and those
that `differs` does not reach."""


@dataclass(frozen=True)
class Site:
    """One place to patch, in words that hold for every pair.

    Attributes:
        component: one of the model's, e.g. "cross_attention"; see `VLM.stacks`.
        layer: from 0.
        head: one head's output before the output projection; None for the whole module.
        position: "each": every text token in turn, a patched run of its own for each (in the vision
            tower every patch and the class token); or what is patched at once: a token role
            ("correct", "or", "last", "image", ...), "image:" and one of `REGIONS`, "all" tokens of
            the stack, or one token's index.
    """

    component: str
    layer: int
    head: int | None = None
    position: int | str = "each"

    @property
    def region(self) -> str | None:
        """Which of `REGIONS` the position names; None where it is another position."""
        name = str(self.position)
        return name.removeprefix("image:") if name.startswith("image:") else None


@dataclass(frozen=True)
class Circuit:
    """Sites that are patched together in one run.

    Attributes:
        name: what the table calls it.
        sites: none of them at "each" token.
    """

    name: str
    sites: tuple[Site, ...]

    def __post_init__(self):
        if not self.name or not self.sites:
            raise NoticeError("A circuit needs a name and at least one site.")
        if any(site.position == "each" for site in self.sites):
            raise NoticeError(
                f"Circuit {self.name!r} is one run, but 'each' asks for a run for every token. Use "
                "'all', a role or an index as the position."
            )


@dataclass(frozen=True)
class PlacedSite:
    """A site in one pair's run: `positions` are token indices of its stack, `role` their role."""

    component: str
    layer: int
    head: int | None
    positions: tuple[int, ...]
    role: str


@dataclass(frozen=True)
class Intervention:
    """What one patched run copies: one placed site, or several of a circuit."""

    sites: tuple[PlacedSite, ...]
    circuit: str = ""


Roles = Mapping[str, tuple[str, ...]]
"""For each stack of the model, the roles of its tokens."""


def site_grid(
    model: VLM,
    components: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    per_head: bool = False,
    position: int | str = "each",
) -> list[Site]:
    """All sites of some components and layers.

    Args:
        components: by default all of the text stack: BLIP's question encoder, LLaVA's language
            model.
        layers: by default all that a component has.
        per_head: each head on its own instead of the whole module; components without heads
            are refused.
        position: as in `Site`.
    """
    components = model.components if components is None else tuple(components)
    layers = None if layers is None else tuple(layers)
    sites = []
    for component in components:
        stack = model.stacks[model.stack_of(component)]
        heads = range(stack.n_heads) if per_head else (None,)
        sites += [
            Site(component, layer, head, position)
            for layer in (range(stack.n_layers) if layers is None else layers)
            for head in heads
        ]
    check_sites(model, sites)
    return sites


def flatten_sites(sites: Iterable[Site | Circuit]) -> list[Site]:
    """The sites, and those of the circuits among them."""
    return [one for site in sites for one in (site.sites if isinstance(site, Circuit) else (site,))]


def check_sites(model: VLM, sites: Iterable[Site | Circuit]) -> None:
    """Refuse sites that the model does not have, before anything is run.

    Raises:
        NoticeError: names the first such site, or a circuit's name that is used twice.
    """
    sites, names = list(sites), set()
    for site in sites:
        if isinstance(site, Circuit):
            if site.name in names:
                raise NoticeError(f"Two circuits are called {site.name!r}; name them apart.")
            names.add(site.name)
    for one in flatten_sites(sites):
        _check_site(model, one)


def _check_site(model: VLM, site: Site) -> None:
    point = model.hook_point(site.component, site.layer)
    heads = model.stacks[model.stack_of(site.component)].n_heads
    if site.head is not None and not point.per_head:
        why = getattr(model, "no_heads", "") if site.component.endswith("attention") else ""
        raise NoticeError(f"{site}: {why or f'the component {site.component!r} has no heads.'}")
    if site.head is not None and not 0 <= site.head < heads:
        raise NoticeError(f"{site}: heads are 0 to {heads - 1}.")
    if isinstance(site.position, str):
        regions = tuple(f"image:{region}" for region in REGIONS)
        known = ("each", "all", *ROLES, *regions)
        if site.position not in known:
            raise NoticeError(f"{site}: a position is an index or one of {', '.join(known)}.")
        if site.region and model.grid == 0:
            raise NoticeError(
                f"{site}: {model.name or model.family} makes no square of tokens of every image, "
                'so regions cannot be told. Use position="image".'
            )


def stack_roles(model: VLM, inputs: Inputs, spans: OptionSpans, answer: AnswerTokens) -> Roles:
    """The roles of the tokens that each stack sees in a run."""
    roles = {
        "vision": ("class",) * model.class_tokens + ("image",) * model.grid**2,
        "text": model.roles(inputs, spans),
        "decoder": ("start",) * len(answer.prefix) + ("last",),
    }
    return {name: roles[name] for name in model.stacks}


def place(
    model: VLM,
    sites: Iterable[Site | Circuit],
    roles: Roles,
    regions: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Intervention]:
    """What to patch in one pair's run, a patched run for each element.

    Args:
        roles: of `stack_roles`.
        regions: the image patches (from 0, row by row) of each of `REGIONS` that is known.

    Raises:
        NoticeError: the run has no token at a site's position.
    """
    interventions = []
    for site in sites:
        if isinstance(site, Circuit):
            placed = [_place(model, one, roles, regions)[0] for one in site.sites]
            interventions.append(Intervention(tuple(placed), site.name))
        else:
            placed = _place(model, site, roles, regions)
            interventions += [Intervention((one,)) for one in placed]
    return interventions


def _place(model: VLM, site: Site, roles: Roles, regions) -> list[PlacedSite]:
    stack = model.stack_of(site.component)
    own = roles[stack]
    return [
        PlacedSite(site.component, site.layer, site.head, positions, _role(site, own, positions))
        for positions in _positions(site, stack, own, regions or {}, model.grid)
    ]


def _role(site: Site, roles: tuple[str, ...], positions: tuple[int, ...]) -> str:
    """The tokens' own role; of a mixed group, what the site calls it."""
    mixed = len({roles[i] for i in positions}) > 1 or site.region
    return str(site.position) if mixed else roles[positions[0]]


def _positions(
    site: Site, stack: str, roles: tuple[str, ...], regions, grid: int
) -> list[tuple[int, ...]]:
    position = site.position
    if not isinstance(position, str):
        if not 0 <= position < len(roles):
            raise NoticeError(f"{site}: its stack has {len(roles)} tokens.")
        return [(position,)]
    if position == "all":
        return [tuple(range(len(roles)))]
    image = [i for i, role in enumerate(roles) if role == "image"]
    if position == "each":
        return [(i,) for i, role in enumerate(roles) if stack == "vision" or role != "image"]
    if site.region:
        if image and (len(image) != grid**2 or image[-1] - image[0] >= len(image)):
            raise NoticeError(
                f"{site}: this image's {len(image)} tokens are no single block of {grid} x {grid}, "
                'so regions cannot be told. Use position="image".'
            )
        found = tuple(image[at] for at in regions.get(site.region, ()) if at < len(image))
        if not found:
            raise NoticeError(f"{site}: the pair has no mask that reaches tokens of its stack.")
        return [found]
    found = tuple(i for i, role in enumerate(roles) if role == position)
    if not found:
        raise NoticeError(f"{site}: no token has that role; the roles are {roles}.")
    return [found]
