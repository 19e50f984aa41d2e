"""The tools and methods that are compared, and what their files answer.

A file is loaded and run by the same worker as any artifact of ours. A sample's scores: whether its
top class is right, whether it is the float model's, and how far its distribution over the classes
is from the float model's, Σ p log(p / q), which tells roundings apart long before a class changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from models import Model
from numpy.typing import NDArray
from ptq.tools import ToolFailed, Tools

from burnish.bundle import Artifact, Worker
from burnish.metrics import scores

METHODS = {
    "burnish": ("nearest", "hqq", "gptq"),
    "onnxruntime": ("nearest", "hqq", "gptq"),
    "nncf": ("nearest", "gptq"),
}
Logits = NDArray[np.float32]
Watch = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Entry:
    """One file on one runtime."""

    tool: str
    method: str
    runtime: str
    path: Path

    @property
    def label(self) -> str:
        return f"{self.tool} {self.method} on {self.runtime}"


def quantize_all(
    tools: Tools, watch: Watch
) -> tuple[list[Entry], dict[str, dict[str, Any]], dict[str, str]]:
    """Every tool with every method once: the files, what each handed back, and the failures."""
    entries, done, failed = [], {}, {}
    pairs = [(tool, method) for tool, methods in METHODS.items() for method in methods]
    for tool, method in watch(pairs, "quantizing"):
        name, out = f"{tool} {method}", tools.work / f"{tool}-{method}"
        try:
            done[name] = tools.run(f"{tool}_weights", out, METHOD=method)
        except ToolFailed as error:
            failed[name] = str(error)
            continue
        for runtime, file in done[name]["settings"]["files"].items():
            entries.append(Entry(tool, method, runtime, out / file))
    return entries, done, failed


def seconds_by_turns(
    tools: Tools, names: Sequence[str], repeats: int, watch: Watch
) -> dict[str, list[float]]:
    """Seconds of "quantize" in fresh processes, the tools taking turns, whose order turns round."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for index in watch(range(repeats), "quantizing, by turns"):
        for name in list(names)[:: 1 if index % 2 else -1]:
            tool, _, method = name.partition(" ")
            out = tools.work / f"again-{tool}-{method}"
            done = tools.run(f"{tool}_weights", out, METHOD=method, EXPORT="0")
            found[name].append(done["seconds"]["quantize"])
    return found


def artifact(reference: Artifact, entry: Entry) -> Artifact:
    """A file with the inputs and outputs of the float model."""
    path = entry.path
    files = (path.name, path.with_suffix(".bin").name) if path.suffix == ".xml" else (path.name,)
    return replace(
        reference, folder=path.parent, runtime=entry.runtime, precision="int4-weights", files=files
    )


def logits(made: Artifact, model: Model, watch: Watch, title: str) -> Logits:
    """float32 [n, classes] of the validation data."""
    names = [port.name for port in made.inputs]
    found = []
    with Worker(made) as worker:
        for batch in watch(model.validation, title):
            arrays = (tensor.contiguous().numpy() for tensor in batch.args)
            found.append(worker.run(dict(zip(names, arrays, strict=True)))[0])
    return np.concatenate(found)


def judged(found: Logits, whole: Logits, model: Model) -> dict[str, NDArray[np.float64]]:
    """Three scores of each sample; of "closeness", minus the divergence, more is better, too."""
    target = np.concatenate([batch.target.numpy() for batch in model.validation])
    p, q = (_log_softmax(values.astype(np.float64)) for values in (whole, found))
    return {
        "top1": np.asarray(scores(model.metric, found, target), np.float64),
        "agreement": (found.argmax(1) == whole.argmax(1)).astype(np.float64),
        "closeness": -(np.exp(p) * (p - q)).sum(1),
    }


def _log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = values - values.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
