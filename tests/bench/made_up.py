"""Made-up machines, whose times drift and spike, and artifacts that need no runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from burnish.bundle import Artifact, Port

Array = np.ndarray[Any, Any]
INPUTS: dict[str, Array] = {"x": np.zeros((1, 2), np.float32)}


def artifact(folder: Path, name: str) -> Artifact:
    """An artifact whose file is `name`; nothing can load it."""
    (folder / name).write_bytes(b"0123456789")
    ports = (Port("x", "float32", ("batch", 2)),), (Port("y", "float32", ("batch",)),)
    return Artifact(folder, "onnxruntime", "float32", (name,), *ports)


class NoisyMachine:
    """A clock on a busy machine: speed drifts as a random walk, one run in twenty is a spike."""

    def __init__(self, seconds: Mapping[str, float], seed: int = 0) -> None:
        self.seconds = seconds
        self.random = np.random.default_rng(seed)
        self.drift = 0.0
        self.calls: list[tuple[str, int]] = []

    def __call__(self, artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        name = artifact.files[0]
        self.calls.append((name, runs))
        self.drift += 0.02 * self.random.standard_normal()
        noise = np.exp(0.05 * self.random.standard_t(3, runs) + self.drift)
        spikes = np.where(self.random.random(runs) < 0.05, 1 + self.random.pareto(1.0, runs), 1.0)
        times: Array = self.seconds[name] * noise * spikes
        return times


def round_medians(
    ratio: float, rounds: int, random: np.random.Generator, noise: Callable[[int], Array]
) -> tuple[Array, Array]:
    """Medians of two artifacts over rounds of one drifting machine; a is `ratio` times b."""
    drift = np.cumsum(0.05 * random.standard_normal(rounds))
    level = np.where(np.arange(rounds) > rounds * random.random(), 1.6, 1.0)
    shared = np.exp(drift) * level
    return ratio * shared * noise(rounds), shared * noise(rounds)
