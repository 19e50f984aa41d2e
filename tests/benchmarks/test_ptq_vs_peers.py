"""What the comparison with peers works out from its measurements, on made-up ones."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import burnish.metrics
from burnish.bench import Race, Timing
from burnish.bundle import Artifact, Options, Port

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.stem)
def test_every_script_compiles(path: Path) -> None:
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_photos_survive_the_handover(load: Any, tmp_path: Path) -> None:
    handover = load("handover")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    photos = ((pixels - np.float32(127)) / 128).astype(np.float32)
    stored = handover.Stored("inputs", (3, 8, 8), "float32", "uint8", 127.0, 128.0)
    for part in (photos[:2], photos[2:]):
        stored.append(tmp_path, part)
    handover.Given(tmp_path, "lite0", "convolutional", 2, 3, 5, (stored,)).save()
    given = handover.Given.open(tmp_path)
    np.testing.assert_array_equal(given.only(1, 4), photos[1:4])
    assert [len(batch["inputs"]) for batch in given.calibration(2)] == [2, 1]
    assert given.only(0, 1).dtype == np.float32
    assert stored.path(tmp_path).stat().st_size == pixels.size


def test_several_inputs_survive_the_handover(load: Any, tmp_path: Path) -> None:
    handover = load("handover")
    stored = tuple(handover.Stored(name, (4,), "int64", "int64") for name in ("ids", "mask"))
    values = {name: np.arange(12).reshape(3, 4) + at for at, name in enumerate(("ids", "mask"))}
    for item in stored:
        item.append(tmp_path, values[item.name])
    given = handover.Given(tmp_path, "minilm", "transformer", 2, 1, 3, stored, {"data": "x"})
    given.save()
    assert handover.Given.open(tmp_path) == given
    for name, array in given.samples(1, 3).items():
        np.testing.assert_array_equal(array, values[name][1:])
        assert array.dtype == np.int64


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
        {"model": "lite0", "mode": mode, "batches": batches, "peak_bytes": peak}
        for mode, batches, peak in (
            ("inference", 8, inference),
            ("calibrate", 8, short),
            ("calibrate", 16, long),
        )
    ]
    assert [row["met"] for row in load("ptq.claims").memory_claims(rows)] == met


def test_memory_of_many_batches(load: Any) -> None:
    def claims(many: float) -> list[dict[str, Any]]:
        peaks = {10: 500e6, 1000: many}
        rows = [
            {"model": "resnet20", "mode": "calibrate", "batches": num, "peak_bytes": peak}
            for num, peak in peaks.items()
        ]
        found: list[dict[str, Any]] = load("ptq.claims").memory_claims(rows)
        return found

    assert [claims(many)[0]["met"] for many in (520e6, 530e6, 480e6)] == [True, False, True]


def _answers(load: Any, scores: list[float]) -> Any:
    return load("ptq.entrants").Answers([0] * len(scores), scores, {})


def test_quality_is_compared_sample_by_sample(load: Any) -> None:
    models = load("models.model")
    batch = models.Batch((), torch.zeros(400))
    model = models.Model(
        "m", "", "", "", torch.nn.Identity(), (), (), (batch,), burnish.metrics.top1
    )
    ours = _entrant(load, "burnish", "a.onnx", "onnxruntime")
    theirs = _entrant(load, "nncf on ONNX", "b.onnx", "onnxruntime")
    right = [1.0] * 400

    def claims(mine: list[float], rival: list[float]) -> list[dict[str, Any]]:
        found = {ours.label: _answers(load, mine), theirs.label: _answers(load, rival)}
        made: list[dict[str, Any]] = load("ptq.claims").quality_claims(model, [ours, theirs], found)
        return made

    same, absent = claims(right, right)
    assert same["met"]
    assert same["value"] == 0
    assert absent["missing"]
    assert not absent["met"]
    worse = claims([0.0] * 40 + right[40:], right)[0]
    assert not worse["met"]
    assert worse["decided"]
    assert worse["value"] == pytest.approx(0.1)
    assert claims([0.0, *right[1:]], right)[0]["met"]  # one of 400 tells nothing


def test_what_learned_rounding_brings_back(load: Any) -> None:
    rounding = load("ptq.rounding")
    whole, half = np.ones(1000), np.r_[np.zeros(100), np.ones(900)]
    found = {"float": whole, "nearest": np.r_[np.zeros(200), np.ones(800)], "learned": half}
    row = rounding.recovered(found)
    assert row["recovered"] == pytest.approx(0.5)
    assert row["low"] < 0.5 < row["high"]
    row |= {"model": "m", "tool": "burnish AdaRound", "seconds": {"quantize": 3.0}}
    peer = {**row, "tool": "brevitas", "seconds": {"quantize": 2.0}}
    left, slower = rounding.rounding_claims([row, peer])
    assert left["met"]
    assert not left["decided"]
    assert slower["value"] == pytest.approx(1.5)
    assert not slower["met"]
    assert not rounding.rounding_claims([row])[-1]["met"]


def test_a_peer_that_was_ended_is_only_known_to_be_slower(load: Any) -> None:
    rounding = load("ptq.rounding")
    model = SimpleNamespace(name="net")
    ours = {"model": "net", "tool": "burnish AdaRound", "seconds": {"quantize": 8.0}}
    row = {**ours, "recovered": 0.8, "low": 0.7, "high": 0.9}
    _, slower = rounding.rounding_claims([row, rounding.unfinished(model, "brevitas_rounding")])
    assert slower["met"]
    assert slower["at_most"]
    assert slower["value"] == pytest.approx(8.0 / rounding.PATIENCE)


def test_where_plain_rounding_loses_nothing_there_is_no_share(load: Any) -> None:
    rounding = load("ptq.rounding")
    right = np.ones(100)
    row = rounding.recovered({"float": right, "nearest": right, "learned": right})
    assert row["recovered"] is None
    row |= {"model": "m", "tool": "burnish AdaRound", "seconds": {"quantize": 3.0}}
    assert rounding.rounding_claims([row])[0]["missing"]
