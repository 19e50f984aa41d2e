"""Casting an exported graph to float16 or bfloat16, with float32 kept where it is needed.

    trace → fold batch-norm → see how far values reach → label every operator → fewest conversions

Convolutions, matrix products and tables take the small type with their weights, normalisations,
softmax, long sums and whatever would leave the type's range keep float32 (`policy`,
`range`); the others go where that needs the fewest conversions (`cut`). A conversion
stands once behind the value it converts, however many read it. The model's inputs and outputs stay
float32: callers and artifacts keep their types.

Weights are stored in the small type, so the file is about half as large. Whether anything computes
in it is the runtime's business: PyTorch does, OpenVINO computes in its execution type, and
onnxruntime converts to float32 in front of every operator it has no kernel for.

Left out: choosing by measured error which operators to keep (`keep` is the caller's), inputs and
outputs in the small type, float8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from burnish.core import Choices, Rewrite
from burnish.errors import InvalidInput, Unsupported
from burnish.goal import Goal
from burnish.graph import Traced
from burnish.quantize._cast.insert import insert_casts
from burnish.quantize._cast.label import DTYPES, check_castable, decide_cast
from burnish.quantize._cast.range import observe_reach
from burnish.quantize._graphs.entry import (
    calibration_calls,
    float_graph,
    fold,
    folded_with_calls,
    trace_for,
)

# Runtimes that can load a graph in the type; see `runtimes`, which says why the others cannot.
_CAN_LOAD = {
    "float16": ("eager", "onnxruntime", "openvino"),
    "bfloat16": ("eager", "inductor", "openvino"),
}


@dataclass(frozen=True)
class Cast(Rewrite):
    """A copy of the model in float16 or bfloat16.

    Args:
        dtype: "float16" or "bfloat16".
        keep: operators to keep in float32: names of the coverage table, module paths, patterns.

    Raises:
        InvalidInput: another dtype.
    """

    dtype: str = "float16"
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidInput(f"Cast(dtype={self.dtype!r}): one of {', '.join(DTYPES)}")
        given: Any = self.keep
        if isinstance(given, str):
            raise InvalidInput(f"Cast(keep={given!r}): give a tuple, ({given!r},)")
        object.__setattr__(self, "keep", tuple(given))

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """See how far the values reach on the goal's calibration data, and decide.

        Raises:
            Unsupported: none of the target's runtimes can load the type (before any work).
        """
        runtimes = goal.target.runtimes
        if runtimes and not set(runtimes) & set(_CAN_LOAD[self.dtype]):
            raise Unsupported(
                f"Cast({self.dtype!r}): {', '.join(runtimes)} cannot load a {self.dtype} graph on "
                f"the CPU (no convolution, product or addition in it); one of "
                f"{', '.join(_CAN_LOAD[self.dtype])} can"
            )
        return self.choose_from(fold(trace_for(model, goal)), calibration_calls(goal))

    def choose_from(self, folded: Traced, calls: Iterable[tuple[torch.Tensor, ...]]) -> Choices:
        """Decide from flat calls, as `Statistics.sample.batches()` gives them.

        Raises:
            InvalidInput: the model is quantized or cast already, there is no data, or an entry of
                `keep` matches nothing.
            Unsupported: an operator writes into a tensor that others see.
            NoEffect: nothing can be stored or computed in the type.
        """
        check_castable(folded)
        reach, num_samples = observe_reach(folded, calls)
        return decide_cast(folded, reach, num_samples, self.dtype, self.keep)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The graph with its conversions. Pure: equal choices give equal graphs."""
        return insert_casts(float_graph(model, choices), choices)


def cast(
    model: nn.Module, dtype: str, calibration: Iterable[Any], *, keep: tuple[str, ...] = ()
) -> Traced:
    """A copy of a model in float16 or bfloat16, float32 kept where it is needed.

    Args:
        model: in eval mode; left as it was.
        dtype: "float16" or "bfloat16".
        calibration: batches, each a tensor, a tuple of the model's positional arguments, a dict of
            its keyword ones, or `Inputs`; one may do. They show which values leave the type's
            range. The first is the example the model is traced with.
        keep: operators to keep in float32.

    Returns:
        A module called like the original, with its inputs and outputs in float32.

    Raises:
        InvalidInput: no calibration data, a setting that matches nothing, a model that is
            quantized or cast already.
        NoEffect: nothing can be stored or computed in the type.
        Unsupported: the model cannot be exported, or writes into tensors that others see.
    """
    step = Cast(dtype, keep)
    folded, calls = folded_with_calls("cast", model, calibration)
    result = step.rewrite(folded, step.choose_from(folded, calls))
    assert isinstance(result, Traced)
    return result
