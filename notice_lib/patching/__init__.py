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
from .sites import PlacedSite, Site, place, site_grid
from .sweep import SCHEMA, Sweep, run_inputs, sweep

__all__ = [
    "METRICS",
    "SCHEMA",
    "PlacedSite",
    "Site",
    "Sweep",
    "answer_gap",
    "effects",
    "logit_difference",
    "normalised_effect",
    "patched_probability",
    "place",
    "restoration_probability",
    "run_inputs",
    "site_grid",
    "sweep",
]
