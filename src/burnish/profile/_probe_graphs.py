"""The tiny graphs a probe runs: chains of linear layers, in each type, for each runtime.

A chain, so that what stands at its ends (copies, conversions, quantizing the input) is spread over
several products. Its weights are constants, as a model's are, so that a runtime may lay them out as
it likes. The int8 graph quantizes as `quantize` does: uint8 activations with zero point 128, int8
weights with a scale for each output channel, int32 biases. Weights are drawn so that values keep
their spread along the chain: no denormals, nothing saturated.

onnxruntime gets a bfloat16 graph that Burnish itself would not export: whether it has kernels for
it is asked of the runtime, not of a table.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from burnish.errors import BurnishError
from burnish.graph import DEQUANTIZE, PER_TENSOR, QUANTIZE, Traced, trace
from burnish.profile._probe import DTYPES
from burnish.runtimes import Artifact, available, export

RUNTIMES = ("eager", "onnxruntime", "openvino")  # inductor calls the kernels eager calls
WIDTH, DEPTH = 1024, 4
FEW_ROWS = 16
_ZERO_POINT = 128


@dataclass(frozen=True)
class Subject:
    """What is asked of one runtime in one type: its artifact, or why there is none.

    `expected` is what torch gives for `matrix(FEW_ROWS)`.
    """

    runtime: str
    dtype: str
    artifact: Artifact | None
    expected: np.ndarray[Any, Any]
    reason: str | None = None

    @property
    def label(self) -> str:
        return f"{self.runtime} {self.dtype}"


def macs(rows: int) -> int:
    """Multiply-accumulates of a run of the matrix chain."""
    return rows * DEPTH * WIDTH * WIDTH


def matrix(rows: int, width: int = WIDTH) -> dict[str, np.ndarray[Any, Any]]:
    """What a chain reads: float32 [rows, width], standard normal."""
    drawn = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)
    return {"x": drawn}


class _Chain(nn.Module):
    """Linear layers one after another, computed in one float type."""

    def __init__(self, width: int, depth: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.0, 1 / math.sqrt(width), generator=generator)
        self.to(dtype)
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        converted = self.dtype != torch.float32
        x = x.to(self.dtype) if converted else x
        for layer in self.layers:
            x = layer(x)
        return x.float() if converted else x


class _Int8Chain(nn.Module):
    """The same with quantizers before each layer and int8 weights."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.depth = depth
        self.register_buffer("scale", torch.tensor(4 / 128))
        self.register_buffer("zero", torch.tensor(_ZERO_POINT, dtype=torch.uint8))
        # Integers spread evenly over [-127, 127] have a standard deviation of 73.
        steps = torch.full((width,), 1 / (73 * math.sqrt(width)))
        self.register_buffer("weight_scale", steps)
        self.register_buffer("weight_zero", torch.zeros(width, dtype=torch.int8))
        self.register_buffer("bias_scale", steps * 4 / 128)
        self.register_buffer("bias_zero", torch.zeros(width, dtype=torch.int32))
        for index in range(depth):
            drawn = torch.randint(-127, 128, (width, width), generator=generator)
            self.register_buffer(f"weight{index}", drawn.to(torch.int8))
            self.register_buffer(f"bias{index}", torch.ones(width, dtype=torch.int32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in range(self.depth):
            quantized = QUANTIZE(x, self.scale, self.zero, PER_TENSOR)
            real = DEQUANTIZE(quantized, self.scale, self.zero, PER_TENSOR)
            weight, bias = getattr(self, f"weight{index}"), getattr(self, f"bias{index}")
            x = F.linear(
                real,
                DEQUANTIZE(weight, self.weight_scale, self.weight_zero, 0),
                DEQUANTIZE(bias, self.bias_scale, self.bias_zero, 0),
            )
        return x


def matrix_chain(dtype: str, width: int = WIDTH, depth: int = DEPTH) -> Traced:
    """A chain in "float32", "bfloat16" or "int8": float32 [batch, width] in and out."""
    model: nn.Module
    if dtype == "int8":
        model = _Int8Chain(width, depth)
    else:
        model = _Chain(width, depth, getattr(torch, dtype))
    return trace(model, (torch.zeros(2, width),))


def subjects(folder: Path, threads: int) -> Iterator[Subject]:
    """Every runtime in every type, float32 first: exported into `folder`, or with the reason."""
    missing = available()
    graphs = {dtype: matrix_chain(dtype) for dtype in DTYPES}
    few = torch.from_numpy(matrix(FEW_ROWS)["x"])
    with torch.inference_mode():
        expected = {dtype: np.asarray(graph(few)) for dtype, graph in graphs.items()}
    for runtime in RUNTIMES:
        floats: Artifact | None = None
        for dtype in DTYPES:
            reason = missing[runtime]
            if reason is not None:
                yield Subject(runtime, dtype, None, expected[dtype], reason)
                continue
            where = folder / f"{runtime}-{dtype}"
            try:
                artifact = _exported(runtime, dtype, graphs, floats, where)
            except BurnishError as error:
                yield Subject(runtime, dtype, None, expected[dtype], str(error))
                continue
            floats = artifact if dtype == "float32" else floats
            yield Subject(runtime, dtype, artifact.with_options(threads=threads), expected[dtype])


def _exported(
    runtime: str, dtype: str, graphs: Mapping[str, Traced], floats: Artifact | None, folder: Path
) -> Artifact:
    if dtype == "bfloat16" and floats is not None:
        if runtime == "openvino":
            return floats.with_options(execution="bfloat16")
        if runtime == "onnxruntime":
            return _in_bfloat16(floats, folder)
    return export(graphs[dtype], runtime, folder, precision=dtype)


def _in_bfloat16(floats: Artifact, folder: Path) -> Artifact:
    """An ONNX file's chain with bfloat16 weights, between two casts."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shutil.copytree(floats.folder, folder)
    model = onnx.load(str(folder / floats.files[0]))
    graph = model.graph
    del graph.value_info[:]  # the types in between
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            bits = numpy_helper.to_array(tensor).view(np.uint32) + np.uint32(1 << 15)
            tensor.CopyFrom(
                helper.make_tensor(
                    tensor.name,
                    TensorProto.BFLOAT16,
                    tensor.dims,
                    (bits >> 16).astype("<u2").tobytes(),
                    raw=True,
                )
            )
    first, last = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.input[:] = ["narrowed" if name == first else name for name in node.input]
        node.output[:] = ["narrow" if name == last else name for name in node.output]
    graph.node.insert(0, helper.make_node("Cast", [first], ["narrowed"], to=TensorProto.BFLOAT16))
    graph.node.append(helper.make_node("Cast", ["narrow"], [last], to=TensorProto.FLOAT))
    onnx.save(model, str(folder / floats.files[0]))
    return replace(floats, folder=folder, precision="bfloat16")
