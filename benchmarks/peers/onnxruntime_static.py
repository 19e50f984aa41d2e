"""onnxruntime's `quantize_static`: QDQ, weights int8 per channel, activations uint8, min-max."""

from __future__ import annotations

from pathlib import Path

from handover import Done, Given, Stopwatch, run, versions
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """One sample at a time, as the tool asks for them."""

    def __init__(self, given: Given) -> None:
        self._batches = iter(given.calibration(1))

    def get_next(self) -> dict[str, object] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def quantize(given: Given, out: Path) -> Done:
    watch = Stopwatch()
    prepared = out / "prepared.onnx"
    quant_pre_process(str(given.float_file), str(prepared), skip_symbolic_shape=True)
    watch.lap("prepare")
    samples = Samples(given)
    watch.lap("read samples")
    quantize_static(
        str(prepared),
        str(out / "model.onnx"),
        samples,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    watch.lap("quantize")
    return Done(
        "onnxruntime quantize_static",
        "model.onnx",
        watch.seconds,
        versions("onnxruntime", "onnx"),
        {"format": "QDQ", "per_channel": True, "activations": "uint8", "weights": "int8"},
    )


if __name__ == "__main__":
    run(quantize)
