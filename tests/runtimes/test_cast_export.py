"""Cast graphs as artifacts: what each runtime's file holds, computes and refuses."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from burnish.errors import Unsupported
from burnish.graph import Traced, flatten, flatten_call, trace
from burnish.quantize import Cast, cast
from burnish.runtimes import export, load
from burnish.testing import Tiny, catalogue
from tests import once

FEW = ("separable", "encoder", "gru")
TINIES = [
    pytest.param(tiny, id=tiny.name, marks=() if tiny.name in FEW else pytest.mark.slow)
    for tiny in catalogue()
]
FILES = [
    ("onnxruntime", "float16", "float16"),
    ("openvino", "float16", "float16"),
    ("openvino", "bfloat16", "bfloat16-weights"),
]


@functools.cache
def cast_tiny(tiny: Tiny, dtype: str) -> Traced:
    inputs = [tiny.inputs(4, seed=seed) for seed in range(2)]
    calls = [flatten_call(call.args, call.kwargs) for call in inputs]
    step, plain = Cast(dtype), once.folded(tiny)
    result = step.rewrite(plain, step.choose_from(plain, calls))
    assert isinstance(result, Traced)
    return result


def check(tiny: Tiny, runtime: str, dtype: str, precision: str, folder: Path) -> None:
    """The artifact answers like the float model, to a few of the type's epsilons."""
    inputs = tiny.inputs(3, seed=9)
    tensors = flatten_call(inputs.args, inputs.kwargs)
    slots = once.folded(tiny).inputs
    arrays = {slot.name: t.numpy() for slot, t in zip(slots, tensors, strict=True)}
    artifact = export(cast_tiny(tiny, dtype), runtime, folder, precision=precision)
    assert (artifact.precision, artifact.options.execution) == (precision, "float32")
    with load(artifact) as worker:
        given = worker.run(arrays)
    bound = 3 * torch.finfo(getattr(torch, dtype)).eps
    for mine, wanted in zip(given, flatten(tiny.call(once.folded(tiny), inputs))[0], strict=True):
        assert mine.dtype == np.float32
        assert np.abs(mine - wanted.numpy()).max() < bound * float(wanted.abs().max())


@pytest.mark.parametrize(("runtime", "dtype", "precision"), FILES)
@pytest.mark.parametrize("tiny", TINIES)
def test_answers_like_the_float_model(tiny, runtime, dtype, precision, tmp_path: Path) -> None:
    check(tiny, runtime, dtype, precision, tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_eager_computes_in_the_type(dtype: str, tmp_path: Path) -> None:
    tiny = next(tiny for tiny in catalogue() if tiny.name == "residual")
    check(tiny, "eager", dtype, dtype, tmp_path)


@pytest.fixture(scope="module")
def wide() -> tuple[Traced, Traced, Traced]:
    """A layer large enough to be nearly all of its file: in float32, float16 and bfloat16."""
    model, data = nn.Sequential(nn.Linear(256, 256)).eval(), [torch.randn(4, 256)]
    half, brain = (cast(model, dtype, data) for dtype in ("float16", "bfloat16"))
    return trace(model, (torch.randn(2, 256),)), half, brain


def test_files_are_half_as_large(wide, tmp_path: Path) -> None:
    plain, half, brain = wide
    for runtime, graph, precision in (
        ("onnxruntime", half, "float16"),
        ("openvino", half, "float16"),
        ("openvino", brain, "bfloat16-weights"),
        ("eager", brain, "bfloat16"),
    ):
        size = export(graph, runtime, tmp_path / precision / runtime, precision=precision)
        full = export(plain, runtime, tmp_path / "plain" / runtime)
        assert size.size_bytes() < 0.55 * full.size_bytes(), (runtime, precision)


def test_openvino_computes_cast_graphs_in_its_execution_type(wide, tmp_path: Path) -> None:
    """Weights of either type are widened; nothing computes in bfloat16 unless the hint says so."""
    for graph, precision in ((wide[1], "float16"), (wide[2], "bfloat16-weights")):
        artifact = export(graph, "openvino", tmp_path / precision, precision=precision)
        with load(artifact) as worker:
            times = worker.op_times({"input": np.zeros((2, 256), np.float32)}, repeats=1)
        assert not [op for op in times if "bf16" in op.kind or "f16" in op.kind]


def test_precisions_that_contradict_the_graph_are_refused(wide, tmp_path: Path) -> None:
    plain, half, brain = wide
    with pytest.raises(Unsupported, match=r"float16 artifact of a float graph.*Cast\('float16'\)"):
        export(plain, "onnxruntime", tmp_path, precision="float16")
    with pytest.raises(Unsupported, match=r"float32 artifact of a float16 graph: ask for 'float16"):
        export(half, "eager", tmp_path)
    with pytest.raises(Unsupported, match=r"bfloat16 graph: ask for 'bfloat16-weights'"):
        export(brain, "openvino", tmp_path, precision="bfloat16")
    with pytest.raises(Unsupported, match=r"bfloat16 artifact of a float graph.*Cast"):
        export(plain, "eager", tmp_path, precision="bfloat16")
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_refuses_bfloat16_and_names_kernels_and_layers(wide, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"onnxruntime .* no bfloat16 kernel .*Gemm.* 0:linear"):
        export(wide[2], "onnxruntime", tmp_path, precision="bfloat16")
    assert list(tmp_path.iterdir()) == []
