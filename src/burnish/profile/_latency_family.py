"""Operators that differ in their widths alone are one family, and a table holds a grid for each.

The widths of a convolution are its channels (in and out; one number where it is depthwise), of a
linear layer its features, of a recurrent one its input and its state. Everything else about it
belongs to the family: kernel, stride, spatial size, batch. A family is itself an `OpShape` whose
widths are 0, so it is hashable, and written as JSON, as operators are.

Operators that are no layers (an addition, a mean, attention) have no width of their own that a
table could vary. They are measured as they are given, and one that was not is read off the line
through those of its kind, over its *work*: multiply-accumulates, or elements where it has none.

Left out: weights that are computed while the model runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from burnish.errors import Unsupported
from burnish.profile._shape import OpShape, Setting, Shape, macs

Widths = tuple[int, ...]
LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "lstm", "gru")
_CONVOLUTIONS = LAYERS[1:4]
# They give another view of a tensor, or nothing that a runtime computes.
_VIEWS = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"),
        *("alias", "detach", "contiguous", "clone", "lift_fresh_copy", "dropout", "getitem"),
    }
)
# Settings that tell one kind of work from another; sizes and offsets do not.
_TELLING = frozenset(
    {
        *("approximate", "dim", "dim0", "dim1", "dims", "dilation", "is_causal", "kernel_size"),
        *("operands", "output_size", "stride"),
    }
)


@dataclass(frozen=True)
class Place:
    """Where an operator stands: its family, and its widths in it."""

    family: OpShape
    widths: Widths

    @property
    def is_layer(self) -> bool:
        """Whether the family has widths that can be varied."""
        return self.family.kind in LAYERS


def is_free(shape: OpShape) -> bool:
    """Whether a runtime computes nothing for it: a view, a check, or a constant folded away."""
    return not shape.outputs or not shape.inputs or shape.kind in _VIEWS


def place(shape: OpShape) -> Place:
    """The family and the widths of an operator.

    Raises Unsupported where its weights are no constants, or nothing is known of what it does.
    """
    if shape.kind in LAYERS:
        widths = _WIDTHS[_group(shape)](shape)
        return Place(resized(shape, (0,) * len(widths)), widths)
    work = macs(shape)
    if work is None:
        raise Unsupported(
            f"{shape.kind}: no latency table knows this operator, nor what it computes; "
            "leave it out of the shapes, or replace it in the model"
        )
    elements = sum(map(math.prod, (*shape.inputs, *shape.outputs)))
    settings = tuple(item for item in shape.settings if item[0] in _TELLING)
    family = dataclasses.replace(shape, inputs=(), weights=(), outputs=(), settings=settings)
    return Place(family, (work or elements,))


def resized(shape: OpShape, widths: Widths) -> OpShape:
    """A layer with other widths, its outputs and settings to match."""
    return _RESIZED[_group(shape)](shape, widths)


def describe(family: OpShape) -> str:
    """A family in a few words, for messages: "conv2d of 1×·×32×32 with kernel 3×3"."""
    if family.kind not in LAYERS:
        return family.kind
    seen = "×".join(str(size or "·") for size in family.inputs[0])
    kernel = "×".join(map(str, family.weights[0][2:]))
    depthwise = "depthwise " if family.setting("groups", 1) == 0 else ""
    return f"{depthwise}{family.kind} of {seen}" + (f" with kernel {kernel}" if kernel else "")


def _group(shape: OpShape) -> str:
    if shape.kind in ("lstm", "gru"):
        return "recurrent"
    if not shape.weights or len(shape.inputs) != 1:
        raise Unsupported(
            f"{shape.kind}: its weight is computed while the model runs; a latency table holds "
            "layers whose weights are stored"
        )
    if shape.kind == "linear":
        return "linear"
    groups = shape.setting("groups", 1)
    channels, outs = shape.inputs[0][1], shape.weights[0][0]
    return "depthwise" if groups == channels == outs and groups != 1 else "grouped"


def _with(shape: Shape, axis: int, size: int) -> Shape:
    sizes = list(shape)
    sizes[axis] = size
    return tuple(sizes)


def _setting(shape: OpShape, name: str, value: Setting) -> tuple[tuple[str, Setting], ...]:
    return tuple((key, value if key == name else old) for key, old in shape.settings)


def _resized_linear(shape: OpShape, widths: Widths) -> OpShape:
    width_in, width_out = widths
    return dataclasses.replace(
        shape,
        inputs=(_with(shape.inputs[0], -1, width_in),),
        weights=((width_out, width_in), *((width_out,) for _ in shape.weights[1:])),
        outputs=(_with(shape.outputs[0], -1, width_out),),
    )


def _resized_conv(shape: OpShape, widths: Widths) -> OpShape:
    width_in, width_out = widths
    groups = shape.setting("groups", 1)
    kernel = shape.weights[0][2:]
    return dataclasses.replace(
        shape,
        inputs=(_with(shape.inputs[0], 1, width_in),),
        weights=(
            (width_out, width_in // groups, *kernel),
            *((width_out,) for _ in shape.weights[1:]),
        ),
        outputs=(_with(shape.outputs[0], 1, width_out),),
    )


def _resized_depthwise(shape: OpShape, widths: Widths) -> OpShape:
    (width,) = widths
    return dataclasses.replace(
        shape,
        inputs=(_with(shape.inputs[0], 1, width),),
        weights=((width, *shape.weights[0][1:]), *((width,) for _ in shape.weights[1:])),
        outputs=(_with(shape.outputs[0], 1, width),),
        settings=_setting(shape, "groups", width),
    )


def _recurrent_sizes(shape: OpShape) -> tuple[int, int]:
    return shape.operands()[0][-1], shape.outputs[1][-1]


def _resized_recurrent(shape: OpShape, widths: Widths) -> OpShape:
    width, state = widths
    data, *rest = shape.operands()
    num_states = 2 if shape.kind == "lstm" else 1
    gates = 4 if shape.kind == "lstm" else 3
    directions = 2 if shape.setting("bidirectional") else 1
    per_layer = 4 if shape.setting("has_biases") else 2
    operands = [_with(data, -1, width)]
    operands += [_with(item, -1, state) for item in rest[:num_states]]
    for index, item in enumerate(rest[num_states:]):
        layer, place_in_layer = divmod(index, per_layer * directions)
        reads = width if layer == 0 else directions * state
        first = place_in_layer % per_layer == 0
        sizes = (gates * state, reads if first else state)
        operands.append(sizes if len(item) == 2 else sizes[:1])
    letters = str(shape.setting("operands"))
    return dataclasses.replace(
        shape,
        inputs=_lettered(operands, letters, "i"),
        weights=_lettered(operands, letters, "w"),
        outputs=(
            _with(shape.outputs[0], -1, directions * state),
            *(_with(item, -1, state) for item in shape.outputs[1:]),
        ),
    )


def _lettered(operands: Sequence[Shape], letters: str, letter: str) -> tuple[Shape, ...]:
    return tuple(item for item, what in zip(operands, letters, strict=True) if what == letter)


_WIDTHS: Mapping[str, Callable[[OpShape], Widths]] = {
    "linear": lambda shape: (shape.weights[0][1], shape.weights[0][0]),
    "grouped": lambda shape: (shape.inputs[0][1], shape.weights[0][0]),
    "depthwise": lambda shape: (shape.inputs[0][1],),
    "recurrent": _recurrent_sizes,
}
_RESIZED: Mapping[str, Callable[[OpShape, Widths], OpShape]] = {
    "linear": _resized_linear,
    "grouped": _resized_conv,
    "depthwise": _resized_depthwise,
    "recurrent": _resized_recurrent,
}
