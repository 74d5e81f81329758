"""Sites: which activations are copied."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import index

from ..errors import NoticeError
from ..models.base import ROLES, VLM
from ..models.inputs import AnswerTokens, Inputs
from ..pairs.masks import MASK_BITS
from ..pairs.prompts import OptionSpans

REGIONS = (*MASK_BITS, "elsewhere")
"""Regions of an image: the patches that a ground-truth mask of either image of the pair reaches,
and those that the mask `differs` does not reach."""

_IN_IMAGE = "image:"
"""What stands before a region's name in a position."""


@dataclass(frozen=True)
class Site:
    """One place to patch, in words that hold for every pair.

    Attributes:
        component: one of the model's, such as "cross_attention"; see `VLM.stacks`.
        layer: counted from 0.
        head: one head's output before the output projection; None for the whole module.
        position: "each" patches every text token in turn, in one patched run for each (in the
            vision tower every patch and the class token). Any other position is patched in one run:
            the tokens of a role ("correct", "or", "last", "image", ...), "image:" and one of
            `REGIONS`, "all" tokens of the stack, or the token with an index.
    """

    component: str
    layer: int
    head: int | None = None
    position: int | str = "each"

    def __post_init__(self):
        """Keep numpy's integers as Python's, which can be written as JSON.

        Raises:
            NoticeError: the layer, head or position is a boolean or no whole number.
        """
        for name in ("layer", "head", "position"):
            value = getattr(self, name)
            named = (name == "head" and value is None) or (
                name == "position" and isinstance(value, str)
            )
            try:
                object.__setattr__(self, name, value if named else _whole(value))
            except TypeError:
                raise NoticeError(f"{self}: its {name} is not a whole number.") from None

    @property
    def region(self) -> str | None:
        """The one of `REGIONS` that the position names; None if it names none."""
        name = str(self.position)
        return name.removeprefix(_IN_IMAGE) if name.startswith(_IN_IMAGE) else None


def _whole(value) -> int:
    """Python's integer of an integer, also numpy's.

    Raises:
        TypeError: it is none, or a boolean, which `index` takes for 0 or 1.
    """
    if isinstance(value, bool):
        raise TypeError(value)
    return index(value)


@dataclass(frozen=True)
class Circuit:
    """Sites that are patched together in one run.

    Attributes:
        name: its name in the table.
        sites: none of them has the position "each".

    Raises:
        NoticeError: it has no name or no site, or a site has the position "each".
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
    """A site in one pair's run.

    Attributes:
        component, layer, head: as in `Site`.
        positions: indices of tokens of the component's stack.
        role: the tokens' role, or what the site calls a group of several roles.
    """

    component: str
    layer: int
    head: int | None
    positions: tuple[int, ...]
    role: str


@dataclass(frozen=True)
class Intervention:
    """What one patched run copies.

    Attributes:
        sites: one placed site, or several of a circuit.
        circuit: the circuit's name; empty for a single site.
    """

    sites: tuple[PlacedSite, ...]
    circuit: str = ""

    @property
    def points(self) -> set[tuple[str, int]]:
        """The components and layers that it writes to."""
        return {(site.component, site.layer) for site in self.sites}


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
        components: by default all of the text stack (BLIP's question encoder, LLaVA's language
            model).
        layers: by default all layers of each component's stack.
        per_head: whether to patch each head by itself instead of the whole module.
        position: as in `Site`.

    Raises:
        NoticeError: as `check_sites`; with `per_head`, a component has no heads.
    """
    if isinstance(components, str) or isinstance(layers, int):
        raise NoticeError("Components and layers are lists, also of one: ['mlp'], [3].")
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
    """The sites in their order, with each circuit replaced by its sites."""
    return [one for site in sites for one in (site.sites if isinstance(site, Circuit) else (site,))]


def check_sites(model: VLM, sites: Iterable[Site | Circuit]) -> None:
    """Refuse sites that the model does not have, before anything is run.

    Raises:
        NoticeError: a site's component, layer, head or position does not exist in this model, or
            two circuits have one name. Names the first such site or circuit.
    """
    sites, names = list(sites), set()
    for site in sites:
        if not isinstance(site, (Site, Circuit)):
            raise NoticeError(f"{site!r} is no site. Give a list of Site or Circuit.")
        if isinstance(site, Circuit):
            if site.name in names:
                raise NoticeError(
                    f"Two circuits are called {site.name!r}. Give each circuit a name of its own."
                )
            names.add(site.name)
    for one in flatten_sites(sites):
        _check_site(model, one)


def _check_site(model: VLM, site: Site) -> None:
    _check_module(model, site)
    known = ("each", "all", *ROLES, *(_IN_IMAGE + region for region in REGIONS))
    if isinstance(site.position, str) and site.position not in known:
        raise NoticeError(f"{site}: a position is an index or one of {', '.join(known)}.")
    if site.region and model.grid == 0:
        raise NoticeError(
            f"{site}: {model} does not turn every image into the same square of tokens, so its "
            'regions are unknown. Use position="image", which is all of the image.'
        )


def _check_module(model: VLM, site: Site | PlacedSite) -> None:
    """Refuse a component, layer or head that does not exist."""
    point = model.hook_point(site.component, site.layer)
    stack = model.stack_of(site.component)
    heads = model.stacks[stack].n_heads
    if site.head is not None and not point.per_head:
        why = getattr(model, "no_heads", "") if site.component.endswith("attention") else ""
        raise NoticeError(f"{site}: {why or f'the component {site.component!r} has no heads.'}")
    if site.head is not None and not 0 <= site.head < heads:
        raise NoticeError(f"{site}: the {stack} stack has the heads 0 to {heads - 1}.")


def check_placed(
    model: VLM, base: Inputs, answer: AnswerTokens, interventions: Iterable[Intervention]
) -> None:
    """Refuse interventions that a run has no place for.

    An engine writes wherever a site says; after one run's last token it would write into another.

    Raises:
        NoticeError: a component, layer, head or token does not exist; names the site.
    """
    # The tokens that both answers begin with are read by the last stack.
    prefix = 0 if "decoder" in model.stacks else len(answer.prefix)
    lengths = {
        "vision": len(_tower_roles(model)),
        "text": len(base) + prefix,
        "decoder": len(_decoder_roles(answer)),
    }
    for site in {site for intervention in interventions for site in intervention.sites}:
        _check_module(model, site)
        stack = model.stack_of(site.component)
        if not (site.positions and set(site.positions) <= set(range(lengths[stack]))):
            raise _no_such_token(site, stack, lengths[stack])


def _no_such_token(site: Site | PlacedSite, stack: str, length: int) -> NoticeError:
    return NoticeError(
        f"{site}: the {stack} stack has {length} tokens in this run, so a position is an index "
        f"from 0 to {length - 1}."
    )


def stack_roles(model: VLM, inputs: Inputs, spans: OptionSpans, answer: AnswerTokens) -> Roles:
    """The role of each token of each stack in a run.

    Args:
        spans: where the options stand in the prompt.
    """
    roles = {
        "vision": _tower_roles(model),
        "text": model.roles(inputs, spans),
        "decoder": _decoder_roles(answer),
    }
    return {name: roles[name] for name in model.stacks}


def _tower_roles(model: VLM) -> tuple[str, ...]:
    return ("class",) * model.class_tokens + ("image",) * model.grid**2


def _decoder_roles(answer: AnswerTokens) -> tuple[str, ...]:
    """BLIP's decoder reads a start token and the tokens that both answers begin with."""
    return ("start",) * len(answer.prefix) + ("last",)


def place(
    model: VLM,
    sites: Iterable[Site | Circuit],
    roles: Roles,
    regions: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Intervention]:
    """The interventions of one pair, one for each patched run.

    Args:
        roles: the roles of each stack's tokens, from `stack_roles`.
        regions: for each of `REGIONS` that is known, its image patches (counted from 0, row by
            row).

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
    here = roles[stack]
    return [
        PlacedSite(site.component, site.layer, site.head, positions, _role(site, here, positions))
        for positions in _positions(site, stack, here, regions or {}, model.grid)
    ]


def _role(site: Site, roles: tuple[str, ...], positions: tuple[int, ...]) -> str:
    """The role that all the tokens share; otherwise what the site calls them."""
    mixed = len({roles[i] for i in positions}) > 1 or site.region
    return str(site.position) if mixed else roles[positions[0]]


def _positions(
    site: Site, stack: str, roles: tuple[str, ...], regions, grid: int
) -> list[tuple[int, ...]]:
    position = site.position
    if not isinstance(position, str):
        if not 0 <= position < len(roles):
            raise _no_such_token(site, stack, len(roles))
        return [(position,)]
    if position == "all":
        return [tuple(range(len(roles)))]
    image = [i for i, role in enumerate(roles) if role == "image"]
    if position == "each":
        return [(i,) for i, role in enumerate(roles) if stack == "vision" or role != "image"]
    if site.region:
        if image and (len(image) != grid**2 or image[-1] - image[0] >= len(image)):
            raise NoticeError(
                f"{site}: this image's {len(image)} tokens are not one block of {grid} x {grid}, "
                'so its regions are unknown. Use position="image", which is all of the image.'
            )
        found = tuple(image[at] for at in regions.get(site.region, ()) if at < len(image))
        if not found:
            raise NoticeError(
                f"{site}: the pair has no mask that reaches tokens of the {stack} stack."
            )
        return [found]
    found = tuple(i for i, role in enumerate(roles) if role == position)
    if not found:
        raise NoticeError(
            f"{site}: no token of the {stack} stack has that role; its roles are "
            f"{', '.join(dict.fromkeys(roles))}."
        )
    return [found]
