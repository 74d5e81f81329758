"""Activation patching: sites, sweeps over pairs, and the paper's metrics."""

from .metrics import (
    METRICS,
    answer_gap,
    effects,
    logit_difference,
    normalised_effect,
    patched_probability,
    restoration_probability,
)
from .runs import run_inputs
from .self_check import verify
from .sites import Circuit, Patch, PlacedSite, Site, place, site_grid
from .store import read_sweep, write_sweep
from .sweeps import ablate, sweep
from .table import SCHEMA, Sweep

__all__ = [
    "METRICS",
    "SCHEMA",
    "Circuit",
    "Patch",
    "PlacedSite",
    "Site",
    "Sweep",
    "ablate",
    "answer_gap",
    "effects",
    "logit_difference",
    "normalised_effect",
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
