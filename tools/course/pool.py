"""The pairs that variants are drawn from, and what patches do to them: all references come from
here."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from notice_lib import Site, ablate, checkpoint_dir, heads, load_model, load_pairs, site_grid, sweep
from notice_lib.models import VLM
from notice_lib.pairs import PairSet
from notice_lib.patching import MatchedDonors, logit_difference

CHECKPOINTS = (
    "blip-mini", "seeds/1/blip-mini", "seeds/2/blip-mini",
    "llava-mini", "seeds/1/llava-mini", "seeds/2/llava-mini",
)  # fmt: skip
TASKS = ("svo", "states")
DONORS = 2
SCENES = 18
"""Scenes of a pool, before those that the model gets wrong are left out."""
SITE = ["layer", "head", "role"]
WHOLE = -1
"""The number of a head that stands for the whole component, as in the library's tables."""


@dataclass(frozen=True)
class Pool:
    """Some pairs of a task that a checkpoint answers correctly with both pictures.

    Its tables have one row a pair and site: L, of the patched run, and base and source, the same
    difference of logits in the runs that were patched and read. They are computed when needed.
    """

    checkpoint: str
    task: str
    seed: int

    @cached_property
    def model(self) -> VLM:
        return load_model(checkpoint_dir(self.checkpoint), "cpu")

    @cached_property
    def drawn(self) -> PairSet:
        return load_pairs(self.task).sample(SCENES, self.seed, by=["scene_id"])

    @cached_property
    def denoised(self) -> pd.DataFrame:
        return self._table(sweep(self.model, self.drawn, self.sites))

    @cached_property
    def pairs(self) -> PairSet:
        """The pairs whose expected option has the larger logit with either picture."""
        ends = self.denoised.groupby("pair_id")[["base", "source"]].first()
        right = set(ends.index[(ends["source"] > 0) & (ends["base"] < 0)])
        return self.drawn.filter(lambda pair: pair.pair_id in right)

    @cached_property
    def noised(self) -> pd.DataFrame:
        return self._table(sweep(self.model, self.pairs, self.sites, direction="noise"))

    @cached_property
    def zeroed(self) -> pd.DataFrame:
        return self._table(ablate(self.model, self.pairs, self.heads, to="zero"))

    @cached_property
    def donated(self) -> dict[str, pd.DataFrame]:
        """Means over donors in whose run the option is true ("clean") or false ("corrupt")."""
        found = {}
        for run in ("clean", "corrupt"):
            donor = MatchedDonors(run, load_pairs(self.task), DONORS)
            table = self._table(sweep(self.model, self.pairs, self.heads, donor=donor))
            found[run] = table.groupby(level=table.index.names).mean()
        return found

    @cached_property
    def attention(self) -> pd.DataFrame:
        """By pair, layer and head: share, of the head's attention to the picture on the patches
        that differ; excess, the same minus the average head's; and area, of these patches."""
        maps = heads.attention_maps(self.model, self.pairs, self.model.effect_role)
        found = heads.head_overlap(maps, {"differs": heads.regions(maps)["differs"]})
        return found.set_index(["pair_id", "layer", "head"])[["share", "excess", "area"]]

    @property
    def roles(self) -> list[str]:
        """The roles of tokens at which variants patch."""
        return list(dict.fromkeys(["correct", "incorrect", "or", self.model.effect_role]))

    @property
    def heads(self) -> list[Site]:
        """All heads at the token where the paper patches them."""
        role = self.model.effect_role
        return site_grid(self.model, [self.model.image_component], per_head=True, position=role)

    @property
    def sites(self) -> list[Site]:
        """All heads, and their components as a whole, at every role of `roles`."""
        return [
            site
            for role in self.roles
            for per_head in (True, False)
            for site in site_grid(
                self.model, [self.model.image_component], per_head=per_head, position=role
            )
        ]

    @staticmethod
    def _table(found) -> pd.DataFrame:
        table = found.table()
        differences = {
            name: logit_difference(table, run)
            for name, run in (("L", ""), ("base", "base"), ("source", "source"))
        }
        keys = table[["pair_id", *SITE]].astype({"pair_id": str, "role": str})
        return keys.assign(**differences).set_index(["pair_id", *SITE]).sort_index()
