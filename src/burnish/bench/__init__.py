"""Honest timing in child processes: races, sweeps, and where they were run. Loads no torch."""

from __future__ import annotations

from burnish.bench._environment import Environment
from burnish.bench._measure import measure, measurements
from burnish.bench._race import race
from burnish.bench._result import Race, Ratio, Timing
from burnish.bench._sweep import sweep
from burnish.bench._sweep_result import Point, Sweep

__all__ = [
    "Environment",
    "Point",
    "Race",
    "Ratio",
    "Sweep",
    "Timing",
    "measure",
    "measurements",
    "race",
    "sweep",
]
