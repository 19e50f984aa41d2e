"""Specs: names, shapes of scales, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from burnish.errors import InvalidInput
from burnish.quantize import QSpec, quantize_tensor
from burnish.quantize._tensors.format import FORMATS, format_name


def test_torch_dtypes_and_their_quantized_names_are_formats() -> None:
    assert format_name(torch.quint8) == "uint8"
    assert format_name(torch.qint8) == "int8"
    assert format_name(torch.qint32) == "int32"
    assert format_name(torch.quint4x2) == "uint4"
    assert format_name(torch.float8_e5m2) == "float8_e5m2"
    assert format_name(torch.float4_e2m1fn_x2) == "float4_e2m1"
    assert {format_name(name) for name in FORMATS} == set(FORMATS)
    assert QSpec(torch.quint2x4).dtype == "uint2"  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float64", torch.float32, "INT8", "float6_e2m3", "quantized"])
def test_any_other_dtype_is_refused_with_the_list(dtype: Any) -> None:
    with pytest.raises(InvalidInput, match=r"no number format .*: one of int2, .*float16"):
        QSpec(dtype)


def test_the_table_of_formats() -> None:
    assert {name: (form.low, form.high) for name, form in FORMATS.items() if form.bits <= 4} == {
        "int2": (-2, 1),
        "uint2": (0, 3),
        "int4": (-8, 7),
        "uint4": (0, 15),
        "float4_e2m1": (-6, 6),
    }
    assert FORMATS["uint8"].middle == 128
    assert FORMATS["uint8"].reach == FORMATS["int8"].reach == 127
    assert FORMATS["int32"].levels == 2**32 - 1


@pytest.mark.parametrize(
    ("spec", "shape", "wanted"),
    [
        (QSpec(), (2, 3), ()),
        (QSpec(), (), ()),
        (QSpec(granularity="channel", axis=1), (2, 3, 4), (3,)),
        (QSpec(granularity="channel", axis=-1), (2, 3, 4), (4,)),
        (QSpec(granularity="block", axis=1, block_size=2), (5, 8), (5, 4)),
        (QSpec(granularity="block", axis=-2, block_size=3), (8, 5), (3, 5)),
        (QSpec(granularity="block", axis=0, block_size=100), (8, 5), (1, 5)),
        (QSpec(granularity="block", axis=0, block_size=2), (0, 5), (0, 5)),
    ],
)
def test_the_shape_of_the_scale_is_onnx_s(
    spec: QSpec, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    assert spec.scale_shape(shape) == wanted


def test_a_block_size_that_does_not_divide_leaves_a_short_last_block() -> None:
    spec = QSpec("int8", "block", axis=0, block_size=3)
    scale = torch.tensor([1.0, 10.0, 100.0])
    assert spec.spread(scale, (7,)).tolist() == [1, 1, 1, 10, 10, 10, 100]
    q = quantize_tensor(torch.full((7,), 100.0), scale, None, spec)
    assert q.int_repr().tolist() == [100, 100, 100, 10, 10, 10, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"granularity": "row"}, "granularity='row'.*one of 'tensor', 'channel', 'block'"),
        ({"granularity": "block"}, 'granularity "block" goes with a block size'),
        ({"block_size": 32}, 'granularity "block" goes with a block size'),
        ({"granularity": "block", "block_size": 0}, "at least 1"),
        ({"dtype": "float8_e5m2", "symmetric": False}, "a float format has no zero point"),
        ({"precision": "float64"}, "precision='float64'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        QSpec(**settings)


def test_an_axis_the_tensor_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"axis=2.*shape \[3, 4\] has no such axis"):
        QSpec(granularity="channel", axis=2).scale_shape((3, 4))
    with pytest.raises(InvalidInput, match="no such axis"):
        QSpec(granularity="channel", axis=0).scale_shape(())


def test_a_spec_survives_json_and_cannot_be_changed() -> None:
    spec = QSpec("int4", "block", axis=-1, block_size=32, symmetric=False)
    assert QSpec(**json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.axis = 0  # type: ignore[misc]
