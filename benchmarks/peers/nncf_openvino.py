"""NNCF's post-training quantization in OpenVINO: its defaults, or its transformer preset."""

from __future__ import annotations

from pathlib import Path

import nncf
import openvino
from handover import Done, Given, Stopwatch, run, versions


def quantize(given: Given, out: Path) -> Done:
    watch = Stopwatch()
    model = openvino.convert_model(str(given.float_file))
    watch.lap("convert")
    dataset = nncf.Dataset(given.calibration(1))
    watch.lap("read samples")
    preset = nncf.ModelType.TRANSFORMER if given.kind == "transformer" else None
    quantized = nncf.quantize(model, dataset, subset_size=given.num_calibration, model_type=preset)
    watch.lap("quantize")
    openvino.save_model(quantized, str(out / "model.xml"), compress_to_fp16=False)
    watch.lap("save")
    return Done(
        "nncf on OpenVINO",
        "model.xml",
        watch.seconds,
        versions("nncf", "openvino"),
        {"subset_size": given.num_calibration, "batch": 1, "model_type": str(preset)},
    )


if __name__ == "__main__":
    run(quantize)
