"""Many operators in one graph, side by side, for a runtime to time with its own counters.

A session costs a tenth of a second, an operator some microseconds: so operators of a list of
shapes stand in one graph, each with inputs and stored random weights of its own, none reading
another. An operator is called by its name in torch, its arguments filled in from the shape's
operands and settings; the graph then goes the same way as any model, through `graph.trace` and a
runtime's export, so what is timed is what would be shipped.

The batch is dynamic where the operator allows it, as it is in an exported model: a runtime may
choose otherwise for fixed sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from burnish.errors import Unsupported
from burnish.graph import Traced, trace
from burnish.profile._flow import tensors
from burnish.profile._shape import OPERANDS, OpShape, Shape

Call = Callable[[Sequence[torch.Tensor]], Any]
_EXAMPLE_BATCH = 2  # torch.export takes a size of 1 for a constant
_BATCH = "batch"
_STATEFUL = ("lstm", "gru")  # the first axis of a state is no batch


def side_by_side(shapes: Sequence[OpShape], batch: int, seed: int) -> Traced:
    """A graph of one operator a shape; `branch_of` tells which, from an operator's name.

    Raises Unsupported naming an operator that cannot be called from its shape alone.
    """
    generator = torch.Generator().manual_seed(seed)
    branches = [_Branch(shape, generator) for shape in shapes]
    example: list[torch.Tensor] = []
    axes: dict[str, dict[int, str]] = {}
    for branch in branches:
        for size, dynamic in _sizes(branch, batch):
            if dynamic:
                axes[str(len(example))] = {0: _BATCH}
            example.append(_random(size, branch.dtype, generator))
    return trace(_SideBySide(branches), tuple(example), axes=axes)


def branch_of(operator: str) -> int | None:
    """The number of the shape an operator of `side_by_side` was made for; None for another."""
    head, _, _ = operator.partition(":")
    name, _, number = head.partition(".")
    return int(number) if name == "branches" and number.isdigit() else None


def inputs_of(model: Traced, batch: int, seed: int = 0) -> dict[str, Any]:
    """Arrays to run a graph on: normal random numbers, ones for integers and truths."""
    generator = torch.Generator().manual_seed(seed)
    return {
        slot.name: _random(tuple(zeros.shape), zeros.dtype, generator).numpy()
        for slot, zeros in zip(model.inputs, model.example(batch), strict=True)
    }


def _random(size: Shape, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if not dtype.is_floating_point:
        return torch.ones(size, dtype=dtype)
    return torch.randn(size, generator=generator).to(dtype)


class _SideBySide(nn.Module):
    def __init__(self, branches: Sequence[_Branch]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        remaining = iter(tensors)
        outputs: list[torch.Tensor] = []
        for branch in self.branches:
            assert isinstance(branch, _Branch)
            outputs += branch([next(remaining) for _ in branch.shape.inputs])
        return tuple(outputs)


class _Branch(nn.Module):
    """One operator and its weights."""

    def __init__(self, shape: OpShape, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.dtype = getattr(torch, shape.dtype)
        stored = self.dtype if self.dtype.is_floating_point else torch.float32
        for index, size in enumerate(shape.weights):
            scale = math.sqrt(max(1, math.prod(size[1:])))
            tensor = torch.randn(size, generator=generator).abs() / scale
            self.register_buffer(f"weight_{index}", tensor.to(stored))
        self._call = _find_call(shape, [tuple(item) for item in shape.inputs], self.dtype, stored)

    def forward(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        weights = [getattr(self, f"weight_{index}") for index in range(len(self.shape.weights))]
        value = self._call(_ordered(self.shape, inputs, weights))
        return list(tensors(value))


def _sizes(branch: _Branch, batch: int) -> list[tuple[Shape, bool]]:
    """The size of each input in an example call, and whether its first axis is dynamic."""
    plain = [(item, False) for item in branch.shape.inputs]
    grown = [
        ((max(batch, _EXAMPLE_BATCH), *item[1:]), True) if item[:1] == (batch,) else (item, False)
        for item in branch.shape.inputs
    ]
    if branch.shape.kind in _STATEFUL:
        return plain
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            found = branch([torch.empty(size, dtype=branch.dtype) for size, _ in grown])
    except (RuntimeError, ValueError, TypeError):
        return plain  # the batch is written into a setting
    grows = all(
        tuple(item.shape[1:]) == size[1:]
        for item, size in zip(found, branch.shape.outputs, strict=True)
    )
    return grown if grows else plain


def _ordered(
    shape: OpShape, inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    left, right = iter(inputs), iter(weights)
    letters = str(shape.setting(OPERANDS, ""))
    return [next(left if letter == "i" else right) for letter in letters]


def _find_call(
    shape: OpShape, inputs: Sequence[Shape], dtype: torch.dtype, stored: torch.dtype
) -> Call:
    """The overload of torch's operator that gives the shape's outputs from its operands."""
    packet = getattr(torch.ops.aten, shape.kind, None)
    reason = "torch has no such operator"
    for name in () if packet is None else packet.overloads():
        overload = getattr(packet, name)
        try:
            with FakeTensorMode(), torch.no_grad():
                call = _filled(overload, shape)
                operands = _ordered(
                    shape,
                    [torch.empty(size, dtype=dtype) for size in inputs],
                    [torch.empty(size, dtype=stored) for size in shape.weights],
                )
                found = tuple(tuple(item.shape) for item in tensors(call(operands)))
        except (RuntimeError, ValueError, TypeError, StopIteration, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0][:200]
            continue
        if found == shape.outputs:
            return call
        reason = f"it gives {list(found)}, the shape says {list(shape.outputs)}"
    raise Unsupported(
        f"{shape.kind} of {list(shape.inputs)}: it cannot be called from its shape alone ({reason})"
    )


def _filled(overload: Any, shape: OpShape) -> Call:
    """The overload as a function of the operands. TypeError where they do not fit it."""
    schema, settings = overload._schema, dict(shape.settings)
    num_operands = len(str(settings.pop(OPERANDS, "")))
    if unknown := set(settings) - {argument.name for argument in schema.arguments}:
        raise TypeError(f"{overload} takes no {sorted(unknown)}")
    lists = [a.name for a in schema.arguments if str(a.type) == "List[Tensor]"]

    def call(operands: Sequence[torch.Tensor]) -> Any:
        remaining = list(operands)
        arguments: dict[str, Any] = {}
        for argument in schema.arguments:
            kind = str(argument.type)
            if argument.name in settings:
                arguments[argument.name] = _value(settings[argument.name], kind)
            elif kind == "List[Tensor]":
                # An LSTM's first list is its two states, the other its parameters.
                number = 2 if len(lists) == 2 and argument.name == lists[0] else len(remaining)
                arguments[argument.name] = [remaining.pop(0) for _ in range(number)]
            elif kind in ("Tensor", "Optional[Tensor]") and remaining:
                arguments[argument.name] = remaining.pop(0)
            elif kind == "Tensor":
                raise TypeError(f"{overload} takes more tensors than {num_operands}")
            elif argument.has_default_value():
                arguments[argument.name] = argument.default_value
            else:
                arguments[argument.name] = None
        if remaining:
            raise TypeError(f"{overload} takes fewer tensors than {num_operands}")
        return overload(**arguments)

    return call


def _value(setting: Any, kind: str) -> Any:
    if isinstance(setting, str) and setting in ("inf", "-inf", "nan"):
        return float(setting)
    if isinstance(setting, str) and "int" in kind:  # a dtype
        return getattr(torch, setting)
    return list(setting) if isinstance(setting, tuple) else setting
