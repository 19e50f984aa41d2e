"""Burnish by the same rules as its peers; it runs in the first environment.

Calibration is shared by both placements. "quantize" is what a user waits for to get the OpenVINO
model: folding, calibrating, choosing and rewriting; onnxruntime's takes the same first steps. A
transformer is smoothed first where that helps, as NNCF's preset for transformers does; the time it
takes to see that it does not help counts, too. With EXPORT=0 in the environment nothing is written
but the times.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from handover import Done, Given, Stopwatch, run, versions
from ours import BATCH, network_of, tensors, traced_of

from burnish.errors import NoEffect
from burnish.graph import Traced
from burnish.quantize import QuantizeStatic, SmoothQuant, calibrate, fold
from burnish.runtimes import export

RUNTIMES = ("openvino", "onnxruntime")


def quantize(given: Given, out: Path) -> Done:
    torch.set_num_threads(given.threads)
    watch = Stopwatch()
    module = network_of(given)
    watch.lap("load")
    traced = traced_of(given, module)
    watch.lap("trace")
    calls = [tensors(batch) for batch in given.calibration(BATCH)]
    watch.lap("read samples")
    folded, smooth = fold(traced), given.kind == "transformer"
    statistics = calibrate(folded, calls)
    watch.lap("calibrate")
    watch.seconds["smooth"] = 0.0
    if smooth:
        step = SmoothQuant()
        try:
            smoothed = step.rewrite(folded, step.choose_from(folded, statistics))
            assert isinstance(smoothed, Traced)
            folded, statistics = smoothed, calibrate(smoothed, calls)
        except NoEffect:
            smooth = False
        watch.lap("smooth")
    rewritten = {}
    for runtime in RUNTIMES:
        static = QuantizeStatic(runtime)
        rewritten[runtime] = static.rewrite(folded, static.choose_from(folded, statistics))
        watch.lap(f"choose and rewrite for {runtime}")
    seconds = watch.seconds
    for runtime in RUNTIMES:
        own = seconds[f"choose and rewrite for {runtime}"]
        seconds[f"quantize for {runtime}"] = seconds["calibrate"] + seconds["smooth"] + own
    if os.environ.get("EXPORT") != "0":
        for runtime in RUNTIMES:
            export(rewritten[runtime], runtime, out / runtime, precision="int8")
            watch.lap(f"export for {runtime}")
    seconds["quantize"] = seconds[f"quantize for {RUNTIMES[0]}"]
    settings: dict[str, object] = {"batch": BATCH, "smoothed": smooth}
    return Done("burnish", "", seconds, versions("torch"), settings)


if __name__ == "__main__":
    run(quantize)
