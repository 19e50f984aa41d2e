"""How much memory it takes to store a model of a billion parameters in 4 bits.

    python benchmarks/weight_only_memory.py [--quick] [--runtimes NAME ...] [--output FILE]

A transformer encoder with random weights is built, quantized to int4 in blocks of 32, rounded to
nearest, exported, loaded in a worker process and run once. The peak of the resident memory is taken
for each phase by itself (Linux resets it on demand), with what was held when the phase began; of a
worker, that of its whole life. Everything happens in one process that holds the user's model
throughout, as a caller's does. The claim is about the largest peak of any phase, the exports
included.

Left out: quality, which random weights have none of; time, which the tables of the other
benchmarks have.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from burnish.bench import Environment  # noqa: E402
from burnish.files import write_text  # noqa: E402
from burnish.quantize import quantize_weights  # noqa: E402
from burnish.runtimes import export, load  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "weight_only_memory.json"
BOUND_GB = 16.0
VOCABULARY, WIDTH, LAYERS, HEADS, TOKENS = 32_000, 2048, 19, 16, 16
QUICK = {"vocabulary": 1000, "width": 256, "layers": 4}
BITS, BLOCK = 4, 32


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm and around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.before(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        shortcut: torch.Tensor = x + self.down(F.gelu(self.up(self.between(x))))
        return shortcut


class Encoder(nn.Module):
    """A table of tokens, and blocks."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.norm(self.blocks(self.embed(ids)))
        return hidden


class Memory:
    """Peaks of this process's resident memory, phase by phase."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        before = _status("VmRSS")
        # Linux: the peak becomes what is resident now.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        yield
        row = {"phase": name, "before_gb": before, "peak_gb": _status("VmHWM")}
        self.rows.append({**row, "after_gb": _status("VmRSS")})
        print(f"{name:32} {before:6.2f} GB, at most {row['peak_gb']:6.2f} GB", flush=True)


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError(f"/proc/self/status has no {key}")


def measure(shape: dict[str, int], runtimes: list[str]) -> dict[str, Any]:
    """All phases: parameters, rows, and the bytes of each artifact."""
    memory = Memory()
    torch.manual_seed(0)
    with memory.phase("the model, with random weights"):
        model = Encoder(**shape).eval()
    ids = torch.randint(0, shape["vocabulary"], (2, TOKENS))
    workers = []
    for runtime in runtimes:
        with memory.phase(f"quantize for {runtime}"):
            quantized = quantize_weights(model, [ids], runtime=runtime, bits=BITS, block_size=BLOCK)
        with tempfile.TemporaryDirectory() as folder:
            with memory.phase(f"export to {runtime}"):
                artifact = export(quantized, runtime, Path(folder), precision=f"int{BITS}-weights")
            del quantized
            with load(artifact.with_options(threads=1)) as worker:
                (given,) = worker.run({"ids": ids.numpy()})
                finite = bool(np.isfinite(given).all())
                row = {"runtime": runtime, "file_gb": artifact.size_bytes() / 1e9}
                workers.append({**row, "peak_gb": worker.memory_bytes() / 1e9, "finite": finite})
                print(f"worker of {runtime}: {workers[-1]}", flush=True)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "phases": memory.rows,
        "workers": workers,
    }


def document(found: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The result as JSON."""
    peak = max(row["peak_gb"] for row in (*found["phases"], *found["workers"]))
    claim = {
        "claim": "a billion parameters are stored in int4 in less than 16 GB of memory",
        "met": peak < BOUND_GB and found["parameters"] >= 1e9,
        "value": peak,
        "bound": BOUND_GB,
    }
    return {
        "benchmark": "weight_only_memory",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "environment": Environment.capture().to_json(),
        "settings": {"bits": BITS, "block_size": BLOCK, "method": "nearest", "tokens": TOKENS},
        **found,
        "claims": [claim],
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 million parameters; no result file")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--output", type=Path, default=None)
    asked = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("peaks of memory are read from /proc, which only Linux has")
    whole = {"vocabulary": VOCABULARY, "width": WIDTH, "layers": LAYERS}
    made = document(measure(QUICK if asked.quick else whole, asked.runtimes), asked.quick)
    for claim in made["claims"]:
        print(f"{'met' if claim['met'] else 'missed'}: {claim['claim']}: {claim['value']:.2f} GB")
    output = asked.output or (None if asked.quick else RESULT)
    if output is not None:
        write_text(output, json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
