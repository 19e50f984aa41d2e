"""One example call of the model, and which axes of its tensors may change size.

A model is called with positional and keyword arguments, nested as its author liked. Every tensor
in that call is a *leaf* with a key: its path, "0" for the first positional argument, "input_ids"
for a keyword, "1.0" for the first item of the second argument. Leaves come in the order of the
positional arguments, then of the sorted keywords: two equal calls give the same leaves, whatever
order the keywords were written in. The batch axis (and any further
dynamic axis) is said per leaf, because recurrent networks are often time-first and some inputs
have no batch at all. An example of batch 1 is tiled to 2 before tracing: torch.export takes a
dimension of size 1 for a constant.

Left out: ragged inputs, and dynamic axes that depend on one another by anything but equality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from burnish.errors import InvalidInput

BATCH = "batch"


@dataclass(frozen=True, eq=False)
class Leaf:
    """A tensor of the call: its key, the tensor, and its dynamic axes by name."""

    key: str
    tensor: torch.Tensor
    axes: Mapping[int, str]

    def batch_axis(self) -> int | None:
        """The axis along which samples lie, or None."""
        return next((axis for axis, name in self.axes.items() if name == BATCH), None)


def leaves_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, torch.Tensor]]:
    """(key, tensor) for every tensor in a call."""
    return [
        (key, value) for key, value in items_of(args, kwargs) if isinstance(value, torch.Tensor)
    ]


def items_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(key, value) for every tensor and everything else that is no container."""
    found: list[tuple[str, Any]] = []

    def walk(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name in sorted(value, key=str):
                walk(f"{key}.{name}", value[name])
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                walk(f"{key}.{index}", item)
        else:
            found.append((key, value))

    for index, value in enumerate(args):
        walk(str(index), value)
    for name in sorted(kwargs):
        walk(name, kwargs[name])
    return found


def replace_leaves(value: Any, new: Iterator[torch.Tensor]) -> Any:
    """`value` with its tensors, in the order of `leaves_of`, taken from the iterator `new`."""
    if isinstance(value, torch.Tensor):
        return next(new)
    if isinstance(value, Mapping):
        replaced = {name: replace_leaves(value[name], new) for name in sorted(value, key=str)}
        return {name: replaced[name] for name in value}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replace_leaves(item, new) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(replace_leaves(item, new) for item in value)
    return value


@dataclass(frozen=True, eq=False)
class Inputs:
    """An example call.

    Args:
        args: the positional arguments; a single tensor may be given bare.
        kwargs: the keyword arguments.
        batch_axis: the axis of the batch in every tensor, or a mapping from a leaf's key (or the
            beginning of it) to its axis, None for a tensor without a batch. Leaves the mapping
            does not name have their batch on axis 0.
        dynamic: further axes that may change size: {key: {axis: name}}. Axes of one name have
            one size.

    Raises:
        InvalidInput: a key or an axis that does not exist, a call without tensors, or one that
            holds anything but tensors, numbers, strings and None in tuples, lists and dicts.
    """

    args: Any = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    batch_axis: int | Mapping[str, int | None] | None = 0
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        args = self.args
        if not isinstance(args, list | tuple):
            args = (args,)
        object.__setattr__(self, "args", tuple(args))
        object.__setattr__(self, "kwargs", MappingProxyType(dict(self.kwargs)))
        self._check_values()
        self._check_names()
        self._check_sizes()

    @classmethod
    def of(cls, batch: Any) -> Inputs:
        """A batch as a call: a tensor, a tuple of arguments, or a dict of keyword ones."""
        if isinstance(batch, Inputs):
            return batch
        if isinstance(batch, Mapping):
            return cls(kwargs=dict(batch))
        return cls(batch if isinstance(batch, tuple) else (batch,))

    def constants(self) -> dict[str, Any]:
        """What is no tensor in the call, by key: the model's graph has it built in."""
        return {
            key: value
            for key, value in items_of(self.args, self.kwargs)
            if not isinstance(value, torch.Tensor)
        }

    def _check_values(self) -> None:
        for key, value in self.constants().items():
            if value is not None and not isinstance(value, bool | int | float | str):
                raise InvalidInput(
                    f"Inputs: argument {key!r} is a {type(value).__name__}; a call holds tensors, "
                    "numbers, strings and None, nested in tuples, lists and dicts: convert it "
                    "(torch.from_numpy for an array) or wrap the model"
                )
        if not leaves_of(self.args, self.kwargs):
            raise InvalidInput("Inputs holds no tensor: give one example call, as Inputs(x)")

    def _check_names(self) -> None:
        keys = [key for key, _ in leaves_of(self.args, self.kwargs)]
        of_batch = self.batch_axis if isinstance(self.batch_axis, Mapping) else {}
        for what, names in (("batch_axis", of_batch), ("dynamic", self.dynamic)):
            for name in names:
                if not any(_names(str(name), key) for key in keys):
                    raise InvalidInput(
                        f"Inputs({what}=…) names {name!r}, which is no tensor of the example call; "
                        f"it has {', '.join(map(repr, keys))}"
                    )
        axes = [*of_batch.values()] if isinstance(self.batch_axis, Mapping) else [self.batch_axis]
        if any(axis is not None and not isinstance(axis, int) for axis in axes):
            raise InvalidInput(
                f"Inputs(batch_axis={self.batch_axis!r}): an axis, None, or {{key: axis or None}}"
            )
        for name, more in self.dynamic.items():
            if not isinstance(more, Mapping) or not all(
                isinstance(axis, int) and isinstance(label, str) for axis, label in more.items()
            ):
                raise InvalidInput(
                    f"Inputs(dynamic={{{name!r}: {more!r}}}): give {{axis: name}} for each key, as "
                    '{1: "length"}'
                )

    def _check_sizes(self) -> None:
        sizes: dict[str, int] = {}
        for leaf in self.leaves():
            shape = tuple(leaf.tensor.shape)
            if 0 in shape:
                raise InvalidInput(f"Inputs: {leaf.key!r} has shape {shape}: no element")
            for axis, name in leaf.axes.items():
                if not 0 <= axis < len(shape):
                    raise InvalidInput(
                        f"axis {axis} ({name}) of input {leaf.key!r} does not exist: its shape is "
                        f"{shape}; set batch_axis or dynamic for it (batch_axis={{{leaf.key!r}: "
                        "None} for a tensor without a batch)"
                    )
                if sizes.setdefault(name, shape[axis]) != shape[axis]:
                    raise InvalidInput(
                        f"dynamic axis {name!r} has size {shape[axis]} in input {leaf.key!r} and "
                        f"{sizes[name]} in another; axes of one name have one size"
                    )

    def leaves(self) -> tuple[Leaf, ...]:
        """The tensors of the example call with their dynamic axes."""
        return self.bind(self.args, self.kwargs)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Leaf, ...]:
        """The tensors of another call of the same form, with this example's axes."""
        return tuple(
            Leaf(key, tensor, self._axes(key, tensor)) for key, tensor in leaves_of(args, kwargs)
        )

    def _axes(self, key: str, tensor: torch.Tensor) -> Mapping[int, str]:
        batch: int | None = 0
        if isinstance(self.batch_axis, Mapping):
            for name, axis in self.batch_axis.items():
                batch = axis if _names(str(name), key) else batch
        else:
            batch = self.batch_axis
        axes = {} if batch is None else {_from_front(batch, tensor): BATCH}
        for name, more in self.dynamic.items():
            for axis, label in more.items() if _names(str(name), key) else ():
                front = _from_front(axis, tensor)
                if axes.get(front, label) != label or (label == BATCH and front not in axes):
                    raise InvalidInput(
                        f"Inputs(dynamic=…) calls axis {axis} of input {key!r} {label!r}, its axes "
                        f"are {axes} already: one name an axis, and the batch is said with "
                        "batch_axis"
                    )
                axes[front] = label
        return axes

    def resized(self, batch: int) -> Inputs:
        """The same example with `batch` samples, repeated or cut along each batch axis."""
        if batch < 1:
            raise InvalidInput(f"Inputs.resized({batch}): at least one sample")
        new = []
        for leaf in self.leaves():
            axis = leaf.batch_axis()
            tensor = leaf.tensor
            if axis is not None:
                size = tensor.shape[axis]
                index = torch.arange(batch, device=tensor.device) % size
                tensor = tensor.index_select(axis, index)
            new.append(tensor)
        tensors = iter(new)
        args = tuple(replace_leaves(value, tensors) for value in self.args)
        kwargs = replace_leaves(self.kwargs, tensors)
        return Inputs(args, kwargs, self.batch_axis, self.dynamic)

    def to_trace(self) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Mapping[int, str]]]:
        """What `graph.trace` takes after the model: args, kwargs and dynamic axes.

        A batch of 1 is tiled to 2, since torch.export takes a size of 1 for a constant.
        """
        example = self if self.batch_size() > 1 else self.resized(2)
        axes = {leaf.key: leaf.axes for leaf in example.leaves()}
        return example.args, dict(example.kwargs), axes

    def batch_size(self) -> int:
        """Samples in the example call; 1 where no tensor has a batch axis."""
        return batch_size(self.leaves())


def batch_size(leaves: tuple[Leaf, ...]) -> int:
    """Samples in a call; 1 where no tensor has a batch axis."""
    for leaf in leaves:
        axis = leaf.batch_axis()
        if axis is not None:
            return int(leaf.tensor.shape[axis])
    return 1


def _names(name: str, key: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _from_front(axis: int, tensor: torch.Tensor) -> int:
    """A negative axis counted from the front; one that does not exist as it is."""
    return axis + tensor.dim() if -tensor.dim() <= axis < 0 else axis
