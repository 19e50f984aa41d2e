"""What the plain functions of this room are given, as what its steps take: a model, calls, data.

Left out: tasks and goals, which `goal` takes apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Call, Inputs
from burnish.graph import Traced, trace


def traced_for(model: nn.Module, inputs: Inputs) -> Traced:
    """Trace a model with an example call. InvalidInput for a wrapper around it."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise InvalidInput(
            f"the model is wrapped in {type(model).__name__}: give the model itself, .module, and "
            "wrap what comes back"
        )
    return trace(model, *inputs.to_trace())


def calls_of(batches: Iterable[Any] | None) -> Iterator[Call]:
    """Batches without labels, each given as an example call is."""
    for batch in batches or ():
        call = Inputs.of(batch)
        yield Call(call.args, call.kwargs, None)


def check_calibration(who: str, criterion: str, needs: bool, given: Iterable[Any] | None) -> None:
    """InvalidInput, in the name of `who`, for data that is missing, or that nobody looks at."""
    if needs != (given is not None):
        word = "needs calibration=…" if needs else "looks at no data: leave calibration out"
        raise InvalidInput(f"{who}(criterion={criterion!r}) {word}")
