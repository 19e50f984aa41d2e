"""The clock of a search: races, times per operator, and what time it is.

A seam, so that a test can hand in made-up times and see that equal times give an equal pick.

Left out: anything about quality; outputs always come from the real artifact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from burnish.bench import Race, race
from burnish.bundle import Artifact, OpTime
from burnish.errors import RuntimeFailed
from burnish.goal import Inputs
from burnish.graph import Traced
from burnish.profile import Preflight, Profile, preflight, profile
from burnish.runtimes import load

Arrays = Mapping[str, np.ndarray[Any, Any]]
Told = Callable[[str], None]


@dataclass(frozen=True)
class Terms:
    """How a race is run: how long, at which confidence, from which seed, on which batch.

    `threads` is for a preflight and a profile, which run on one number of them.
    """

    seconds: float
    confidence: float
    seed: int
    batch: int
    threads: int | None = None


class Bench(Protocol):
    """What a search asks of time."""

    def race(
        self,
        artifacts: Mapping[str, Artifact],
        inputs: Arrays,
        terms: Terms,
        progress: Callable[[float], None],
    ) -> Race:
        """Race artifacts on the same inputs."""
        ...

    def op_times(self, artifact: Artifact, inputs: Arrays) -> tuple[OpTime, ...]:
        """The runtime's own time per operator."""
        ...

    def preflight(
        self, model: Traced, inputs: Inputs, terms: Terms, runtimes: Sequence[str], told: Told
    ) -> Preflight | None:
        """What is worth trying; None where nobody can tell."""
        ...

    def profile(
        self, model: Traced, inputs: Inputs, terms: Terms, runtime: str, told: Told
    ) -> Profile | None:
        """Where a float model's time goes in a runtime; None where nobody can tell."""
        ...

    def now(self) -> float:
        """Seconds on a clock that only goes forward."""
        ...


@dataclass(frozen=True)
class RealBench:
    """Child processes and the machine's clock."""

    timeout: float = 120.0

    def race(
        self,
        artifacts: Mapping[str, Artifact],
        inputs: Arrays,
        terms: Terms,
        progress: Callable[[float], None],
    ) -> Race:
        """See `burnish.bench.race`."""
        return race(
            artifacts,
            inputs,
            seconds=terms.seconds,
            confidence=terms.confidence,
            seed=terms.seed,
            batch=terms.batch,
            progress=progress,
            timeout=self.timeout,
        )

    def op_times(self, artifact: Artifact, inputs: Arrays) -> tuple[OpTime, ...]:
        """From a worker of its own."""
        with load(artifact) as worker:
            return worker.op_times(inputs, repeats=20)

    def preflight(
        self, model: Traced, inputs: Inputs, terms: Terms, runtimes: Sequence[str], told: Told
    ) -> Preflight | None:
        """See `burnish.profile.preflight`; inductor is asked about where it will be tried."""
        known = [name for name in runtimes if name != "inductor"]
        try:
            return preflight(
                model,
                inputs,
                batch=terms.batch,
                threads=terms.threads,
                runtimes=known,
                compiling="inductor" in runtimes,
                seconds=terms.seconds,
                seed=terms.seed,
                progress=told,
            )
        except RuntimeFailed:
            return None

    def profile(
        self, model: Traced, inputs: Inputs, terms: Terms, runtime: str, told: Told
    ) -> Profile | None:
        """See `burnish.profile.profile`."""
        return profile(
            model,
            inputs,
            batch=terms.batch,
            threads=terms.threads,
            runtimes=(runtime,),
            seconds=terms.seconds,
            progress=told,
        )

    def now(self) -> float:
        """`time.monotonic`."""
        return time.monotonic()
