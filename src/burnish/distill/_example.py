"""The example call of a task with as many samples as are needed, taken apart and put together.

Left out: examples drawn from data. Shapes and types are all that is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from burnish.goal import Inputs
from burnish.graph import flatten, unflatten

Tree = Mapping[str, Any]


def tensors_of(inputs: Inputs, batch: int) -> tuple[list[torch.Tensor], Tree]:
    """The tensors of the example call with `batch` samples, and how they nest in it."""
    example = inputs.resized(batch)
    return flatten({"args": example.args, "kwargs": dict(example.kwargs)}, "the example call")


def call_of(tree: Tree, tensors: Iterable[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) around other tensors."""
    built = unflatten(tree, list(tensors))
    return built["args"], built["kwargs"]
