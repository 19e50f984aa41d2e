"""Weights in blocks compute what was simulated, and stay compressed in the runtimes' memory.

Both are read off the runtimes: outputs of the artifact, kinds of the kernels that really ran, the
resident memory of the worker process beside that of the float file.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from burnish.bundle import OpTime
from burnish.errors import Unsupported
from burnish.graph import Traced, trace
from burnish.quantize import quantize_static, quantize_weights
from burnish.runtimes import attribute, export, load
from tests.quantize.weight_only import IDS, IMAGES, X40, Convolutional, Product, Tied, seeded

RUNTIMES = ("onnxruntime", "openvino")
COMPRESSED = {
    "onnxruntime": {"linear": "MatMulNBits", "embedding": "GatherBlockQuantized"},
    "openvino": {"linear": "FullyConnectedCompressed", "embedding": "GatherCompressed"},
}


@dataclass(frozen=True)
class Ran:
    """What an artifact gave, what ran, and the bytes of its file and of its process at most."""

    given: np.ndarray[Any, Any]
    operators: tuple[OpTime, ...]
    size: int
    memory: int

    def kinds(self, name: str) -> str:
        """The kinds of the kernels that compute an operator."""
        found = [op.kind for op in self.operators if attribute([op], [name]).seconds]
        return " ".join(found)


def ran(graph: Traced, runtime: str, x: torch.Tensor, precision: str) -> Ran:
    """Export, load in a process with one thread, run; memory is that before anything is counted."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(graph, runtime, Path(folder), precision=precision)
        with load(artifact.with_options(threads=1)) as worker:
            arrays = {graph.inputs[0].name: x.numpy()}
            given = np.array(worker.run(arrays)[0])
            memory = worker.memory_bytes()
            operators = worker.op_times(arrays, repeats=1)
        return Ran(given, operators, artifact.size_bytes(), memory)


def close(found: Ran, simulated: torch.Tensor) -> bool:
    """Float arithmetic on equal weights: sums in another order are all that differs."""
    wanted = simulated.numpy()
    return bool(np.abs(found.given - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max()))


_TIED = {"embed": "embedding", "head": "linear", "hidden": "linear"}
# Class, settings, example, and the operators that must run from codes: {module path: kind}.
MODELS: dict[str, Any] = {
    "broken_rows": (Tied, (40,), IDS, _TIED),
    "whole_rows": (Tied, (64,), IDS, _TIED),
    "product": (Product, (), X40, {"": "linear"}),
    "gru": (Convolutional, ("GRU",), IMAGES, {"last": "linear"}),
    "lstm": (Convolutional, ("LSTM",), IMAGES, {"last": "linear"}),
}
FEW = {
    *(("broken_rows", 4, False, runtime) for runtime in RUNTIMES),
    *(("product", 8, True, "onnxruntime"), ("gru", 8, True, "openvino")),
}
CASES = [
    pytest.param(
        MODELS[name],
        bits,
        symmetric,
        runtime,
        id=f"{name}-{bits}-{'symmetric' if symmetric else 'asymmetric'}-{runtime}",
        marks=() if (name, bits, symmetric, runtime) in FEW else pytest.mark.slow,
    )
    for name in MODELS
    for bits in (4, 8)
    for symmetric in (False, True)
    for runtime in RUNTIMES
]


@pytest.mark.parametrize(("case", "bits", "symmetric", "runtime"), CASES)
def test_computes_what_was_simulated_from_codes(
    case: Any, bits: int, symmetric: bool, runtime: str
) -> None:
    """Rows of whole blocks and of broken ones, tied tables, matrices turned, stored kernels."""
    make, settings, x, compressed = case
    graph = quantize_weights(
        seeded(make, *settings), x, runtime=runtime, bits=bits, symmetric=symmetric
    )
    found = ran(graph, runtime, x, f"int{bits}-weights")
    assert close(found, graph(x))
    for path, kind in compressed.items():
        name = f"{path}:{kind}" if path else "matmul"
        assert COMPRESSED[runtime][kind] in found.kinds(name), f"{name} runs as {found.kinds(name)}"


class Wide(nn.Module):
    """A table and four layers: 38 MB in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5000, 1024)
        self.layers = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(4))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.embed(ids)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


WIDE_IDS = torch.randint(0, 5000, (2, 8), generator=torch.Generator().manual_seed(0))
_FLOAT: dict[str, Ran] = {}


def in_float(runtime: str) -> Ran:
    """The float artifact of the wide model, run once for all tests."""
    if runtime not in _FLOAT:
        _FLOAT[runtime] = ran(trace(seeded(Wide), (WIDE_IDS,)), runtime, WIDE_IDS, "float32")
    return _FLOAT[runtime]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs resident memory")
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_weights_stay_compressed_in_memory(runtime: str, bits: int) -> None:
    """The worker's resident memory falls by what the weights fell by; nothing is unpacked whole.

    A quarter of that is left for what a runtime lays out anew for its kernels (onnxruntime's codes
    of 8 bits as two of 4, OpenVINO's beside those of the file).
    """
    graph = quantize_weights(seeded(Wide), WIDE_IDS, runtime=runtime, bits=bits)
    found, floats = ran(graph, runtime, WIDE_IDS, f"int{bits}-weights"), in_float(runtime)
    assert close(found, graph(WIDE_IDS))
    saved = floats.size - found.size
    assert saved > (0.68 if bits == 8 else 0.83) * floats.size
    fell = floats.memory - found.memory
    assert fell > 0.75 * saved, f"{fell / 1e6:.0f} MB less in memory, {saved / 1e6:.0f} in the file"


@pytest.mark.parametrize(
    "runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)]
)
def test_beside_static_quantization(runtime: str) -> None:
    """One layer computes on integers, another keeps its weights in blocks, in one file."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    x = torch.randn(16, 64)
    static = quantize_static(model, [x], runtime=runtime, exclude=("2",))
    graph = quantize_weights(static, x, runtime=runtime)
    found = ran(graph, runtime, x, "int8")
    simulated = graph(x)
    step = float(simulated.abs().max()) / 127
    assert np.abs(found.given - simulated.numpy()).max() < 2 * step
    assert COMPRESSED[runtime]["linear"] in found.kinds("2:linear")
    integers = ("QGemm", "QLinear", "_i8", "_u8", "MatMulIntegerToFloat")
    assert any(word in found.kinds("0:linear") for word in integers)


def test_precisions_are_called_by_what_the_graph_holds(tmp_path: Path) -> None:
    layer, x = nn.Linear(32, 4).eval(), torch.randn(3, 32)
    graph = quantize_weights(layer, x)
    with pytest.raises(Unsupported, match=r"int4-weights graph: ask for 'int4-weights'"):
        export(graph, "onnxruntime", tmp_path, precision="int8")
    with pytest.raises(Unsupported, match=r"float32 artifact of a int4-weights graph"):
        export(graph, "openvino", tmp_path)
    with pytest.raises(Unsupported, match="it has none for such a graph"):
        export(graph, "eager", tmp_path)
    with pytest.raises(Unsupported, match="int8-weights artifact of a float graph"):
        export(trace(layer, (x,)), "openvino", tmp_path, precision="int8-weights")
