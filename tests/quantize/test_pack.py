"""Packing against ONNX's own, and there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from burnish.quantize._tensors.pack import pack, packed_size, unpack

KINDS = {
    (2, False): TensorProto.UINT2,
    (2, True): TensorProto.INT2,
    (4, False): TensorProto.UINT4,
    (4, True): TensorProto.INT4,
}


@given(st.data())
def test_there_and_back(data: st.DataObject) -> None:
    bits, signed = data.draw(st.sampled_from(sorted(KINDS)))
    low = -(1 << (bits - 1)) if signed else 0
    codes = data.draw(st.lists(st.integers(low, low + (1 << bits) - 1), max_size=19))
    values = torch.tensor(codes, dtype=torch.int8 if signed else torch.uint8)
    packed = pack(values, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_size(len(codes), bits),)
    assert torch.equal(unpack(packed, bits, len(codes), signed), values)


@pytest.mark.parametrize(("bits", "signed"), sorted(KINDS))
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 4), (3, 0)])
def test_the_bytes_are_those_onnx_stores(bits: int, signed: bool, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    low = -(1 << (bits - 1)) if signed else 0
    array = rng.integers(low, low + (1 << bits), size=shape)
    dtype = helper.tensor_dtype_to_np_dtype(KINDS[bits, signed])
    stored = numpy_helper.from_array(np.asarray(array).astype(dtype)).raw_data
    values = torch.from_numpy(np.asarray(array, np.int8 if signed else np.uint8))
    assert pack(values, bits).numpy().tobytes() == stored


def test_the_first_element_takes_the_lowest_bits_and_the_rest_is_zero() -> None:
    assert pack(torch.tensor([1, -1, 7], dtype=torch.int8), 4).tolist() == [0xF1, 0x07]
    assert pack(torch.tensor([1, 2, 3, 0, 2], dtype=torch.uint8), 2).tolist() == [0b00111001, 2]
