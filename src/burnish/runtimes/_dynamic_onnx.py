"""Dynamic operators in ONNX, in the forms that onnxruntime has integer kernels for.

*Linear*: DynamicQuantizeLinear → MatMulInteger → Cast → Mul → Add, which onnxruntime (1.31) fuses
to DynamicQuantizeMatMul, or to MatMulIntegerToFloat where several layers read one quantized tensor.
The weight is stored as torch stores it, [out, in], and turned by a Transpose that onnxruntime does
once, when it loads: an embedding that shares the table then shares the stored tensor, too.
*Convolution*: the same around ConvInteger, which nothing is fused with. *LSTM*: com.microsoft's
DynamicQuantizeLSTM, a scale for each row of each gate. *GRU* and *embedding* hold no integer
arithmetic: DequantizeLinear in front of a GRU; Gather first and conversion after for a table, so
that only the rows that are read are converted.

Left out: forms for other runtimes; OpenVINO reads the last two as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from burnish.graph import (
    DYNAMIC_CONV,
    DYNAMIC_LINEAR,
    DYNAMIC_LSTM,
    LOOKUP,
    STATIC_LSTM,
    STORED_GRU,
)

_FLOAT = 1


def dynamic_translations() -> dict[Any, Any]:
    """What the exporter writes for each operator."""
    return {
        DYNAMIC_LINEAR: _linear,
        DYNAMIC_CONV: _conv,
        DYNAMIC_LSTM: _lstm,
        STATIC_LSTM: _static_lstm,
        STORED_GRU: _gru,
        LOOKUP: _lookup,
    }


def _linear(x: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
    from onnxscript import opset21 as op

    integers, x_scale, x_zero = op.DynamicQuantizeLinear(x)
    sums = op.MatMulInteger(integers, op.Transpose(weight, perm=[1, 0]), x_zero)
    result = op.Mul(op.Cast(sums, to=_FLOAT), op.Mul(x_scale, scale))
    return result if bias is None else op.Add(result, bias)


def _conv(
    x: Any,
    weight: Any,
    scale: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    from onnxscript import opset21 as op

    integers, x_scale, x_zero = op.DynamicQuantizeLinear(x)
    sums = op.ConvInteger(
        integers,
        weight,
        x_zero,
        strides=list(stride),
        pads=list(padding),
        dilations=list(dilation),
        group=groups,
    )
    shape = _integers([-1, *[1] * len(stride)])
    scales = op.Reshape(op.Mul(x_scale, scale), shape)
    result = op.Mul(op.Cast(sums, to=_FLOAT), scales)
    return result if bias is None else op.Add(result, op.Reshape(bias, shape))


def _lstm(
    x: Any, h: Any, c: Any, w: Any, w_scale: Any, r: Any, r_scale: Any, bias: Any
) -> tuple[Any, Any, Any]:
    directions, hidden = int(r.shape[0]), int(r.shape[1])
    y, last, cells = _dynamic_quantize_lstm()(
        *(x, w, r, bias, None, h, c, None),
        *(w_scale, _zeros(w_scale), r_scale, _zeros(r_scale)),
        direction=_direction(directions),
        hidden_size=hidden,
    )
    return _steps(y, directions, hidden), last, cells


def _zeros(scale: Any) -> Any:
    import onnx
    from onnxscript import opset21 as op

    shape = [int(size) for size in scale.shape]
    zeros = onnx.helper.make_tensor(
        "zeros", onnx.TensorProto.INT8, shape, b"\0" * (shape[0] * shape[1]), raw=True
    )
    return op.Constant(value=zeros)


def _static_lstm(
    x: Any,
    h: Any,
    c: Any,
    w: Any,
    r: Any,
    weight_scale: Any,
    bias: Any,
    scale: float,
    reverse: bool,
) -> tuple[Any, Any, Any]:
    """A float LSTM with weights on the integers' grid; `_openvino` makes integers of them."""
    from onnxscript import opset21 as op

    del scale
    hidden = int(r.shape[2])
    y, last, cells = op.LSTM(
        x,
        op.Mul(op.Cast(w, to=_FLOAT), weight_scale),
        op.Mul(op.Cast(r, to=_FLOAT), weight_scale),
        bias,
        None,
        h,
        c,
        direction="reverse" if reverse else "forward",
        hidden_size=hidden,
    )
    return _steps(y, 1, hidden), last, cells


def _gru(x: Any, h: Any, w: Any, w_scale: Any, r: Any, r_scale: Any, bias: Any) -> tuple[Any, Any]:
    from onnxscript import opset21 as op

    directions, hidden = int(r.shape[0]), int(r.shape[2])
    y, last = op.GRU(
        x,
        _floats(w, w_scale),
        _floats(r, r_scale),
        bias,
        None,
        h,
        direction=_direction(directions),
        hidden_size=hidden,
        linear_before_reset=1,
    )
    return _steps(y, directions, hidden), last


def _floats(weight: Any, scale: Any) -> Any:
    """[D, rows, columns] int8 with scales [D, rows]: DequantizeLinear has them along one axis."""
    from onnxscript import opset21 as op

    rows = op.Reshape(weight, _integers([-1, int(weight.shape[2])]))
    flat = op.Reshape(scale, _integers([-1]))
    shape = _integers([int(size) for size in weight.shape])
    return op.Reshape(op.DequantizeLinear(rows, flat, axis=0), shape)


def _lookup(table: Any, scale: Any, indices: Any) -> Any:
    from onnxscript import opset21 as op

    rows = op.Cast(op.Gather(table, indices, axis=0), to=_FLOAT)
    scales = op.Unsqueeze(op.Gather(scale, indices, axis=0), _integers([-1]))
    return op.Mul(rows, scales)


def _integers(values: list[int]) -> Any:
    from onnxscript import opset21 as op

    return op.Constant(value_ints=values)


def _direction(directions: int) -> str:
    return "bidirectional" if directions == 2 else "forward"


def _steps(y: Any, directions: int, hidden: int) -> Any:
    """[time, D, batch, hidden] to [time, batch, D hidden]."""
    from onnxscript import opset21 as op

    shape = _integers([0, 0, directions * hidden])
    return op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), shape)


@functools.cache
def _dynamic_quantize_lstm() -> Any:
    """The operator with a schema, which the exporter wants and onnx has not."""
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    def parameter(name: str, kind: str, optional: bool = False) -> Any:
        option = OpSchema.FormalParameterOption
        return OpSchema.FormalParameter(
            name, kind, "", param_option=option.Optional if optional else option.Single
        )

    schema = OpSchema(
        "DynamicQuantizeLSTM",
        "com.microsoft",
        1,
        inputs=[
            *(parameter("X", "T"), parameter("W", "T2"), parameter("R", "T2")),
            *(parameter("B", "T", True), parameter("sequence_lens", "T1", True)),
            *(parameter(name, "T", True) for name in ("initial_h", "initial_c", "P")),
            *(parameter("W_scale", "T"), parameter("W_zero_point", "T2")),
            *(parameter("R_scale", "T"), parameter("R_zero_point", "T2")),
        ],
        outputs=[parameter(name, "T", True) for name in ("Y", "Y_h", "Y_c")],
        type_constraints=[
            ("T", ["tensor(float)"], ""),
            ("T1", ["tensor(int32)"], ""),
            ("T2", ["tensor(int8)", "tensor(uint8)"], ""),
        ],
        attributes=[
            OpSchema.Attribute("direction", OpSchema.AttrType.STRING, ""),
            OpSchema.Attribute("hidden_size", OpSchema.AttrType.INT, ""),
        ],
    )
    return Op(Opset("com.microsoft", 1), "DynamicQuantizeLSTM", schema)
