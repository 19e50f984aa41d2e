"""What a search hands to calibration and to the clock, made of a goal's data.

Left out: batches for scores, which `_quality` runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from burnish.auto._bench import Arrays
from burnish.auto._console import Narrator
from burnish.goal import Goal
from burnish.graph import Traced, flatten_call


def calibration_calls(goal: Goal, narrator: Narrator) -> Iterator[tuple[torch.Tensor, ...]]:
    """The calibration data as flat calls, batch by batch, with a bar."""
    task = goal.task
    for batch in narrator.watch(task.data("calibration"), "calibrating"):
        call = task.call(batch)
        yield flatten_call(call.args, call.kwargs)


def timing_inputs(goal: Goal, traced: Traced, batch: int) -> Arrays:
    """Inputs to time with: the first validation batch, cut or repeated to `batch` samples."""
    call = next(iter(goal.task.calls("validation")))
    example = goal.task.inputs
    inputs = type(example)(call.args, call.kwargs, example.batch_axis, example.dynamic)
    resized = inputs.resized(batch)
    tensors = flatten_call(resized.args, dict(resized.kwargs))
    return {
        slot.name: tensor.detach().cpu().contiguous().numpy()
        for slot, tensor in zip(traced.inputs, tensors, strict=True)
    }
