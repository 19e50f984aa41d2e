"""A traced graph to ONNX, the file that onnxruntime runs and OpenVINO converts.

torch's exporter writes the float operators; our quantize and dequantize become QuantizeLinear and
DequantizeLinear, with int8 weights as initializers. Every dynamic axis keeps its name. Each ONNX
node carries the name our plans use ("layer1.0.conv1:conv2d") as metadata, for the runtime's
counters to be read back.

A Pad of zeros in front of a convolution becomes the convolution's own pads: PyTorch has no uneven
padding, ONNX has, and a separate Pad breaks both runtimes' int8 fusion.

Left out: files above 2 GB (external data).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from burnish.errors import Unsupported
from burnish.graph import DEQUANTIZE, QUANTIZE, Traced, operator_names

OPSET = 21
NAME_KEY = "burnish"
_TWO_GB = 2_000_000_000


def to_onnx(model: Traced, path: Path) -> None:
    """Write the graph to `path`.

    Raises:
        Unsupported: an operator the exporter has no translation for (torch's reason is kept).
    """
    size = sum(t.numel() * t.element_size() for t in model.graph_module.state_dict().values())
    if size > _TWO_GB:
        raise Unsupported(
            f"the model holds {size / 1e9:.1f} GB; ONNX files above 2 GB are not done"
        )
    exported = _export(model)
    graph = exported.model.graph
    _name_nodes(graph, model)
    _pads_into_convolutions(graph)
    exported.save(str(path), include_initializers=True, external_data=False)


def _export(model: Traced) -> Any:
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                model.graph_module, model.example(), dynamic_shapes=model.dynamic_shapes()
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=_translations(),
                input_names=[slot.name for slot in model.inputs],
                output_names=[slot.name for slot in model.outputs],
                verbose=False,
            )
    except Exception as error:
        raise Unsupported(
            f"torch's ONNX exporter refuses this graph: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0][:400]}"
        ) from error
    assert exported is not None
    _rename_dims(exported.model.graph, model)
    return exported


def _rename_dims(graph: Any, model: Traced) -> None:
    import onnx_ir as ir

    for value, slot in [
        *zip(graph.inputs, model.inputs, strict=True),
        *zip(graph.outputs, model.outputs, strict=True),
    ]:
        value.shape = ir.Shape(slot.shape)
    # Shapes in between were written with the exporter's own symbols; they say nothing now.
    for node in graph:
        for output in node.outputs:
            if output not in graph.outputs:
                output.shape = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's warnings are about its own versions; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _translations() -> dict[Any, Any]:
    from onnxscript import opset21 as op

    def quantize(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.QuantizeLinear(x, scale, zero_point, axis=axis)

    def dequantize(q: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.DequantizeLinear(q, scale, zero_point, axis=axis)

    return {QUANTIZE: quantize, DEQUANTIZE: dequantize}


def _name_nodes(graph: Any, model: Traced) -> None:
    """Give ONNX nodes our names, through the graph nodes' names that the exporter keeps."""
    ours = {node.name: name for node, name in operator_names(model.graph_module).items()}
    seen: dict[str, int] = {}
    for node in graph:
        source = node.metadata_props.get("pkg.torch.onnx.fx_node", "")
        name = ours.get(source.split(" ")[0].lstrip("%").split(":")[0].rstrip("="))
        if name is not None:
            node.metadata_props[NAME_KEY] = name
            seen[name] = seen.get(name, 0) + 1
            node.name = name if seen[name] == 1 else f"{name}~{seen[name]}"


def _pads_into_convolutions(graph: Any) -> None:
    import onnx_ir as ir

    for node in list(graph):
        if node.op_type != "Pad" or not _pads_zeros(node):
            continue
        pads = _constant(node.inputs[1])
        readers = [usage.node for usage in node.outputs[0].uses()]
        if pads is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
            continue
        rank = len(pads) // 2
        spatial = [*pads[2:rank], *pads[rank + 2 :]]
        fits = all(reader.op_type == "Conv" for reader in readers) and min(spatial) >= 0
        if not readers or not fits or any((*pads[:2], *pads[rank : rank + 2])):
            continue
        for reader in readers:
            old = reader.attributes.get("pads")
            own = [0] * len(spatial) if old is None else old.as_ints()
            summed = [a + b for a, b in zip(own, spatial, strict=True)]
            reader.attributes["pads"] = ir.AttrInt64s("pads", summed)
            reader.attributes.pop("auto_pad", None)
            reader.replace_input_with(0, node.inputs[0])
        graph.remove(node, safe=True)


def _pads_zeros(node: Any) -> bool:
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return False
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    value = _constant(node.inputs[2])
    return value is not None and value == [0]


def _constant(value: Any) -> list[Any] | None:
    tensor = getattr(value, "const_value", None)
    if tensor is None:
        producer = value.producer()
        if producer is None or producer.op_type != "Constant":
            return None
        attribute = producer.attributes.get("value") or producer.attributes.get("value_ints")
        if attribute is None:
            return None
        tensor = attribute.value
    array = tensor.numpy() if hasattr(tensor, "numpy") else tensor
    return [item for item in getattr(array, "reshape", lambda _: array)(-1)]
