"""The paper's experiments on one model, and what they say of its claims."""

from .claims import gather_evidence, measure, paper_claims, verdict
from .experiments import read_tasks, reproduce

__all__ = [
    "gather_evidence",
    "measure",
    "paper_claims",
    "read_tasks",
    "reproduce",
    "verdict",
]
