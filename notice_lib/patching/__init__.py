"""Activation patching: sites, sweeps over pairs, and the paper's metrics."""

from .donors import DONORS, MatchedDonors
from .jobs import Job
from .knockout import Cut, cut_jobs, cut_logits, knockout
from .metrics import (
    METRICS,
    effect,
    effects,
    fraction_recovered,
    logit_difference,
    patched_probability,
    restoration_probability,
)
from .runs import answer_of, run_inputs
from .self_check import verify
from .shards import SHARD
from .sites import Circuit, Intervention, PlacedSite, Site, place, site_grid
from .store import read_sweep, write_sweep
from .sweeps import ablate, make_jobs, sweep
from .table import SCHEMA, Sweep

__all__ = [
    "DONORS",
    "METRICS",
    "SCHEMA",
    "SHARD",
    "Circuit",
    "Cut",
    "Intervention",
    "Job",
    "MatchedDonors",
    "PlacedSite",
    "Site",
    "Sweep",
    "ablate",
    "answer_of",
    "cut_jobs",
    "cut_logits",
    "effect",
    "effects",
    "fraction_recovered",
    "knockout",
    "logit_difference",
    "make_jobs",
    "patched_probability",
    "place",
    "read_sweep",
    "restoration_probability",
    "run_inputs",
    "site_grid",
    "sweep",
    "verify",
    "write_sweep",
]
