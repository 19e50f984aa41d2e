"""The integers onnxruntime computes are these: what is shipped is what was simulated.

With one exception, left out below: to 4 bits per channel, onnxruntime 1.31 takes quotients of 2^31
and beyond to the least integer; in all other cases to the largest.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper

from burnish.quantize import QSpec, quantize_tensor
from burnish.quantize._tensors.spec import Granularity
from tests.quantize.onnx_side import DTYPES, assert_same, stored

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint4", "int4")
FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
SPECIAL = (math.nan, math.inf, -math.inf, 3e38, -3e38, 1e10, -1e10, -0.0, 1e-45, 0.5, 1.5, 2.5)
SIZES: dict[Granularity, int | None] = {"tensor": None, "channel": None, "block": 4}


def _case(dtype: str, granularity: Granularity) -> tuple[np.ndarray, np.ndarray, np.ndarray, QSpec]:
    rng = np.random.default_rng(0)
    is_float = dtype in FLOAT8
    spec = QSpec(dtype, granularity, 1, SIZES[granularity], symmetric=is_float)
    shape = spec.scale_shape((6, 8))
    scale = np.asarray(rng.uniform(0.3, 2.0, size=shape), np.float32)
    ties = (rng.integers(-40, 40, size=(6, 8)) + 0.5) * np.resize(scale, (6, 8))
    x = np.where(rng.random((6, 8)) < 0.5, ties, rng.normal(size=(6, 8)) * 60).astype(np.float32)
    x.reshape(-1)[: len(SPECIAL)] = SPECIAL
    if dtype.endswith("int4") and granularity == "channel":
        x[x > 5e8] = 5e8
    top = 0 if is_float else 7
    return x, scale, np.asarray(rng.integers(0, top + 1, size=shape)).astype(DTYPES[dtype]), spec


@pytest.mark.parametrize(
    ("dtype", "granularity"),
    [(dtype, kind) for dtype in INTEGERS for kind in SIZES]
    + [(dtype, "tensor") for dtype in FLOAT8],
)
def test_onnxruntime_computes_the_same(dtype: str, granularity: Granularity) -> None:
    x, scale, zero, spec = _case(dtype, granularity)
    kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
    attributes: dict[str, Any] = {"axis": 1}
    if spec.block_size:
        attributes["block_size"] = spec.block_size
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
        ],
        "there and back",
        [helper.make_tensor_value_info("x", 1, x.shape)],
        [helper.make_tensor_value_info("y", 1, x.shape)],
        [
            helper.make_tensor("s", 1, scale.shape, scale.reshape(-1)),
            helper.make_tensor("z", kind, zero.shape, zero.reshape(-1).astype(np.float32)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (theirs,) = session.run(None, {"x": x})
    zeros = None if dtype in FLOAT8 else torch.from_numpy(zero.astype(np.int64))
    q = quantize_tensor(torch.from_numpy(x), torch.from_numpy(scale), zeros, spec)
    assert_same(q.dequantize().numpy(), theirs, (dtype, granularity))
    assert stored(q).dtype == zero.dtype
