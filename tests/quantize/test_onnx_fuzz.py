"""Random cases against onnx.reference: no difference in any bit.

Where the reference (onnx 1.23) leaves ONNX's text, the case is held to the text, by a rule stated
here: quotients that overflow the reference's int32, the precision of the division where x and the
scale differ in dtype (the reference follows the text once `precision` is spelled out), NaN to
float4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from burnish.quantize import QTensor, quantize_tensor, quantize_tensor_dynamic
from tests.quantize.onnx_side import (
    DTYPES,
    assert_same,
    name_of,
    reference,
    spec_of,
    stored,
    to_numpy,
    to_torch,
    zeros_of,
)

FLOATS = ("float32", "float16", "bfloat16")
STORED = tuple(name for name in DTYPES if name not in FLOATS)
QUANTIZED = tuple(name for name in STORED if name != "int32")
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 6e-8, 65504.0, 3.4e38, -3.4e38, 3e9)
COUNT = 3_000
MANY = 50_000


class Maker:
    """Random cases from one generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def layout(self) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, int]]:
        """A shape, its scale's shape, and the attributes that say so; often an axis from behind."""
        shape = tuple(int(n) for n in self.rng.integers(1, 7, size=self.rng.integers(0, 5)))
        if shape and self.rng.random() < 0.03:
            shape = (*shape[:-1], 0)
        kind = self.pick("tensor", "channel", "block") if shape else "tensor"
        if kind == "tensor":
            return shape, self.pick((), (1,)), {}
        axis = int(self.rng.integers(-len(shape), len(shape)))
        if kind == "channel":
            return shape, (shape[axis],), {"axis": axis}
        size = int(self.rng.integers(1, 8))
        blocks = list(shape)
        blocks[axis] = -(-shape[axis] // size)
        return shape, tuple(blocks), {"axis": axis, "block_size": size}

    def scale(self, shape: tuple[int, ...], dtype: str, within: str) -> np.ndarray:
        """Positive and finite in its own dtype and in the precision it is divided in."""
        style = self.pick("any", "any", "power of two", "extreme")
        if style == "power of two":
            wide = np.exp2(self.rng.integers(-8, 8, size=shape).astype(np.float64))
        else:
            span = 38.0 if style == "extreme" else 3.0
            wide = 10.0 ** self.rng.uniform(-span, span, size=shape)
        scale = _cast(wide, dtype)
        inside = _cast(scale, within).astype(np.float64)
        return np.where((inside > 0) & np.isfinite(inside), scale, _cast(1.0, dtype))

    def values(self, shape: tuple[int, ...], scale: np.ndarray, dtype: str) -> np.ndarray:
        """Around the scale: anything, ties between integers, far outside, special values."""
        unit = float(self.pick(*scale.reshape(-1))) if scale.size else 1.0
        x = self.rng.normal(size=shape) * 10.0 ** self.rng.uniform(-2, 5) * unit
        ties = (self.rng.integers(-300, 300, size=shape) + 0.5) * unit
        quarters = self.rng.integers(-40, 40, size=shape) * 0.25 * unit
        choice = self.rng.random(size=shape)
        x = np.where(choice < 0.3, ties, np.where(choice < 0.5, quarters, x))
        special = self.rng.choice(np.array(SPECIAL), size=shape)
        x = np.where(choice > 0.92, special, x)
        if dtype == "int32":
            whole = np.nan_to_num(x, nan=0.0).clip(-(2.0**31), 2.0**31 - 1)
            return np.asarray(whole.astype(np.int64).astype(np.int32))
        return _cast(x, dtype)

    def bits(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Any value a format has."""
        if dtype.startswith(("float8", "float4")):
            codes = self.rng.integers(0, 256 if "8" in dtype else 16, size=shape, dtype=np.uint8)
            return np.asarray(codes).view(DTYPES[dtype])
        bits = int(dtype.removeprefix("u").removeprefix("int"))
        low = 0 if dtype.startswith("u") else -(1 << (bits - 1))
        drawn = self.rng.integers(low, low + (1 << bits), size=shape, dtype=np.int64)
        return np.asarray(drawn).astype(DTYPES[dtype])


def _cast(x: np.ndarray | float, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        # By way of float32 as ONNX has no float64 here; what overflows becomes infinite.
        return np.asarray(np.asarray(x).astype(np.float32).astype(DTYPES[dtype]))


def _onnx(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[dtype])))


def check_quantize(maker: Maker) -> None:
    """One case of QuantizeLinear."""
    shape, scale_shape, attributes = maker.layout()
    dtype = maker.pick(*QUANTIZED)
    x_dtype, scale_dtype = maker.pick(*FLOATS, "int32"), maker.pick(*FLOATS)
    precision = maker.pick(None, None, *FLOATS)
    within = precision or scale_dtype
    scale = maker.scale(scale_shape, scale_dtype, within)
    x = maker.values(shape, scale, x_dtype)
    is_float = dtype.startswith("float")
    zero = None
    if maker.rng.random() < 0.7:
        drawn = np.zeros(scale_shape, DTYPES[dtype])
        zero = drawn if is_float else maker.bits(scale_shape, dtype)
    if zero is None or maker.rng.random() < 0.3:
        attributes["output_dtype"] = _onnx(dtype)
    if dtype.startswith("float8"):
        attributes["saturate"] = maker.pick(0, 1)
    if precision:
        attributes["precision"] = _onnx(precision)
    what = (shape, x_dtype, scale_dtype, dtype, attributes, x, scale, zero)

    spec = spec_of(dtype, scale, attributes)
    ours = stored(quantize_tensor(to_torch(x), to_torch(scale), zeros_of(zero), spec))
    spelled = {**attributes, "precision": _onnx(within)}
    (theirs,) = reference("QuantizeLinear", [x, scale, zero], spelled)
    assert_same(ours, _by_the_text(theirs, x, scale, dtype, within, attributes), what)


def _by_the_text(
    theirs: np.ndarray,
    x: np.ndarray,
    scale: np.ndarray,
    dtype: str,
    within: str,
    attributes: dict[str, Any],
) -> np.ndarray:
    """The reference's result, with the elements set right where it leaves ONNX's text."""
    with np.errstate(all="ignore"):
        divisor = _spread(scale, x.shape, attributes).astype(DTYPES[within])
        quotient = (x.astype(DTYPES[within]) / divisor).astype(np.float32)
    result = theirs.copy()
    if dtype == "float4_e2m1":
        result[np.isnan(quotient)] = 6.0
    elif not dtype.startswith("float"):
        bits = int(dtype.removeprefix("u").removeprefix("int"))
        low = 0 if dtype.startswith("u") else -(1 << (bits - 1))
        # Adding the zero point must not overflow either.
        result[quotient >= 2.0**31 - 2.0**17] = low + (1 << bits) - 1
        result[(quotient <= -(2.0**31) + 2.0**17) | np.isnan(quotient)] = low
    return result


def _spread(scale: np.ndarray, shape: tuple[int, ...], attributes: dict[str, Any]) -> np.ndarray:
    if "axis" not in attributes:
        return scale.reshape(())
    axis = attributes["axis"] % len(shape)
    if "block_size" not in attributes:
        return scale.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    index = np.arange(shape[axis]) // attributes["block_size"]
    return np.asarray(np.take(scale, index, axis))


def check_dequantize(maker: Maker) -> None:
    """One case of DequantizeLinear."""
    shape, scale_shape, attributes = maker.layout()
    dtype, scale_dtype = maker.pick(*STORED), maker.pick(*FLOATS)
    result = maker.pick(None, *FLOATS)
    scale = maker.scale(scale_shape, scale_dtype, scale_dtype)
    x = maker.bits(shape, dtype)
    zero = None
    # An empty zero point of float8 crashes the reference.
    if dtype != "int32" and scale.size and maker.rng.random() < 0.7:
        drawn = np.zeros(scale_shape, DTYPES[dtype])
        zero = drawn if dtype.startswith("float") else maker.bits(scale_shape, dtype)
    what = (shape, dtype, scale_dtype, result, attributes, x, scale, zero)

    spec = spec_of(dtype, scale, attributes)
    q = QTensor.from_int_repr(to_torch(x), to_torch(scale), zeros_of(zero), spec)
    ours = to_numpy(q.dequantize(to_torch(np.empty(0, DTYPES[result])).dtype if result else None))
    if result:
        attributes["output_dtype"] = _onnx(result)
    (theirs,) = reference("DequantizeLinear", [x, scale, zero], attributes)
    assert_same(ours, theirs, what)
    assert_same(stored(q), x, what)


def check_dynamic(maker: Maker) -> None:
    """One case of DynamicQuantizeLinear, with values."""
    shape = tuple(int(n) for n in maker.rng.integers(1, 9, size=maker.rng.integers(0, 4)))
    unit = 10.0 ** maker.rng.uniform(-36, 36)
    x = maker.rng.normal(maker.pick(0.0, 0.0, 3.0, -3.0), size=shape) * unit
    style = maker.pick("any", "any", "zero", "one sided", "integers")
    if style == "zero":
        x = np.zeros(shape)
    elif style == "one sided":
        x = np.abs(x) * maker.pick(1, -1)
    elif style == "integers":
        x = maker.rng.integers(-128, 128, size=shape) * 0.5
    x = _cast(x, "float32")
    theirs = reference("DynamicQuantizeLinear", [x], {})
    q = quantize_tensor_dynamic(to_torch(x))
    assert q.zero_point is not None
    ours = [stored(q), q.scale.numpy(), q.zero_point.numpy()]
    for mine, other in zip(ours, theirs, strict=True):
        assert_same(mine, other, x)


def _check(count: int, seed: int) -> None:
    maker = Maker(seed)
    for _ in range(count):
        maker.pick(check_quantize, check_quantize, check_dequantize, check_dynamic)(maker)


def test_thousands_of_random_cases_equal_the_reference() -> None:
    _check(COUNT, seed=0)


@pytest.mark.slow
def test_many_more_random_cases_equal_the_reference() -> None:
    _check(MANY, seed=1)


def test_the_fuzz_notices_a_wrong_bit() -> None:
    """The comparison itself: one bit, a signed zero, a dtype."""
    right = np.array([0.0, np.nan, 3.0], np.float32)
    assert_same(right, right.copy(), "same")
    for wrong in (np.array([-0.0, np.nan, 3.0], np.float32), np.nextafter(right, np.float32(9))):
        with pytest.raises(AssertionError):
            assert_same(wrong, right, "differs")
    with pytest.raises(AssertionError):
        assert_same(right.astype(np.float16), right, name_of(right))
