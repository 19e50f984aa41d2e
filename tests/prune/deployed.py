"""A pruned graph in both runtimes, as it is and in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from burnish.graph import Traced
from burnish.quantize import quantize_static
from burnish.runtimes import available, export, load
from burnish.testing import Tiny


def runs_and_quantizes(small: Traced, tiny: Tiny, folder: Path) -> None:
    """What each artifact answers is what its graph answers: 1e-4 in float32, a tenth in int8."""
    inputs = tiny.inputs(3, seed=5)
    quantized = quantize_static(small, [tiny.inputs(4, seed=seed).args for seed in range(2)])
    for graph, precision in ((small, "float32"), (quantized, "int8")):
        assert isinstance(graph, Traced)
        for runtime in ("onnxruntime", "openvino"):
            if runtime not in available():
                continue
            path = folder / f"{precision}-{runtime}"
            artifact = export(graph, runtime, path, precision=precision)
            (port,) = artifact.inputs
            with load(artifact) as worker:
                (found,) = worker.run({port.name: inputs.args[0].numpy()})
            expected = tiny.call(graph, inputs).numpy()
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert error < (1e-4 if precision == "float32" else 0.1)
