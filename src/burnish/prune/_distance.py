"""How far a changed graph's outputs are from the original's: their squared error, as a share.

The figure needs no labels: the sum over all outputs of (changed - original)^2, divided by that of
original^2, over some calibration samples. 0 is no change, 1 is what answering zero everywhere
would be.

Left out: what the metric says of it (that is a verdict, and needs labels and many more samples).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from burnish.errors import InvalidInput
from burnish.goal import Call
from burnish.graph import Traced, flatten_call

NUM_SAMPLES = 128
Run = Callable[..., Iterable[torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Reference:
    """Calls as flat tensors, and what the original answers to them."""

    calls: tuple[tuple[torch.Tensor, ...], ...]
    answers: tuple[tuple[torch.Tensor, ...], ...]

    def error(self, run: Run) -> float:
        """The squared error of `run`, which takes and gives flat tensors, as a share of power."""
        error = power = 0.0
        with torch.no_grad():
            for call, answers in zip(self.calls, self.answers, strict=True):
                for mine, true in zip(run(*call), answers, strict=True):
                    if true.is_floating_point():
                        finite = torch.isfinite(true)
                        error += float((mine - true)[finite].double().square().sum())
                        power += float(true[finite].double().square().sum())
        return error / power if power else error


def reference(traced: Traced, calls: Iterable[Call], who: str) -> Reference:
    """The original's answers to the first `NUM_SAMPLES` samples.

    Raises InvalidInput, in the name of `who`, where there are none.
    """
    flat: list[tuple[torch.Tensor, ...]] = []
    answers: list[tuple[torch.Tensor, ...]] = []
    seen = 0
    for call in calls:
        tensors = flatten_call(call.args, call.kwargs)
        with torch.no_grad():
            found: Any = traced.graph_module(*tensors)
        flat.append(tuple(tensors))
        answers.append(tuple(found))
        seen += max((len(tensor) for tensor in tensors if tensor.dim()), default=1)
        if seen >= NUM_SAMPLES:
            break
    if not flat:
        raise InvalidInput(
            f"{who} runs the model on calibration data, and there is no batch: give calibration=…"
        )
    return Reference(tuple(flat), tuple(answers))
