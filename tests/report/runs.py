"""Two runs as they are written down: one that went well, one where everything is missing.

The figures are of the size an EfficientNet-Lite0 gives on a small machine. Not a test by itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

REFERENCE = "onnxruntime float32, 2 threads"
PICK = "openvino int8, 2 threads"
UNTOLD = "onnxruntime int8, 2 threads"

BLANK = ("quality", "verdict", "latency", "ratio", "agreement", "size_mb", "memory_mb", "load_s")


def write(record: Json, folder: Path) -> Path:
    """A run folder that holds `record`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def quality(value: float, split: str = "validation", n: int = 440) -> Json:
    """A share of right answers with an interval of about the right width."""
    half = 1.96 * (value * (1 - value) / n) ** 0.5
    return {
        "split": split,
        "metric": "top1",
        "value": value,
        "low": value - half,
        "high": value + half,
        "n": n,
    }


def verdict(state: str, difference: float, half: float, needed: int | None = None) -> Json:
    """A verdict on 440 samples."""
    return {
        "state": state,
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "max_drop": 0.02,
        "relative": False,
        "confidence": 0.95,
        "n": 440,
        "needed": needed,
        "method": "score interval for paired proportions (Tango, 1998)",
        "reason": "12 samples were lost and 9 won",
    }


def candidate(label: str, p50: float, ratio: float, /, **changes: Any) -> Json:
    """A float candidate that holds; `changes` makes it another."""
    runtime, precision = label.split(",")[0].split(" ")[:2]
    record = {
        "label": label,
        "runtime": runtime,
        "precision": precision,
        "threads": int(label.split(", ")[1].split(" ")[0]),
        "status": "ok",
        "reason": None,
        "accepted": True,
        "frontier": False,
        "quality": quality(0.7682),
        "agreement": 1.0,
        "verdict": verdict("holds", 0.0, 0.0),
        "latency": {
            "p50_ms": p50,
            "p90_ms": p50 * 1.09,
            "p99_ms": p50 * 1.31,
            "low_ms": p50 * 0.97,
            "high_ms": p50 * 1.04,
        },
        "ratio": {
            "value": ratio,
            "low": ratio * 0.97,
            "high": ratio * 1.03,
            "reference": REFERENCE,
            "unreliable": False,
        },
        "size_mb": 18.6,
        "memory_mb": 214.0,
        "load_s": 0.31,
        "num_int8": 0,
        "num_operators": 67,
        "history": [],
        "folder": "candidates/" + label.replace(", ", "-").replace(" ", "-"),
    }
    return record | changes


def int8(label: str, p50: float, ratio: float, /, **changes: Any) -> Json:
    """A quantized candidate."""
    made = {
        "agreement": 0.9841,
        "quality": quality(0.7636),
        "verdict": verdict("holds", -0.0045, 0.0121),
        "size_mb": 5.13,
        "memory_mb": 121.0,
        "num_int8": 64,
        "history": [
            {"step": "fold_batch_norm", "settings": {}, "choices": {"plan": {}, "tensors": {}}},
            {"step": "quantize_static", "settings": {"observer": "squared error"}},
        ],
    }
    return candidate(label, p50, ratio, **(made | changes))


def sensitivity() -> list[Json]:
    """What each convolution of that network costs alone; no metric was asked for one of them."""
    parts = [f"blocks.{block}.{part}" for block in range(16) for part in ("expand", "depthwise")]
    return [
        {
            "operator": name,
            "kind": "conv2d",
            "output_error": 0.004 / (1 + index),
            "metric_change": None if index == 3 else -0.001 / (1 + index),
        }
        for index, name in enumerate(parts)
    ]


def coverage(num_reverted: int = 0) -> list[Json]:
    """67 operators of a network of inverted residuals."""
    operators = []
    for block in range(16):
        for part, kind in (("expand", "conv2d"), ("depthwise", "conv2d"), ("project", "conv2d")):
            reverted = part == "depthwise" and block < num_reverted
            operators.append(
                {
                    "operator": f"blocks.{block}.{part}",
                    "kind": kind,
                    "state": "float" if reverted else "int8",
                    "reason": "slower in int8 on this runtime" if reverted else "weights and input",
                }
            )
        operators.append(
            {
                "operator": f"blocks.{block}.act",
                "kind": "relu6",
                "state": "fused",
                "reason": "into the convolution before it",
            }
        )
    for name, kind, state, reason in (
        ("pool", "adaptive_avg_pool2d", "passes through", "same scale in and out"),
        ("head", "linear", "int8", "weights and input"),
        ("softmax", "softmax", "float", "softmax stays float by default"),
    ):
        operators.append({"operator": name, "kind": kind, "state": state, "reason": reason})
    return operators


def _candidates() -> list[Json]:
    shaky = candidate("eager float32, 2 threads", 47.8, 5.49)
    shaky["ratio"]["unreliable"] = True
    mixed = int8(
        "openvino mixed, 2 threads",
        5.62,
        0.647,
        precision="mixed",
        frontier=True,
        quality=quality(0.7659),
        verdict=verdict("holds", -0.0023, 0.0109),
        num_int8=60,
        size_mb=6.02,
    )
    return [
        candidate("eager float32, 1 thread", 71.2, 8.18, reason="dominated by the pick"),
        shaky,
        candidate("onnxruntime float32, 1 thread", 15.9, 1.83),
        candidate(REFERENCE, 8.70, 1.0, frontier=True),
        candidate("openvino float32, 1 thread", 22.1, 2.54),
        candidate("openvino float32, 2 threads", 13.6, 1.56),
        _lost(),
        _undecided(),
        int8("openvino int8, 1 thread", 8.66, 0.995, reason="no difference from the reference"),
        int8(PICK, 5.18, 0.595, frontier=True),
        mixed,
        _failed(),
    ]


def _lost() -> Json:
    return int8(
        "onnxruntime int8, 1 thread",
        9.02,
        1.03,
        accepted=False,
        quality=quality(0.7091),
        verdict=verdict("fails", -0.0591, 0.0214),
        reason="loses more than the 2 points allowed",
        agreement=0.9012,
    )


def _undecided() -> Json:
    return int8(
        UNTOLD,
        5.41,
        0.62,
        accepted=False,
        frontier=False,
        quality=quality(0.7568),
        verdict=verdict("cannot tell", -0.0114, 0.0163, needed=1460),
        reason="the verdict is open: 440 samples are too few",
    )


def _failed() -> Json:
    return candidate(
        "openvino bfloat16, 1 thread",
        0,
        0,
        status="failed",
        reason="the runtime refused it: this machine has no bfloat16 instructions",
        accepted=False,
        **dict.fromkeys((*BLANK, "num_int8", "num_operators")),
    )


def good() -> Json:
    """Ten candidates timed and judged, one failed, a verified pick."""
    return {
        "schema": 1,
        "title": "efficientnet-lite0 on caltech photos",
        "created": "2026-05-04T10:31:07+00:00",
        "burnish": "0.1.0",
        "goal": _goal(),
        "environment": _environment(),
        "fingerprint": "9f2c4471ab03de5512aa0b7c",
        "reference": REFERENCE,
        "candidates": _candidates(),
        "pick": {
            "label": PICK,
            "state": "verified",
            "why": [
                "It is the fastest of the 8 artifacts whose quality holds on validation data.",
                "onnxruntime int8, 2 threads, is within 5 % of it, but its verdict is open.",
                "60 of 67 operators in int8 (openvino mixed) would be 8 % slower and no better.",
            ],
            "test": {
                "quality": quality(0.7614, "test"),
                "baseline": quality(0.7705, "test"),
                "verdict": verdict("holds", -0.0091, 0.0098),
            },
        },
        "stopped": "nothing was left to try",
        "failures": [
            {
                "label": "openvino bfloat16, 1 thread",
                "reason": "the runtime refused it: this machine has no bfloat16 instructions",
            }
        ],
        "coverage": {
            PICK: coverage(),
            "openvino int8, 1 thread": coverage(),
            "openvino mixed, 2 threads": coverage(4),
            UNTOLD: coverage(),
        },
        "sensitivity": {PICK: sensitivity()},
        "recovery": [
            {
                "label": "openvino mixed, 2 threads",
                "what": "4 depthwise convolutions went back to float: +0.23 points for 0.44 ms",
            },
            {"label": PICK, "what": "All 4 were put back: the quality holds without them."},
        ],
        "phases": [
            {"name": "checking the data", "seconds": 4.2},
            {"name": "float baselines", "seconds": 96.4},
            {"name": "calibration", "seconds": 11.8},
            {"name": "int8 candidates", "seconds": 140.9},
            {"name": "recovery", "seconds": 203.0},
            {"name": "test data and bundle", "seconds": 38.1},
        ],
        "notes": [
            "Another process used the machine for 12 s; the timings of that span were retaken."
        ],
    }


def _goal() -> Json:
    metric = {"name": "top1", "version": "1", "kind": "binary", "higher_is_better": True}
    shape = [2, 3, 224, 224]
    inputs = [{"key": "x", "dtype": "float32", "shape": shape, "axes": {"0": "batch"}}]
    return {
        "metric": metric,
        "inputs": inputs,
        "target": {"device": "cpu", "runtimes": [], "threads": None, "batch": 1},
        "budget": {
            "max_drop": 0.02,
            "relative": False,
            "minimise": "latency",
            "confidence": 0.95,
            "accept_undecided": False,
            "limits": {},
        },
        "seed": 0,
    }


def _environment() -> Json:
    machine = {
        "cpu": "Intel Xeon Platinum 8481C",
        "cores": 2,
        "memory_bytes": 25_769_803_776,
        "isa": ["amx_bf16", "amx_int8", "avx2", "avx512_vnni"],
        "os": "Linux 6.1",
        "python": "3.11.7",
    }
    versions = {"torch": "2.13.0", "onnxruntime": "1.31.0", "openvino": "2026.4.1"}
    return {"machine": machine, "versions": {**versions, "burnish": "0.1.0"}, "commit": None}


def sad() -> Json:
    """Nothing was picked, much failed, and what can be null is null."""
    nothing = dict.fromkeys((*BLANK, "num_int8", "num_operators", "history", "folder"))
    bare = {"runtime": None, "precision": None, "threads": None, "reason": None}
    hollow = {"status": "ok", "accepted": False, "frontier": False, **nothing, **bare}
    nulls = {
        "quality": dict.fromkeys(quality(0.5)),
        "latency": dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "low_ms", "high_ms")),
        "ratio": dict.fromkeys(("value", "low", "high", "reference", "unreliable")),
        "verdict": dict.fromkeys(verdict("", 0, 0)) | {"state": "cannot tell"},
    }
    crashed = hollow | {"label": "openvino int8, 2 threads", "status": "failed"}
    return {
        "schema": 1,
        "title": None,
        "created": None,
        "burnish": None,
        "goal": None,
        "environment": None,
        "fingerprint": None,
        "reference": None,
        "candidates": [
            crashed | {"reason": "the runtime crashed (signal 11) while loading"},
            crashed | {"label": "openvino int8, 1 thread"},
            hollow | {"label": "eager float32, 1 thread"},
            hollow | {"label": "onnxruntime float32, 1 thread"} | nulls,
        ],
        "pick": None,
        "stopped": None,
        "failures": None,
        "coverage": None,
        "sensitivity": None,
        "recovery": None,
        "phases": [{"name": "float baselines", "seconds": None}],
        "notes": None,
    }
