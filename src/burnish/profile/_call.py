"""One example call in any form a user has it: as `Inputs`, traced, and as arrays at a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Goal, Inputs, Task
from burnish.graph import Traced, flatten_call, trace
from burnish.runtimes import runtime

Arrays = Mapping[str, np.ndarray[Any, Any]]


def example_of(given: Any) -> Inputs:
    """The example call in a goal, a task, inputs, a mapping of keywords, or plain arguments."""
    if isinstance(given, Goal):
        given = given.task
    if isinstance(given, Task):
        given = given.inputs
    if isinstance(given, Inputs):
        return given
    return Inputs(kwargs=dict(given)) if isinstance(given, Mapping) else Inputs(given)


def traced_at(model: nn.Module, example: Inputs, batch: int) -> Traced:
    """The model's graph; InvalidInput for a batch that the example cannot be resized to."""
    if batch != 1 and not has_batch(example):
        raise InvalidInput(
            f"batch={batch}, but no input has a batch axis (Inputs(batch_axis=…)): use batch=1"
        )
    return trace(model, *example.to_trace())


def has_batch(example: Inputs) -> bool:
    """Whether any tensor of the call has a batch axis."""
    return any(leaf.batch_axis() is not None for leaf in example.leaves())


def arrays_at(traced: Traced, example: Inputs, batch: int) -> Arrays:
    """The example call at a batch, by the names of the graph's inputs."""
    sized = example.resized(batch)
    tensors = flatten_call(sized.args, dict(sized.kwargs))
    return {
        slot.name: tensor.detach().cpu().contiguous().numpy()
        for slot, tensor in zip(traced.inputs, tensors, strict=True)
    }


def check_settings(
    batch: int, threads: int | None, runtimes: Sequence[str], seconds: float
) -> None:
    """InvalidInput for settings that mean nothing, naming the one that is wrong."""
    if batch < 1:
        raise InvalidInput(f"batch={batch}: at least one sample")
    if threads is not None and threads < 1:
        raise InvalidInput(f"threads={threads}: None or a number from 1 up")
    if not seconds > 0:
        raise InvalidInput(f"seconds={seconds}: a number above 0")
    for name in runtimes:
        runtime(name)
