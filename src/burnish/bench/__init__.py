"""Honest timing in child processes: races, sweeps over threads, and where they were run."""

from __future__ import annotations

from burnish.bench._environment import Environment
from burnish.bench._measure import measure, measurements, sweep
from burnish.bench._race import race
from burnish.bench._result import Race, Ratio, Timing

__all__ = [
    "Environment",
    "Race",
    "Ratio",
    "Timing",
    "measure",
    "measurements",
    "race",
    "sweep",
]
