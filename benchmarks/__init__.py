"""Measure speed and memory against the published scheme and other libraries. See README.md."""
