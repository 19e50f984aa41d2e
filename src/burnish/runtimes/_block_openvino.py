"""Weights stored in blocks, in the form OpenVINO keeps compressed in memory.

The CPU plugin (2026.4) has one pattern for a compressed weight: a constant in u4, u8, i4 or i8
[rows, blocks, block size], converted to float, minus zero points, times scales, reshaped to two
axes. Before a product it becomes part of a FullyConnectedCompressed, before a lookup of a
GatherCompressed; before anything else it is folded to floats when the model is compiled. The
pattern must not hang on what the reader of ONNX files makes of com.microsoft's operators: the file
that is converted has an input in the place of each such weight, and the pattern is put there
afterwards.

Whole blocks are what the pattern knows: where a row does not fill its last block, the input of a
product is filled up with zeros, the result of a lookup cut off.

Left alone, the plugin would round the inputs of such products to int8 in groups of 32 on CPUs with
VNNI. The model says, in its own options, that it must not: weights are stored in few bits here, all
is computed in float.

Left out: that rounding as a choice; scales in float16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.runtimes._block_onnx import Array, Stored, drop_unread, pairs, stored_weights

_ACTIVATIONS_IN_FLOAT = ("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])


class BlockInputs:
    """An edit that makes inputs of a file's weights in blocks, and puts the weights back later.

    OpenVINO's constants read the memory of arrays that are kept here: keep this until all is saved.
    """

    def __init__(self) -> None:
        self._stored: dict[str, Stored] = {}
        self._arrays: list[Array] = []

    def take(self, graph: Any) -> None:
        """Put an input behind the model's own for each weight of the ONNX graph."""
        for stored in stored_weights(graph):
            name = f"burnish_block_{len(self._stored)}"
            value = ir.val(name, ir.DataType.FLOAT, list(stored.sizes))
            graph.inputs.append(value)
            for usage in list(stored.value.uses()):
                usage.node.replace_input_with(usage.idx, value)
            graph.remove(stored.node, safe=True)
            self._stored[name] = stored
        drop_unread(graph)

    def give_back(self, model: Any) -> None:
        """Put the compressed weights into the converted model, in place of those inputs."""
        if not self._stored:
            return
        for parameter in list(model.get_parameters()):
            stored = self._stored.get(parameter.get_friendly_name())
            if stored is None:
                continue
            self._put_back(parameter.output(0), stored)
            model.remove_parameter(parameter)
        model.set_rt_info(*_ACTIVATIONS_IN_FLOAT)
        model.validate_nodes_and_infer_types()

    def _put_back(self, weight: Any, stored: Stored) -> None:
        from openvino import opset13 as ops

        rows = self._rows(stored)
        for target in list(weight.get_target_inputs()):
            node, whole = target.get_node(), stored.padded == stored.width
            kind, index = node.get_type_name(), target.get_index()
            if kind == "MatMul" and index == 1 and node.get_attributes()["transpose_b"]:
                target.replace_source_output(rows)
                if not whole:
                    _fill_up(node, stored)
            elif kind == "Gather" and index == 0:
                target.replace_source_output(rows)
                if not whole:
                    _cut_off(node, stored)
            else:
                flat = rows if whole else _cut(rows, stored.width)
                sizes = np.array(stored.sizes)
                target.replace_source_output(ops.reshape(flat, sizes, False).output(0))

    def _rows(self, stored: Stored) -> Any:
        """The float matrix [rows, whole blocks] as the plugin's pattern."""
        from openvino import Type
        from openvino import opset13 as ops

        rows, blocks = stored.scale.shape
        shape, bits, packed = (rows, blocks, stored.block_size), stored.bits, stored.packed
        if stored.zero is None:
            # Two's complement of code minus middle: the uppermost bit turned.
            signed = packed ^ 0x88 if bits == 4 else (packed ^ 0x80).view(np.int8)
            kind = Type.i4 if bits == 4 else Type.i8
            value = ops.convert(self._constant(signed, shape, kind), "f32")
        else:
            kind = Type.u4 if bits == 4 else Type.u8
            codes = self._constant(packed, shape, kind)
            zero = stored.zero.reshape(1, -1)
            points = self._constant(pairs(zero) if bits == 4 else zero, (rows, blocks, 1), kind)
            value = ops.subtract(ops.convert(codes, "f32"), ops.convert(points, "f32"))
        scaled = ops.multiply(value, ops.constant(stored.scale[..., None]))
        return ops.reshape(scaled, np.array([rows, stored.padded]), False).output(0)

    def _constant(self, array: Array, shape: tuple[int, ...], kind: Any) -> Any:
        from openvino import Shape, Tensor
        from openvino import opset13 as ops

        flat = np.ascontiguousarray(array).reshape(-1)
        self._arrays.append(flat)
        return ops.constant(Tensor(flat, Shape(shape), kind))


def _fill_up(product: Any, stored: Stored) -> None:
    """Zeros behind the last axis of what is multiplied, for the columns nobody counts."""
    from openvino import opset13 as ops

    source = product.input_value(0)
    rank = source.get_partial_shape().rank.get_length()
    begin, end = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    end[-1] = stored.padded - stored.width
    filled = ops.pad(source, begin, end, "constant", ops.constant(np.float32(0)))
    filled.set_friendly_name(f"{product.get_friendly_name()}/filled")
    product.input(0).replace_source_output(filled.output(0))


def _cut_off(lookup: Any, stored: Stored) -> None:
    readers = list(lookup.output(0).get_target_inputs())
    cut = _cut(lookup.output(0), stored.width)
    cut.get_node().set_friendly_name(f"{lookup.get_friendly_name()}/cut")
    for reader in readers:
        reader.replace_source_output(cut)


def _cut(value: Any, width: int) -> Any:
    """The first `width` of the last axis."""
    from openvino import opset13 as ops

    edges = (np.array([edge], np.int64) for edge in (0, width, 1, -1))
    return ops.slice(value, *edges).output(0)
