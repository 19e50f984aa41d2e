"""Tensors and arrays, without importing the library they come from.

A metric may be handed numpy arrays (from a runtime) or torch tensors (from a model). A tensor is
known by its `detach`; everything here works on both, so this room never imports torch.

Left out: devices other than the CPU are copied to it, whole; no library beyond these two is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.errors import InvalidInput


def to_numpy(value: Any) -> NDArray[Any]:
    """A tensor or anything array-like as a numpy array; half precision becomes float32."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # numpy has no bfloat16
    array: NDArray[Any] = tensor.numpy()
    return array


def leaves(value: Any) -> Iterator[Any]:
    """The arrays (or lists of samples) in a nested output, in order. `None` is skipped."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from leaves(item)
    elif value is not None:
        yield value


def num_samples(value: Any) -> int | None:
    """The first dimension of the first array in a nested value; None where there is none."""
    for leaf in leaves(value):
        if isinstance(leaf, list):
            return len(leaf)
        shape = np.shape(leaf)
        return int(shape[0]) if shape else None
    return None


def take(value: Any, index: NDArray[np.intp]) -> Any:
    """The samples at `index` of a nested value, in the same nesting.

    An array or tensor is indexed on its first dimension; a list is a list of samples; tuples,
    mappings and dataclasses are nesting.
    """
    if value is None:
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(
            value, **{name: take(getattr(value, name), index) for name in names}
        )
    if isinstance(value, Mapping):
        return {key: take(item, index) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [take(item, index) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [value[i] for i in index]
    return value[index]


def check_lengths(value: Any, n: int, name: str) -> None:
    """Raises InvalidInput unless every array in `value` has `n` samples."""
    for leaf in leaves(value):
        got = num_samples(leaf)
        if got != n:
            raise InvalidInput(
                f"{name} holds an array of {got} samples where the targets have {n}: "
                "give every sample's output, in the targets' order"
            )
