"""Do the peaks of `burnish.profile.probe` hold against matrix products run by hand?

    python benchmarks/probe_peaks.py [--repeats 5] [--threads N] [--output FILE.json]

By hand means: torch's own bindings of oneDNN, called in this process on the probe's matrices
without Burnish, its graphs, its exports or its workers. Float32 is run twice, by oneDNN on a weight
it laid out itself and by the BLAS torch was built with, which is what eager calls. Products by hand
and probes take turns, so that each probe is compared with what the machine gave just before and
just after. What the result holds is told in benchmarks/README.md.

Left out: MLAS by hand; it can only be called through onnxruntime. What it computes (all of
onnxruntime, and OpenVINO where its kernels' names say so) is compared with oneDNN for the record,
and nothing is claimed of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from burnish.bench import Environment  # noqa: E402
from burnish.files import write_text  # noqa: E402
from burnish.hardware import detect  # noqa: E402
from burnish.profile import Probe, probe  # noqa: E402
from burnish.profile._probe_graphs import DEPTH, WIDTH, macs  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "probe_peaks.json"
ROWS = 512  # for each thread, as the probe has them
BOUND = 0.15
# Each peak and what computes the same by hand.
PAIRS = {
    ("eager", "float32"): "float32, BLAS",
    ("eager", "bfloat16"): "bfloat16, oneDNN",
    ("openvino", "float32"): "float32, oneDNN",
    ("openvino", "bfloat16"): "bfloat16, oneDNN",
    ("openvino", "int8"): "int8, oneDNN",
    ("onnxruntime", "float32"): "float32, oneDNN",
    ("onnxruntime", "int8"): "int8, oneDNN",
}
OTHER_LIBRARIES = ("mlas",)  # in the name of a kernel
Product = Callable[[], Any]


def by_hand(threads: int) -> dict[str, Product]:
    """The chain of products in each type, ready to be called."""
    rows = ROWS * threads
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / WIDTH**0.5

    x = torch.randn(rows, WIDTH, generator=generator)
    weights, bias = [drawn(WIDTH, WIDTH) for _ in range(DEPTH)], drawn(WIDTH)
    packed = [torch.ops.mkldnn._reorder_linear_weight(w, rows) for w in weights]
    halves = [w.bfloat16() for w in weights]

    def onednn() -> torch.Tensor:
        value = x
        for weight in packed:
            value = torch.ops.mkldnn._linear_pointwise(value, weight, bias, "none", [], "")
        return value

    def linear(value: torch.Tensor, chain: Sequence[torch.Tensor], bias: torch.Tensor) -> Any:
        for weight in chain:
            value = F.linear(value, weight, bias)
        return value

    return {
        "float32, BLAS": lambda: linear(x, weights, bias),
        "float32, oneDNN": onednn,
        "bfloat16, oneDNN": lambda: linear(x.bfloat16(), halves, bias.bfloat16()),
        "int8, oneDNN": _int8(x, bias, generator),
    }


def _int8(x: torch.Tensor, bias: torch.Tensor, generator: torch.Generator) -> Product:
    def drawn() -> torch.Tensor:
        return torch.randint(-127, 128, (WIDTH, WIDTH), generator=generator).to(torch.int8)

    packed = [torch.ops.onednn.qlinear_prepack(drawn(), list(x.shape)) for _ in range(DEPTH)]
    scales = torch.full((WIDTH,), 1 / (73 * WIDTH**0.5))
    zeros = torch.zeros(WIDTH, dtype=torch.int32)
    quantized = torch.clamp(torch.round(x * 32) + 128, 0, 255).to(torch.uint8)

    def run() -> torch.Tensor:
        value = quantized
        for index, weight in enumerate(packed):
            last = index == DEPTH - 1
            value = torch.ops.onednn.qlinear_pointwise(
                value,
                *(1 / 32, 128, weight, scales, zeros, bias),
                *((1.0, 0, torch.float32) if last else (1 / 32, 128, torch.uint8)),
                *("none", [], ""),
            )
        return value

    return run


def rates(products: Mapping[str, Product], threads: int, rounds: int) -> dict[str, float]:
    """10^9 multiply-accumulates a second of each: medians over rounds in which all take turns."""
    taken: dict[str, list[float]] = {name: [] for name in products}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, product in products.items():
                product()
                start = time.perf_counter()
                product()
                product()
                taken[name].append((time.perf_counter() - start) / 2)
    work = macs(ROWS * threads) / 1e9
    return {name: work / statistics.median(values) for name, values in taken.items()}


def reversals(one: Probe, other: Probe) -> list[str]:
    """Pairs of peaks whose intervals lie apart in both probes, but the other way round."""
    known = {(row.runtime, row.dtype): row for row in other.peaks}
    found = []
    for first in one.peaks:
        for second in one.peaks:
            pair = (first, second)
            again = tuple(known[row.runtime, row.dtype] for row in pair)
            if any(row.low is None or row.high is None for row in (*pair, *again)):
                continue
            apart = first.low > second.high and again[1].low > again[0].high  # type: ignore[operator]
            if apart:
                found.append(f"{first.runtime} {first.dtype} and {second.runtime} {second.dtype}")
    return found


def kernel_is_other(kernel: str) -> bool:
    """Whether a kernel belongs to a library that is not called by hand here."""
    return any(name in kernel.lower() for name in OTHER_LIBRARIES)


def rows_of(probes: Sequence[Probe], hands: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row for each pair: what the probes found, what the hand did around each, the ratio."""
    rows = []
    for (runtime, dtype), name in PAIRS.items():
        peaks = [found.peak(runtime, dtype) for found in probes]
        if any(peak is None for peak in peaks):
            continue
        known = probes[0].capability(runtime, dtype)
        kernel = known.how if known is not None else ""
        measured = [peak / 1e9 for peak in peaks if peak is not None]
        around = [(hands[i][name] + hands[i + 1][name]) / 2 for i in range(len(probes))]
        ratios = [peak / hand for peak, hand in zip(measured, around, strict=True)]
        rows.append(
            {
                "runtime": runtime,
                "dtype": dtype,
                "hand": name,
                "gmacs": measured,
                "hand_gmacs": around,
                "ratios": ratios,
                "ratio": statistics.median(ratios),
                "kernel": kernel,
                "claimed": runtime != "onnxruntime" and not kernel_is_other(kernel),
            }
        )
    return rows


def claims_of(rows: Sequence[Mapping[str, Any]], probes: Sequence[Probe]) -> list[dict[str, Any]]:
    """What we claim, with what was found."""
    claims: list[dict[str, Any]] = []
    for row in rows:
        if row["claimed"]:
            far = abs(row["ratio"] - 1)
            claims.append(
                {
                    "claim": f"{row['runtime']} {row['dtype']} is within {BOUND:.0%} of "
                    f"{row['hand']} by hand",
                    "value": row["ratio"],
                    "bound": BOUND,
                    "met": far <= BOUND,
                }
            )
    found = sorted({pair for other in probes[1:] for pair in reversals(probes[0], other)})
    claims.append(
        {
            "claim": "no pair of peaks changes its order from the first probe to a later one",
            "value": found,
            "bound": [],
            "met": not found,
        }
    )
    return claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=detect().cores)
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    start = time.monotonic()
    torch.set_num_threads(given.threads)
    products = by_hand(given.threads)
    rates(products, given.threads, 3)
    hands = [rates(products, given.threads, 9)]
    probes, took = [], []
    for index in range(given.repeats):
        begun = time.monotonic()
        probes.append(probe(threads=given.threads, renew=True))
        took.append(round(time.monotonic() - begun, 1))
        hands.append(rates(products, given.threads, 9))
        print(f"{index + 1} of {given.repeats}: the probe took {took[-1]} s", flush=True)
    rows = rows_of(probes, hands)
    claims = claims_of(rows, probes)
    document = {
        "schema": 1,
        "benchmark": "probe_peaks",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": Environment.capture().to_json(),
        "settings": {
            "repeats": given.repeats,
            "threads": given.threads,
            "matrices": [ROWS * given.threads, WIDTH, WIDTH],
            "depth": DEPTH,
        },
        "rows": rows,
        "claims": claims,
        "probes": [found.to_json() for found in probes],
        "probe_seconds": {"each": took, "median": float(np.median(took))},
        "seconds": round(time.monotonic() - start),
    }
    write_text(given.output, json.dumps(document, indent=1) + "\n")
    for row in rows:
        print(f"{row['runtime']:12} {row['dtype']:9} {row['ratio']:.3f} of {row['hand']} by hand")
    for claim in claims:
        print("met   " if claim["met"] else "MISSED", claim["claim"])
    print(f"written: {given.output}")


if __name__ == "__main__":
    main()
