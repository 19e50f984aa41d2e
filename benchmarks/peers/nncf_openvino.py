"""NNCF's post-training quantization of an OpenVINO model, with its defaults."""

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
    watch.lap("read photos")
    quantized = nncf.quantize(model, dataset, subset_size=given.num_calibration)
    watch.lap("quantize")
    openvino.save_model(quantized, str(out / "model.xml"), compress_to_fp16=False)
    watch.lap("save")
    return Done(
        "nncf on OpenVINO",
        "model.xml",
        watch.seconds,
        versions("nncf", "openvino"),
        {"subset_size": given.num_calibration, "batch": 1},
    )


if __name__ == "__main__":
    run(quantize)
