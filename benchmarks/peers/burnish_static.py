"""Burnish by the same rules as its peers; it runs in the first environment.

Calibration is shared by both placements. "quantize" is what a user waits for to get the OpenVINO
model: folding, calibrating, choosing and rewriting; onnxruntime's takes the same first two steps.
With EXPORT=0 in the environment nothing is written but the times.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from handover import Done, Given, Stopwatch, run, versions

from burnish.graph import trace
from burnish.quantize import QuantizeStatic, calibrate, fold
from burnish.runtimes import export

BATCH = 16
RUNTIMES = ("openvino", "onnxruntime")


def quantize(given: Given, out: Path) -> Done:
    from efficientnet_lite0 import model  # beside us in examples/

    torch.set_num_threads(given.threads)
    watch = Stopwatch()
    network = model()
    watch.lap("load")
    traced = trace(network, (torch.from_numpy(given.images(0, 2)),))
    watch.lap("trace")
    calls = [(torch.from_numpy(batch),) for batch in given.calibration(BATCH)]
    watch.lap("read photos")
    folded = fold(traced)
    statistics = calibrate(folded, calls)
    watch.lap("calibrate")
    rewritten = {}
    for runtime in RUNTIMES:
        step = QuantizeStatic(runtime)
        rewritten[runtime] = step.rewrite(folded, step.choose_from(folded, statistics))
        watch.lap(f"choose and rewrite for {runtime}")
    seconds = watch.seconds
    for runtime in RUNTIMES:
        own = seconds["calibrate"] + seconds[f"choose and rewrite for {runtime}"]
        seconds[f"quantize for {runtime}"] = own
    if os.environ.get("EXPORT") != "0":
        for runtime in RUNTIMES:
            export(rewritten[runtime], runtime, out / runtime, precision="int8")
            watch.lap(f"export for {runtime}")
    seconds["quantize"] = seconds[f"quantize for {RUNTIMES[0]}"]
    return Done("burnish", "", seconds, versions("torch"), {"batch": BATCH})


if __name__ == "__main__":
    run(quantize)
