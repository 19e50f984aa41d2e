"""What the comparison with peers works out from its measurements, on made-up ones."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.bench import Race, Timing
from burnish.bundle import Artifact, Options, Port

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Import a file of benchmarks/ as the command does."""
    paths = [str(BENCHMARKS), str(BENCHMARKS / "peers")]
    sys.path[:0] = paths
    yield importlib.import_module
    for path in paths:
        sys.path.remove(path)


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.stem)
def test_every_script_compiles(path: Path) -> None:
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_photos_survive_the_handover(load: Any, tmp_path: Path) -> None:
    handover = load("handover")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 224, 224), dtype=np.uint8)
    (tmp_path / "images.u8").write_bytes(pixels.tobytes())
    handover.Given(tmp_path, 2, 3, 5).save()
    given = handover.Given.open(tmp_path)
    np.testing.assert_array_equal(given.images(1, 4) * 128 + 127, pixels[1:4])
    assert [len(batch) for batch in given.calibration(2)] == [2, 1]
    assert given.images(0, 1).dtype == np.float32


def test_coverage_reads_both_runtimes_kernels(load: Any) -> None:
    coverage = load("ptq.entrants").coverage
    assert coverage(["QLinearConv", "Conv", "FusedConv", "QGemm", "Gemm", "QLinearAdd"]) == {
        "convolutions": [1, 3],
        "linears": [1, 2],
    }
    kinds = [
        "Convolution:brgconv_avx512_1x1_I8",
        "GroupConvolution:brgconv_avx512_dw_I8",
        "Convolution:brgconv_avx512_f32",
        "FullyConnectedQuantizedLegacy:brgemm_avx512_I8",
        "FullyConnected:brgemm_avx512_bf16",
        "ReduceMean:jit_avx512_I8",
    ]
    assert coverage(kinds) == {"convolutions": [2, 3], "linears": [1, 2]}


def test_the_ratio_of_quantizing_times_is_paired(load: Any) -> None:
    ratio = load("ptq.costs").ratio
    # The machine slows down threefold half-way; in pairs that divides out.
    found = ratio([5.0, 5.1, 15.0, 15.3], [10.0, 10.2, 30.0, 30.0])
    assert found["low"] < found["value"] < found["high"] < 0.55
    assert found["value"] == pytest.approx(0.5, abs=0.01)


def _entrant(load: Any, tool: str, file: str, runtime: str, precision: str = "int8") -> Any:
    port = Port("x", "float32", ("batch",))
    artifact = Artifact(Path(), runtime, precision, (file,), (port,), (port,), None, Options())
    return load("ptq.entrants").Entrant(f"{tool} {file} {runtime}", tool, artifact)


def _race(times: dict[str, float]) -> Race:
    timings = tuple(
        Timing(label, t, t, t, t, 1 / t, 0.0, 0, 0, 12, None, "") for label, t in times.items()
    )
    return Race(timings, {label: (t,) * 12 for label, t in times.items()}, 0.95)


def test_the_worst_peer_counts(load: Any) -> None:
    claims = load("ptq.claims")
    ours = _entrant(load, "burnish", "a.onnx", "onnxruntime")
    xml = _entrant(load, "burnish", "a.xml", "openvino")
    slow = _entrant(load, "slow", "b.onnx", "onnxruntime")
    fast = _entrant(load, "fast", "c.onnx", "onnxruntime")
    there = _entrant(load, "fast", "c.xml", "openvino")
    times = {ours.label: 1.0, xml.label: 2.0, slow.label: 3.0, fast.label: 0.8, there.label: 2.0}
    rows = claims.speed_claims([ours, xml, slow, fast, there], _race(times), 1)
    on_onnxruntime, on_openvino, pick = rows
    assert on_onnxruntime["against"] == fast.label
    assert on_onnxruntime["value"] == pytest.approx(1.25)
    assert not on_onnxruntime["met"]
    assert on_onnxruntime["decided"]
    assert on_openvino["met"]
    assert pick["against"] == fast.label
    assert not pick["met"]


def test_a_claim_without_data_is_missed(load: Any) -> None:
    claims = load("ptq.claims")
    ours = _entrant(load, "burnish", "a.onnx", "onnxruntime")
    for row in claims.speed_claims([ours], _race({ours.label: 1.0}), 1):
        assert not row["met"]
        assert row["missing"]
    assert not claims.claim("", math.nan, 1.0)["met"]


def _row(tool: str, agreement: float, int8: int) -> dict[str, Any]:
    coverage = {"convolutions": [int8, 49], "linears": [1, 1]}
    return {
        "label": tool,
        "tool": tool,
        "precision": "int8",
        "agreement": agreement,
        "coverage": coverage,
    }


def test_agreement_is_held_against_peers_that_quantized(load: Any) -> None:
    claims = load("ptq.claims").agreement_claims
    lazy, real = _row("lazy", 0.999, 0), _row("real", 0.98, 49)
    (met,) = claims([_row("burnish", 0.976, 49), lazy, real])
    (missed,) = claims([_row("burnish", 0.974, 49), lazy, real])
    assert met["against"] == "real"
    assert met["met"]
    assert not missed["met"]
    assert not claims([_row("burnish", 0.9, 49), lazy])[0]["met"]


@pytest.mark.parametrize(
    ("inference", "short", "long", "met"),
    [
        (600e6, 800e6, 810e6, [True, True]),
        (600e6, 950e6, 950e6, [False, True]),
        (600e6, 700e6, 890e6, [True, False]),
    ],
)
def test_memory(load: Any, inference: float, short: float, long: float, met: list[bool]) -> None:
    rows = [
        {"mode": "inference", "batches": 8, "peak_bytes": inference},
        {"mode": "calibrate", "batches": 8, "peak_bytes": short},
        {"mode": "calibrate", "batches": 16, "peak_bytes": long},
    ]
    assert [row["met"] for row in load("ptq.claims").memory_claims(rows)] == met
