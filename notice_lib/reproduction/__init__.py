"""Run the paper's experiments on one model and decide the paper's claims about it."""

from .claims import important_heads, measure, paper_claims
from .evidence import gather_evidence
from .experiments import read_tasks, reproduce
from .report import five_lines, read_verdicts, tally
from .stored import stored_run
from .tables import role_effects

__all__ = [
    "five_lines",
    "gather_evidence",
    "important_heads",
    "measure",
    "paper_claims",
    "read_tasks",
    "read_verdicts",
    "reproduce",
    "role_effects",
    "stored_run",
    "tally",
]
