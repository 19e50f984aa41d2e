"""Reading a trained graph with fake quantizers: what `ConvertQat` does before it converts.

`bare` takes the fake quantizers out: what is left is the float graph that `PrepareQat` folded, with
the weights training came to. `read` makes a plan for it like `QuantizeStatic`'s, with the trained
scales in place of calibrated ones, and hands over the weights as the integers they were trained
as. So one and the same code inserts the quantizers and exports them.

A plan of the folded graph names operators as they are called there; equalization makes a ReLU of a
ReLU6, and the plan that is read uses the names the bare graph has.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem
from typing import Any

import torch
from torch import fx, nn

from burnish.core import Choices
from burnish.errors import InvalidInput
from burnish.graph import (
    FAKE_BIAS,
    FAKE_QUANTIZE,
    LEARNED_SCALE,
    OBSERVED_SCALE,
    PER_TENSOR,
    Traced,
    finish,
    operator_names,
    set_mode,
    tensor_of,
)
from burnish.quantize._graphs.entry import refuse_quantized
from burnish.quantize._qat.insert import QAT_KEY, followed_scale
from burnish.quantize._static.insert import NAME_KEY
from burnish.quantize._tensors.weights import Grid, round_weight

_SCALES = (LEARNED_SCALE, OBSERVED_SCALE, followed_scale, getitem)


def bare(model: nn.Module) -> Traced:
    """A copy of a prepared graph without its fake quantizers, in eval mode.

    Raises:
        InvalidInput: the model holds none.
    """
    _plan_of(model)
    assert isinstance(model, Traced)
    copied = set_mode(model, False) if model.training else model.copy()
    module = copied.graph_module
    for node in list(module.graph.nodes):
        if node.target in (FAKE_QUANTIZE, FAKE_BIAS):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    for node in list(module.graph.nodes):
        if node.target is OBSERVED_SCALE:  # it writes: nobody removes it unasked
            module.graph.erase_node(node)
    finish(module)
    return copied


def read(model: nn.Module) -> Choices:
    """Trained scales and weights as choices for the bare graph.

    Raises:
        InvalidInput: the model holds no fake quantizers, a range has collapsed, a weight rounds to
            nothing, or is not finite.
    """
    plan = _plan_of(model)
    assert isinstance(model, Traced)
    module = (set_mode(model, False, share=True) if model.training else model).graph_module
    names = operator_names(bare(model).graph_module)
    now = {node.meta[NAME_KEY]: name for node, name in names.items() if NAME_KEY in node.meta}
    values = _Values(module)
    quantizers: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    for node in module.graph.nodes:
        if node.target is not FAKE_QUANTIZE:
            continue
        old, (x, scale, zero, low, high, axis) = node.meta[QAT_KEY], node.args
        if zero is None:
            weight = tensor_of(module, x)
            assert weight is not None, old
            _check_finite(old, weight)
            tensors[f"scale:{now[old]}"] = scales = values.of(scale)
            along = None if axis == PER_TENSOR else axis
            integers = round_weight(weight, scales, along, Grid(low, high))
            _check_left(old, weight, integers)
            tensors[f"weight:{now[old]}"] = integers
            continue
        readers = plan["quantizers"][old]["readers"]
        quantizers[now[old]] = {
            "scale": float(values.of(scale)),
            "zero_point": int(values.of(zero)),
            "readers": None if readers is None else [now[reader] for reader in readers],
        }
    return Choices(_renamed(plan, now) | {"quantizers": quantizers}, tensors)


def _renamed(plan: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, Any]:
    """The parts of a plan that training does not change."""
    return {
        "call": plan["call"],
        "runtime": plan["runtime"],
        "operators": [now[name] for name in plan["operators"]],
        "equalized": [],
        "grids": {now[name]: grid for name, grid in plan["grids"].items()},
        "recurrent": {},
        "coverage": [
            {**row, "operator": now.get(row["operator"], row["operator"])}
            for row in plan["coverage"]
        ],
    }


def _plan_of(model: nn.Module) -> Mapping[str, Any]:
    """What `PrepareQat` left in the graph. InvalidInput where it left nothing."""
    if isinstance(model, Traced):
        output = next(node for node in model.graph_module.graph.nodes if node.op == "output")
        if QAT_KEY in output.meta:
            found: Mapping[str, Any] = output.meta[QAT_KEY]
            return found
        refuse_quantized(model, "ConvertQat")
    raise InvalidInput(
        "ConvertQat: the model holds no fake quantizers: prepare it first, as in "
        "PrepareQat() >> Train(epochs=1, learning_rate=1e-4) >> ConvertQat()"
    )


class _Values:
    """What the scales of a graph are, computed from its tensors without running the graph."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module

    def of(self, node: fx.Node) -> torch.Tensor:
        with torch.no_grad():
            found = self._of(node)
        assert isinstance(found, torch.Tensor)
        return found.detach().clone()

    def _of(self, node: fx.Node) -> Any:
        tensor = tensor_of(self.module, node)
        if tensor is not None:
            return tensor
        compute: Any = node.target
        if compute not in _SCALES:
            return torch.zeros(0)  # a value that was observed: in eval mode nobody looks at it
        args = [self._of(arg) if isinstance(arg, fx.Node) else arg for arg in node.args]
        return compute(*args)


def _check_left(name: str, weight: torch.Tensor, integers: torch.Tensor) -> None:
    """A scale may stay within its bounds and still have outgrown all that it is to round."""
    if bool(weight.any()) and not bool(integers.any()):
        raise InvalidInput(
            f"ConvertQat: every weight of {name!r} rounds to zero, its scales outgrew it in "
            "training: clip the gradients (Tricks(clip=1.0)), lower the learning rate, or take "
            "scales='observed', and train the prepared model again"
        )


def _check_finite(name: str, weight: torch.Tensor) -> None:
    if not bool(torch.isfinite(weight).all()):
        raise InvalidInput(
            f"ConvertQat: the trained weight of {name!r} holds NaN or infinity: the training "
            "diverged; lower its learning rate and train the prepared model again"
        )
