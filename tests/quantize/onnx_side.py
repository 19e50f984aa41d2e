"""The ONNX side of the tests: arrays to and from tensors, and one node run by onnx.reference."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from burnish.quantize import QSpec, QTensor

OPSET = 25
DTYPES = {
    "int2": ml_dtypes.int2,
    "uint2": ml_dtypes.uint2,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "float4_e2m1": ml_dtypes.float4_e2m1fn,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def as_array(value: np.ndarray | np.generic | TensorProto) -> np.ndarray:
    """A test case's value as an array."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def name_of(array: np.ndarray) -> str:
    """The name of an array's dtype as a `QSpec` has it."""
    return NAMES[array.dtype]


def to_torch(array: np.ndarray) -> torch.Tensor:
    """A float or integer array as a tensor; what numpy holds in less than a byte as int8 or uint8.

    Eight-bit floats and float4 become their bit patterns.
    """
    name = name_of(array)
    array = np.array(array)  # a copy of its own: torch refuses what may not be written
    if name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if name.startswith(("int2", "int4")):
        return torch.from_numpy(array.astype(np.int8))
    if name.startswith(("uint2", "uint4")):
        return torch.from_numpy(array.astype(np.uint8))
    if name.startswith(("float8", "float4")):
        return torch.from_numpy(array.view(np.uint8))
    return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A float tensor as an array, bfloat16 too."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def stored(q: QTensor) -> np.ndarray:
    """What a tensor stores, in numpy's dtype for the format."""
    wanted = np.dtype(DTYPES[q.spec.dtype])
    values = q.int_repr().numpy()
    return values.astype(wanted) if q.spec.format.is_integer else values.view(wanted)


def zeros_of(array: np.ndarray | None) -> torch.Tensor | None:
    """A zero point as `quantize_tensor` takes it."""
    return None if array is None else to_torch(array)


def spec_of(dtype: str, scale: np.ndarray, attributes: dict[str, Any]) -> QSpec:
    """The spec that a QuantizeLinear or DequantizeLinear node's shapes and attributes describe."""
    known: dict[str, Any] = {"symmetric": dtype.startswith("float")}
    if "saturate" in attributes:
        known["saturate"] = bool(attributes["saturate"])
    if attributes.get("precision"):
        known["precision"] = name_of(
            np.empty(0, helper.tensor_dtype_to_np_dtype(attributes["precision"]))
        )
    axis = attributes.get("axis", 1)
    if attributes.get("block_size"):
        return QSpec(dtype, "block", axis, attributes["block_size"], **known)
    if scale.ndim == 0 or (scale.size == 1 and "axis" not in attributes):
        return QSpec(dtype, **known)
    return QSpec(dtype, "channel", axis, **known)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def reference(
    kind: str, inputs: list[np.ndarray | None], attributes: dict[str, Any]
) -> list[np.ndarray]:
    """The outputs of one node, by onnx.reference."""
    names = ["" if array is None else f"i{n}" for n, array in enumerate(inputs)]
    given = {n: array for n, array in zip(names, inputs, strict=True) if array is not None}
    outputs = ["y", "s", "z"] if kind == "DynamicQuantizeLinear" else ["y"]
    node = helper.make_node(kind, names, outputs, **attributes)
    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in given.items()
    ]
    results = [helper.make_tensor_value_info(name, 0, None) for name in outputs]
    graph = helper.make_graph([node], "one", infos, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what overflows there is the case's point
        return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, given)]


def assert_same(ours: np.ndarray, theirs: np.ndarray, what: object) -> None:
    """Equal in dtype, shape and bits; any NaN equals any NaN."""
    assert ours.dtype == theirs.dtype, what
    assert ours.shape == theirs.shape, what
    ours, theirs = np.ascontiguousarray(ours), np.ascontiguousarray(theirs)
    bits = f"V{ours.dtype.itemsize}"
    same = ours.view(bits) == theirs.view(bits)
    if not name_of(ours).startswith(("int", "uint")):
        wide = np.float32
        same = same | (np.isnan(ours.astype(wide)) & np.isnan(theirs.astype(wide)))
    assert bool(np.all(same)), (what, ours[~same][:5], theirs[~same][:5])
