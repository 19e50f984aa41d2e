"""Edits of the ONNX graph, after torch wrote it and before it is saved.

Each is the same function in a form that a runtime has a kernel for, or that stops a runtime from
doing what nobody asked for. They were found in the runtimes' own counters.

Left out: anything that changes a result by more than the order of a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

_FUSED_FLOATS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def merge_pads(graph: ir.Graph) -> None:
    """Make a Pad of zeros in front of convolutions their own pads.

    PyTorch has no uneven padding, ONNX has, and a separate Pad breaks both runtimes' int8 fusion.
    """
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


def pool_globally(graph: ir.Graph) -> None:
    """Make a mean of quantized values over all spatial axes a GlobalAveragePool.

    onnxruntime has an int8 kernel for that and none for ReduceMean. Needs the shapes the exporter
    noted. Axes that were not kept are squeezed out behind it.
    """
    for node in list(graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2:
            continue
        value = node.inputs[0]
        if value is None or not _is_quantized(value):
            continue
        axes, shape = _constant(node.inputs[1]), value.shape
        if axes is None or shape is None or len(shape) < 3:
            continue
        spatial = list(range(2, len(shape)))
        if sorted(int(axis) % len(shape) for axis in axes) != spatial:
            continue
        kept = node.attributes.get("keepdims")
        pooled = ir.node("GlobalAveragePool", [value], name=node.name)
        pooled.metadata_props.update(node.metadata_props)
        new, result = [pooled], pooled.outputs[0]
        if kept is not None and kept.as_int() == 0:
            which = ir.node("Constant", [], attributes={"value_ints": spatial})
            squeezed = ir.node("Squeeze", [result, which.outputs[0]])
            new, result = [pooled, which, squeezed], squeezed.outputs[0]
        result.name = node.outputs[0].name
        ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, [result])


def drop_zero_points(graph: ir.Graph) -> None:
    """Leave out the zero points of weights and biases, which are zero.

    The exporter stores equal tensors once; OpenVINO does not fold a zero point that two weights
    share, and then computes both layers in float.
    """
    for node in graph:
        if node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
            continue
        integers, zero = node.inputs[0], node.inputs[2]
        stored = integers is not None and integers.const_value is not None
        constant = None if zero is None else zero.const_value
        if stored and constant is not None and not np.any(constant.numpy()):
            node.resize_inputs(2)
    unread = [name for name, value in graph.initializers.items() if not value.uses()]
    for name in unread:
        del graph.initializers[name]


def keep_floats(graph: ir.Graph) -> None:
    """Keep float convolutions and linear layers between quantizers in float.

    onnxruntime (1.31, its WeightBiasQuantization) takes Dequantize → Conv → [ReLU or Clip] →
    Quantize for something to quantize and rounds the float weights by itself. A LeakyRelu in
    between ends that; with slope 1, or 0 in place of a ReLU, it changes nothing, and it is fused.
    """
    for node in list(graph):
        if node.op_type not in _FUSED_FLOATS or not _is_quantized(node.inputs[0]):
            continue
        if any(value is not None and _is_quantized(value) for value in node.inputs[1:2]):
            continue
        readers = [usage.node for usage in node.outputs[0].uses()]
        if len(readers) != 1 or not _leads_to_quantizer(readers[0]):
            continue
        if readers[0].op_type == "Relu":
            _replace(graph, readers[0], readers[0].inputs[0], slope=0.0)
        else:
            _insert_behind(graph, node)


def _leads_to_quantizer(node: ir.Node) -> bool:
    while node.op_type in ("Relu", "Clip"):
        readers = [usage.node for usage in node.outputs[0].uses()]
        if len(readers) != 1:
            return False
        node = readers[0]
    return node.op_type == "QuantizeLinear"


def _replace(graph: ir.Graph, node: ir.Node, source: Any, slope: float) -> None:
    leaky = ir.node("LeakyRelu", [source], attributes={"alpha": slope}, name=node.name)
    leaky.metadata_props.update(node.metadata_props)
    leaky.outputs[0].name = node.outputs[0].name
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [leaky], node.outputs, leaky.outputs
    )


def _insert_behind(graph: ir.Graph, node: ir.Node) -> None:
    value = node.outputs[0]
    leaky = ir.node("LeakyRelu", [value], attributes={"alpha": 1.0}, name=f"{node.name}~float")
    leaky.outputs[0].name = f"{value.name}_float"
    for usage in list(value.uses()):
        if usage.node is not leaky:
            usage.node.replace_input_with(usage.idx, leaky.outputs[0])
    graph.insert_after(node, leaky)


def _is_quantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _pads_zeros(node: ir.Node) -> bool:
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
    return [
        int(item) if float(item).is_integer() else item for item in np.asarray(array).reshape(-1)
    ]
