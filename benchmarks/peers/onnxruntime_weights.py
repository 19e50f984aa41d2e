"""onnxruntime's MatMulNBits quantizer, by METHOD of the environment: nearest, hqq or gptq.

Its defaults but for blocks of 32. The head, an operator of its own kind, stays float. GPTQ reads
all calibration samples, one at a time, as its own tool does.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import onnx
from handover import Arrays, Done, Given, Stopwatch, run, versions
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    GPTQWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
    WeightOnlyQuantConfig,
)

BITS, BLOCK = 4, 32


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibration samples, one by one."""

    def __init__(self, samples: list[Arrays]) -> None:
        self.left = list(samples)

    def get_next(self) -> Arrays | None:
        return self.left.pop(0) if self.left else None


def configuration(method: str, given: Given) -> WeightOnlyQuantConfig:
    if method == "hqq":
        import torch

        torch.set_num_threads(given.threads)
        return HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=BITS)
    if method == "gptq":
        return GPTQWeightOnlyQuantConfig(Reader(given.calibration(1)))
    return DefaultWeightOnlyQuantConfig(block_size=BLOCK, bits=BITS)


def quantize(given: Given, out: Path) -> Done:
    logging.disable(logging.INFO)  # a line for every node
    method = os.environ["METHOD"]
    watch = Stopwatch()
    model = onnx.load(given.float_file)
    watch.lap("load")
    settings = configuration(method, given)
    watch.lap("read samples")
    tool = MatMulNBitsQuantizer(model, block_size=BLOCK, is_symmetric=False, algo_config=settings)
    tool.process()
    watch.lap("quantize")
    tool.model.save_model_to_file(str(out / "model.onnx"), False)
    watch.lap("save")
    made = onnx.load(out / "model.onnx")
    stored = sum(node.op_type == "MatMulNBits" for node in made.graph.node)
    found: dict[str, object] = {"method": method, "bits": BITS, "block_size": BLOCK}
    found |= {"files": {"onnxruntime": "model.onnx"}, "layers": stored}
    return Done(
        f"onnxruntime {method}",
        "model.onnx",
        watch.seconds,
        {**versions("onnxruntime", "onnx"), "numpy": np.__version__},
        found,
    )


if __name__ == "__main__":
    run(quantize)
