"""Ours at 4-bit weights and 8-bit activations, simulated: rounded to nearest, and learned.

"quantize" is folding, calibrating, choosing and rewriting with learned rounding; "nearest" the same
with plain rounding. Biases are corrected in neither, as Brevitas corrects none here; correction
alone makes good much of what plain rounding loses. NUM in the environment says how many validation
samples answer.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from handover import Done, Given, Stopwatch, run, versions
from ours import BATCH, network_of, tensors, traced_of
from torch import nn

from burnish.quantize import QuantizeStatic, Weights, calibrate, fold

ANSWER_BATCH = 64
RUNTIME = "openvino"


def quantize(given: Given, out: Path) -> Done:
    torch.set_num_threads(given.threads)
    module = network_of(given)
    watch = Stopwatch()
    traced = traced_of(given, module)
    calls = [tensors(batch) for batch in given.calibration(BATCH)]
    watch.lap("trace")
    answer(given, module, out / "float.npy")
    for rounding, phase in (("nearest", "nearest"), ("learned", "quantize")):
        watch.lap("answer")
        folded = fold(traced)
        weights = Weights(bits=4, rounding=rounding)  # type: ignore[arg-type]
        step = QuantizeStatic(RUNTIME, bias_correction="none", weights=weights)
        rounded = step.rewrite(folded, step.choose_from(folded, calibrate(folded, calls)))
        watch.lap(phase)
        answer(given, rounded, out / f"{rounding}.npy")
    settings: dict[str, object] = {"step": repr(step), "batch": BATCH}
    return Done("burnish AdaRound", "", watch.seconds, versions("torch"), settings)


def answer(given: Given, module: nn.Module, path: Path) -> None:
    """Write the logits of the validation samples, float32 [n, classes]."""
    start = given.num_calibration
    stop = min(given.num_samples, start + int(os.environ["NUM"]))
    with torch.inference_mode():
        logits = [
            module(*tensors(given.samples(at, min(at + ANSWER_BATCH, stop)))).numpy()
            for at in range(start, stop, ANSWER_BATCH)
        ]
    np.save(path, np.concatenate(logits))


if __name__ == "__main__":
    run(quantize)
