"""Profiles as they are written down: a network of 130 operators, and one where all is missing.

The network is an EfficientNet-Lite0 with its batch-norms still in it; times are made from its
shapes by a machine with the peaks written here. Not a test by itself.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.report import runs

Json = dict[str, Any]

BLOCKS = (  # expansion, channels, repeats, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
# GMAC/s in float32, how near the kernels come to their roof, seconds of dispatch
RUNTIMES = {"eager": (88.0, 0.31, 9e-6), "onnxruntime": (96.0, 0.62, 2e-6)}
RUNTIMES |= {"openvino": (101.0, 0.48, 3e-6)}
MEMORY = 21.0  # GB/s
FIRST_MOVE = "int8 in openvino"


def write(record: Json, folder: Path, name: str = "profile.json") -> Path:
    """A folder that holds `record`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(record), encoding="utf-8")
    return folder


class Network:
    """Collects operators while the shape of the activation is carried along."""

    def __init__(self, channels: int, size: int) -> None:
        self.channels, self.size = channels, size
        self.operators: list[Json] = []
        self.owner: str | None = None
        self.seen: Counter[str] = Counter()

    def conv(
        self, module: str, channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        before = self._bytes()
        weights = channels * self.channels // groups * kernel * kernel
        self.channels, self.size = channels, -(-self.size // stride)
        macs = weights * self.size * self.size
        self.owner = f"{module}:conv2d"
        self._add(module, "conv2d", macs, weights, before, None)

    def linear(self, module: str, features: int) -> None:
        before, weights = self._bytes(), features * self.channels
        self.channels = features
        self._add(module, "linear", weights, weights + features, before, None)

    def after(self, module: str, kind: str, parameters: int = 0, *, reads: int = 1) -> None:
        """An elementwise operator, which the compiled runtimes fuse into what comes before it."""
        self._add(module, kind, 0, parameters, reads * self._bytes(), self.owner)

    def pool(self, module: str) -> None:
        before, self.size, self.owner = self._bytes(), 1, None
        self._add(module, "adaptive_avg_pool2d", 0, 0, before, None)

    def view(self, kind: str) -> None:
        self._add("", kind, 0, 0, self._bytes(), None, seconds=False)

    def _bytes(self) -> int:
        return 4 * self.channels * self.size * self.size

    def _add(
        self,
        module: str,
        kind: str,
        macs: int,
        parameters: int,
        before: int,
        owner: str | None,
        *,
        seconds: bool = True,
    ) -> None:
        name = f"{module}:{kind}" if module else kind
        self.seen[name] += 1
        name += f"#{self.seen[name]}" if self.seen[name] > 1 else ""
        operator: Json = {
            "name": name,
            "module": module,
            "kind": kind,
            "macs": macs,
            "num_parameters": parameters,
            "weight_bytes": 4 * parameters,
            "input_bytes": before,
            "output_bytes": self._bytes(),
            "seconds": {},
            "fused_into": {},
            "roofline": {},
        }
        moved = 4 * parameters + before + self._bytes()
        for runtime, (peak, efficiency, dispatch) in RUNTIMES.items():
            fused = owner is not None and runtime != "eager"
            took, roof = _timed(macs, moved, peak, efficiency, dispatch)
            operator["seconds"][runtime] = took if seconds and not fused else None
            operator["fused_into"][runtime] = owner if fused else None
            operator["roofline"][runtime] = roof if seconds and not fused else None
        self.operators.append(operator)


def _timed(
    macs: int, moved: int, peak: float, efficiency: float, dispatch: float
) -> tuple[float, Json]:
    times = {"compute": macs / peak / 1e9, "memory": moved / MEMORY / 1e9, "overhead": dispatch}
    bound = max(times, key=lambda one: times[one])
    least = max(times["compute"], times["memory"])
    took = least / efficiency + dispatch
    return took, {"share_of_peak": least / took, "bound": bound}


def operators() -> list[Json]:
    """The network's operators in the order they run."""
    network = Network(3, 224)
    network.conv("_conv_stem", 32, 3, 2)
    network.after("_bn0", "batch_norm", 64)
    network.after("_relu", "hardtanh")
    number = 0
    for expansion, channels, repeats, stride, kernel in BLOCKS:
        for repeat in range(repeats):
            _block(
                network, f"_blocks.{number}", expansion, channels, kernel, 1 if repeat else stride
            )
            number += 1
    network.conv("_conv_head", 1280, 1)
    network.after("_bn1", "batch_norm", 2560)
    network.after("_relu", "hardtanh")
    network.pool("_avg_pooling")
    network.view("flatten")
    network.linear("_fc", 1000)
    return network.operators


def _block(
    network: Network, path: str, expansion: int, channels: int, kernel: int, stride: int
) -> None:
    before = network.channels
    inner = before * expansion
    if expansion > 1:
        network.conv(f"{path}._expand_conv", inner, 1)
        network.after(f"{path}._bn0", "batch_norm", 2 * inner)
        network.after(f"{path}._relu", "hardtanh")
    network.conv(f"{path}._depthwise_conv", inner, kernel, stride, inner)
    network.after(f"{path}._bn1", "batch_norm", 2 * inner)
    network.after(f"{path}._relu", "hardtanh")
    network.conv(f"{path}._project_conv", channels, 1)
    network.after(f"{path}._bn2", "batch_norm", 2 * channels)
    if stride == 1 and before == channels:
        network.after(path, "add", reads=2)


def runtime(name: str, found: list[Json], **changes: Any) -> Json:
    """A runtime's run: what its operators take, a layout change, and a call around them."""
    attributed = 1e3 * sum(one["seconds"][name] or 0.0 for one in found)
    rest = 0.0 if name == "eager" else 0.11
    p50 = 1.02 * (attributed + rest)
    record = {
        "name": name,
        "precision": "float32",
        "latency": {"p50_ms": p50, "low_ms": 0.985 * p50, "high_ms": 1.02 * p50},
        "attributed_ms": attributed,
        "counted_ms": attributed + rest,
        "share": attributed / p50,
        "reliable": True,
        "note": None,
        "failed": None,
        "memory_bytes": 214_000_000,
        "rest": [{"name": "Reorder_7", "kind": "Reorder", "ms": rest}] if rest else [],
    }
    return record | changes


def good() -> Json:
    """Three runtimes, one of them busy while it was timed, and one that is not installed."""
    found = operators()
    unsure = "rounds disagree (27.3 ms to 41.0 ms): the machine was busy"
    missing = "inductor needs a C++ compiler: apt-get install g++"
    return {
        "schema": 1,
        "title": "efficientnet-lite0",
        "created": "2026-05-04T10:31:07+00:00",
        "batch": 1,
        "threads": 2,
        "environment": runs.good()["environment"],
        "num_parameters": sum(one["num_parameters"] for one in found),
        "macs": sum(one["macs"] for one in found),
        "operators": found,
        "runtimes": [
            runtime("eager", found, reliable=False, note=unsure),
            runtime("onnxruntime", found),
            runtime("openvino", found),
            dict.fromkeys(runtime("eager", found)) | {"name": "inductor", "failed": missing},
        ],
        "memory": memory(found),
        "peaks": probe(),
        "devices": devices(),
        "preflight": preflight(),
        "notes": [
            "Two weights were not contiguous and were made so for the export: _fc, _conv_head."
        ],
    }


def memory(found: list[Json]) -> Json:
    """What is read and written by each operator, for want of a better liveness."""
    timeline = [
        {"operator": one["name"], "bytes": one["input_bytes"] + one["output_bytes"]}
        for one in found
    ]
    peak = max(timeline, key=lambda one: one["bytes"])
    return {
        "peak_bytes": peak["bytes"],
        "peak_at": peak["operator"],
        "weight_bytes": sum(one["weight_bytes"] for one in found),
        "timeline": timeline,
        "measured_bytes": {"onnxruntime": 214_000_000, "openvino": 251_000_000},
    }


def probe() -> Json:
    """A machine with VNNI and no AMX."""
    peaks, capabilities = [], []
    speeds = {"float32": 1.0, "bfloat16": 1.9, "int8": 3.6}
    for name, (gmacs, _, _) in RUNTIMES.items():
        for dtype, speed in speeds.items():
            refused = name == "onnxruntime" and dtype == "bfloat16"
            peaks.append(
                {
                    "runtime": name,
                    "dtype": dtype,
                    "gmacs": None if refused else gmacs * speed,
                    "low": None if refused else 0.96 * gmacs * speed,
                    "high": None if refused else 1.03 * gmacs * speed,
                    "reliable": not refused and (name, dtype) != ("eager", "int8"),
                    "note": "the runtime refused the graph" if refused else None,
                }
            )
            state = "refused" if refused else "emulated" if name == "eager" else "native"
            capabilities.append(
                {
                    "runtime": name,
                    "dtype": dtype,
                    "state": state if dtype != "float32" else "native",
                    "how": "brg_conv_avx512_core_vnni",
                    "speed": None if refused else speed,
                    "reason": "has no such kernels" if refused else None,
                }
            )
    levels = (("L1", 65_536, 412.0), ("L2", 2_097_152, 190.0), ("L3", 33_554_432, 78.0))
    return {
        "schema": 1,
        "environment": "9f2c4471ab03",
        "created": "2026-05-04T10:20:00+00:00",
        "threads": 2,
        "masks": {},
        "peaks": peaks,
        "bandwidth": [
            {"level": level, "bytes": size, "gb_per_s": speed, "reliable": level != "L3"}
            for level, size, speed in (*levels, ("memory", 25_769_803_776, MEMORY))
        ],
        "dispatch": [
            {"runtime": name, "seconds": dispatch, "reliable": True}
            for name, (_, _, dispatch) in RUNTIMES.items()
        ],
        "capabilities": capabilities,
        "notes": [],
    }


def devices() -> list[Json]:
    """One that is too small, one that fits, one that does not say what it has."""
    rows: tuple[tuple[str, str, int | None, int | None, bool | None, str], ...] = (
        ("Arduino Nano 33 BLE", "microcontroller", 1_048_576, 262_144, False, "too large by far"),
        ("phone, mid-range", "phone", 200_000_000, 805_306_368, True, "18.6 MB of flash"),
        ("a box of ours", "single-board computer", None, 1_000_000_000, None, "flash is not said"),
    )
    return [
        {
            "name": name,
            "kind": kind,
            "note": "",
            "fits": fits,
            "flash": {"needs": 18_600_000, "has": flash},
            "ram": {"needs": 28_300_000, "has": ram},
            "reason": reason,
        }
        for name, kind, flash, ram, fits, reason in rows
    ]


def factor(value: float, spread: float = 0.15) -> Json:
    """A ratio of times with a range around it."""
    return {"value": value, "low": value * (1 - spread), "high": value * (1 + spread)}


def preflight() -> Json:
    """Before anything was tried."""
    rows: tuple[tuple[str, str, Json | None, str, str], ...] = (
        ("more threads", "Fewer threads?", factor(1.71), "measured", "One thread takes longer."),
        (FIRST_MOVE, "Will int8 help here?", factor(0.56), "estimated", "Yes: VNNI kernels."),
        ("bfloat16 in openvino", "bfloat16?", factor(0.71), "estimated", "Yes, less than int8."),
        ("openvino", "Another runtime?", factor(1.02, 0.04), "measured", "It is no faster here."),
        ("bfloat16 in onnxruntime", "bfloat16?", None, "not possible", "It has no such kernels."),
    )
    return {
        "reference": runs.REFERENCE,
        "seconds": 14.2,
        "first_move": FIRST_MOVE,
        "answers": [
            {
                "move": move,
                "question": question,
                "answer": answer,
                "factor": value,
                "how": how,
                "basis": "8 representative layers timed in both, the rest by their MACs",
                "found": None,
            }
            for move, question, value, how, answer in rows
        ],
    }


def followed() -> Json:
    """The same, after a run that tried three of the moves."""
    found = {FIRST_MOVE: 0.595, "bfloat16 in openvino": 0.93, "openvino": 1.01}
    record = preflight()
    for answer in record["answers"]:
        if answer["move"] in found:
            answer["found"] = factor(found[answer["move"]], 0.03)
    return record


def sad() -> Json:
    """One operator, one runtime, one device and one answer of which nothing is known."""
    whole = good()
    empty: Json = {
        "operators": [dict.fromkeys(whole["operators"][0]) | {"name": "conv"}],
        "runtimes": [dict.fromkeys(whole["runtimes"][0]) | {"name": "eager"}],
        "memory": dict.fromkeys(whole["memory"]),
        "peaks": dict.fromkeys(whole["peaks"]) | {"schema": 1},
        "devices": [dict.fromkeys(whole["devices"][0]) | {"name": "a box"}],
        "preflight": dict.fromkeys(whole["preflight"])
        | {"answers": [dict.fromkeys(whole["preflight"]["answers"][0]) | {"move": "int8"}]},
    }
    return dict.fromkeys(whole) | {"schema": 1} | empty
