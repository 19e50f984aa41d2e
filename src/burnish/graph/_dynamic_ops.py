"""Layers with int8 weights whose activations are quantized when they come, as operators of our own.

`dynamic_linear`, `dynamic_conv` and `dynamic_lstm` take the range of each float tensor as it
arrives (ONNX DynamicQuantizeLinear: uint8 over a range that holds zero, one scale for the tensor),
multiply integers with the stored int8 weights and scale the int32 sums back. `lookup` reads rows of
an int8 table and makes floats of those only; `stored_gru` computes in float with weights that are
stored in int8. Weights are symmetric: no zero point. `static_lstm` stands beside them, the
one layer with a range inside: that of its hidden state, known before.

In eager mode they compute the integers a runtime computes. Products of integers are summed in
float32 where no sum can leave its 24 bits, in float64 otherwise: exact in both, and faster than
torch's own integer products.

One range for a whole tensor means that what stands beside a sample in its batch moves that sample's
result by rounding, as it does in torch and in onnxruntime.

An LSTM quantizes its input once for all steps and its hidden state at every step, one range over
the batch. onnxruntime splits larger batches among its threads and takes a range for each part: with
one thread, or a batch of one, the two are the same.

Left out: weights with zero points, ranges per row of the activations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_EXACT = 1 << 24


def dynamic_range(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 scale and zero point in 0 to 255 of a tensor, as ONNX DynamicQuantizeLinear's."""
    if x.numel() == 0:
        return torch.ones(()), torch.zeros(())
    low, high = x.min().clamp(max=0.0), x.max().clamp(min=0.0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return scale, torch.round((-low / scale).clamp(0, 255))


def _integers(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(uint8 value minus zero point, scale): what integer kernels multiply."""
    scale, zero = dynamic_range(x)
    return (torch.round(x / scale) + zero).clamp(0, 255) - zero, scale


def _exact(*tensors: torch.Tensor, terms: int) -> list[torch.Tensor]:
    dtype = torch.float32 if terms * 255 * 127 < _EXACT else torch.float64
    return [tensor.to(dtype) for tensor in tensors]


def _product(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x [..., in] quantized as it is, times int8 weight [out, in], with scales [out]."""
    integers, x_scale = _integers(x)
    sums = F.linear(*_exact(integers, weight, terms=weight.shape[1]))
    return sums.float() * (x_scale * scale)


@torch.library.custom_op("burnish::dynamic_linear", mutates_args=())
def dynamic_linear(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x [..., in] float, weight [out, in] int8, scale [out], bias [out] float; [..., out]."""
    result = _product(x, weight, scale)
    return result if bias is None else result + bias


@dynamic_linear.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


_CONVOLVE = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def _convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    rank = weight.dim() - 2
    pairs = [edge for axis in reversed(range(rank)) for edge in padding[axis::rank]]
    padded = F.pad(x, pairs) if any(pairs) else x
    result: torch.Tensor = _CONVOLVE[weight.dim()](
        padded, weight, None, stride, 0, dilation, groups
    )
    return result


@torch.library.custom_op("burnish::dynamic_conv", mutates_args=())
def dynamic_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """x [n, in, ...], weight [out, in/groups, ...] int8, scale [out]; `padding` as ONNX writes it:
    all beginnings, then all ends."""
    integers, x_scale = _integers(x)
    left, right = _exact(integers, weight, terms=weight[0].numel())
    sums = _convolve(left, right, stride, padding, dilation, groups)
    shape = (-1, *[1] * (weight.dim() - 2))
    result = sums.float() * (x_scale * scale).reshape(shape)
    return result if bias is None else result + bias.reshape(shape)


@dynamic_conv.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    return _convolve(x, weight.to(x.dtype), stride, padding, dilation, groups)


@torch.library.custom_op("burnish::dynamic_lstm", mutates_args=())
def dynamic_lstm(
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    r: torch.Tensor,
    r_scale: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One layer, one or two directions D, gates in ONNX's order: input, output, forget, cell.

    Args:
        x: [time, batch, in] float.
        h: [D, batch, hidden] float, the first hidden state.
        c: [D, batch, hidden] float, the first cell state.
        w: [D, in, 4 hidden] int8; w_scale [D, 4 hidden].
        r: [D, hidden, 4 hidden] int8; r_scale [D, 4 hidden].
        bias: [D, 8 hidden] float: of the input, then of the hidden state.

    Returns:
        [time, batch, D hidden], and both last states [D, batch, hidden].
    """
    sides = []
    for d in range(w.shape[0]):
        of_input, of_hidden = bias[d].chunk(2)
        gates = _product(x, w[d].t(), w_scale[d]) + (of_input + of_hidden)
        steps = range(x.shape[0]) if d == 0 else reversed(range(x.shape[0]))
        state, cell = h[d], c[d]
        seen: dict[int, torch.Tensor] = {}
        for t in steps:
            summed = gates[t] + _product(state, r[d].t(), r_scale[d])
            state, cell = lstm_cell(summed, cell)
            seen[t] = state
        sides.append((torch.stack([seen[t] for t in range(x.shape[0])]), state, cell))
    y, last, cells = zip(*sides, strict=True)
    return torch.cat(y, -1), torch.stack(last), torch.stack(cells)


def lstm_cell(gates: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden state, cell state) from summed gates [batch, 4 hidden] in ONNX's order."""
    into, out, forget, new = gates.chunk(4, -1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(cell), cell


@dynamic_lstm.register_fake
def _(
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    r: torch.Tensor,
    r_scale: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _sequence(x, r), torch.empty_like(h), torch.empty_like(c)


def _sequence(x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    return x.new_empty((x.shape[0], x.shape[1], r.shape[0] * min(r.shape[1:])))


@torch.library.custom_op("burnish::static_lstm", mutates_args=())
def static_lstm(
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
    reverse: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One layer in one direction whose states lie on a grid known before, as OpenVINO computes it.

    The hidden state is rounded to multiples of `scale` from -128 to 127 at every step, and is what
    comes out; x and h are expected on that grid, as values. One scale serves both weights.

    Args:
        x: [time, batch, in] float.
        h: [1, batch, hidden] float, the first hidden state.
        c: [1, batch, hidden] float, the first cell state.
        w: [1, 4 hidden, in] int8, gates in ONNX's order: input, output, forget, cell.
        r: [1, 4 hidden, hidden] int8.
        weight_scale: a scalar.
        bias: [1, 8 hidden] float: of the input, then of the hidden state.

    Returns:
        [time, batch, hidden], and both last states [1, batch, hidden].
    """
    of_input, of_hidden = bias[0].chunk(2)
    into, back = w[0] * weight_scale, r[0] * weight_scale
    gates = F.linear(x, into, of_input + of_hidden)
    state, cell, seen = h[0], c[0], {}
    for t in reversed(range(x.shape[0])) if reverse else range(x.shape[0]):
        state, cell = lstm_cell(gates[t] + F.linear(state, back), cell)
        state = torch.round(state / scale).clamp(-128, 127) * scale
        seen[t] = state
    y = torch.stack([seen[t] for t in range(x.shape[0])])
    return y, state.unsqueeze(0), cell.unsqueeze(0)


@static_lstm.register_fake
def _(
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
    reverse: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _sequence(x, r), torch.empty_like(h), torch.empty_like(c)


@torch.library.custom_op("burnish::stored_gru", mutates_args=())
def stored_gru(
    x: torch.Tensor,
    h: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    r: torch.Tensor,
    r_scale: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer, one or two directions D, gates in ONNX's order: update, reset, new; in float.

    Args:
        x: [time, batch, in] float.
        h: [D, batch, hidden] float, the first state.
        w: [D, 3 hidden, in] int8; w_scale [D, 3 hidden].
        r: [D, 3 hidden, hidden] int8; r_scale [D, 3 hidden].
        bias: [D, 6 hidden] float: of the input, then of the hidden state.

    Returns:
        [time, batch, D hidden], and the last state [D, batch, hidden].
    """
    params = []
    for d in range(w.shape[0]):
        of_input, of_hidden = bias[d].chunk(2)
        floats = (w[d] * w_scale[d][:, None], r[d] * r_scale[d][:, None], of_input, of_hidden)
        params += [_as_torch(tensor) for tensor in floats]
    twice = w.shape[0] == 2
    y, last = torch.ops.aten.gru.input(x, h, params, True, 1, 0.0, False, twice, False)
    return y, last


def _as_torch(gates: torch.Tensor) -> torch.Tensor:
    """ONNX's update, reset, new in torch's order: reset, update, new."""
    update, reset, new = gates.chunk(3)
    return torch.cat([reset, update, new])


@stored_gru.register_fake
def _(
    x: torch.Tensor,
    h: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    r: torch.Tensor,
    r_scale: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _sequence(x, r), torch.empty_like(h)


@torch.library.custom_op("burnish::lookup", mutates_args=())
def lookup(table: torch.Tensor, scale: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rows of table [n, width] int8, times their scale [n]; [..., width] float."""
    return table[indices].to(scale.dtype) * scale[indices].unsqueeze(-1)


@lookup.register_fake
def _(table: torch.Tensor, scale: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    return scale.new_empty((*indices.shape, table.shape[1]))


DYNAMIC_LINEAR = torch.ops.burnish.dynamic_linear.default
DYNAMIC_CONV = torch.ops.burnish.dynamic_conv.default
DYNAMIC_LSTM = torch.ops.burnish.dynamic_lstm.default
STATIC_LSTM = torch.ops.burnish.static_lstm.default
STORED_GRU = torch.ops.burnish.stored_gru.default
LOOKUP = torch.ops.burnish.lookup.default
DYNAMIC = frozenset({DYNAMIC_LINEAR, DYNAMIC_CONV, DYNAMIC_LSTM, STATIC_LSTM, STORED_GRU, LOOKUP})
