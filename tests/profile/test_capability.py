"""What kernels' names and speeds are taken to mean, on runs we do not have here."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from burnish.bench import Ratio
from burnish.hardware import Machine
from burnish.profile._capability import Ran, computed_in, judge, product_kernels, refused
from burnish.profile._onednn import kernels

SERVER = Machine("Xeon", 4, 0, frozenset({"avx512_vnni", "avx512_bf16"}), "Linux x86_64", "3.11")
OLD = Machine("Core", 4, 0, frozenset({"avx2"}), "Linux x86_64", "3.11")
MASKED = Machine(
    "Xeon",
    4,
    0,
    SERVER.isa,
    "Linux x86_64",
    "3.11",
    masks={"ONEDNN_MAX_CPU_ISA": "AVX2"},
)


@pytest.mark.parametrize(
    ("runtime", "dtype", "kinds", "computed"),
    [
        ("openvino", "int8", ["Reorder:jit_uni_FP32", "FullyConnected:brgemm_avx512_I8"], "int8"),
        ("openvino", "int8", ["FullyConnected:brgemm_avx512_amx_U8"], "int8"),
        ("openvino", "int8", ["FullyConnected:brgemm_avx512_FP32"], "float32"),
        ("openvino", "bfloat16", ["FullyConnected:brgemm_avx512_BF16"], "bfloat16"),
        ("openvino", "bfloat16", ["FullyConnected:brgemm_BF16", "MatMul:gemm_FP32"], None),
        ("openvino", "float32", ["FullyConnected:mlas_any"], None),
        ("onnxruntime", "int8", ["QuantizeLinear", "QGemm", "QGemm"], "int8"),
        ("onnxruntime", "int8", ["QuantizeLinear", "DequantizeLinear", "Gemm"], "float32"),
        ("onnxruntime", "int8", ["QGemm", "Gemm"], None),
        ("onnxruntime", "bfloat16", ["Cast", "Gemm", "Gemm", "Cast"], "bfloat16"),
        ("onnxruntime", "bfloat16", ["Cast", "Cast", "Gemm", "Cast", "Cast"], "float32"),
        ("onnxruntime", "float32", ["Gemm"], "float32"),
        ("onnxruntime", "float32", ["Relu"], None),
        ("eager", "bfloat16", ["aten.linear.default"], "bfloat16"),
    ],
)
def test_the_type_is_read_off_the_kernels(
    runtime: str, dtype: str, kinds: Sequence[str], computed: str | None
) -> None:
    assert computed_in(runtime, dtype, kinds) == computed


def test_only_what_multiplies_matrices_is_named_once() -> None:
    kinds = ["QuantizeLinear", "QGemm", "QGemm", "DequantizeLinear", "MatMul"]
    assert product_kernels(kinds) == ("QGemm", "MatMul")


def ratio(value: float, low: float | None = None, high: float | None = None) -> Ratio:
    return Ratio(value, low or 0.98 * value, high or 1.02 * value, unreliable=False)


@pytest.mark.parametrize(
    ("machine", "dtype", "computed", "speed", "state", "reason"),
    [
        (SERVER, "int8", "int8", ratio(3.1), "native", None),
        (SERVER, "float32", "float32", ratio(1.0), "native", None),
        (SERVER, "int8", "float32", ratio(1.4), "converted", "computed in float32"),
        (SERVER, "bfloat16", "bfloat16", ratio(0.9), "emulated", "makes no use of them"),
        (SERVER, "bfloat16", "bfloat16", ratio(1.02), "emulated", "makes no use of them"),
        (SERVER, "bfloat16", "bfloat16", ratio(1.2), "native", None),
        (SERVER, "bfloat16", "bfloat16", ratio(0.6, 0.2, 3.0), "native", "too busy to tell"),
        (OLD, "bfloat16", "bfloat16", ratio(0.1), "emulated", "has no instructions"),
        (OLD, "int8", "int8", ratio(1.8), "native", None),
        (MASKED, "bfloat16", "bfloat16", ratio(0.2), "emulated", "CPU_ISA=AVX2 hides them"),
        (SERVER, "int8", None, ratio(2.0), "native", "by speed alone"),
        (SERVER, "int8", "int8", None, "native", None),
    ],
)
def test_the_state_follows_from_type_and_speed(
    machine: Machine,
    dtype: str,
    computed: str | None,
    speed: Ratio | None,
    state: str,
    reason: str | None,
) -> None:
    found = judge(machine, "openvino", dtype, Ran("kernel", computed, speed, 0.01))
    assert (found.state, found.how) == (state, "kernel")
    assert found.speed == (speed.value if speed else None)
    assert (found.reason is None) if reason is None else (reason in str(found.reason))


def test_an_answer_that_is_off_is_told_whatever_the_state() -> None:
    found = judge(OLD, "openvino", "int8", Ran("kernel", "int8", ratio(1.8), 0.22))
    assert found.state == "native"
    assert "off by 22% of the output: sums of two products of 8 bits saturate" in str(found.reason)
    slow = judge(OLD, "openvino", "int8", Ran("kernel", "int8", ratio(0.9), 0.22))
    assert "no faster than float32" in str(slow.reason)
    assert "off by 22%" in str(slow.reason)
    other = judge(OLD, "eager", "bfloat16", Ran("kernel", "bfloat16", ratio(1.8), 0.22))
    assert other.reason == "its answer is off by 22% of the output"


def test_a_refusal_keeps_its_reason() -> None:
    found = refused("eager", "int8", "no kernel")
    assert (found.state, found.reason, found.speed) == ("refused", "no kernel", None)


LINES = [
    "onednn_verbose,v1,info,oneDNN v3.9.1 (commit abc)",
    "onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation",
    "onednn_verbose,v1,primitive,exec,cpu,reorder,simple:any,undef,src:bf16::a dst:bf16::b,,,1,2",
    "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx512_core_bf16,undef,"
    "src:bf16::a wei:bf16::b,,,16x1024:1024x1024,0.4",
    "BLAS_INFO=mkl, BUILD_TYPE=Release",
]


def test_onednn_names_the_kernel_of_each_type() -> None:
    assert kernels("\n".join(LINES)) == {
        "float32": "no oneDNN kernel: mkl",
        "bfloat16": "oneDNN brg_matmul:avx512_core_bf16",
    }


def test_without_a_line_it_was_not_onednn() -> None:
    assert kernels("")["bfloat16"] == "no oneDNN kernel: torch's own loops"
    assert "BLAS" in kernels("")["float32"]
