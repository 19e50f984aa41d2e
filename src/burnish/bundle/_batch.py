"""Samples more or fewer: the same inputs at another batch size.

The batch dimension is the dynamic one named "batch", on whichever axis it stands (recurrent
networks are often time-first). Samples are repeated or cut off along it, so that in the result
sample i is sample i modulo the number there were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from burnish.bundle._artifact import Port
from burnish.errors import InvalidInput

BATCH = "batch"


def batch_axis(port: Port) -> int | None:
    """The axis of `port` named "batch", or None."""
    return port.shape.index(BATCH) if BATCH in port.shape else None


def batch_size(ports: Sequence[Port], arrays: Mapping[str, np.ndarray[Any, Any]]) -> int | None:
    """How many samples `arrays` hold; None where no port has a batch dimension."""
    for port in ports:
        axis = batch_axis(port)
        if axis is not None:
            return int(arrays[port.name].shape[axis])
    return None


def with_batch(
    ports: Sequence[Port], arrays: Mapping[str, np.ndarray[Any, Any]], size: int
) -> dict[str, np.ndarray[Any, Any]]:
    """`arrays` with `size` samples each. Raises `InvalidInput` where the batch is fixed."""
    if size < 1:
        raise InvalidInput(f"batch is {size}; use 1 or more")
    if batch_size(ports, arrays) is None:
        raise InvalidInput(
            f"this artifact has no dynamic dimension named {BATCH!r}; its inputs are "
            f"{[list(port.shape) for port in ports]}"
        )
    return {port.name: take_samples(port, arrays[port.name], size) for port in ports}


def take_samples(port: Port, array: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """`array` with `size` samples along the port's batch axis; as it is where it has none."""
    axis = batch_axis(port)
    if axis is None or array.shape[axis] == size:
        return array
    rows = np.arange(size) % array.shape[axis]
    repeated: np.ndarray[Any, Any] = np.take(array, rows, axis=axis)
    return repeated
