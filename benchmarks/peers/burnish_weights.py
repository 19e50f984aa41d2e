"""Ours: the encoder's linear layers in 4-bit blocks, by METHOD of the environment.

"quantize" is all that `quantize_weights` does to a traced model: folding, sampling, choosing the
integers and packing them. With EXPORT=0 in the environment nothing is written but the times.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from handover import Done, Given, Stopwatch, run, versions
from ours import BATCH, network_of, tensors, traced_of

from burnish.quantize import quantize_weights
from burnish.runtimes import export

BITS, BLOCK = 4, 32
LAYERS = ("encoder.encoder",)
RUNTIMES = ("onnxruntime", "openvino")


def quantize(given: Given, out: Path) -> Done:
    torch.set_num_threads(given.threads)
    method = os.environ["METHOD"]
    watch = Stopwatch()
    module = network_of(given)
    watch.lap("load")
    traced = traced_of(given, module)
    watch.lap("trace")
    calls = [tensors(batch) for batch in given.calibration(BATCH)]
    watch.lap("read samples")
    quantized = quantize_weights(
        traced, calls, bits=BITS, block_size=BLOCK, method=method, include=LAYERS
    )
    watch.lap("quantize")
    files = {}
    if os.environ.get("EXPORT") != "0":
        for runtime in RUNTIMES:
            made = export(quantized, runtime, out / runtime, precision=f"int{BITS}-weights")
            files[runtime] = f"{runtime}/{made.files[0]}"
            watch.lap(f"export for {runtime}")
    settings: dict[str, object] = {
        "method": method,
        "bits": BITS,
        "block_size": BLOCK,
        "batch": BATCH,
        "files": files,
    }
    return Done(f"burnish {method}", "", watch.seconds, versions("torch"), settings)


if __name__ == "__main__":
    run(quantize)
