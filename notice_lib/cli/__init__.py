"""The command line `notice`."""

from .main import app, main

__all__ = ["app", "main"]
