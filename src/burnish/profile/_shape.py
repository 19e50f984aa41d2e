"""What decides an operator's cost, as a value: its kind, the shapes around it, its settings.

Two operators of one `OpShape` cost the same, wherever they stand in whichever model. Settings are
the operator's arguments that are no tensors, defaults written out, by their names in torch. One is
ours: `operands`, a letter for each tensor the operator reads, in the order of its arguments: "i"
an activation (the next of `inputs`), "w" a constant (the next of `weights`).

`macs` counts multiply-accumulates from that value alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from burnish.errors import Damaged
from burnish.graph import Traced, operator
from burnish.profile._einsum import einsum_macs
from burnish.profile._flow import Step, flow

Shape = tuple[int, ...]
Setting = int | float | bool | str | tuple[int | float, ...]
OPERANDS = "operands"
_KIND_OF_VALUE = (bool, int, float, str)


@dataclass(frozen=True)
class OpShape:
    """One operator at one batch.

    Attributes:
        kind: torch's name of it: "conv2d", "linear", "lstm", "add".
        inputs: shapes of the activations it reads.
        weights: shapes of the parameters and constants it reads.
        outputs: shapes of the tensors it gives.
        settings: (name, value) in the order of names; infinities are written as strings.
        dtype: of the first activation, of the first result where it reads none; torch's name.
    """

    kind: str
    inputs: tuple[Shape, ...]
    weights: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    settings: tuple[tuple[str, Setting], ...]
    dtype: str

    def setting(self, name: str, default: Any = None) -> Any:
        """The setting of that name, or the default."""
        return dict(self.settings).get(name, default)

    def operands(self) -> tuple[Shape, ...]:
        """The shapes of all it reads, in the order of its arguments."""
        inputs, weights = iter(self.inputs), iter(self.weights)
        order = self.setting(OPERANDS, "i" * len(self.inputs) + "w" * len(self.weights))
        return tuple(next(inputs if letter == "i" else weights) for letter in order)

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `OpShape.from_json` is its inverse."""
        return {
            "kind": self.kind,
            "inputs": [list(shape) for shape in self.inputs],
            "weights": [list(shape) for shape in self.weights],
            "outputs": [list(shape) for shape in self.outputs],
            "settings": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in self.settings
            },
            "dtype": self.dtype,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> OpShape:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            shapes = {
                side: tuple(tuple(int(size) for size in shape) for shape in record[side])
                for side in ("inputs", "weights", "outputs")
            }
            settings = tuple(
                (name, tuple(value) if isinstance(value, list) else value)
                for name, value in sorted(record["settings"].items())
            )
            return cls(record["kind"], **shapes, settings=settings, dtype=record["dtype"])
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise Damaged(f"this is no operator's shape ({error})") from None


def shapes(traced: Traced, batch: int) -> dict[str, OpShape]:
    """Every operator of the graph by its name, views included, at `batch` samples.

    Raises like `flow`: InvalidInput for a batch the graph does not take, Unsupported where sizes
    depend on values.
    """
    return {step.name: shape_of(step) for step in flow(traced, batch).steps}


def shape_of(step: Step) -> OpShape:
    """The shape of one step of a flow."""
    inputs = [tensor for tensor, constant in step.operands if not constant]
    weights = [tensor for tensor, constant in step.operands if constant]
    letters = "".join("w" if constant else "i" for _, constant in step.operands)
    first = next(iter([*inputs, *step.results, *weights]), None)
    return OpShape(
        kind=operator(step.node),
        inputs=tuple(_shape(tensor) for tensor in inputs),
        weights=tuple(_shape(tensor) for tensor in weights),
        outputs=tuple(_shape(tensor) for tensor in step.results),
        settings=tuple(sorted({**_settings(step), OPERANDS: letters}.items())),
        dtype="" if first is None else str(first.dtype).removeprefix("torch."),
    )


def _shape(tensor: torch.Tensor) -> Shape:
    return tuple(int(size) for size in tensor.shape)


def _settings(step: Step) -> dict[str, Setting]:
    schema = getattr(step.node.target, "_schema", None)
    if schema is None:
        return {}
    found = {}
    for index, argument in enumerate(schema.arguments):
        if index < len(step.args):
            value = step.args[index]
        else:
            value = step.kwargs.get(argument.name, argument.default_value)
        setting = _setting(value)
        if setting is not None:
            found[argument.name] = setting
    return found


def _setting(value: Any) -> Setting | None:
    """A value as a setting; None for tensors, None, and whatever costs nothing (devices)."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, _KIND_OF_VALUE):
        return value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, list | tuple) and value:
        items = [_setting(item) for item in value]
        if all(isinstance(item, int | float) for item in items):
            return tuple(items)  # type: ignore[arg-type]  # just seen to be numbers
    return None


def macs(shape: OpShape) -> int | None:
    """Multiply-accumulates of one run; 0 for what moves, compares or computes element by element.

    Counted are products that are summed up: convolutions (a kernel at the border counts whole),
    matrix products, attention (a causal mask saves nothing), recurrent layers (the products with
    their matrices at every step). A bias, a normalization, an activation, pooling and interpolation
    count 0. None where the operator is not known.
    """
    kind = shape.kind.removesuffix("_") or shape.kind
    if not shape.outputs:
        return 0  # sizes and checks, no tensor
    if kind in _PRODUCTS:
        return _PRODUCTS[kind](shape)
    return 0 if kind in _FREE or _moves_or_maps(kind) else None


def _convolution(shape: OpShape) -> int:
    # The weight is [out, in / groups, *kernel].
    return math.prod(shape.outputs[0]) * math.prod(shape.operands()[1][1:])


def _transposed(shape: OpShape) -> int:
    # The weight is [in, out / groups, *kernel]: an element that comes in meets all of its row.
    data, weight = shape.operands()[:2]
    return math.prod(data) * math.prod(weight[1:])


def _any_convolution(shape: OpShape) -> int:
    return _transposed(shape) if shape.setting("transposed") else _convolution(shape)


def _linear(shape: OpShape) -> int:
    return math.prod(shape.outputs[0]) * shape.operands()[1][-1]


def _product(shape: OpShape) -> int:
    return math.prod(shape.outputs[0]) * shape.operands()[0][-1]


def _added_product(shape: OpShape) -> int:
    return math.prod(shape.outputs[0]) * shape.operands()[1][-1]


def _added_batches(shape: OpShape) -> int:
    batch, _, inner = shape.operands()[1]
    return math.prod(shape.outputs[0]) * batch * inner


def _tensordot(shape: OpShape) -> int:
    left = shape.operands()[0]
    summed = math.prod(left[axis] for axis in shape.setting("dims_self", ()))
    return math.prod(shape.outputs[0]) * int(summed)


def _einsum(shape: OpShape) -> int:
    return einsum_macs(shape.setting("equation"), shape.operands())


def _attention(shape: OpShape) -> int:
    # Every query meets every key over their width, then every value over theirs.
    query, key, value = shape.operands()[:3]
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(states: int) -> Callable[[OpShape], int]:
    """A layer, or a cell, of torch's: the input, `states` tensors of state, the parameters."""

    def count(shape: OpShape) -> int:
        data, *rest = shape.operands()
        lengths = shape.kind in _LAYERS and shape.setting("batch_first") is None
        matrices = [item for item in rest[states + lengths :] if len(item) == 2]
        return math.prod(data[:-1]) * sum(map(math.prod, matrices))

    return count


def _stored_recurrent(*matrices: int) -> Callable[[OpShape], int]:
    """A recurrent layer of our own, whose operands at `matrices` are multiplied at every step."""

    def count(shape: OpShape) -> int:
        operands = shape.operands()
        return math.prod(operands[0][:-1]) * sum(math.prod(operands[i]) for i in matrices)

    return count


_LAYERS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_PRODUCTS: dict[str, Callable[[OpShape], int]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "dynamic_conv"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "convolution": _any_convolution,
    **dict.fromkeys(("linear", "dynamic_linear"), _linear),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner"), _product),
    **dict.fromkeys(("addmm", "addmv", "baddbmm"), _added_product),
    "addbmm": _added_batches,
    "tensordot": _tensordot,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **{kind: _recurrent(2 if kind == "lstm" else 1) for kind in _LAYERS},
    **{f"{kind}_cell": _recurrent(2 if kind == "lstm" else 1) for kind in _LAYERS},
    "dynamic_lstm": _stored_recurrent(3, 5),
    "static_lstm": _stored_recurrent(3, 4),
    "stored_gru": _stored_recurrent(2, 4),
}
_FREE = frozenset(
    {
        *("quantize", "dequantize", "lookup", "getitem", "dropout", "feature_dropout"),
        *("batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "normalize"),
        *("softmax", "log_softmax", "_softmax", "_log_softmax", "glu", "prelu"),
        *("relu6", "hardtanh", "hardswish"),
        *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
        *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "lp_pool2d"),
        *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"),
        *("upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "grid_sampler"),
        *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa"),
        *("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d"),
        *("replication_pad2d", "zero_pad2d", "im2col", "col2im", "pixel_shuffle"),
        *("pixel_unshuffle", "channel_shuffle", "cat", "concat", "stack", "hstack", "vstack"),
        *("embedding", "embedding_bag", "index", "index_select", "index_put", "gather", "take"),
        *("scatter", "scatter_add", "masked_fill", "masked_select", "masked_scatter", "nonzero"),
        *("one_hot", "bucketize", "searchsorted", "where", "arange", "zeros", "ones", "full"),
        *("empty", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones"),
        *("new_full", "new_empty", "eye", "linspace", "tril", "triu", "scalar_tensor", "tensor"),
        *("clone", "copy", "to", "_to_copy", "type_as", "lift_fresh_copy", "contiguous", "repeat"),
        *("tile", "repeat_interleave", "roll", "flip", "rot90", "meshgrid", "broadcast_tensors"),
        *("cumsum", "cumprod", "cummax", "sort", "argsort", "topk", "median", "mode", "unique"),
        *("all", "any", "sum", "mean", "max", "min", "argmax", "argmin", "logsumexp", "aminmax"),
    }
)
_FREE_TAGS = frozenset({torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.view_copy})


@functools.cache
def _moves_or_maps(kind: str) -> bool:
    """Whether torch itself says so: a view, an elementwise operator, or a reduction."""
    packet = getattr(torch.ops.aten, kind, None)
    if packet is None:
        return False
    # Of the many overloads (TorchScript's on lists and numbers, …) those on tensors are tagged.
    overloads = [getattr(packet, name) for name in packet.overloads()]
    return any(
        _FREE_TAGS.intersection(item.tags)
        or any(result.alias_info is not None for result in item._schema.returns)
        for item in overloads
        if not item._schema.is_mutable
    )
