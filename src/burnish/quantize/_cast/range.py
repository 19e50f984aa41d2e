"""What a number format would lose: of values seen in calibration, of stored tensors, of constants.

A value is lost where it is larger than the format's largest number (with room of a factor
`HEADROOM` above what calibration saw), or so small throughout that the format's subnormals leave it
few digits. A stored tensor is lost where it comes back with a relative error above the format's
epsilon: ordinary rounding stays at a third of that, so digits went to the subnormals. A layer's
weight is judged by what that can do to its output: dead channels with weights of 1e-9, of which
trained networks are full, may well become zero. Infinities are the same in every format.

Left out: what happens inside a kernel (they add in float32).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx

from burnish.errors import InvalidInput
from burnish.graph import Traced, operator_names
from burnish.quantize._calibration.batches import chunks
from burnish.quantize._calibration.calibrate import check_call

HEADROOM = 2.0


def observe_reach(
    folded: Traced, calls: Iterable[tuple[torch.Tensor, ...]]
) -> tuple[dict[str, float], int]:
    """The largest finite magnitude of every float value, by operator, and how many samples.

    Raises:
        InvalidInput: no calls, or tensors that do not fit the model's inputs.
    """
    watcher = _Watcher(folded)
    num_samples = 0
    with torch.inference_mode():
        for tensors in calls:
            check_call(folded, tensors)
            for chunk, size in chunks(folded, tensors):
                watcher.run(*chunk)
                num_samples += size
    if num_samples == 0:
        raise InvalidInput("the calibration data is empty: it gave no batch")
    return watcher.reach, num_samples


class _Watcher(fx.Interpreter):
    def __init__(self, folded: Traced) -> None:
        super().__init__(folded.graph_module)
        self.names = operator_names(folded.graph_module)
        self.reach: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        name = self.names.get(n)
        if name is not None:
            for part in _floats(value):
                self.reach[name] = max(self.reach.get(name, 0.0), magnitude(part))
        return value


def _floats(value: Any) -> Iterator[torch.Tensor]:
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, torch.Tensor) and part.is_floating_point():
            yield part


def magnitude(x: torch.Tensor) -> float:
    """The largest finite magnitude of a tensor; 0 for one without finite elements."""
    if x.numel() == 0:
        return 0.0
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if abs(low) < float("inf") and abs(high) < float("inf"):
        return max(-low, high)
    return float(x.detach().masked_fill(~x.isfinite(), 0.0).abs().max())


def lost_value(reach: float, dtype: torch.dtype) -> str | None:
    """Why a value of that reach has no place in `dtype`; None where it has."""
    info, name = torch.finfo(dtype), format_name(dtype)
    if reach > info.max / HEADROOM:
        return f"reach {reach:.3g} in calibration, {name} ends at {info.max:.5g}"
    if 0.0 < reach < info.smallest_normal:
        return f"stay below {reach:.1g} in calibration, where {name} has few digits"
    return None


def lost_constant(number: float, dtype: torch.dtype) -> str | None:
    """Why a number in an operator's arguments has no place in `dtype`; None where it has."""
    info, name = torch.finfo(dtype), format_name(dtype)
    if number in (0.0, float("inf"), -float("inf")) or number != number:
        return None
    if abs(number) > info.max:
        return f"its constant {number:.4g} is beyond {name}, which ends at {info.max:.5g}"
    rounded = float(torch.tensor(number, dtype=torch.float64).to(dtype))
    if rounded == 0.0:
        return f"its constant {number:.3g} is 0 in {name}"
    if abs(rounded - number) > info.eps * abs(number):
        return f"its constant {number:.3g} has few digits in {name}"
    return None


def lost_tensor(x: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Why a stored tensor cannot be stored in `dtype`; None where it can."""
    info, name = torch.finfo(dtype), format_name(dtype)
    reach = magnitude(x)
    if reach > info.max:
        return f"reach {reach:.3g}, {name} ends at {info.max:.5g}"
    exact = x.detach().masked_fill(~x.isfinite(), 0.0).double()
    error = float((exact.to(dtype).double() - exact).norm())
    if error > info.eps * float(exact.norm()):
        return f"lose {error / float(exact.norm()):.1%} to the subnormals of {name}"
    return None


def lost_weight(
    weight: torch.Tensor, axis: int | None, reaches: tuple[float, float], dtype: torch.dtype
) -> str | None:
    """Why a layer's weight cannot be stored in `dtype`; None where it can.

    Args:
        weight: of a convolution or linear layer.
        axis: its output channels; None for one sum over all.
        reaches: how far the layer's input and output reach.
        dtype: float16 or bfloat16.
    """
    info, name = torch.finfo(dtype), format_name(dtype)
    reach = magnitude(weight)
    if reach > info.max:
        return f"reach {reach:.3g}, {name} ends at {info.max:.5g}"
    exact = weight.detach().double()
    error = (exact.to(dtype).double() - exact).abs()
    error = error.masked_fill(exact.abs() >= info.smallest_normal, 0.0)
    others = [a for a in range(weight.dim()) if a != axis]
    worst = float(error.sum(others).max()) if others else float(error.max())
    if worst * reaches[0] > info.eps * reaches[1]:
        share = worst * reaches[0] / max(reaches[1], 1e-300)
        return f"lose up to {share:.1%} of its output's reach to the subnormals of {name}"
    return None


def format_name(dtype: torch.dtype) -> str:
    """ "float16" for torch.float16."""
    return str(dtype).removeprefix("torch.")
