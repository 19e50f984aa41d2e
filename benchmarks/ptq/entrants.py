"""Every file on every runtime that reads it: the artifacts that are raced.

A peer's file becomes an artifact by the float model's inputs and outputs, so that it is loaded, fed
and timed by the same worker as ours. An ONNX file runs on both runtimes; an OpenVINO file runs with
its float parts in float32, and in bfloat16 where the machine multiplies it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from models import Model

from burnish.bundle import Artifact, Options, Worker
from burnish.metrics import scores

CONVOLUTIONS = ("conv", "fusedconv", "nhwcfusedconv", "qlinearconv", "convinteger")
LINEARS = ("gemm", "matmul", "qgemm", "qlinearmatmul", "fusedgemm", "fusedmatmul", "matmulinteger")
OURS = "burnish"
FLOAT = "float32 model"


@dataclass(frozen=True)
class Entrant:
    """One file on one runtime."""

    label: str
    tool: str
    artifact: Artifact

    @property
    def runtime(self) -> str:
        return self.artifact.runtime

    @property
    def execution(self) -> str:
        return self.artifact.options.execution

    @property
    def int8(self) -> bool:
        return self.artifact.precision == "int8"


def entrants(
    reference: Artifact, files: Mapping[str, tuple[Path, ...]], threads: int, bfloat16: bool
) -> list[Entrant]:
    """All of them.

    Args:
        reference: the float32 ONNX artifact, whose inputs and outputs all files share.
        files: by name of the tool, the files it made.
        threads: of every artifact.
        bfloat16: whether OpenVINO is also tried with float parts in bfloat16.
    """
    found = []
    both = {FLOAT: (reference.folder / reference.files[0],), **files}
    for tool, paths in both.items():
        for path in paths:
            for runtime, execution in _ways(path, bfloat16):
                options = Options(threads=threads, execution=execution)
                artifact = _wrapped(reference, path, runtime, tool != FLOAT, options)
                label = f"{tool} ({path.suffix[1:]}), {runtime}"
                label += " bfloat16" if execution == "bfloat16" else ""
                found.append(Entrant(label, tool, artifact))
    return found


def _ways(path: Path, bfloat16: bool) -> list[tuple[str, str]]:
    executions = ["float32", *(["bfloat16"] if bfloat16 else [])]
    ways = [("openvino", execution) for execution in executions]
    return [("onnxruntime", "float32"), *ways] if path.suffix == ".onnx" else ways


def _wrapped(
    reference: Artifact, path: Path, runtime: str, int8: bool, options: Options
) -> Artifact:
    files = (path.name, path.with_suffix(".bin").name) if path.suffix == ".xml" else (path.name,)
    return Artifact(
        folder=path.parent,
        runtime=runtime,
        precision="int8" if int8 else "float32",
        files=files,
        inputs=reference.inputs,
        outputs=reference.outputs,
        options=options,
    )


@dataclass(frozen=True)
class Answers:
    """What an entrant answered, and what its runtime says it executed."""

    classes: list[int]
    scores: list[float]
    coverage: dict[str, list[int]]


def answers(entrant: Entrant, model: Model) -> Answers:
    """Class and score of every validation sample, and the operators executed in int8."""
    classes: list[int] = []
    values: list[float] = []
    names = [port.name for port in entrant.artifact.inputs]
    with Worker(entrant.artifact) as worker:
        for batch in model.validation:
            arrays = (tensor.contiguous().numpy() for tensor in batch.args)
            logits = worker.run(dict(zip(names, arrays, strict=True)))[0]
            classes += logits.argmax(1).tolist()
            values += scores(model.metric, logits, batch.target).tolist()
        one = {
            name: np.ascontiguousarray(tensor[:1].numpy())
            for name, tensor in zip(names, model.validation[0].args, strict=True)
        }
        kinds = [item.kind for item in worker.op_times(one, repeats=2)]
    return Answers(classes, values, coverage(kinds))


def coverage(kinds: Sequence[str]) -> dict[str, list[int]]:
    """[int8, all] of convolutions and of linear layers, from the runtime's names of its kernels.

    onnxruntime's names are operators ("QLinearConv"), OpenVINO's "Convolution:brgconv_…_I8".
    """
    counts = {"convolutions": [0, 0], "linears": [0, 0]}
    for kind in kinds:
        name, _, kernel = kind.lower().partition(":")
        if name in CONVOLUTIONS or "convolution" in name:
            row = counts["convolutions"]
        elif name in LINEARS or name.startswith("fullyconnected"):
            row = counts["linears"]
        else:
            continue
        row[1] += 1
        in_int8 = kernel.endswith(("_i8", "_u8")) if kernel else name.startswith("q")
        row[0] += in_int8 or name.endswith("integer")
    return counts
