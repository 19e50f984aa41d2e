"""Workers that stay loaded: asked for their kernels first, then raced.

`bench.race` starts a worker for each artifact. A probe has several questions to the same artifacts,
and torch takes seconds to load; so it loads them itself, while the next ones are still exported,
and lends them to the race. What fails (refused, crashed, hung) is out, with its reason, and the
others go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from burnish import runtimes
from burnish.bench import Race, race
from burnish.errors import BurnishError, RuntimeFailed
from burnish.runtimes import Artifact

_AT_ONCE = 2
_CONFIDENCE = 0.95
_ANOTHER = 0.5  # an answer as far off as this is another answer


class Workers:
    """A worker for each artifact, by label; a context manager. `reasons` tells who is out.

    Each is loaded in the background as soon as `artifacts` has given it, and made ready for
    `inputs`, where there are any: what compiles for their sizes does it then.
    """

    def __init__(
        self,
        artifacts: Iterable[tuple[str, Artifact]],
        inputs: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        self.reasons: dict[str, str] = {}
        self._inputs = inputs
        self._artifacts: dict[str, Artifact] = {}
        self._workers: dict[str, Any] = {}
        loading = []
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for label, artifact in artifacts:
                    self._artifacts[label] = artifact
                    loading.append(pool.submit(self._load, label))
            for one in loading:
                one.result()
        except BaseException:
            self.close()
            raise

    def load(self, label: str, artifact: Artifact) -> None:
        """One more, now."""
        self._artifacts[label] = artifact
        self._load(label)

    def _load(self, label: str) -> None:
        try:
            worker = self._workers[label] = runtimes.load(self._artifacts[label])
            if self._inputs is not None:
                worker.prepare(self._inputs)
        except BurnishError as error:
            self._put_out(label, error)

    @property
    def labels(self) -> list[str]:
        """Those that are still running, in the artifacts' order."""
        return [label for label in self._artifacts if label in self._workers]

    def worker(self, label: str) -> Any:
        """The worker itself, of one that is still running."""
        return self._workers[label]

    def error(self, label: str, inputs: Mapping[str, Any], expected: np.ndarray[Any, Any]) -> float:
        """How far an answer is from what is expected: root of the mean squared error, relative.

        One that answers something else altogether is out, as one that fails. NaN for those.
        """
        try:
            (found,) = self._workers[label].run(inputs)
            if found.shape != expected.shape:
                raise RuntimeFailed(
                    f"it answers wrongly: an output of shape {list(found.shape)} where "
                    f"{list(expected.shape)} is right"
                )
            error = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
            if not error <= _ANOTHER:
                raise RuntimeFailed(f"it answers wrongly: off by {error:.0%} of the output")
        except RuntimeFailed as failure:
            self._put_out(label, failure)
            return math.nan
        return error

    def kinds(self, label: str, inputs: Mapping[str, Any]) -> tuple[str, ...]:
        """The kind of each kernel of a run; empty where it failed."""
        try:
            times = self._workers[label].op_times(inputs, repeats=1)
        except RuntimeFailed as failure:
            self._put_out(label, failure)
            return ()
        return tuple(item.kind for item in times)

    def seconds(self, label: str, inputs: Mapping[str, Any]) -> float | None:
        """The better of two runs after one; None where it failed."""
        try:
            return float(self._workers[label].time(inputs, repeats=2, warmup=1).min())
        except RuntimeFailed as failure:
            self._put_out(label, failure)
            return None

    def race(
        self,
        labels: Sequence[str],
        inputs: Mapping[str, Any],
        seconds: float,
        told: Callable[[float], None],
    ) -> Race:
        """Those called so, in turns, on the same inputs; without any, a race of nobody."""
        if not labels:
            return Race((), {}, _CONFIDENCE)
        field = {label: self._artifacts[label] for label in labels}
        return race(
            field,
            inputs,
            seconds=seconds,
            confidence=_CONFIDENCE,
            progress=told,
            workers=self._workers,
        )

    def close(self) -> None:
        """End every worker. Safe to call twice."""
        for worker in self._workers.values():
            worker.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put_out(self, label: str, failure: BurnishError) -> None:
        if label in self._workers:
            self._workers.pop(label).close()
        self.reasons[label] = self._words(label, failure)

    def _words(self, label: str, error: BurnishError) -> str:
        """The first line, without the folder, which nobody will find again."""
        return str(error).splitlines()[0].replace(f"{self._artifacts[label].folder}/", "")
