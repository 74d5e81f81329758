"""The paper's experiments on one model, and what they say of its claims."""

from .experiments import read_tasks, reproduce

__all__ = ["read_tasks", "reproduce"]
