"""NNCF's post-training quantization of an ONNX model: its defaults, or its transformer preset."""

from __future__ import annotations

from pathlib import Path

import nncf
import onnx
from handover import Done, Given, Stopwatch, run, versions


def quantize(given: Given, out: Path) -> Done:
    watch = Stopwatch()
    model = onnx.load(given.float_file)
    watch.lap("load")
    dataset = nncf.Dataset(given.calibration(1))
    watch.lap("read samples")
    preset = nncf.ModelType.TRANSFORMER if given.kind == "transformer" else None
    quantized = nncf.quantize(model, dataset, subset_size=given.num_calibration, model_type=preset)
    watch.lap("quantize")
    onnx.save(quantized, out / "model.onnx")
    watch.lap("save")
    return Done(
        "nncf on ONNX",
        "model.onnx",
        watch.seconds,
        versions("nncf", "onnx", "onnxruntime"),
        {"subset_size": given.num_calibration, "batch": 1, "model_type": str(preset)},
    )


if __name__ == "__main__":
    run(quantize)
