"""Weights stored in blocks, in the form onnxruntime keeps compressed in memory.

torch's exporter writes a placeholder, `burnish.DequantizeBlocks`, which a runtime's own edit then
replaces together with whatever reads it. onnxruntime (1.31) has kernels of its own for two readers:

*Product* (Gemm, MatMul): com.microsoft's MatMulNBits, which unpacks a few rows at a time and
computes in float32 (accuracy level 1). For 4 bits. For 8 bits that kernel does not exist on x86:
MatMulNBits makes floats of the whole weight in every run, or, at level 4, rounds activations to
8 bits. So 8 bits are two products of 4: `code = 16 high + low`, and with the zero point split alike
`(code - zero) s = (high - zero_high) 16 s + (low - zero_low) s`, exactly.

*Lookup* (Gather): GatherBlockQuantized, also of com.microsoft. Its table and MatMulNBits' matrix
are the same bytes in another shape: a table of 4 bits that is a layer's weight, too, is in the file
once.

Anything else (a convolution, a recurrent layer) reads the floats of a plain computation from
constants, Cast, Sub, Mul and Reshape, which onnxruntime does once, when it loads the file.
DequantizeLinear with a block size would say the same in one node, and is not used: onnxruntime
computes it anew in every run where it does not fuse it, and where it does, rounds activations.

Left out: com.microsoft's level 4, int8 activations; dynamic quantization is a method of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.graph import DEQUANTIZE_BLOCKS

Array = np.ndarray[Any, Any]
DOMAIN = "burnish"
_MICROSOFT = "com.microsoft"
_FLOAT32 = 1  # of accuracy levels


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight of the file: its placeholder, and what that reads, as arrays.

    `packed` [rows, blocks, bytes], `scale` [rows, blocks], `zero` [rows, blocks] or None.
    """

    node: Any
    packed: Array
    scale: Array
    zero: Array | None
    bits: int
    block_size: int
    sizes: tuple[int, ...]

    @property
    def value(self) -> Any:
        """The float weight, as the file has it."""
        return self.node.outputs[0]

    @property
    def name(self) -> str:
        """The name of what is stored; the same for weights that are stored once."""
        return str(self.node.inputs[0].name)

    @property
    def width(self) -> int:
        """Numbers in a row that count."""
        return math.prod(self.sizes[1:])

    @property
    def padded(self) -> int:
        """Numbers in a row as stored, in whole blocks."""
        return int(self.scale.shape[1]) * self.block_size


def block_translations() -> dict[Any, Any]:
    """What the exporter writes for `dequantize_blocks`."""
    return {DEQUANTIZE_BLOCKS: _placeholder}


def stored_weights(graph: Any) -> list[Stored]:
    """The weights that the graph reads through placeholders, in its order."""
    return [_stored(node) for node in graph if node.domain == DOMAIN]


def pack_blocks(graph: Any) -> None:
    """Put onnxruntime's own operators in the place of placeholders and what reads them."""
    weights = stored_weights(graph)
    if not weights:
        return
    graph.opset_imports[_MICROSOFT] = 1
    tables = {stored.name for stored in weights if any(map(_looks_up, _readers(stored.value)))}
    for stored in weights:
        for reader, value in _products(stored.value):
            _multiply(graph, stored, reader, value, stored.name in tables)
        for reader in filter(_looks_up, _readers(stored.value)):
            _look_up(graph, stored, reader)
        if stored.value.uses():
            _unpack(graph, stored)
        graph.remove(stored.node, safe=True)
    drop_unread(graph)
    del graph.opset_imports[DOMAIN]


def drop_unread(graph: Any) -> None:
    """Leave out constants that nobody reads."""
    outputs = set(graph.outputs)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs:
            del graph.initializers[name]


def _stored(node: Any) -> Stored:
    arrays = [None if value is None else value.const_value.numpy() for value in node.inputs]
    packed, scale = arrays[:2]
    assert packed is not None
    assert scale is not None
    attributes = node.attributes
    return Stored(
        node,
        packed,
        scale,
        arrays[2] if len(arrays) > 2 else None,
        attributes["bits"].as_int(),
        attributes["block_size"].as_int(),
        tuple(attributes["sizes"].as_ints()),
    )


def _readers(value: Any) -> list[Any]:
    return [usage.node for usage in value.uses()]


def _looks_up(node: Any) -> bool:
    axis = node.attributes.get("axis")
    return node.op_type == "Gather" and (axis is None or axis.as_int() == 0)


def _products(weight: Any) -> list[tuple[Any, Any]]:
    """The products by the weight [out, in], and the value of it that each reads."""
    found = []
    for node in _readers(weight):
        if node.op_type == "Gemm" and _plain_gemm(node, weight, turned=True):
            found.append((node, weight))
        if node.op_type == "Transpose":
            turned = node.outputs[0]
            for reader in _readers(turned):
                gemm = reader.op_type == "Gemm" and _plain_gemm(reader, turned, turned=False)
                matmul = reader.op_type == "MatMul" and reader.inputs[1] is turned
                if gemm or (matmul and reader.inputs[0] is not turned):
                    found.append((reader, turned))
    return found


def _plain_gemm(node: Any, weight: Any, *, turned: bool) -> bool:
    """A Gemm that multiplies by the weight, turned by itself or before, and does nothing else."""
    wanted = {"transA": 0, "transB": int(turned), "alpha": 1.0, "beta": 1.0}
    usual = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
    found = {key: node.attributes[key].value for key in usual if key in node.attributes}
    if {**usual, **found} != wanted or node.inputs[1] is not weight or node.inputs[0] is weight:
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias is None or (bias.shape is not None and len(bias.shape) == 1)


def _multiply(graph: Any, stored: Stored, reader: Any, value: Any, table: bool) -> None:
    """One MatMulNBits in the place of a product, or two and their sum."""
    x = reader.inputs[0]
    bias = reader.inputs[2] if len(reader.inputs) > 2 else None
    new: list[Any] = []
    products: list[Any] = []
    for part in _nibbles(stored):
        matrix = constant(graph, part.name, part.packed)
        if table and stored.bits == 4:
            rows = constant(graph, f"{stored.name}_rows", _flat(stored))
            shape = constant(graph, f"{stored.name}_shape", np.array(stored.packed.shape))
            new.append(ir.node("Reshape", [rows, shape]))
            matrix = new[-1].outputs[0]
        scale = constant(graph, part.scale_name, part.scale)
        zero = _zero_points(graph, part.name, part.zero, 4)
        attributes = {
            **{"K": stored.width, "N": stored.sizes[0], "bits": 4},
            **{"block_size": stored.block_size, "accuracy_level": _FLOAT32},
        }
        inputs = [x, matrix, scale, zero, None, None if products else bias]
        products.append(ir.node("MatMulNBits", inputs, attributes, domain=_MICROSOFT))
    new += products
    if len(products) > 1:
        new.append(ir.node("Add", [node.outputs[0] for node in products]))
    _replace(graph, reader, new)
    turn = value.producer()
    if turn is not stored.node and not value.uses():
        graph.remove(turn, safe=True)


@dataclass(frozen=True, eq=False)
class _Part:
    """Codes of 4 bits for one MatMulNBits, with the names of its constants."""

    name: str
    packed: Array
    scale_name: str
    scale: Array
    zero: Array | None


def _nibbles(stored: Stored) -> list[_Part]:
    """The weight itself where it has 4 bits; of 8 bits the upper and the lower halves."""
    name, scale_name = stored.name, str(stored.node.inputs[1].name)
    if stored.bits == 4:
        return [_Part(name, stored.packed, scale_name, stored.scale, stored.zero)]
    zero = np.full(stored.scale.shape, 128, np.uint8) if stored.zero is None else stored.zero
    upper, lower = (stored.packed >> 4, stored.packed & 15)
    coarse = stored.scale * np.float32(16)
    return [
        _Part(f"{name}_upper", pairs(upper), f"{scale_name}_upper", coarse, zero >> 4),
        _Part(f"{name}_lower", pairs(lower), scale_name, stored.scale, zero & 15),
    ]


def pairs(codes: Array) -> Array:
    """Codes below 16 along the last axis, two in a byte."""
    if codes.shape[-1] % 2:
        codes = np.pad(codes, [*[(0, 0)] * (codes.ndim - 1), (0, 1)])
    packed: Array = codes[..., ::2] | codes[..., 1::2] << 4
    return packed


def _zero_points(graph: Any, name: str, zero: Array | None, bits: int) -> Any:
    """Zero points as com.microsoft's operators read them, packed like codes; None for none."""
    if zero is None:
        return None
    return constant(graph, f"{name}_zeros", pairs(zero) if bits == 4 else zero)


def _look_up(graph: Any, stored: Stored, reader: Any) -> None:
    """GatherBlockQuantized in the place of Gather; what fills up a last block is cut off."""
    inputs = [
        constant(graph, f"{stored.name}_rows", _flat(stored)),
        reader.inputs[1],
        constant(graph, str(stored.node.inputs[1].name), stored.scale),
        _zero_points(graph, stored.name, stored.zero, stored.bits),
    ]
    attributes = {
        **{"gather_axis": 0, "quantize_axis": 1},
        **{"bits": stored.bits, "block_size": stored.block_size},
    }
    new = [ir.node("GatherBlockQuantized", inputs, attributes, domain=_MICROSOFT)]
    if stored.padded > stored.width:
        new.append(_cut(graph, new[-1].outputs[0], stored.width))
    _replace(graph, reader, new)


def _unpack(graph: Any, stored: Stored) -> None:
    """The float weight, computed from constants with nodes that are folded when a file loads."""
    rows, blocks = stored.scale.shape
    shape = (rows, blocks, stored.block_size)
    codes = constant(graph, stored.name, stored.packed)
    if stored.bits == 4:
        packed = stored.packed.reshape(-1)
        tensor = ir.PackedTensor(packed, ir.DataType.UINT4, shape=shape)
        codes = _register(graph, f"{stored.name}_codes", tensor)
    zero = np.full((1, 1, 1), 1 << (stored.bits - 1), np.uint8)
    if stored.zero is not None:
        zero = stored.zero[..., None]
    column = constant(graph, f"{stored.name}_column", stored.scale[..., None])
    middle = constant(graph, f"{stored.name}_middle", zero.astype(np.float32))
    wide = ir.node("Cast", [codes], {"to": ir.DataType.FLOAT})
    centred = ir.node("Sub", [wide.outputs[0], middle])
    new = [wide, centred, ir.node("Mul", [centred.outputs[0], column])]
    if stored.padded > stored.width:
        flat = constant(graph, f"{stored.name}_flat", np.array([rows, stored.padded]))
        new.append(ir.node("Reshape", [new[-1].outputs[0], flat]))
        new.append(_cut(graph, new[-1].outputs[0], stored.width))
    sizes = constant(graph, f"{stored.name}_sizes", np.array(stored.sizes))
    new.append(ir.node("Reshape", [new[-1].outputs[0], sizes]))
    weight = new[-1].outputs[0]
    weight.name = f"{stored.value.name}_floats"
    for usage in list(stored.value.uses()):
        usage.node.replace_input_with(usage.idx, weight)
    graph.insert_after(stored.node, new)


def _cut(graph: Any, value: Any, width: int) -> Any:
    """The first `width` of the last axis."""
    edges = [constant(graph, f"burnish_{edge}", np.array([edge])) for edge in (0, width, -1)]
    return ir.node("Slice", [value, *edges])


def _flat(stored: Stored) -> Array:
    rows: Array = stored.packed.reshape(stored.packed.shape[0], -1)
    return rows


def _replace(graph: Any, reader: Any, new: Sequence[Any]) -> None:
    """Put nodes in the place of one: the last gives what it gave, all go by its name."""
    for number, node in enumerate(new, 1):
        node.name = reader.name if node is new[-1] else f"{reader.name}~block{number}"
        node.metadata_props.update(reader.metadata_props)
        for output in node.outputs:
            output.name = f"{node.name}:block"
    outputs = new[-1].outputs
    outputs[0].name = reader.outputs[0].name
    ir.convenience.replace_nodes_and_values(graph, reader, [reader], new, reader.outputs, outputs)


def constant(graph: Any, name: str, array: Array) -> Any:
    """The constant of that name, made of the array where there is none yet."""
    known = graph.initializers.get(name)
    return known if known is not None else _register(graph, name, ir.tensor(array, name=name))


def _register(graph: Any, name: str, tensor: Any) -> Any:
    if name not in graph.initializers:
        value = ir.val(name, tensor.dtype, tensor.shape, const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]


def _placeholder(
    packed: Any,
    scale: Any,
    zero_point: Any,
    bits: int,
    block_size: int,
    sizes: Sequence[int],
) -> Any:
    return _operator()(
        packed, scale, zero_point, bits=bits, block_size=block_size, sizes=list(sizes)
    )


@functools.cache
def _operator() -> Any:
    """The placeholder with a schema, which the exporter wants."""
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    option, kinds = OpSchema.FormalParameterOption, OpSchema.AttrType
    schema = OpSchema(
        "DequantizeBlocks",
        DOMAIN,
        1,
        inputs=[
            OpSchema.FormalParameter("packed", "I", ""),
            OpSchema.FormalParameter("scale", "F", ""),
            OpSchema.FormalParameter("zero_point", "I", "", param_option=option.Optional),
        ],
        outputs=[OpSchema.FormalParameter("weight", "F", "")],
        type_constraints=[("I", ["tensor(uint8)"], ""), ("F", ["tensor(float)"], "")],
        attributes=[
            OpSchema.Attribute("bits", kinds.INT, ""),
            OpSchema.Attribute("block_size", kinds.INT, ""),
            OpSchema.Attribute("sizes", kinds.INTS, ""),
        ],
    )
    return Op(Opset(DOMAIN, 1), "DequantizeBlocks", schema)
