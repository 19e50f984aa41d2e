"""Rounding to small floats against ml_dtypes, over every value where a result could change.

float16 and bfloat16 hold each value and each midpoint of the 8-bit formats exactly, so all of their
bit patterns, their own midpoints, and the float32 numbers next to both stand for all of float32.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from burnish.quantize._tensors.format import FORMATS
from burnish.quantize._tensors.minifloat import float4_values, round_float
from tests.quantize.onnx_side import DTYPES, assert_same, to_numpy

FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")


@pytest.fixture(scope="module")
def every() -> np.ndarray:
    """Each float16 and bfloat16 in float32, the midpoints to the next, and the float32 beside."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    half = patterns.view(np.float16).astype(np.float32).view(np.uint32)
    brain = patterns.astype(np.uint32) << 16
    x = np.concatenate([half, half + 0x1000, brain, brain + 0x8000]).view(np.float32)
    with np.errstate(invalid="ignore"):
        beside = [np.nextafter(x, np.float32(end)) for end in (-np.inf, np.inf)]
    return np.concatenate([x, *beside])


def _bits(x: np.ndarray, name: str, saturate: bool) -> np.ndarray:
    values = round_float(torch.from_numpy(x), FORMATS[name], saturate)
    return values.view(torch.uint8).numpy().view(DTYPES[name])


@pytest.mark.parametrize("name", FLOAT8)
def test_float8_unsaturated_is_the_ieee_rounding(name: str, every: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        theirs = every.astype(DTYPES[name])
    assert_same(_bits(every, name, saturate=False), theirs, name)


@pytest.mark.parametrize("name", FLOAT8)
def test_float8_saturated_ends_at_the_largest_number(name: str, every: np.ndarray) -> None:
    largest = float(ml_dtypes.finfo(DTYPES[name]).max)
    assert FORMATS[name].high == largest
    with np.errstate(all="ignore"):
        theirs = every.clip(-largest, largest).astype(DTYPES[name])
    assert_same(_bits(every, name, saturate=True), theirs, name)


@pytest.mark.parametrize("name", FLOAT8)
def test_float8_comes_back_as_it_is(name: str) -> None:
    codes = np.arange(256, dtype=np.uint8).view(DTYPES[name])
    ours = torch.from_numpy(codes.view(np.uint8)).view(FORMATS[name].storage).float().numpy()
    assert_same(ours, codes.astype(np.float32), name)


def test_onnx_table_of_what_is_beyond() -> None:
    """The two tables of ONNX's Cast, row by row."""
    x = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e6, -1e6], np.float32)
    for name in FLOAT8:
        top = FORMATS[name].high
        kept = _bits(x, name, saturate=True).astype(np.float32)
        np.testing.assert_array_equal(kept, [0, 0, np.nan, top, -top, top, -top], name)
        signed = not name.endswith("fnuz")
        assert np.signbit(kept[1]) == signed
        far = np.inf if name == "float8_e5m2" else np.nan
        lost = _bits(x, name, saturate=False).astype(np.float32)
        np.testing.assert_array_equal(lost, [0, 0, np.nan, far, -far, far, -far], name)


def test_float4_equals_ml_dtypes_but_for_nan(every: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        theirs = every.astype(ml_dtypes.float4_e2m1fn)
    theirs[np.isnan(every)] = 6.0  # as ONNX's page on float4 has it
    assert_same(_bits(every, "float4_e2m1", saturate=True), theirs, "float4")


def test_float4_comes_back_as_it_is() -> None:
    codes = np.arange(16, dtype=np.uint8)
    ours = float4_values(torch.from_numpy(codes)).numpy()
    assert_same(ours, codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32), "float4")


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_sixteen_bits_are_plain_conversions(name: str, every: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        theirs = every.astype(DTYPES[name])
    ours = to_numpy(round_float(torch.from_numpy(every), FORMATS[name], saturate=True))
    assert_same(ours, theirs, name)
