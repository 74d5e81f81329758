"""Run the paper's experiments on one model and decide the paper's claims about it."""

from .claims import important_heads, measure, paper_claims
from .evidence import gather_evidence
from .experiments import read_tasks, reproduce

__all__ = [
    "gather_evidence",
    "important_heads",
    "measure",
    "paper_claims",
    "read_tasks",
    "reproduce",
]
